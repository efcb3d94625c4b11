"""Lines of a console, without what a terminal would obey."""

from __future__ import annotations

import pytest

from ovfbuild.vm.machine import _Lines


def heard(*chunks: bytes) -> list[str]:
    lines: list[str] = []
    sink = _Lines(lines.append)
    for chunk in chunks:
        sink.feed(chunk)
    return lines


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"plain\n", "plain"),
        (b"\x1b[0;32m  OK  \x1b[0m Started\r\n", "  OK   Started"),
        (b"\x1b[!p\x1b]104\x1b\\\x1b[?7hlogin:\n", "login:"),
        (b"\x1b]3008;start=640d;user=root\x1b\\ready\n", "ready"),
        (b"\x1b]0;title\x07prompt\n", "prompt"),
        (b"\x1bP+q6E616D65\x1b\\x\n", "x"),
        (b"\x1b(B\x1b=\x1bcx\n", "x"),
        (b"10%\r50%\r100%\n", "100%"),
        (b"b\xc3\xa4d \xff\n", "b\u00e4d \ufffd"),
    ],
)
def test_control_sequences_are_taken_out(raw: bytes, text: str) -> None:
    assert heard(raw) == [text]


def test_lines_come_in_pieces() -> None:
    assert heard(b"one\ntw", b"o\n\n", b"thr") == ["one", "two"]


def test_a_line_without_an_end_is_cut() -> None:
    assert [len(line) for line in heard(b"x" * 70000)] == [70000]
