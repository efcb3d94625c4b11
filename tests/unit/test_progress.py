"""Plain lines, and where they go."""

from __future__ import annotations

import io
import re

import pytest

from ovfbuild.progress import Both, LogProgress, Progress, Silent, step


class Recorder:
    """Notes every call."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def begin(self, name: str) -> None:
        self.calls.append(("begin", name))

    def end(self, ok: bool = True) -> None:
        self.calls.append(("end", ok))

    def line(self, text: str) -> None:
        self.calls.append(("line", text))

    def bytes(self, done: int, total: int | None) -> None:
        self.calls.append(("bytes", done, total))

    def note(self, text: str) -> None:
        self.calls.append(("note", text))

    def warn(self, text: str) -> None:
        self.calls.append(("warn", text))


def everything(progress: Progress) -> None:
    progress.begin("step")
    progress.line("line")
    progress.bytes(1, None)
    progress.note("note")
    progress.warn("care")
    progress.end(False)


def test_a_step_that_ends_well_and_one_that_does_not() -> None:
    recorder = Recorder()
    with step(recorder, "one"):
        pass
    with pytest.raises(KeyboardInterrupt), step(recorder, "two"):
        raise KeyboardInterrupt
    assert recorder.calls == [("begin", "one"), ("end", True), ("begin", "two"), ("end", False)]


def test_both_hear_everything() -> None:
    alone, first, second = Recorder(), Recorder(), Recorder()
    everything(alone)
    everything(Both(first, second))
    assert first.calls == second.calls == alone.calls
    assert len(alone.calls) == 6


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    everything(Silent())
    assert capsys.readouterr() == ("", "")


def said(stream: io.StringIO) -> str:
    return re.sub(r"\(\d+\.\d s\)", "(T)", stream.getvalue())


def test_a_log_has_a_line_for_each_fact() -> None:
    stream = io.StringIO()
    everything(LogProgress(stream))
    assert said(stream) == "step …\nnote\nwarning: care\nstep: FAILED (T)\n"


def test_a_verbose_log_has_the_programs_lines() -> None:
    stream = io.StringIO()
    LogProgress(stream, verbose=True).line("text")
    assert stream.getvalue() == "  | text\n"


def test_a_step_ends_the_one_before_and_none_ends_twice() -> None:
    stream = io.StringIO()
    log = LogProgress(stream)
    log.end()
    log.begin("one")
    log.begin("two")
    log.end()
    log.end()
    assert said(stream) == "one …\none: done (T)\ntwo …\ntwo: done (T)\n"


def test_bytes_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("ovfbuild.progress.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    log = LogProgress(stream)
    log.begin("copy")
    for second in range(25):
        now[0] = 100.0 + second
        log.bytes(second * 1_000_000, 50_000_000 if second < 20 else None)
    assert stream.getvalue() == "copy …\n  10 of 50 MB (20%), 1 MB/s, 40 s left\n  20 MB, 1 MB/s\n"
