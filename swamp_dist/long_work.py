"""Work that takes long without a word of its own: it is told after some seconds, and again now and then."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

FIRST_SECONDS, NEXT_SECONDS = 4.0, 30.0
"""When work is told first, and how often after that."""


@contextlib.contextmanager
def told_while(logger: logging.Logger, what: str, again: float | None = None) -> Iterator[Callable[[], None]]:
    """Say what goes on while the block lasts: after 4 s, then every `again` s (30); nothing where it
    is shorter.

    Yields a function that ends the telling before the block does.
    """
    ended, began = threading.Event(), time.monotonic()

    def tell() -> None:
        wait = FIRST_SECONDS
        while not ended.wait(wait):
            logger.info("%s: %.0f s so far", what, time.monotonic() - began)
            wait = again or NEXT_SECONDS

    teller = threading.Thread(target=tell, name="told_while", daemon=True)
    teller.start()
    try:
        yield ended.set
    finally:
        ended.set()
        teller.join()
