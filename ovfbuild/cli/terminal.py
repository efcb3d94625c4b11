"""Progress on a terminal: the step, its time, a bar where there are bytes, and the current line."""

from __future__ import annotations

import threading
import time

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text


class TerminalProgress:
    """Draws the current step in place and leaves a line for each that has ended."""

    def __init__(self, console: Console, verbose: bool = False) -> None:
        self._console = console
        self._verbose = verbose
        self._lock = threading.RLock()
        self._live: Live | None = None
        self._step = self._line = ""
        self._since = 0.0
        self._done, self._total = 0, 0

    def begin(self, name: str) -> None:
        with self._lock:
            self.end()
            self._step, self._line, self._since = name, "", time.monotonic()
            self._done = self._total = 0
            self._spinner = Spinner("dots")
            self._live = Live(get_renderable=self._draw, console=self._console, refresh_per_second=8, transient=True)
            self._live.start()

    def end(self, ok: bool = True) -> None:
        with self._lock:
            if self._live is None:
                return
            self._live.stop()
            self._live = None
            mark, style = ("✓", "green") if ok else ("✗", "red")
            self._console.print(
                Text.assemble((mark, style), f" {self._step} ", (f"{time.monotonic() - self._since:.1f} s", "dim"))
            )

    def line(self, text: str) -> None:
        self._line = text
        if self._verbose:
            self._console.print(Text(f"  | {text}", style="dim"))

    def bytes(self, done: int, total: int | None) -> None:
        self._done, self._total = done, total or 0

    def note(self, text: str) -> None:
        self._console.print(Text(text))

    def warn(self, text: str) -> None:
        self._console.print(Text.assemble(("warning: ", "yellow"), text))

    def _draw(self) -> RenderableType:
        seconds = time.monotonic() - self._since
        row = Table.grid(padding=(0, 1))
        cells: list[RenderableType] = [self._spinner, Text(self._step), Text(f"{seconds:.0f} s", style="dim")]
        if self._done:
            rate = Text(f"{self._done / 1e6:.0f} MB, {self._done / 1e6 / max(seconds, 0.1):.0f} MB/s", style="dim")
            cells += [ProgressBar(self._total or None, self._done, width=30), rate]
        row.add_row(*cells)
        last = Text(f"  {self._line}", style="dim", no_wrap=True, overflow="ellipsis")
        return Group(row, last) if self._line else row
