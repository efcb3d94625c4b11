"""Appliances that are right but for what a test changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ovfbuild.errors import UsageError
from ovfbuild.spec.appliance import Appliance, load

Write = Callable[..., Path]
Mistakes = Callable[[str], list[str]]

RIGHT = 'name = "hello"\nversion = "1.0.0"\n'
BASE = '[base]\ndistribution = "debian:12"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for an appliance.toml and what it names."""
    return tmp_path


@pytest.fixture
def appliance(folder: Path) -> Callable[..., Appliance]:
    """Loads an appliance: `top` at the top of the file, `tables` after [base]."""

    def make(tables: str = "", *, top: str = RIGHT, base: str = BASE) -> Appliance:
        (folder / "appliance.toml").write_text(f"{top}\n{base}\n{tables}\n", encoding="utf-8")
        return load(folder / "appliance.toml")

    return make


@pytest.fixture
def mistakes(folder: Path, appliance: Callable[..., Appliance]) -> Callable[..., list[str]]:
    """What is wrong with an appliance, a line each, without the file's name before it."""

    def find(tables: str = "", **parts: Any) -> list[str]:
        with pytest.raises(UsageError) as caught:
            appliance(tables, **parts)
        lines = caught.value.message.split("\n")
        prefix = f"{folder / 'appliance.toml'}: "
        assert all(line.startswith(prefix) for line in lines), lines
        assert_ours(caught.value.message)
        return [line.removeprefix(prefix) for line in lines]

    return find


def assert_ours(message: str) -> None:
    """Nothing of pydantic's or Python's reaches a user."""
    for word in ("pydantic", "Input should", "validation error", "input_value", "NoneType", "Traceback", "dict"):
        assert word not in message, message
