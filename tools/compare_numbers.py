"""Whether two revisions compute the same numbers: losses, weights, evaluations and shard sets, bit by bit.

    python tools/compare_numbers.py REVISION [--against REVISION]

Each revision is checked out in a temporary folder and runs the same shortened pipelines there through its
own `swamp` command, on the CPU with one thread per process. Of every stage are compared: each loss of each
logged step, the sha256 of each tensor of the selected weights, every figure of every evaluation, and the hash
of the shard set. Exit code 0: all are equal; 1: some differ; 2: a revision could not be run.

`--keep FOLDER` keeps what a revision computed, by its commit, so that an unchanged one is run only once.
Equal numbers can be expected on one machine only, with the same installed packages.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[1]
OWN = Path(__file__).resolve().parent / "numbers"
PIPELINES: Mapping[str, Sequence[str]] = {
    "synthetic": (str(OWN / "synthetic.yaml"),),
    "simulated": (str(OWN / "simulated.yaml"),),
    "table13": (
        "jobs/pipelines/table13.yaml",
        "matrix={seed: [0]}",
        "overrides=[train.epochs=3, train.log_every=9]",
    ),
    "smoke": ("jobs/pipelines/smoke.yaml",),
}
"""Arguments of `swamp pipeline`; job and recipe files are those of the revision."""
SHORT = ("synthetic", "simulated", "table13")
KINDS = ("losses", "weights", "evaluations", "shards")
ENVIRONMENT = {
    "DS_ACCELERATOR": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}

Facts = dict[str, str]
"""Numbers of one kind by name, as JSON text: equal texts are equal bits, and nan equals nan."""
StageFacts = dict[str, Facts]
"""Facts by kind."""


class RunError(Exception):
    """A revision does not exist, or one of its commands failed."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("revision")
    parser.add_argument("--against", metavar="REVISION", default="HEAD", help="default: HEAD")
    parser.add_argument("--pipelines", nargs="+", choices=PIPELINES, default=SHORT, metavar="NAME",
                        help=f"of {', '.join(PIPELINES)}; default: {' '.join(SHORT)}")  # fmt: skip
    parser.add_argument("--keep", metavar="FOLDER", type=Path, help="keep results here and use those there")
    arguments = parser.parse_args()
    try:
        old, new = commit_of(arguments.revision), commit_of(arguments.against)
        print(f"{old[:10]} ({arguments.revision}) against {new[:10]} ({arguments.against})")
        equal = True
        for name in arguments.pipelines:
            first, second = (numbers(commit, name, arguments.keep) for commit in (old, new))
            equal &= report(name, first, second)
    except RunError as error:
        print(error, file=sys.stderr)
        return 2
    print("all numbers are equal" if equal else "NUMBERS DIFFER")
    return 0 if equal else 1


def commit_of(revision: str) -> str:
    """The full commit hash that a revision names.

    Raises:
        RunError: it names none.
    """
    return run(["git", "rev-parse", "--verify", f"{revision}^{{commit}}"], ROOT, {}).strip()


def numbers(commit: str, pipeline: str, keep: Path | None) -> dict[str, StageFacts]:
    """Facts of every stage of a pipeline at a commit; those that were kept are not computed again."""
    arguments = PIPELINES[pipeline]
    asked = hashlib.sha256(json.dumps(arguments).encode() + _own_file(arguments)).hexdigest()[:12]
    kept = None if keep is None else keep / f"{commit}-{pipeline}-{asked}.json"
    if kept is not None and kept.is_file():
        return dict(json.loads(kept.read_bytes()))
    with worktree(commit) as tree:
        runs = tree.parent / "runs"
        run_pipeline(tree, runs, arguments)
        found = read_stages(runs)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(found, indent=1))
    return found


def _own_file(arguments: Sequence[str]) -> bytes:
    """The content of a pipeline file that does not come from the revision."""
    path = Path(arguments[0])
    return path.read_bytes() if path.is_absolute() else b""


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """A checkout of a commit in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="swamp-numbers-") as folder:
        tree = Path(folder) / "checkout"
        run(["git", "worktree", "add", "--detach", str(tree), commit], ROOT, {})
        try:
            yield tree
        finally:
            run(["git", "worktree", "remove", "--force", str(tree)], ROOT, {})


def run_pipeline(tree: Path, runs: Path, arguments: Sequence[str]) -> None:
    """Run a pipeline with the package of a checkout.

    Raises:
        RunError: it failed, or another copy of the package would have been imported.
    """
    ours = {"PYTHONPATH": str(tree)} | ENVIRONMENT
    where = "import swamp_dist; print(swamp_dist.__file__)"
    imported = Path(run([sys.executable, "-c", where], tree, ours).strip())
    if not imported.is_relative_to(tree):
        raise RunError(f"the package of {tree} was asked for, {imported} is imported")
    file = Path(arguments[0])
    if file.is_absolute():  # in the root its paths lead to the revision's files, by the rule of every version
        file = Path(shutil.copy(file, tree / "numbers.yaml")).relative_to(tree)
    command = [
        sys.executable,
        "-m",
        "swamp_dist",
        "pipeline",
        str(file),
        *arguments[1:],
        "--run-dir",
        str(runs),
    ]
    run(command, tree, ours)


def run(command: Sequence[str], folder: Path, variables: Mapping[str, str]) -> str:
    """What a command prints.

    Raises:
        RunError: it failed; the message has the end of what it said.
    """
    inherited = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    done = subprocess.run(command, cwd=folder, env=inherited | variables, capture_output=True, text=True)
    if done.returncode != 0:
        said = "\n  ".join((done.stdout + done.stderr).splitlines()[-30:])
        raise RunError(f"{' '.join(command)}\nended with {done.returncode} in {folder}:\n  {said}")
    return done.stdout


def read_stages(runs: Path) -> dict[str, StageFacts]:
    """Facts of every stage below a pipeline's run folder, by the stage's folder.

    Raises:
        RunError: there is none.
    """
    folders = sorted(path.parent for path in runs.rglob("result.json"))
    if not folders:
        raise RunError(f"no stage left a result in {runs}")
    return {folder.relative_to(runs).as_posix(): read_stage(folder) for folder in folders}


def read_stage(folder: Path) -> StageFacts:
    """Facts of one finished stage."""
    result = json.loads((folder / "result.json").read_bytes())
    rows = metric_rows(folder / "metrics.jsonl")
    losses = {key: value for key, value in rows.items() if " loss/" in key}
    validations = {key: value for key, value in rows.items() if " retrieval/" in key}
    weights = folder / "weights.safetensors"
    return {
        "losses": losses,
        "weights": tensor_hashes(weights) if weights.is_file() else {},
        "evaluations": validations | dict(leaves(result["evaluations"], "result.json")),
        "shards": {"sha256": json.dumps(result["provenance"]["shards_sha256"])},
    }


def metric_rows(path: Path) -> Facts:
    """Every figure of metrics.jsonl under `step N TAG`."""
    if not path.is_file():  # a stage that only evaluates
        return {}
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {f"step {row['step']} {tag}": json.dumps(value) for row in rows for tag, value in row.items()}


def tensor_hashes(path: Path) -> Facts:
    """dtype, shape and sha256 of the bytes of every tensor of a safetensors file."""
    hashes = {}
    with safe_open(path, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118 - no mapping, it has keys() alone
            tensor = file.get_tensor(name)
            digest = hashlib.sha256(tensor.tobytes()).hexdigest()
            hashes[name] = json.dumps([str(tensor.dtype), tensor.shape, digest])
    return hashes


def leaves(tree: Any, name: str) -> Iterator[tuple[str, str]]:
    """Every value of a JSON tree by its path."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else None
    if items is None:
        yield name, json.dumps(tree)
        return
    for key, value in items:
        yield from leaves(value, f"{name} {key}")


def report(pipeline: str, first: Mapping[str, StageFacts], second: Mapping[str, StageFacts]) -> bool:
    """Print a line per stage and what differs in it; whether everything is equal."""
    equal = True
    for stage in sorted({*first, *second}):
        sides = first.get(stage), second.get(stage)
        if sides[0] is None or sides[1] is None:
            print(f"{pipeline}/{stage}: only in the {'second' if sides[0] is None else 'first'} revision")
            equal = False
            continue
        found = {kind: differences(sides[0][kind], sides[1][kind]) for kind in KINDS}
        words = [
            f"{kind} {'DIFFER' if found[kind] else 'equal'} ({len(sides[0][kind])})"
            for kind in KINDS
            if sides[0][kind] or sides[1][kind]
        ]
        print(f"{pipeline}/{stage}: {', '.join(words)}")
        for kind in KINDS:
            for line in found[kind][:3]:
                print(f"    {kind}: {line}")
        equal &= not any(found.values())
    return equal


def differences(first: Facts, second: Facts) -> list[str]:
    """One line per number that is not equal, in the order in which it was written."""
    names = list(first) + [name for name in second if name not in first]
    return [
        f"{name}: {first.get(name, 'absent')} against {second.get(name, 'absent')}"
        for name in names
        if first.get(name) != second.get(name)
    ]


if __name__ == "__main__":
    raise SystemExit(main())
