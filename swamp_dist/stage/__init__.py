"""One stage, from settings to result.json."""
