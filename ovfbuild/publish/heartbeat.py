"""A word now and then, from a thread beside an upload, to a server that else takes the client for dead."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_EVERY = 10.0
"""Seconds between two words; what they keep alive lives five minutes without (NFC lease, update session)."""


@contextmanager
def beating(
    say: Callable[[], object], ends: tuple[type[Exception], ...], passes: tuple[type[Exception], ...]
) -> Iterator[Callable[[], None]]:
    """Calls `say` until the block ends; yields what raises the error by which the server said that it is over.

    Args:
        ends: what `say` raises when it is over.
        passes: what it raises when a word was lost, which is no harm: an end shows in the next.
    """
    done = threading.Event()
    failed: list[Exception] = []

    def tell() -> None:
        while not done.wait(_EVERY):
            try:
                say()
            except ends as error:
                failed[:] = [error]
            except passes:
                pass

    def ask() -> None:
        if failed:
            raise failed[0]

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield ask
    finally:
        done.set()
        teller.join(_EVERY)
