"""A checkpoint is whole or absent whatever dies; a resume finds the newest whole one or says why not."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import random
import re
import resource
import shutil
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from swamp_dist.config import StageSettings
from swamp_dist.distributed import World, alone, barrier
from swamp_dist.errors import RunDirLost, UserError
from swamp_dist.train.checkpoint import CommitError, commit, prepare_checkpoints
from swamp_dist.train.checkpoint_folder import read_checkpoint
from swamp_dist.train.engine_files import recorded_writes
from swamp_dist.train.fingerprint import check_fingerprint, default_marks, fingerprint
from swamp_dist.train.newest_checkpoint import newest_checkpoint
from tests.ranks import run_on_ranks
from tests.train.crash import Outcome, Trial, run_trials

# -- killed at every call --------------------------------------------------------------------------


def check_outcome(outcome: Outcome, published: bool | None) -> None:
    """Nothing committed is lost, nothing uncommitted is loaded, nothing is left over."""
    step = outcome.newest[0]
    assert outcome.newest == [step, step], outcome
    assert step in (1, 2), outcome
    assert published is None or (step == 2) == published, outcome
    assert outcome.intact == [True, True], outcome
    assert outcome.after == [f"step-{step + 1}"], outcome


def every_call(
    variants: Sequence[tuple[int, int | None, bool]], folder: Path, broken_from: str | None = None
) -> list[tuple[Outcome, bool | None]]:
    """A kill before every call of the victim, for (victim, slow, broken_there); and whether the commit
    had been renamed by then. Where a broken checkpoint stands in the way, from the call `broken_from` on."""
    baselines = run_trials([Trial(broken_there=broken) for broken in (False, True)], folder / "baselines")
    trials, published = [], []
    for victim, slow, broken in variants:
        calls = baselines[broken].events[victim]
        assert len(calls) > (6 if victim else 25)
        # Rank 1 has no call between its part and its return, which comes after the rename.
        renamed = calls.index("returned") if victim else calls.index("rename .tmp-step-2") + 1
        first = calls.index(broken_from) + 1 if broken and broken_from else 1
        for k in range(first, len(calls) + 1):
            trials.append(Trial(victim, k, slow, broken))
            published.append(k > renamed)
    outcomes = run_trials(trials, folder / "trials", timeout=900)
    assert all(outcome.killed for outcome in outcomes)
    return list(zip(outcomes, published, strict=True))


@pytest.mark.timeout(600)
def test_a_kill_at_any_call_loses_and_invents_nothing(tmp_path: Path) -> None:
    results = every_call([(0, None, False), (0, None, True)], tmp_path, broken_from="rename step-2")
    assert len(results) > 30  # the slow test kills either rank, with either of them slow
    for outcome, published in results:
        check_outcome(outcome, published)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_kill_at_any_call_with_any_rank_slow(tmp_path: Path) -> None:
    product = [(v, slow, broken) for v in (0, 1) for slow in (None, 0, 1) for broken in (False, True)]
    for outcome, published in every_call(product, tmp_path):
        check_outcome(outcome, published)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kills_at_200_random_times(tmp_path: Path) -> None:
    undisturbed = run_trials([Trial(slow=slow) for slow in (None, 0, 1)], tmp_path / "undisturbed")
    longest = max(outcome.seconds for outcome in undisturbed)  # of this machine, as busy as it is
    draw = random.Random(0)
    trials = [
        Trial(draw.randrange(2), slow=draw.choice((None, 0, 1)), kill_after=draw.uniform(0.05, 1) * longest)
        for _ in range(200)
    ]
    outcomes = run_trials(trials, tmp_path / "trials", timeout=900)
    for outcome in outcomes:
        check_outcome(outcome, None)
    assert sum(outcome.killed for outcome in outcomes) > 20


def test_everything_is_on_disk_before_the_name_and_the_name_before_the_purge(tmp_path: Path) -> None:
    (outcome,) = run_trials([Trial()], tmp_path)
    main, other = outcome.events
    rename = main.index("rename .tmp-step-2")
    for name in (".tmp-step-2/engine/rank-0.pt", ".tmp-step-2/MANIFEST.json"):
        assert main.index(f"torn {name}") < main.index(f"fsync {name}") < rename
    assert "fsync .tmp-step-2/engine/rank-1.pt" in other
    assert main.index("open .tmp-step-2/MANIFEST.json") > main.index("fsync .tmp-step-2/engine/rank-0.pt")
    for folder in (".tmp-step-2", ".tmp-step-2/engine"):
        assert main.index("fsync .tmp-step-2/MANIFEST.json") < main.index(f"fsync {folder}") < rename
    assert rename < main.index("fsync .") < main.index("rename step-1") < main.index("unlink MANIFEST.json")


# -- failing writes --------------------------------------------------------------------------------


def write_of(world: World, step: int, size: int = 2000) -> Callable[[Path], list[Path]]:
    def write(folder: Path) -> list[Path]:
        (folder / "engine").mkdir(exist_ok=True)
        path = folder / "engine" / f"rank-{world.rank}.pt"
        path.write_bytes(bytes([step % 256]) * size)
        return [path]

    return write


def put(checkpoints: Path, step: int, keep: int = 9) -> Path:
    checkpoints.mkdir(exist_ok=True)
    return commit(checkpoints, step, write_of(alone(), step), {"best": 0.1, "step": step}, alone(), keep)


def tree(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def commit_with_a_limit(world: World, checkpoints: Path, limited: int) -> tuple[str, bool]:
    prepare_checkpoints(checkpoints, world)
    commit(checkpoints, 1, write_of(world, 1), {}, world, keep=2)
    before = tree(checkpoints)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    if world.rank == limited:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, unlimited[1]))
    try:
        commit(checkpoints, 2, write_of(world, 2, size=50_000), {}, world, keep=2)
    except CommitError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        untouched = tree(checkpoints) == before
        commit(checkpoints, 2, write_of(world, 2, size=50_000), {}, world, keep=2)
        return str(error), untouched and sorted(os.listdir(checkpoints)) == ["step-1", "step-2"]
    raise AssertionError("the limited rank wrote all")


def commit_of_a_former_owner(world: World, checkpoints: Path, good_checks: int) -> str:
    """Ask twice as an owner, in the commit of step 1; then `good_checks` times more."""
    answers = iter([True] * (2 + good_checks))

    def check() -> None:
        if not next(answers, False):
            raise RunDirLost("the folder is another's")

    commit(checkpoints, 1, write_of(world, 1), {}, world, keep=1, check_owner=check)
    barrier(world)
    try:
        commit(checkpoints, 2, write_of(world, 2), {}, world, keep=1, check_owner=check)
    except RunDirLost as lost:
        return str(lost)
    return "committed"


@pytest.mark.parametrize("good_checks", [0, 1])
def test_a_former_owner_commits_nothing_and_all_ranks_hear_of_it(good_checks: int, tmp_path: Path) -> None:
    """Before anything is touched, and where the folder was lost while the files were written."""
    heard = run_on_ranks(commit_of_a_former_owner, 3, tmp_path, good_checks, how="threads")
    assert heard == ["the folder is another's"] * 3
    assert sorted(os.listdir(tmp_path)) == [".tmp-step-2"] * good_checks + ["step-1"]
    assert read_checkpoint(tmp_path / "step-1", verify_hash=True).step == 1


@pytest.mark.parametrize("limited", [0, 1])
def test_a_full_disk_on_one_rank_is_the_same_error_on_all(limited: int, tmp_path: Path) -> None:
    results = run_on_ranks(commit_with_a_limit, 2, tmp_path / "c", limited)
    assert results[0] == results[1]
    message, untouched = results[0]
    assert untouched
    for part in (
        str(tmp_path / "c"),
        f"rank {limited}: OSError: [Errno 27]",
        "step-1",
        "needed: ",
        "free there: ",
    ):
        assert part in message


LOADER = "DataLoader worker (pid 5) is killed by signal: Killed."


def commit_over_a_killed_loader(world: World, checkpoints: Path) -> None:
    def write(folder: Path) -> list[Path]:
        if world.rank == 1:
            raise RuntimeError(LOADER)
        return []

    commit(checkpoints, 3, write, {}, world, keep=1)


def test_what_is_no_refused_write_ends_its_rank_at_once(tmp_path: Path) -> None:
    """Its peers are left to the launcher: a rank that went on would answer them with another collective."""
    with pytest.raises(AssertionError, match=re.escape(LOADER)) as caught:
        run_on_ranks(commit_over_a_killed_loader, 2, tmp_path)
    assert "rank 1" in str(caught.value)
    assert "CommitError" not in str(caught.value)
    assert newest_checkpoint(tmp_path, alone()) is None


def test_a_meta_that_is_no_json_publishes_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        commit(tmp_path, 3, write_of(alone(), 3), {"set": {1}}, alone(), keep=1)
    assert newest_checkpoint(tmp_path, alone()) is None


def test_too_little_space_is_refused_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, 1)
    usage = namedtuple("usage", "total used free")(10_000, 9_000, 1_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CommitError, match=r"1,000 bytes free, the checkpoint before this one took 2,\d\d\d"):
        commit(tmp_path, 2, lambda folder: pytest.fail("wrote"), {}, alone(), keep=1)
    assert os.listdir(tmp_path) == ["step-1"]


def save_with_deepspeed(world: World, checkpoints: Path) -> tuple[str, list[str]]:
    import deepspeed
    import torch

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    model = torch.nn.Linear(100, 100)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.Adam(model.parameters()),
        config={
            "train_micro_batch_size_per_gpu": 1,
            "zero_optimization": {"stage": 1},
            "zero_allow_untested_optimizer": True,
        },
        dist_init_required=False,
    )

    def write(folder: Path) -> list[Path]:
        with recorded_writes(engine) as files:
            engine.save_checkpoint(str(folder), tag="engine", save_latest=False)
        return files

    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    if world.rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, unlimited[1]))
    with pytest.raises(CommitError) as caught:
        commit(checkpoints, 1, write, {}, world, keep=1)
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    folder = commit(checkpoints, 1, write, {}, world, keep=1)
    assert engine.load_checkpoint(str(folder), tag="engine")[0] is not None
    return str(caught.value), list(tree(checkpoints))


def test_deepspeed_on_a_full_disk_keeps_the_ranks_in_step(tmp_path: Path) -> None:
    results = run_on_ranks(save_with_deepspeed, 2, tmp_path, timeout=90)
    assert results[0] == results[1]
    message, names = results[0]
    assert "rank 1: " in message
    assert "rank 0: " not in message
    shards = [f"step-1/engine/zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in (0, 1)]
    assert names == ["step-1/MANIFEST.json", "step-1/engine/mp_rank_00_model_states.pt", *shards]


@pytest.mark.parametrize("all_of_it", [True, False])
def test_a_folder_that_is_removed_during_a_run_stays_gone(tmp_path: Path, all_of_it: bool) -> None:
    """A removal meets what the run still writes, and may leave the run folder without its checkpoints."""
    checkpoints = tmp_path / "run" / "checkpoints"
    prepare_checkpoints(checkpoints, alone())
    put(checkpoints, 1)
    removed = checkpoints.parent if all_of_it else checkpoints
    shutil.rmtree(removed)
    with pytest.raises(CommitError, match=r"(?s)step 2 .* is gone, and the checkpoints with it") as caught:
        commit(checkpoints, 2, write_of(alone(), 2), {}, alone(), keep=1)
    assert "untouched" not in str(caught.value)
    assert not removed.exists()


def test_a_folder_that_is_removed_during_a_commit_stays_gone(tmp_path: Path) -> None:
    def write(folder: Path) -> list[Path]:
        shutil.rmtree(tmp_path / "c")
        return write_of(alone(), 1)(folder)

    prepare_checkpoints(tmp_path / "c", alone())
    with pytest.raises(CommitError, match="is gone, and the checkpoints with it"):
        commit(tmp_path / "c", 1, write, {}, alone(), keep=1)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("number", "fix"), [(errno.EROFS, "read-only"), (errno.EACCES, "permissions"), (errno.EIO, "dmesg")]
)
def test_a_write_that_is_refused_for_another_reason_asks_for_no_space(
    tmp_path: Path, number: int, fix: str
) -> None:
    put(tmp_path, 1)

    def write(folder: Path) -> list[Path]:
        raise OSError(number, os.strerror(number), str(folder / "rank-0.pt"))

    with pytest.raises(CommitError, match="earlier checkpoints, untouched: step-1") as caught:
        commit(tmp_path, 2, write, {}, alone(), keep=1)
    assert fix in str(caught.value)
    assert "space" not in str(caught.value)


# -- choosing --------------------------------------------------------------------------------------


def test_nothing_committed_is_a_fresh_start(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "absent", alone()) is None
    (tmp_path / ".tmp-step-3").mkdir()
    assert newest_checkpoint(tmp_path, alone()) is None


def test_meta_and_place_come_back(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    commit(tmp_path / "run" / "checkpoints", 7, write_of(alone(), 7), {"a": (1, 0.1), "b": None}, alone(), 1)
    found = newest_checkpoint(tmp_path / "run" / "checkpoints", alone())
    assert found is not None
    assert (found.step, found.folder.name, found.world_size) == (7, "step-7", 1)
    assert found.meta == {"a": [1, 0.1], "b": None}


def flip_a_bit(folder: Path) -> None:
    path = folder / "engine" / "rank-0.pt"
    data = bytearray(path.read_bytes())
    data[1234] ^= 1
    path.write_bytes(data)


def edit_meta(folder: Path) -> None:
    path = folder / "MANIFEST.json"
    path.write_text(path.read_text().replace("0.1", "0.2"))


def link_payload(folder: Path) -> None:
    path = folder / "engine" / "rank-0.pt"
    path.rename(folder.parent / "moved")
    path.symlink_to(folder.parent / "moved")


def rename_other(folder: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(folder.parent / "step-1", folder)


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "bit": (flip_a_bit, "engine/rank-0.pt differs from its sha256"),
    "cut": (lambda f: os.truncate(f / "engine" / "rank-0.pt", 10), "has 10 bytes, expected 2,000"),
    "file": (lambda f: (f / "engine" / "rank-0.pt").unlink(), "rank-0.pt is missing"),
    "manifest": (lambda f: (f / "MANIFEST.json").unlink(), "MANIFEST.json is missing"),
    "torn": (lambda f: os.truncate(f / "MANIFEST.json", 100), "JSONDecodeError"),
    "list": (lambda f: (f / "MANIFEST.json").write_text("[]"), "AttributeError"),
    "schema": (lambda f: (f / "MANIFEST.json").write_text('{"schema": 9}'), "schema 9, this version reads 1"),
    "meta": (edit_meta, "MANIFEST.json was changed"),
    "link": (link_payload, "rank-0.pt has"),
    "other": (rename_other, "is of step 1"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_newest_is_skipped_loudly(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("swamp_dist").propagate = True
    put(tmp_path, 1)
    put(tmp_path, 12)
    inflict, reason = DAMAGES[damage]
    inflict(tmp_path / "step-12")
    found = newest_checkpoint(tmp_path, alone())
    assert found is not None
    assert found.step == 1
    assert reason in caplog.text
    assert "step-12" in caplog.text


def test_only_broken_commits_are_no_fresh_start(tmp_path: Path) -> None:
    put(tmp_path, 1)
    put(tmp_path, 2)
    flip_a_bit(tmp_path / "step-1")
    (tmp_path / "step-2" / "MANIFEST.json").unlink()
    with pytest.raises(UserError, match=r"(?s)step-2: MANIFEST.json is missing.*step-1: .*sha256.*Fix: "):
        newest_checkpoint(tmp_path, alone())
    found = newest_checkpoint(tmp_path, alone(), verify_hash=False)  # sizes alone cannot see the bit
    assert found is not None
    assert found.step == 1


# -- committing again, and cleaning up -------------------------------------------------------------


def test_a_valid_commit_of_the_same_step_is_kept(tmp_path: Path) -> None:
    put(tmp_path, 4)
    before = tree(tmp_path)
    commit(tmp_path, 4, lambda folder: pytest.fail("wrote again"), {}, alone(), keep=1)
    assert tree(tmp_path) == before


def test_a_broken_commit_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    whole = tree(put(tmp_path, 4))
    flip_a_bit(tmp_path / "step-4")
    put(tmp_path, 4)
    assert tree(tmp_path / "step-4") == whole
    assert os.listdir(tmp_path) == ["step-4"]


def test_the_newest_are_kept_and_only_commits_are_removed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    put(outside, 2)
    run = tmp_path / "run"
    foreign = ["best-step-3.safetensors", "step-1.bak", "step-007", "step-x", "step-1"]
    for name in foreign:
        (run / name).mkdir(parents=True)
    (run / "step-2").symlink_to(outside / "step-2")
    for step in range(3, 8):
        put(run, step, keep=2)
    assert sorted(os.listdir(run)) == sorted([*foreign, "step-2", "step-6", "step-7"])
    assert (outside / "step-2" / "engine" / "rank-0.pt").is_file()


def test_broken_commits_do_not_count_as_kept(tmp_path: Path) -> None:
    """After a fallback from step 9 the run goes on: neither 9 nor a broken 4 may push out a whole one."""
    for step in (2, 4, 9):
        put(tmp_path, step)
    (tmp_path / "step-9" / "engine" / "rank-0.pt").unlink()
    (tmp_path / "step-4" / "engine" / "rank-0.pt").unlink()
    put(tmp_path, 5, keep=2)
    assert sorted(os.listdir(tmp_path)) == ["step-2", "step-4", "step-5", "step-9"]
    put(tmp_path, 6, keep=2)
    assert sorted(os.listdir(tmp_path)) == ["step-5", "step-6", "step-9"]


def test_a_failed_purge_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("swamp_dist").propagate = True
    put(tmp_path, 1)

    def refuse(path: Path) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(shutil, "rmtree", refuse)
    put(tmp_path, 2, keep=1)
    assert "could not be removed" in caplog.text
    assert (tmp_path / "step-2" / "MANIFEST.json").is_file()


def test_leftovers_go_and_nothing_else(tmp_path: Path) -> None:
    put(tmp_path, 1)
    for name in (".tmp-step-2", ".trash-step-0", ".universal-step-1", ".tmp-other"):
        (tmp_path / name / "sub").mkdir(parents=True)
    (tmp_path / ".trash-step-3").symlink_to(tmp_path / "step-1")
    prepare_checkpoints(tmp_path, alone())
    assert sorted(os.listdir(tmp_path)) == [".tmp-other", ".universal-step-1", "step-1"]
    assert newest_checkpoint(tmp_path, alone()) is not None
    prepare_checkpoints(tmp_path / "absent" / "too", alone())
    assert (tmp_path / "absent" / "too").is_dir()


def test_files_nobody_reported_are_covered_and_links_refused(tmp_path: Path) -> None:
    def write(folder: Path) -> list[Path]:
        (folder / "extra.txt").write_text("extra")
        return []

    folder = commit(tmp_path, 1, write, {}, alone(), keep=1)
    assert [f["name"] for f in json.loads((folder / "MANIFEST.json").read_text())["files"]] == ["extra.txt"]

    def link(folder: Path) -> list[Path]:
        (folder / "link").symlink_to("/etc/hostname")
        return []

    with pytest.raises(CommitError, match="symbolic link"):
        commit(tmp_path, 2, link, {}, alone(), keep=1)


def write_the_same_file(world: World, checkpoints: Path) -> None:
    def write(folder: Path) -> list[Path]:
        (folder / "same.pt").write_bytes(b"x")
        return [folder / "same.pt"]

    with pytest.raises(ValueError, match="same.pt was written by rank 1 and by a lower rank too"):
        commit(checkpoints, 1, write, {}, world, keep=1)


def test_two_ranks_may_not_write_one_file(tmp_path: Path) -> None:
    run_on_ranks(write_the_same_file, 2, tmp_path)


def test_keeping_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep = 0"):
        put(tmp_path, 1, keep=0)


# -- fingerprint -----------------------------------------------------------------------------------


def stage(**changes: Any) -> StageSettings:
    tree: dict[str, Any] = {"name": "s", "data": {"shards": "shards/x", "entries": 8}, "train": {"epochs": 3}}
    for key, value in changes.items():
        *parents, last = key.split("__")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return StageSettings.model_validate(tree)


FREE: list[dict[str, Any]] = [
    {"name": "other"}, {"data__shards": "/elsewhere"}, {"data__workers": 7}, {"data__prefetch": 9},
    {"data__cache": "memory"}, {"data__reading": "stream"}, {"data__verify": True}, {"data__lanes": 8},
    {"engine__zero_stage": 3}, {"engine__threads": 2}, {"train__epochs": 30}, {"train__log_every": 1},
    {"train__checkpoint": {"every": 5, "keep": 4}}, {"objective__swamp__queue__solve": "whole"},
    {"engine__micro_batch": 2}, {"objective__contrastive__chunk": 4},
]  # fmt: skip
BOUND: list[dict[str, Any]] = [
    {"seed": 1}, {"data__entries": 16, "data__lanes": 8}, {"data__lanes": 4}, {"data__pairs_per_entry": 2},
    {"data__train_split": "t"}, {"data__shuffle_block": 5}, {"model__embedding_dim": 8},
    {"model__a": {"kind": "mlp"}}, {"objective__contrastive__margin": 0.3}, {"objective__swamp__eta": 7},
    {"objective__swamp__queue__size": 64}, {"objective__swamp__sinkhorn__iterations": 3},
    {"train__optimizer__lr": 1.0}, {"train__schedule__warmup_steps": 3}, {"engine__precision": "bf16"},
    {"objective__precision": "tf32"},
]  # fmt: skip


def check(saved: Mapping[str, object], asked: StageSettings) -> None:
    """As a resume asks."""
    check_fingerprint(saved, fingerprint(asked, "abc"), default_marks(asked))


def test_a_checkpoint_from_before_a_setting_was_made_as_its_default_says() -> None:
    saved = fingerprint(stage(), "abc")
    del saved["objective.swamp.eta"], saved["model.embedding_dim"]
    check(saved, stage())
    with pytest.raises(UserError, match=r"objective\.swamp\.eta +5\.0 +7\.0 +objective\.swamp\.eta=5\.0"):
        check(saved, stage(objective__swamp__eta=7.0))


def test_a_checkpoint_that_calls_the_form_negatives_fits() -> None:
    saved = fingerprint(stage(), "abc")
    earlier = dict(saved)
    earlier["objective.contrastive.negatives"] = earlier.pop("objective.contrastive.form")
    check(earlier, stage())
    with pytest.raises(UserError, match=r"objective\.contrastive\.form +\"all\" +\"hardest\""):
        check(earlier, stage(objective__contrastive__form="hardest"))


def test_a_sum_that_did_not_count_for_all_negatives_is_not_taken_up() -> None:
    asked = stage(objective__contrastive__reduction="sum")
    saved = fingerprint(asked, "abc")
    check(saved, asked)
    saved["objective.contrastive.negatives"] = saved.pop("objective.contrastive.form")
    with pytest.raises(UserError, match=r"reduction=\"mean\""):
        check(saved, asked)


@pytest.mark.parametrize("changes", FREE, ids=str)
def test_what_may_change_does_not_refuse(changes: dict[str, Any]) -> None:
    saved = json.loads(json.dumps(fingerprint(stage(), "abc")))
    check(saved, stage(**changes))


@pytest.mark.parametrize("changes", BOUND, ids=str)
def test_what_changes_the_training_refuses(changes: dict[str, Any]) -> None:
    saved = json.loads(json.dumps(fingerprint(stage(), "abc")))
    with pytest.raises(UserError, match=next(iter(changes)).replace("__", r"\.")):
        check(saved, stage(**changes))


def test_a_longer_run_is_another_only_for_a_cosine() -> None:
    cosine = {"train__schedule__kind": "cosine"}
    with pytest.raises(UserError, match=r"train\.epochs +3 +30 +train\.epochs=3"):
        check(fingerprint(stage(**cosine), "abc"), stage(**cosine, train__epochs=30))


def test_the_refusal_is_a_table_of_what_differs() -> None:
    saved = fingerprint(stage(), "abc") | {"model.gone": 1}
    found = fingerprint(stage(train__optimizer__lr=0.5), "def") | {"model.new": 2}
    with pytest.raises(UserError) as caught:
        check_fingerprint(saved, found, default_marks(stage()))
    rows = [line.split() for line in str(caught.value).splitlines()[1:-1]]
    assert rows[0] == ["setting", "was", "asked", "fix"]
    assert ["train.optimizer.lr", "0.0001", "0.5", "train.optimizer.lr=0.0001"] in rows
    assert ["model.gone", "1", "(none)", "model.gone=1"] in rows
    assert ["model.new", "(none)", "2", "remove", "model.new"] in rows
    assert any(row[:3] == ["data.manifest", '"abc"', '"def"'] for row in rows)
    assert len(rows) == 5


def test_a_stage_without_training_has_no_fingerprint() -> None:
    settings = StageSettings.model_validate(
        {"name": "e", "data": {"shards": "x"}, "evaluate": [{"split": "test"}]}
    )
    with pytest.raises(ValueError, match="without training"):
        fingerprint(settings, "abc")
