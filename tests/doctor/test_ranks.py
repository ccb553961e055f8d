from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from swamp_dist.distributed import World
from swamp_dist.doctor import ranks
from swamp_dist.doctor.examine import merge_findings
from swamp_dist.doctor.finding import Subject
from swamp_dist.doctor.ranks import Measured, judge, measure
from swamp_dist.records import Finding
from tests.ranks import run_on_ranks

GOOD = Measured(2, 1e9, 1e-4, 0.01)


def measured_here(world: World, ahead: float) -> Measured:
    clock = ranks.time.time
    ranks.time.time = lambda: clock() + ahead * world.rank
    try:
        return measure(world)
    finally:
        ranks.time.time = clock


def test_two_ranks_measure_and_agree_on_what_they_measured() -> None:
    first, second = run_on_ranks(measured_here, 2, 100.0)
    assert first == second
    assert first.ranks == 2
    assert 1e6 < first.bandwidth < 1e12
    assert 0 < first.latency < 1
    assert first.skew == pytest.approx(100.0, abs=20)  # the clock of rank 1 was put ahead


@pytest.mark.parametrize(
    ("measured", "levels"),
    [
        (GOOD, ["ok", "ok"]),
        (replace(GOOD, bandwidth=0.5e8), ["warning", "ok"]),
        (replace(GOOD, latency=0.1), ["warning", "ok"]),
        (replace(GOOD, skew=3.0), ["ok", "warning"]),
    ],
)
def test_slow_links_and_clocks_apart_are_warned_about(measured: Measured, levels: list[str]) -> None:
    found = list(judge(measured))
    assert [f.level for f in found] == levels
    assert all(bool(f.fix) == (f.level != "ok") for f in found)


def played(script: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(("load", "level"), [(0.0, "problem"), (1000.0, "warning")])
def test_ranks_that_never_meet(monkeypatch: pytest.MonkeyPatch, load: float, level: str) -> None:
    monkeypatch.setattr(ranks, "SECONDS", 0.2)
    monkeypatch.setattr(ranks.os, "getloadavg", lambda: (load, load, load))
    rank = played("import time; time.sleep(60)")
    try:
        (found,) = ranks._collect([rank])
    finally:
        rank.kill()
        rank.communicate()
    assert found.level == level
    assert "did not meet" in found.message


def test_a_rank_that_fails_is_quoted() -> None:
    (found,) = ranks._collect([played("raise SystemExit('no route to host')")])
    assert found.level == "problem"
    assert "no route to host" in found.message


def test_what_all_hosts_share_stands_once() -> None:
    shared, own = Finding("versions", "ok", "x"), Finding("memory", "problem", "little", "free some")
    found = merge_findings([("n1", [shared]), ("n2", [shared, own]), ("n2", [shared, own])])
    assert found == [shared, replace(own, host="n2")]


@pytest.mark.slow
def test_two_ranks_are_started_for_it() -> None:
    found = list(ranks.two_here(Subject()))
    assert [f.check for f in found] == ["all-reduce", "clocks"], found
    assert found[0].message.startswith("2 ranks: ")
