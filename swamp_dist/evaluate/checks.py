"""What rules an evaluation out, told from settings and manifest alone: no tensors, so it answers at once."""

from __future__ import annotations

from swamp_dist.config import DataSettings, EvaluateSettings, ModelSettings, StageSettings, TrainSettings
from swamp_dist.data.manifest import Manifest, SplitIndex
from swamp_dist.data.partner_checks import class_list
from swamp_dist.errors import UserError


def check_evaluation(manifest: Manifest, settings: EvaluateSettings, a: str, b: str) -> None:
    """Refuse what cannot be evaluated, from the manifest alone: worth a call before training starts.

    Raises:
        UserError: no such split or field, an empty split, class relevance without classes, or settings
            that contradict each other.
    """
    check_settings(settings)
    manifest.field(a), manifest.field(b)
    split = manifest.split(settings.split)
    if settings.gallery is not None:
        check_gallery(manifest, split, manifest.split(settings.gallery))
        return
    if a == b:
        raise UserError(
            f"evaluate: both modalities are field {a!r} of split {settings.split!r}, so every item would be "
            "ranked for itself.\nFix: evaluate=[{split: "
            f"{settings.split}, gallery: SPLIT, relevance: [class]}}], SPLIT the one that holds modality B"
        )
    if len(split) == 0:
        raise UserError(f"evaluate: split {settings.split!r} of {manifest.folder} has no entries.")
    folds = settings.folds
    if folds is not None and len(split) < folds.count * folds.entries:
        others = [name for name, each in manifest.record.splits.items()
                  if each.entries >= folds.count * folds.entries]  # fmt: skip
        raise UserError(
            f"evaluate.folds: {folds.count} blocks of {folds.entries:,} entries need "
            f"{folds.count * folds.entries:,}; split {settings.split!r} of {manifest.folder} has "
            f"{len(split):,}.\nFix: {_fold_fix(others)}"
        )
    if settings.normalise is not None and len(manifest.split(settings.normalise.bank)) == 0:
        raise UserError(
            f"evaluate.normalise.bank = {settings.normalise.bank}: that split of {manifest.folder} has no "
            "entries.\nFix: bank = SPLIT, one that holds training queries, or normalise = null"
        )
    unlabelled = int((split.labels < 0).sum()) if "class" in settings.relevance else 0
    if unlabelled:
        raise UserError(
            f"evaluate: relevance has class, but {unlabelled} of {len(split)} entries of split "
            f"{settings.split!r} in {manifest.folder} have no class.\nFix: relevance = [pair], or a shard "
            "set with classes."
        )


def check_gallery(manifest: Manifest, split: SplitIndex, gallery: SplitIndex) -> None:
    """Refuse two splits that cannot be ranked by each other by class.

    Raises:
        UserError: an entry has no class, or a class of one split has no entry in the other.
    """
    for each in (split, gallery):
        if unlabelled := int((each.labels < 0).sum()):
            raise UserError(
                f"evaluate.gallery = {gallery.name}: relevance is by class, but {unlabelled} of {len(each)} "
                f"entries of split {each.name!r} in {manifest.folder} have no class.\n"
                "Fix: gallery = null, or a shard set with classes."
            )
    for one, other in ((split, gallery), (gallery, split)):
        absent = sorted(set(one.labels.tolist()) - set(other.labels.tolist()))
        if absent:
            raise UserError(
                f"evaluate.gallery = {gallery.name}: both directions are ranked, but {len(absent)} classes "
                f"of split {one.name!r} in {manifest.folder} have no entry in split {other.name!r}: "
                f"{class_list(manifest, absent)}.\n"
                "Fix: name two splits of the same classes, or leave these classes out of the set"
            )


def check_choice(manifest: Manifest, train: TrainSettings, validation: EvaluateSettings) -> None:
    """Refuse to choose weights, or to stop, by a figure that is the same for every ranking.

    Raises:
        UserError: `train.select = best` or `early_stop` by class on a split whose entries are of one class.
    """
    chooses = train.select == "best" or (train.validate_on is not None and train.validate_on.early_stop)
    if not chooses or "class" not in validation.relevance:
        return
    classes = set(manifest.split(validation.split).labels.tolist())
    if len(classes) == 1 and -1 not in classes:
        only = class_list(manifest, sorted(classes))
        raise UserError(
            f"train.validate_on: all entries of split {validation.split!r} in {manifest.folder} are of one "
            f"class, {only}: every ranking by class is right, and its figures choose nothing.\n"
            "Fix: a set with more classes in that split (source.validation_classes of a sketch set), or "
            "train.select = last and early_stop = null"
        )


def _fold_fix(splits: list[str]) -> str:
    if splits:
        return f"evaluate on split {' or '.join(splits)}, or folds = null"
    return "folds = null; on MS-COCO the 1K protocol takes the 5,000 images of testall"


def check_single_pairing(data: DataSettings, split: str) -> None:
    """Refuse an evaluation on whole videos: their pairs are drawn, and retrieval needs fixed ones.

    Raises:
        UserError: `data.clips` is set.
    """
    if data.clips is not None:
        raise UserError(
            f"evaluate, train.validate_on: split {split!r} of a set read with data.clips holds whole videos, "
            "whose pairs are drawn anew in every epoch, so there is no one set of pairs to rank.\n"
            "Fix: evaluate = [], train.validate_on = null, and evaluate the weights in a stage of its own "
            "(weights, train = null) over a set of single clips."
        )


def check_distance(model: ModelSettings, settings: EvaluateSettings) -> None:
    """Refuse distances of embeddings that a model does not make.

    Raises:
        UserError: it scores pairs of sets.
    """
    if settings.distance != "cosine" and model.sets is not None and not model.sets.embeds:
        raise UserError(
            f"evaluate.distance = {settings.distance} with model.sets = {model.sets.kind}: the model scores "
            "pairs and makes no embeddings.\nFix: distance = cosine, which leaves its scores as they are"
        )


def check_normalise(settings: StageSettings, evaluation: EvaluateSettings) -> None:
    """Refuse to normalise scores that are not those of one model's embeddings.

    Raises:
        UserError: the model scores pairs of sets, or scores of several models are averaged.
    """
    if evaluation.normalise is None:
        return
    asked = f"evaluate.normalise = {evaluation.normalise.method}"
    sets = settings.model.sets
    if sets is not None and not sets.embeds:
        raise UserError(
            f"{asked} with model.sets = {sets.kind}: the model scores pairs and makes no embeddings, and "
            "every query of the bank would be scored with the whole gallery.\nFix: normalise = null"
        )
    if settings.average_with:
        raise UserError(
            f"{asked} with average_with: scores of {1 + len(settings.average_with)} models are averaged, and "
            "a bank belongs to one.\nFix: normalise = null, or evaluate one model"
        )


def check_settings(settings: EvaluateSettings) -> None:
    """Refuse settings of one evaluation that contradict each other.

    Raises:
        UserError: `ties: miech`, `precision_at`, `hit_at` or `gallery` with a relevance that it is not
            defined for, or `gallery` with `folds`.
    """
    if settings.gallery is not None and settings.relevance != ("class",):
        raise UserError(
            f"evaluate.gallery = {settings.gallery}: no entry of split {settings.split!r} has a partner of "
            f"its own in another split, found relevance = {list(settings.relevance)}.\n"
            "Fix: relevance = [class]; in train.validate_on, a metric that begins with class/"
        )
    if settings.gallery is not None and settings.folds is not None:
        raise UserError(
            f"evaluate.folds with evaluate.gallery = {settings.gallery}: folds are blocks of entries that "
            "hold both modalities.\nFix: folds = null"
        )
    if settings.ties == "miech" and "class" in settings.relevance:
        raise UserError(
            "evaluate: ties = miech is defined for pair relevance only (the published code compares with "
            "the diagonal), found class among relevance.\nFix: relevance = [pair], or ties = pessimistic."
        )
    for name in ("precision_at", "hit_at"):
        if (asked := list(getattr(settings, name))) and "class" not in settings.relevance:
            raise UserError(
                f"evaluate: {name} = {asked} needs class relevance, found relevance "
                f"= {list(settings.relevance)}.\nFix: add class to relevance, or remove {name}."
            )
