"""How long work says where it is: steps, their current line, and bytes done of bytes to do.

Library code gets a `Progress` and never prints. `LogProgress` writes plain lines; the terminal's
own, with bars, is in `ovfbuild.cli.terminal`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO


class Progress(Protocol):
    """Where work reports to. Every method may be called from any thread."""

    def begin(self, name: str) -> None:
        """A step starts; the one before it, if it is still open, has ended well."""

    def end(self, ok: bool = True) -> None:
        """The current step has ended."""

    def line(self, text: str) -> None:
        """The current line of whatever is at work: shown, replaced by the next."""

    def bytes(self, done: int, total: int | None) -> None:
        """`done` of `total` bytes of the current step; `total` is None where nobody knows it."""

    def note(self, text: str) -> None:
        """A fact worth a line of its own."""

    def warn(self, text: str) -> None:
        """Something that the user should know or change."""


class Silent:
    """Progress that nobody reads (tests, `inspect`)."""

    def begin(self, name: str) -> None: ...
    def end(self, ok: bool = True) -> None: ...
    def line(self, text: str) -> None: ...
    def bytes(self, done: int, total: int | None) -> None: ...
    def note(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...


class LogProgress:
    """Plain lines for a log file or a stderr that is no terminal; one every 10 s for bytes."""

    def __init__(self, stream: TextIO, verbose: bool = False) -> None:
        self._stream = stream
        self._verbose = verbose
        self._step = ""
        self._since = 0.0
        self._last_bytes = 0.0

    def _say(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()

    def begin(self, name: str) -> None:
        self.end()
        self._step, self._since, self._last_bytes = name, time.monotonic(), time.monotonic()
        self._say(f"{name} …")

    def end(self, ok: bool = True) -> None:
        if self._step:
            self._say(f"{self._step}: {'done' if ok else 'FAILED'} ({time.monotonic() - self._since:.1f} s)")
        self._step = ""

    def line(self, text: str) -> None:
        if self._verbose:
            self._say(f"  | {text}")

    def bytes(self, done: int, total: int | None) -> None:
        if time.monotonic() - self._last_bytes >= 10:
            self._last_bytes = time.monotonic()
            rate = done / max(time.monotonic() - self._since, 0.001)
            share = f" of {total / 1e6:.0f} MB ({done / total:.0%})" if total else " MB"
            left = f", {(total - done) / rate:.0f} s left" if total and rate else ""
            self._say(f"  {done / 1e6:.0f}{share}, {rate / 1e6:.0f} MB/s{left}")

    def note(self, text: str) -> None:
        self._say(text)

    def warn(self, text: str) -> None:
        self._say(f"warning: {text}")


class Both:
    """Sends everything to two places: the terminal and the log."""

    def __init__(self, first: Progress, second: Progress) -> None:
        self._all = (first, second)

    def begin(self, name: str) -> None:
        for p in self._all:
            p.begin(name)

    def end(self, ok: bool = True) -> None:
        for p in self._all:
            p.end(ok)

    def line(self, text: str) -> None:
        for p in self._all:
            p.line(text)

    def bytes(self, done: int, total: int | None) -> None:
        for p in self._all:
            p.bytes(done, total)

    def note(self, text: str) -> None:
        for p in self._all:
            p.note(text)

    def warn(self, text: str) -> None:
        for p in self._all:
            p.warn(text)


@contextmanager
def step(progress: Progress, name: str) -> Iterator[None]:
    """One step, ended well or not by what its block does."""
    progress.begin(name)
    try:
        yield
    except BaseException:
        progress.end(ok=False)
        raise
    progress.end()
