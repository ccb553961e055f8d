"""A simulated video-text corpus, written as raw files in the layouts of four real sets and read as those are.

The parts `words`, `howto100m`, `youcook2`, `msrvtt` and `lsmdc` of `raw_dir` are made when a shard recipe
needs them, each once: a part is written beside its place and renamed into it whole, with the settings it was
made from in `simulated.json`. Real readers do the rest, so whatever reads the simulated files reads the real
ones.

How large and how noisy: sizes let all four sets be written in about two minutes and under 1 GB. Noise was
set by a probe, contrastive training alone on validation items of the small sets: clearly above chance, far
from solved, and better with more data. No two methods were compared to choose them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from swamp_dist.config import (
    HowTo100MSource,
    LsmdcSource,
    MsrVttSource,
    SimulatedVideoTextSource,
    YouCook2Source,
)
from swamp_dist.errors import UserError
from swamp_dist.records import RawSplit
from swamp_dist.sources import simulated_files
from swamp_dist.sources.simulated_captions import Corpus, make_corpus

log = logging.getLogger(__name__)

RECORD = "simulated.json"
ELSEWHERE = {"raw_dir", "part", "validation_share", "annotations"}
"""Settings that change no raw file; annotations count by their content."""
_WRITERS: dict[str, Callable[[Corpus, SimulatedVideoTextSource, Path], None]] = {
    "words": simulated_files.write_words,
    "howto100m": simulated_files.write_howto100m,
    "youcook2": simulated_files.write_youcook2,
    "msrvtt": simulated_files.write_msrvtt,
    "lsmdc": simulated_files.write_lsmdc,
}


def open_splits(settings: SimulatedVideoTextSource) -> Mapping[str, RawSplit]:
    """Splits of the chosen part, read by the reader of the real set; raw files are made first where absent.

    Raises:
        UserError: as `ensure_raw_files`, and as the real set's `open_splits`.
    """
    ensure_raw_files(settings)
    from swamp_dist.sources import howto100m, lsmdc, msrvtt, youcook2

    match real_source(settings):
        case HowTo100MSource() as source:
            return howto100m.open_splits(source)
        case YouCook2Source() as source:
            return youcook2.open_splits(source)
        case MsrVttSource() as source:
            return msrvtt.open_splits(source)
        case LsmdcSource() as source:
            return lsmdc.open_splits(source)


def item_fields(settings: SimulatedVideoTextSource) -> frozenset[str]:
    """Fields of the samples with several items, as the real set has them."""
    from swamp_dist.sources import howto100m

    match real_source(settings):
        case HowTo100MSource() as source:
            return howto100m.item_fields(source)
        case _:
            return frozenset()


def real_source(
    settings: SimulatedVideoTextSource,
) -> HowTo100MSource | YouCook2Source | MsrVttSource | LsmdcSource:
    """Settings that read the raw files of the chosen part as the real set is read."""
    raw = settings.raw_dir / settings.part
    width, share = settings.width, settings.validation_share
    match settings.part:
        case "howto100m":
            return HowTo100MSource(
                videos=raw / "HowTo100M_v1.csv", captions=raw / "caption.json",
                features_2d=raw / "features_2d", features_3d=raw / "features_3d",
                width_2d=width, width_3d=width, validation_share=share,
            )  # fmt: skip
        case "youcook2":
            return YouCook2Source(
                layout="lists", train_pickle=raw / "youcook_train.pkl", test_pickle=raw / "youcook_val.pkl",
                ids="video_number",
                width_2d=width, width_3d=width, validation_share=share,
            )  # fmt: skip
        case "msrvtt":
            return MsrVttSource(
                training="other", train_lists=(raw / "MSRVTT_train.csv",), captions=raw / "MSRVTT_data.json",
                train_features=raw / "MSRVTT_train.pth", test_list=raw / "MSRVTT_JSFUSION_test.csv",
                test_features=raw / "MSRVTT_JSFUSION_test.pth",
                width_2d=width, width_3d=width, validation_share=share,
            )  # fmt: skip
        case "lsmdc":
            return LsmdcSource(
                train_list=raw / "LSMDC16_annos_training.csv", train_features=raw / "LSMDC_train.pth",
                test_list=raw / "LSMDC16_challenge_1000_publictect.csv", test_features=raw / "LSMDC_test.pth",
                width_2d=width, width_3d=width, validation_share=share,
            )  # fmt: skip


def ensure_raw_files(settings: SimulatedVideoTextSource) -> Path:
    """`raw_dir` with the word vectors and the files of `part`, made where they are not there yet.

    Raises:
        UserError: `raw_dir` holds files of other settings; the annotation file cannot be used.
    """
    record = _record(settings)
    missing = [part for part in ("words", settings.part) if not _is_there(settings.raw_dir / part, record)]
    if missing:
        corpus = make_corpus(settings)
        for part in missing:
            _write_part(part, corpus, settings, record)
    return settings.raw_dir


def _record(settings: SimulatedVideoTextSource) -> str:
    """The settings that the files follow from, and a hash of them, as JSON text."""
    wanted = settings.model_dump(mode="json", exclude=ELSEWHERE)
    if settings.annotations is not None:
        wanted["annotations_sha256"] = _sha256(settings.annotations)
    digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()
    return json.dumps({"sha256": digest, "settings": wanted}, indent=1) + "\n"


def _sha256(annotations: Path) -> str:
    try:
        return hashlib.sha256(annotations.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(
            f"source.annotations: expected the official YouCook2 annotation json, found no readable file at "
            f"{annotations} ({error.strerror}); give its path, or null for generated sentences"
        ) from error


def _is_there(folder: Path, record: str) -> bool:
    if not folder.exists():
        return False
    file = folder / RECORD
    if not file.is_file():
        raise UserError(
            f"{folder} exists but was not made by this source (no {RECORD}): choose another source.raw_dir"
        )
    found = file.read_text(encoding="utf-8")
    if found != record:
        raise UserError(
            f"{folder} holds a simulated set of other settings ({_differences(found, record)}): "
            "choose another source.raw_dir, or remove that folder"
        )
    return True


def _differences(found: str, wanted: str) -> str:
    try:
        old, new = json.loads(found)["settings"], json.loads(wanted)["settings"]
    except (ValueError, KeyError):
        return f"its {RECORD} is damaged"
    changed = [k for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
    return ", ".join(f"source.{k}: found {old.get(k)}, wanted {new.get(k)}" for k in changed)


def _write_part(part: str, corpus: Corpus, settings: SimulatedVideoTextSource, record: str) -> None:
    target = settings.raw_dir / part
    log.info("writing the simulated %s into %s", part, target)
    settings.raw_dir.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{part}-", dir=settings.raw_dir))
    try:
        _WRITERS[part](corpus, settings, made)
        (made / RECORD).write_text(record, encoding="utf-8")
        made.chmod(0o755)
        os.rename(made, target)
    except OSError:
        if not (target.exists() and _is_there(target, record)):  # another process may have been first
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
