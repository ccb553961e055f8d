"""What may well go wrong with a stage, told before a rank starts. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

from swamp_dist.config import StageSettings, TrainSettings, WarningName
from swamp_dist.errors import UserError
from swamp_dist.file_names import MANIFEST_FILE
from swamp_dist.objective.advice import named_warnings


def stage_warnings(settings: StageSettings) -> list[str]:
    """Warnings with their numbers and the fix but for known ones; [] for a stage that does not train.

    Where the shard set is not there yet, nothing is said that depends on its size.
    """
    return [text for name, text in _warnings(settings) if name not in settings.known_warnings]


def known_notes(settings: StageSettings) -> list[str]:
    """Why the settings are kept that a known warning is about, one line each."""
    names = [name for name, _ in _warnings(settings) if name in settings.known_warnings]
    return [f"known warning {name}: {settings.known_warnings[name]}" for name in names]


def _warnings(settings: StageSettings) -> list[tuple[WarningName, str]]:
    if settings.train is None:
        return []
    data, entries = settings.data, _entries(settings)
    pairs = data.entries * data.pairs_per_entry
    # With clips, a caption of a video is what is drawn, and how many there are no manifest says.
    items = None if data.clips is not None else entries
    steps = None if entries is None else entries // data.entries
    named = named_warnings(settings.objective, pairs, items, steps)
    named += [("seen_classes", text) for text in _seen_classes(settings)]
    return [*named, *(("no_validation", text) for text in _no_validation(settings.train))]


def _no_validation(train: TrainSettings) -> Iterator[str]:
    """A validation that is asked for and comes after the last epoch."""
    if (every := train.never_reached) is not None:
        yield (
            f"train.validate_on.every = {every} is more than train.epochs = {train.epochs}: the run never "
            f"validates.\nFix: train.validate_on.every={train.epochs} or less, or train.validate_on=null"
        )


def _seen_classes(settings: StageSettings) -> Iterator[str]:
    """Which evaluations with a gallery split are not of unseen classes."""
    data, evaluations = settings.data, [each for each in settings.evaluate if each.gallery is not None]
    if not evaluations or data.blend is not None or not (data.shards / MANIFEST_FILE).is_file():
        return
    from swamp_dist.data.manifest import load_manifest  # imports numpy

    try:
        manifest = load_manifest(data.shards, data.recipe)
        trained = set(manifest.split(data.train_split or "").labels.tolist())
        tested = {each.split: set(manifest.split(each.split).labels.tolist()) for each in evaluations}
    except UserError:
        return
    for name, classes in tested.items():
        if seen := classes & trained:
            yield (
                f"{len(seen)} of {len(classes)} classes of split {name} are classes of split "
                f"{data.train_split}, which is trained on: the figures are not those of unseen classes alone"
            )


def _entries(settings: StageSettings) -> int | None:
    """Of the training data; None where that is not known."""
    data = settings.data
    if not all((folder / MANIFEST_FILE).is_file() for folder in settings.shard_sets):
        return None
    from swamp_dist.data.blend import open_blend  # imports numpy
    from swamp_dist.data.manifest import load_manifest

    try:
        return len(open_blend(data, load_manifest(data.shards, data.recipe)))
    except UserError:
        return None
