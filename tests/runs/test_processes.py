from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from swamp_dist.runs.processes import ProcessMark, born, find_marked, life, mark_from, own_mark, send
from tests.runs.written_runs import DEAD, ELSEWHERE, sleeper


def test_a_mark_survives_its_record() -> None:
    assert mark_from(own_mark().as_dict()) == own_mark()
    assert mark_from({"host": "h", "pid": "3"}) is None
    assert mark_from({}) is None


def test_a_mark_keeps_its_format() -> None:
    """Run folders hold marks: boot id of the machine and start of the process in clock ticks since the
    boot."""
    with sleeper() as (process, mark):
        boot, _, tick = mark.born.partition(":")
        assert boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        began = psutil.boot_time() + int(tick) / os.sysconf("SC_CLK_TCK")
        assert began == pytest.approx(psutil.Process(process.pid).create_time(), abs=2)
    assert born(process.pid) is None


def test_processes_are_found_by_a_variable_of_their_start() -> None:
    with sleeper(SWAMP_TEST_MARK="this run") as (_, mark), sleeper(SWAMP_TEST_MARK="another run"):
        assert find_marked("SWAMP_TEST_MARK", "this run") == [mark]
    assert find_marked("SWAMP_TEST_MARK", "this run") == []


def test_the_living_the_dead_and_the_unseen() -> None:
    assert life(own_mark()) == "alive"
    assert life(DEAD) == "dead"
    assert life(ELSEWHERE) == "elsewhere"
    assert life(replace(own_mark(), born="")) == "unknown"


def test_a_number_used_again_is_not_that_process() -> None:
    with sleeper() as (process, mark):
        impostor = replace(mark, born=mark.born + "0")
        assert life(impostor) == "dead"
        assert not send(impostor, signal.SIGKILL)
        assert not send(replace(mark, born=""), signal.SIGKILL)
        assert not send(replace(mark, host="another-host"), signal.SIGKILL)
        time.sleep(0.05)
        assert process.poll() is None
        assert send(mark, signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL
        assert life(mark) == "dead"
        assert not send(mark, signal.SIGKILL)


def test_a_suspended_process_is_told_apart() -> None:
    with sleeper() as (process, mark):
        os.kill(process.pid, signal.SIGSTOP)
        deadline = time.monotonic() + 10
        while life(mark) != "suspended":
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_process_that_waits_to_be_collected_is_dead() -> None:
    with sleeper() as (process, mark):
        os.kill(process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie from here on
        assert life(ProcessMark(mark.host, mark.pid, mark.born)) == "dead"
