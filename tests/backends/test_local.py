from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swamp_dist.backends import local
from swamp_dist.backends.local import run_ranks
from swamp_dist.backends.rank_process import local_environment
from swamp_dist.errors import ExitCode, UserError
from swamp_dist.monitor.status import look
from swamp_dist.runs.folder import RunDir
from swamp_dist.stop_requests import CTRL_C

START = (
    "import os, pathlib, signal, sys, time\nrank = int(os.environ['RANK'])\nrun = pathlib.Path(sys.argv[2])\n"
)
READY = "(run / f'pid-{rank}').write_text(str(os.getpid()))\n"
STUCK = "signal.signal(signal.SIGTERM, lambda *_: None)\n" + READY + "while True: time.sleep(1)\n"
SAVES = (
    "def save(number, _):\n    (run / f'saved-{rank}').write_text(str(number)); sys.exit(75)\n"
    "for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2): signal.signal(n, save)\n"
    + READY
    + "while True: time.sleep(0.05)\n"
)


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Makes a module that plays the task: gets STAGE_YAML and RUN_DIR, knows `rank` and `run`."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.getcwd()}")

    def make(body: str) -> str:
        (tmp_path / "played_task.py").write_text(START + body)
        return "played_task"

    return make


def start(run_dir: Path, module: str, ranks: int = 2, patience: float = 0.5) -> tuple[int, list[str]]:
    said: list[str] = []
    with (run_dir.parent / "console").open("ab") as console:
        code = run_ranks(
            Path("stage.yaml"),
            run_dir,
            ranks,
            report=said.append,
            console=console,
            module=module,
            patience=patience,
        )
    return code, said


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_ranks_get_their_environment_and_arguments(tmp_path: Path, task: Callable[[str], str]) -> None:
    body = (
        "names = 'RANK LOCAL_RANK WORLD_SIZE MASTER_ADDR OMP_NUM_THREADS "
        "TORCH_FORCE_WEIGHTS_ONLY_LOAD'.split()\n"
        "(run / f'env-{rank}').write_text(' '.join(os.environ[n] for n in names) + ' ' + sys.argv[1])\n"
        "(run / f'port-{rank}').write_text(os.environ['MASTER_PORT'])\n"
        "print('rank', rank, 'speaks')\n"
    )
    code, said = start(tmp_path / "run", task(body), ranks=3)
    assert (code, said) == (ExitCode.DONE, [])
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // 3)))
    for rank in range(3):
        expected = f"{rank} {rank} 3 127.0.0.1 {threads} 1 stage.yaml"
        assert (tmp_path / "run" / f"env-{rank}").read_text() == expected
    assert len({(tmp_path / "run" / f"port-{rank}").read_text() for rank in range(3)}) == 1
    assert (tmp_path / "console").read_text() == "rank 0 speaks\n"
    assert RunDir(tmp_path / "run").log(2).read_text() == "rank 2 speaks\n"


def test_threads_of_the_user_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert local_environment(0, 2, 1)["OMP_NUM_THREADS"] == "7"
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "cpu_count", lambda: 9)
    assert local_environment(0, 4, 1)["OMP_NUM_THREADS"] == "2"


def test_crash_names_the_rank_and_ends_the_others(tmp_path: Path, task: Callable[[str], str]) -> None:
    ready = "all(p.is_file() and p.read_text() for p in (run / 'pid-0', run / 'pid-2'))"
    body = f"if rank == 1:\n    while not {ready}: time.sleep(0.01)\n    sys.exit('the disk ate it')\n{STUCK}"
    code, said = start(tmp_path / "run", task(body), ranks=3)
    assert code == ExitCode.FAILED
    assert "rank 1 ended with exit code 1" in said[0]
    assert "| the disk ate it" in said[0]
    assert all(gone(int((tmp_path / "run" / f"pid-{rank}").read_text())) for rank in (0, 2))


def test_killed_rank_is_named_before_its_peers(tmp_path: Path, task: Callable[[str], str]) -> None:
    body = (
        "if rank == 0: (run / 'dying').touch(); os.kill(os.getpid(), signal.SIGKILL)\n"
        "while not (run / 'dying').exists(): time.sleep(0.01)\n"
        "sys.exit('connection reset by peer')\n"
    )
    code, said = start(tmp_path / "run", task(body))
    assert code == ExitCode.FAILED
    assert "rank 0 was killed by SIGKILL" in said[0]


def test_the_rank_that_crashed_is_named_and_not_the_one_that_lost_it(
    tmp_path: Path, task: Callable[[str], str]
) -> None:
    """In whatever order they end: both with code 1, the peer first."""
    body = (
        "said = ['the disk ate it', 'rank 1 lost its connection to another rank and stopped'][rank]\n"
        "with (run / 'logs' / f'rank-{rank:03d}.log').open('a') as log:\n"
        "    log.write(f'2026-01-02 03:04:05 rank {rank} ERROR swamp_dist.stage.rank: {said}\\n')\n"
        "(run / f'said-{rank}').touch()\n"
        "while not all((run / f'said-{r}').exists() for r in (0, 1)): time.sleep(0.01)\n"
        "time.sleep(0.1 * (1 - rank))\n"
        "sys.exit(1)\n"
    )
    code, said = start(tmp_path / "run", task(body))
    assert code == ExitCode.FAILED
    assert "rank 0 ended with exit code 1" in said[0]
    assert "the disk ate it" in said[0]


def test_a_mistake_that_one_rank_meets_is_told_with_its_fix(
    tmp_path: Path, task: Callable[[str], str]
) -> None:
    body = (
        "if rank == 0: time.sleep(60)\n"
        "with (run / 'logs' / 'rank-001.log').open('a') as log:\n"
        "    log.write('2026-01-02 03:04:05,6 rank 1 ERROR swamp_dist.stage.rank: '\n"
        "        'it is damaged\\nFix: copy it\\n')\n"
        "sys.exit(2)\n"
    )
    code, said = start(tmp_path / "run", task(body))
    assert code == ExitCode.USER_MISTAKE
    assert said[0].startswith("rank 1: it is damaged\nFix: copy it\n")
    assert "rank 1: it is damaged. Fix: copy it." in look(RunDir(tmp_path / "run")).reason


def test_a_mistake_from_before_the_log_is_told(tmp_path: Path, task: Callable[[str], str]) -> None:
    """Rank 0 has no log file yet, and its words on the console are in no file that a status reads."""
    body = "sys.stderr.write('error: RANK is no number\\nFix: unset it\\n')\nsys.exit(2)\n"
    code, _ = start(tmp_path / "run", task(body), patience=30)
    assert code == ExitCode.USER_MISTAKE
    assert "RANK is no number. Fix: unset it" in look(RunDir(tmp_path / "run")).reason


@pytest.mark.parametrize("wanted", [3, 75])
def test_agreed_codes_pass_through(tmp_path: Path, task: Callable[[str], str], wanted: int) -> None:
    module = task(f"time.sleep(0.2 * rank)\nsys.exit({wanted})\n")
    code, said = start(tmp_path / "run", module, patience=30)
    assert (code, said) == (wanted, [])


def test_done_stage_starts_nothing(tmp_path: Path, task: Callable[[str], str]) -> None:
    RunDir(tmp_path / "run").create()
    RunDir(tmp_path / "run").result_json.write_text("{}")
    code, said = start(tmp_path / "run", task("sys.exit(1)\n"))
    assert code == ExitCode.DONE
    assert "done already" in said[0]


def test_no_ranks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least 1, found 0"):
        run_ranks(Path("stage.yaml"), tmp_path / "run", 0)


def launched(run_dir: Path, module: str, ranks: int) -> subprocess.Popen[bytes]:
    script = (
        "import sys\nfrom pathlib import Path\nfrom swamp_dist.backends.local import run_ranks\n"
        f"sys.exit(run_ranks(Path('stage.yaml'), Path({str(run_dir)!r}), {ranks}, module={module!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    until(lambda: all((run_dir / f"pid-{rank}").exists() for rank in range(ranks)))
    return process


def until(happened: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        (signal.SIGUSR2, signal.SIGUSR2),
        (signal.SIGTERM, signal.SIGTERM),
        (signal.SIGINT, CTRL_C),
    ],
)
def test_signals_reach_every_rank(
    tmp_path: Path, task: Callable[[str], str], sent: int, received: int
) -> None:
    process = launched(tmp_path / "run", task(SAVES), 2)
    process.send_signal(sent)
    assert process.wait(30) == ExitCode.REQUEUE
    assert [(tmp_path / "run" / f"saved-{r}").read_text() for r in range(2)] == [str(int(received))] * 2


@pytest.mark.parametrize("numbers", [[signal.SIGTERM], [signal.SIGINT, signal.SIGINT]])
def test_a_signal_that_comes_while_a_rank_is_started_reaches_it(
    tmp_path: Path, task: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, numbers: list[int]
) -> None:
    """It is there already, and no number of it is known yet to whoever passes signals on."""
    start_process = subprocess.Popen

    def interrupted(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        process = start_process(*arguments, **options)
        for number in numbers:
            signal.raise_signal(number)
        return process

    monkeypatch.setattr(local.subprocess, "Popen", interrupted)
    code, said = start(tmp_path / "run", task("time.sleep(20)\n"), ranks=1)  # then ends well
    twice = len(numbers) > 1
    assert code == (ExitCode.INTERRUPTED if twice else ExitCode.REQUEUE)
    assert ("second Ctrl-C" if twice else "before the ranks were ready") in said[0]


def test_ranks_end_when_the_launcher_is_killed(tmp_path: Path, task: Callable[[str], str]) -> None:
    process = launched(tmp_path / "run", task(SAVES), 2)
    process.kill()
    process.wait()
    until(lambda: all((tmp_path / "run" / f"saved-{rank}").exists() for rank in range(2)))


@pytest.mark.parametrize("error", [UserError("a mistake"), OSError(errno.EROFS, "read-only", "some/file")])
def test_what_a_pipeline_starts_tells_mistakes_without_a_trace(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def refuse(*_: object) -> int:
        raise error

    monkeypatch.setattr(local, "run_ranks", refuse)
    monkeypatch.setattr(local, "die_with_parent", lambda: None)
    logging.getLogger("swamp_dist").propagate = True
    assert local.main(["stage.yaml", "run", "1"]) == ExitCode.USER_MISTAKE
    assert "a mistake" in caplog.text or "some/file: read-only" in caplog.text


def test_a_slow_start_is_told_again_until_the_ranks_answer(
    tmp_path: Path, task: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "FIRST_SECONDS", 0.1)
    monkeypatch.setattr(local, "_AGAIN_SECONDS", 0.1)
    answer = "import json\n(run / 'events.jsonl').open('a').write(json.dumps({'event': 'started'}) + '\\n')\n"
    began = time.monotonic()
    code, said = start(tmp_path / "run", task("time.sleep(0.5)\n" + answer + "time.sleep(2)\n"), ranks=1)
    before_answer = time.monotonic() - began - 2
    assert code == ExitCode.DONE
    told = [line for line in said if line.startswith("starting ranks (1): ")]
    assert all(line.endswith(" s so far") for line in told)
    assert 2 <= len(told) <= before_answer / 0.1 + 1
