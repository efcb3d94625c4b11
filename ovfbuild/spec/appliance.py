"""From an appliance.toml to a frozen `Appliance`, or to one UsageError with every mistake in the file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ovfbuild.errors import UsageError
from ovfbuild.spec.hardware import Hardware, Network
from ovfbuild.spec.mistakes import sentences
from ovfbuild.spec.models import Appliance, Base, Build, File, Script, System, User

__all__ = [
    "FILE_NAME",
    "Appliance",
    "Base",
    "Build",
    "File",
    "Hardware",
    "Network",
    "Script",
    "System",
    "User",
    "from_table",
    "load",
    "template",
]

FILE_NAME = "appliance.toml"
HINT = "Every key, with its default and an example: man 5 appliance.toml"


def load(path: Path) -> Appliance:
    """The appliance of a file, or of a folder with an appliance.toml in it.

    Paths in it are taken from its folder. UsageError holds a line for each mistake:
    `FILE: key.path[0].key: what is wrong; what would be right`.
    """
    path = path / FILE_NAME if path.is_dir() else path
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", "ovfbuild new DIR writes one that builds") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: byte {error.start} is not UTF-8 text", "Save the file as UTF-8") from None
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(_not_toml(path, str(error), text)) from None
    return from_table(table, path.absolute().parent, str(path))


def from_table(table: Mapping[str, Any], folder: Path, file: str = FILE_NAME) -> Appliance:
    """The appliance of what tomllib read. `folder` is where its paths start, `file` its name in messages."""
    try:
        return Appliance.model_validate(table, context={"folder": folder})
    except ValidationError as error:
        lines = [": ".join(filter(None, (file, path, sentence))) for path, sentence in sentences(error)]
        raise UsageError("\n".join(lines), HINT) from None


def template() -> str:
    """The commented appliance.toml that `ovfbuild new` writes: it loads, and builds, as it is."""
    return (resources.files("ovfbuild.spec") / "template.toml").read_text(encoding="utf-8")


def _not_toml(path: Path, problem: str, text: str) -> str:
    """tomllib ends its sentence with `(at line 3, column 5)` or `(at end of document)`."""
    match = re.fullmatch(r"(.*?) \(at (?:line (\d+), column (\d+)|end of document)\)", problem, re.DOTALL)
    if match is None:
        return f"{path}: not TOML: {problem}"
    line, column = match[2] or len(text.splitlines()), match[3] or 1
    return f"{path}:{line}:{column}: not TOML: {match[1][:1].lower()}{match[1][1:]}"
