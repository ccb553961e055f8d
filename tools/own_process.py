"""Programs that are compared, each in a process of its own.

In one process they share the state of the allocator: from which size on glibc takes fresh pages from the
kernel for a block, each of which costs a fault, depends on what the other programs freed before.
"""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, TypeAlias, TypeVar

import torch
from bench_step import median_of_turns, seconds_of

Program: TypeAlias = Callable[[], object]
Build: TypeAlias = Callable[[], Program]
"""Makes the program in its process; can be pickled."""
Result = TypeVar("Result")


class _Failure(NamedTuple):
    trace: str


class OwnProcess:
    """A program that runs in a process of its own, whenever it is told to, on as many threads as here."""

    def __init__(self, name: str, build: Build) -> None:
        self._name = name
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        arguments = build, theirs, torch.get_num_threads()
        self._process = context.Process(target=_answer_all, args=arguments, daemon=True)
        self._process.start()
        theirs.close()  # else nothing would tell that the process died
        self._received()  # it is ready

    def ask(self, question: Callable[[Program], Result]) -> Result:
        """What a function of a module finds in that process, given the program.

        Raises:
            SystemExit: it failed there, or the process died.
        """
        self._pipe.send(question)
        found: Result = self._received()
        return found

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def _received(self) -> Any:
        try:
            answer = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise SystemExit(f"{self._name}: its process died, exit code {self._process.exitcode}") from None
        if isinstance(answer, _Failure):
            raise SystemExit(f"{self._name} failed in its process:\n{answer.trace}")
        return answer


@contextmanager
def own_processes(builds: Mapping[str, Build]) -> Iterator[dict[str, OwnProcess]]:
    """A process per program, made one after the other; they end with this block.

    Raises:
        SystemExit: a program could not be made.
    """
    with ExitStack() as stack:
        yield {name: stack.enter_context(closing(OwnProcess(name, build))) for name, build in builds.items()}


def take_turns_apart(programs: Mapping[str, OwnProcess], repetitions: int) -> dict[str, float]:
    """`bench_step.take_turns` of programs in their own processes, of which one runs at a time."""
    return median_of_turns(
        {name: partial(each.ask, seconds_of) for name, each in programs.items()}, repetitions
    )


# -- the child -------------------------------------------------------------------------------------


def _answer_all(build: Build, pipe: Connection, threads: int) -> None:
    """Make the program, then answer questions about it until the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which ends its children
    torch.set_num_threads(threads)
    try:
        program = build()
        pipe.send(None)
        while (question := _next(pipe)) is not None:
            pipe.send(question(program))
    except Exception:
        pipe.send(_Failure(traceback.format_exc()))


def _next(pipe: Connection) -> Callable[[Program], object] | None:
    try:
        question: Callable[[Program], object] = pipe.recv()
    except EOFError:
        return None
    return question
