"""What a training draws by class, for people; imports no torch."""

from __future__ import annotations

from swamp_dist.config import StageSettings
from swamp_dist.errors import UserError
from swamp_dist.file_names import MANIFEST_FILE


def partner_lines(settings: StageSettings) -> list[str]:
    """Sizes of both splits and how negatives are drawn; [] where pairs are not drawn by class, or the set is
    not there yet or has no such splits."""
    data, asked = settings.data, settings.data.partners
    if settings.train is None or asked is None or not (data.shards / MANIFEST_FILE).is_file():
        return []
    from swamp_dist.data.manifest import load_manifest  # imports numpy

    try:
        manifest = load_manifest(data.shards, data.recipe)
        anchors, partners = manifest.split(data.train_split or ""), manifest.split(asked.split)
        classes = len(set(anchors.labels.tolist()))
    except UserError:
        return []
    a, b = data.names
    drawn = f", with a negative of another class ({asked.negatives})" if asked.negatives != "none" else ""
    return [
        f"each of the {len(anchors):,} entries of split {anchors.name} ({a}) is paired with one of the "
        f"{len(partners):,} of split {partners.name} ({b}), drawn from its class, of {classes:,}{drawn}"
    ]
