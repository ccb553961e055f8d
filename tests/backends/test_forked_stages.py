"""Processes that are forked from a server, beside those that are started: only their imports differ."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from swamp_dist.backends import fork_server as fork_server_module
from swamp_dist.backends import forked_stages
from swamp_dist.backends.fork_server import read_message, send_message
from swamp_dist.backends.forked_stages import SWITCH, NotForked, fork_server, may_fork, run_forked
from swamp_dist.backends.forking import Inherited
from swamp_dist.config import StageSettings
from swamp_dist.errors import ExitCode
from swamp_dist.pipelines.task import run_in_child
from swamp_dist.runs.folder import RunDir
from swamp_dist.runs.processes import life, mark_from
from tests.backends.forked_modules import PROBE, SAVES

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="stages are forked on Linux alone")
SERVERS: dict[str, str | None] = {"PYTEST_CURRENT_TEST": None}
"""Variables of the servers: pytest gives each phase of a test another value of its own."""


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of modules that servers, forks and new processes find."""
    folder = tmp_path_factory.mktemp("modules")
    for name, body in {
        "probe": PROBE,
        "saves": SAVES,
        "fails": "raise ValueError('a surprise')",
        "says": "import sys; sys.exit('said')",
    }.items():
        (folder / f"played_{name}.py").write_text(body)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.getcwd()}")
        patch.setenv("OMP_NUM_THREADS", "1")
        yield folder


@pytest.fixture(scope="module")
def server(modules: Path) -> Iterator[str]:
    with fork_server(SERVERS) as address:
        yield address


@contextlib.contextmanager
def without_pytests() -> Iterator[None]:
    """Inside, the environment that the servers have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTEST_CURRENT_TEST", raising=False)
        yield


def forked(server: str, module: str, arguments: list[str], folder: Path) -> tuple[int, str]:
    with (folder / "forked").open("w+b") as out, without_pytests():
        code = run_forked(server, module, arguments, out.fileno())
    return code, (folder / "forked").read_text()


def started(module: str, arguments: list[str], folder: Path) -> tuple[int, str]:
    """As a rank is started otherwise."""
    from swamp_dist.backends.local_ranks import start_rank
    from swamp_dist.backends.rank_process import on_cpu

    with (folder / "started").open("w+b") as out, without_pytests():
        code = start_rank(module, arguments, on_cpu(os.environ), out).wait()  # type: ignore[union-attr]
    return code, (folder / "started").read_text()


def ask(server: str, module: str, folder: Path) -> tuple[socket.socket, dict[str, Any]]:
    """Start a module; the connection, and the mark of its process."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(server)
    with without_pytests():
        values = {"environment": dict(os.environ), "inherited": Inherited.own().as_dict()}
    with (folder / "out").open("ab") as out:
        start = {"module": module, "arguments": [str(folder)], **values}
        send_message(connection, start, out.fileno(), out.fileno())
    answer, _ = read_message(connection)
    assert "refused" not in answer, answer
    return connection, answer


def wait_until(is_so: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_message_is_read_to_its_end_and_no_further() -> None:
    messages: list[dict[str, Any]] = [{"code": 0}, {"long": "x" * 100_000}, {}, {"code": 1}]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sends = threading.Thread(target=lambda: [send_message(theirs, each) for each in messages])
        sends.start()
        ours.settimeout(10)
        assert [read_message(ours)[0] for _ in messages] == messages
        sends.join()
        theirs.close()
        with pytest.raises(EOFError):
            read_message(ours)


@pytest.fixture
def asks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[], socket.socket]]:
    """Gives the server's end of a connection that has sent a start; `asks.answer()` is what came back."""
    monkeypatch.setattr(fork_server_module, "unfit", lambda start: "")
    with contextlib.ExitStack() as stack:

        def ask_anew() -> socket.socket:
            ours, theirs = socket.socketpair()
            stack.enter_context(ours)
            ours.settimeout(10)
            values = {"environment": {}, "inherited": Inherited.own().as_dict()}
            out = stack.enter_context((tmp_path / "out").open("ab"))
            send_message(ours, {"module": "m", "arguments": [], **values}, out.fileno(), out.fileno())
            ask_anew.answer = lambda: read_message(ours)[0]  # type: ignore[attr-defined]
            return theirs

        yield ask_anew


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM])
def test_a_fork_that_fails_is_refused_with_the_reason(
    asks: Any, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fails(*_: Any) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fork_server_module, "fork_module", fails)
    files = len(os.listdir("/proc/self/fd"))
    connection = asks()
    assert fork_server_module._start(connection) is None
    assert asks.answer() == {"refused": f"the process to be forked cannot be: {os.strerror(number)}"}
    assert len(os.listdir("/proc/self/fd")) == files + 2  # our end, and our output


def test_a_connection_that_cannot_be_taken_is_refused_with_the_reason(asks: Any) -> None:
    """A connection takes the place of the spare file; while even that fails, the server goes on."""

    class Listener:
        failures = 1

        def accept(self) -> tuple[socket.socket, str]:
            if self.failures:
                self.failures -= 1
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return asks(), ""

    listener: Any = Listener()
    spare = [os.open(os.devnull, os.O_RDONLY)]
    try:
        assert fork_server_module._accept(listener, spare) is None
        assert asks.answer() == {"refused": "the process to be forked cannot be: Too many open files"}
        listener.failures = 2
        assert fork_server_module._accept(listener, spare) is None
        assert (listener.failures, len(spare)) == (0, 1)
    finally:
        for file in spare:
            os.close(file)


def test_a_fork_is_what_a_new_process_is(server: str, tmp_path: Path) -> None:
    ours, theirs = (
        forked(server, "played_probe", ["a b", "c"], tmp_path),
        started("played_probe", ["a b", "c"], tmp_path),
    )
    assert ours[0] == theirs[0] == 3
    (state, drawn), (expected, drawn_there) = ours[1].splitlines(), theirs[1].splitlines()
    has, wants = json.loads(state), json.loads(expected)
    wants["files"] = [file.replace("started", "forked") for file in wants["files"]]
    # What the imports set is set already, and the defaults of ranks are given with each rank.
    for each in (has, wants):
        each["environment"] = {n: v for n, v in each["environment"].items() if n in os.environ}
    assert has == wants
    assert wants["environment"].items() >= {("PYTHONPATH", os.environ["PYTHONPATH"])}
    again = forked(server, "played_probe", [], tmp_path)[1].splitlines()[1]
    for numbers in zip(*map(json.loads, (drawn, drawn_there, again)), strict=True):
        assert len(set(numbers)) == 3  # each process draws its own seeds


@pytest.mark.parametrize(
    ("module", "code", "said"), [("fails", 1, "ValueError: a surprise"), ("says", 1, "said")]
)
def test_how_a_module_ends_is_how_its_fork_ends(
    server: str, tmp_path: Path, module: str, code: int, said: str
) -> None:
    assert forked(server, f"played_{module}", [], tmp_path)[0] == code
    assert (tmp_path / "forked").read_text().rstrip().endswith(said)


def test_a_fork_is_told_to_save_when_nobody_waits_for_it(server: str, tmp_path: Path) -> None:
    connection, mark = ask(server, "played_saves", tmp_path)
    wait_until((tmp_path / "ready").is_file)
    assert (tmp_path / "ready").read_text() == str(mark["pid"])
    connection.close()
    wait_until((tmp_path / "saved").is_file)
    assert int((tmp_path / "saved").read_text()) == signal.SIGTERM


def test_a_fork_that_is_killed_is_told_by_its_signal(server: str, tmp_path: Path) -> None:
    connection, mark = ask(server, "played_saves", tmp_path)
    with connection:
        wait_until((tmp_path / "ready").is_file)
        os.kill(mark["pid"], signal.SIGKILL)
        assert read_message(connection)[0] == {"code": -signal.SIGKILL}


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGUSR2])
def test_signals_reach_forked_ranks_through_their_stage(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: signal.Signals
) -> None:
    """The stage's process and its rank are both forks: one of the server, one of the other."""
    connection, mark = ask(server, "played_stage", tmp_path)
    with connection:
        wait_until((tmp_path / "ready-0").is_file)
        wait_until((tmp_path / "ready-1").is_file)
        own = {int((tmp_path / f"ready-{rank}").read_text()) for rank in range(2)}
        assert len(own | {mark["pid"]}) == 3
        os.kill(mark["pid"], stop)
        assert read_message(connection)[0] == {"code": ExitCode.REQUEUE}
    assert {(tmp_path / f"saved-{rank}").read_text() for rank in range(2)} == {str(int(stop))}
    assert "as new processes" not in (tmp_path / "out").read_text()


@pytest.fixture(autouse=True, scope="module")
def stage_of_two_ranks(modules: Path) -> None:
    (modules / "played_stage.py").write_text(
        "import logging, sys\nfrom pathlib import Path\nfrom swamp_dist.backends.local import run_ranks\n"
        "logging.basicConfig(level=logging.INFO)\nrun = Path(sys.argv[1])\n"
        "sys.exit(run_ranks(run / 'stage.yaml', run, 2, module='played_rank_of_two', patience=60.0))\n"
    )
    (modules / "played_rank_of_two.py").write_text(
        "import os, pathlib, signal, sys, time\nrun, rank = pathlib.Path(sys.argv[2]), os.environ['RANK']\n"
        "def save(number, _):\n    (run / f'saved-{rank}').write_text(str(number)); sys.exit(75)\n"
        "for number in (signal.SIGTERM, signal.SIGUSR2): signal.signal(number, save)\n"
        "(run / f'ready-{rank}').write_text(str(os.getpid()))\nwhile True: time.sleep(0.05)\n"
    )


def test_a_stage_that_is_forked_gives_the_weights_of_one_that_is_started(
    server: str, tiny_shards: Path, tmp_path: Path
) -> None:
    mlp = {"kind": "mlp", "hidden": [8]}
    settings = StageSettings.model_validate(
        {
            "name": "tiny",
            "data": {"shards": tiny_shards, "a": "a", "b": "b", "entries": 24, "workers": 0},
            "model": {"embedding_dim": 8, "a": mlp, "b": mlp},
            "objective": {"swamp": {"prototypes": 10, "queue": {"size": 48}}},
            "train": {"epochs": 1, "loggers": []},
            "evaluate": [{"split": "test"}],
        }
    )
    results = []
    for name, address in (("forked", server), ("started", None)):
        folder = RunDir(tmp_path / name)
        folder.create()
        folder.write_stage(settings)
        with without_pytests():
            assert run_in_child(folder.stage_yaml, folder.path, 1, address) == ExitCode.DONE
        said = folder.console_log.read_text()
        assert "new process" not in said
        assert "as usual" not in said
        results.append(folder.read_result())
    ours, theirs = results
    assert ours is not None
    assert theirs is not None
    assert ours.weights_sha256 == theirs.weights_sha256
    assert ours.evaluations == theirs.evaluations


def test_a_rank_that_is_killed_ends_its_forked_peer(server: str, tmp_path: Path) -> None:
    connection, _ = ask(server, "played_stage", tmp_path)
    with connection:
        wait_until((tmp_path / "ready-0").is_file)
        wait_until((tmp_path / "ready-1").is_file)
        os.kill(int((tmp_path / "ready-1").read_text()), signal.SIGKILL)
        assert read_message(connection)[0] == {"code": ExitCode.FAILED}
    assert (tmp_path / "saved-0").is_file()
    assert "rank 1 was killed by SIGKILL" in (tmp_path / "out").read_text()


def test_another_environment_is_refused_by_name(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("RAY_JOB_ID", "1")  # of Ray's worker: read by nothing that a rank imports
    for _ in range(100):  # the refusal may be there before all calls that send the start have ended
        with pytest.raises(NotForked, match="^OMP_NUM_THREADS differ"):
            forked(server, "played_probe", [], tmp_path)


def test_a_stage_ends_with_its_server_and_a_later_one_is_refused(modules: Path, tmp_path: Path) -> None:
    failures: list[str] = []

    def run(address: str) -> None:
        with pytest.raises(NotForked) as refused, (tmp_path / "out").open("wb") as out, without_pytests():
            run_forked(address, "played_saves", [str(tmp_path)], out.fileno())
        failures.append(str(refused.value))

    with fork_server(SERVERS) as address:
        waits = threading.Thread(target=run, args=(address,))
        waits.start()
        wait_until((tmp_path / "ready").is_file)
        stage = int((tmp_path / "ready").read_text())
        os.kill(int(Path(f"/proc/{stage}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)
        waits.join(60)
        assert (tmp_path / "saved").is_file()  # told by Linux
        run(address)
    assert failures[0].endswith("has ended, and this stage with it")
    assert failures[1].endswith("has ended")


@pytest.mark.slow
def test_a_server_ends_with_its_owner(modules: Path, tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom swamp_dist.backends import forked_stages, forking\n"
        "with forked_stages.fork_server({}) as address:\n    print(address, flush=True)\n    time.sleep(60)\n"
    )
    with without_pytests():
        own = dict(os.environ)  # without what readline, which pytest loads, adds below Python
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=own) as owner:
        assert owner.stdout is not None
        address = owner.stdout.readline().strip()
        connection, answer = ask(address, "played_saves", tmp_path)
        wait_until((tmp_path / "ready").is_file)
        owner.kill()
    mark = mark_from(answer)
    assert mark is not None
    wait_until(lambda: life(mark) != "alive")
    assert (tmp_path / "saved").is_file()
    with pytest.raises((ConnectionError, FileNotFoundError)), socket.socket(socket.AF_UNIX) as again:
        again.connect(address)
    connection.close()


def test_stages_are_not_forked_beside_a_gpu_or_where_a_person_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forked_stages, "has_gpu", lambda: False)
    assert may_fork()
    monkeypatch.setenv(SWITCH, "0")
    assert not may_fork()
    monkeypatch.delenv(SWITCH)
    monkeypatch.setattr(forked_stages, "has_gpu", lambda: True)
    assert not may_fork()
