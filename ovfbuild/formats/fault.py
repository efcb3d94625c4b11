"""What a reader finds wrong, and reads past."""

from __future__ import annotations

from dataclasses import dataclass

from ovfbuild.errors import FileError


@dataclass(frozen=True)
class Fault:
    """Something in a file that some importer, or the standard, does not take.

    `rule` is an id of docs/formats.md, `line` is counted from 1 (0: there are none), `hint` says what to do.
    """

    rule: str
    text: str
    line: int = 0
    hint: str = ""
    place: str = ""


class Hostile(FileError):
    """What no reader goes past: it would do harm, or was made to."""
