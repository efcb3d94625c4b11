"""What failed and may go well another time: how often it is tried, and how long is waited in between."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, TypeVar

from ovfbuild.progress import Progress

_T = TypeVar("_T")
_WORTH_A_TRY = 1 << 20
"""Bytes: a try that got so much further than all before isn't counted, so a poor line ends only when nothing moves."""


class TryAgain(Exception):
    """This try failed, the next may not: the connection broke, the server is busy, a token is over.

    `wait` is how many seconds the server asked for.
    """

    def __init__(self, why: str, wait: float = 0) -> None:
        super().__init__(why)
        self.wait = wait


@dataclass(frozen=True)
class Patience:
    """How often to try. Times are seconds."""

    tries: int = 5
    first_wait: float = 1.0
    """Before the second try; twice as long before each one after."""
    longest_wait: float = 60.0
    """The most that a server's Retry-After is listened to."""

    def wait(self, failed: int, asked: float) -> float:
        """How long to wait after so many tries, where the server asked for so much."""
        return min(max(self.first_wait * 2.0 ** (failed - 1), asked), self.longest_wait)


def patiently(
    attempt: Callable[[], _T],
    patience: Patience,
    progress: Progress,
    give_up: Callable[[TryAgain, int], NoReturn],
    arrived: Callable[[], int] = lambda: 0,
    about: str = "",
) -> _T:
    """What `attempt` returns, again while it raises TryAgain.

    Args:
        give_up: raises what ends it, told the last failure and how many there were.
        arrived: the bytes that the tries so far have moved for good.
        about: what is said before each failure.
    """
    failed, best = 0, arrived()
    while True:
        try:
            return attempt()
        except TryAgain as again:
            if arrived() >= best + _WORTH_A_TRY:
                failed, best = 0, arrived()
            failed += 1
            if failed >= patience.tries:
                give_up(again, failed)
            wait = patience.wait(failed, again.wait)
            progress.note(f"{about}{again}; trying again in {wait:.0f} s")
            time.sleep(wait)
