"""HTML pages of one file that need no network: their frame, their colours, pictures that they share."""
