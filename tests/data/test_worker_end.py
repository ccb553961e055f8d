"""A program ends, whatever its loader processes do and wherever their iterator was left."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.data.shard_sets import build

PROGRAM = """
import multiprocessing
import sys
import time
from pathlib import Path

from swamp_dist.config import DataSettings
from swamp_dist.data.lanes import plan_batches
from swamp_dist.data.manifest import load_manifest
from swamp_dist.data.stream import open_stream


def read(folder, fails):
    global batches  # so that nothing ends the iterator
    manifest = load_manifest(Path(folder))
    data = DataSettings(shards=manifest.folder, a="a", b="b", workers=2)
    stream = open_stream(manifest, "train", data, plan_batches(8, 1, 4, 1, 37), seed=1, rank=0)
    if fails:
        stream._steps.load = lambda step: step / 0
    batches = iter(stream.batches(0, 10**9))
    print([next(batches).step for _ in range(3)])
    return [child.pid for child in multiprocessing.active_children()]


if __name__ == "__main__":
    folder, method, how = sys.argv[1:]
    multiprocessing.set_start_method(method)
    if how == "child":
        child = multiprocessing.Process(target=read, args=(folder, False))
        child.start()
        child.join()
        sys.exit(child.exitcode)
    loaders = read(folder, how == "fails")
    if how == "waits":
        print(*loaders, flush=True)
        time.sleep(100)
"""


@contextlib.contextmanager
def _started(tmp_path, method, how):
    build(tmp_path / "set")
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    command = [sys.executable, "-W", "ignore", str(file), str(tmp_path / "set"), method, how]
    pipe = subprocess.PIPE
    program = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    try:
        yield program
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
        program.communicate()


def _run(tmp_path, method, how):
    with _started(tmp_path, method, how) as program:
        said, complained = program.communicate(timeout=40)
        return program.returncode, said, complained


@pytest.mark.parametrize(
    ("method", "how"), [("fork", "itself"), ("forkserver", "itself"), ("spawn", "itself"), ("fork", "child")]
)
def test_a_program_ends_that_never_closes_its_iterator(tmp_path, method, how):
    assert _run(tmp_path, method, how) == (0, "[0, 1, 2]\n", "")


def test_a_program_ends_whose_error_keeps_its_iterator(tmp_path):
    code, _, complained = _run(tmp_path, "fork", "fails")
    assert code == 1
    assert "ZeroDivisionError" in complained
    assert "killed by signal" not in complained


def test_loader_processes_of_a_fork_server_end_where_their_program_is_killed(tmp_path):
    with _started(tmp_path, "forkserver", "waits") as program:
        assert program.stdout.readline() == "[0, 1, 2]\n"
        loaders = [psutil.Process(int(pid)) for pid in program.stdout.readline().split()]
        assert len(loaders) == 2
        program.kill()
        end = time.monotonic() + 10
        while any(_runs(loader) for loader in loaders):
            assert time.monotonic() < end
            time.sleep(0.02)


def _runs(process):
    """Whether it does; where nobody reaps orphans they stay as zombies."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False
