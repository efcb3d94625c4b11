"""The rules of docs/architecture.md that a program can check: rooms, cycles, frozen models, sizes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "ovfbuild"
ROOMS = {
    # Who may import whom; each room may use itself, and all may use the walls of the house.
    "spec": {"descriptors"},
    "formats": {"descriptors"},
    "guest": set(),
    "vm": {"guest"},
    "verify": {"formats", "vm", "spec"},
    "publish": {"formats", "vm", "spec", "verify"},
    "cli": {"spec", "verify", "publish", "pipeline", "packages", "publishing", "signing"},
}
WALLS = {"errors", "files", "progress", "cache", "tries", "__init__"}


@cache
def modules() -> dict[str, ast.Module]:
    paths = {".".join(("ovfbuild", *p.relative_to(ROOT).with_suffix("").parts)): p for p in ROOT.rglob("*.py")}
    return {name.removesuffix(".__init__"): ast.parse(path.read_text()) for name, path in paths.items()}


def imports(name: str) -> Iterator[str]:
    """The modules of this project that a module imports."""
    for node in ast.walk(modules()[name]):
        found = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from {target for word in found if (target := module_of(word)) and target != name}


def module_of(word: str) -> str:
    """The module of this project that `package.module.thing` is in, or ""."""
    while word and word not in modules():
        word = word.rpartition(".")[0]
    return word


def room(name: str) -> str:
    return [*name.split("."), "__init__"][1]


@pytest.mark.parametrize("name", [name for name in modules() if room(name) in ROOMS])
def test_rooms_have_no_doors_but_these(name: str) -> None:
    allowed = ROOMS[room(name)] | WALLS | {room(name)}
    assert {room(target) for target in imports(name)} - allowed == set()


def test_no_import_goes_in_a_circle() -> None:
    edges = {name: {target for target in imports(name) if target != "ovfbuild"} for name in modules()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle: {' → '.join((*path, name))}"
        if name not in done:
            for target in edges[name]:
                visit(target, (*path, name))
            done.add(name)

    for name in edges:
        visit(name, ())


def test_models_are_frozen_but_for_what_gathers() -> None:
    gatherers = {"Payload"}
    loose = [
        node.name
        for tree in modules().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and node.name not in gatherers
        for decorator in node.decorator_list
        if "dataclass" in ast.unparse(decorator) and "frozen=True" not in ast.unparse(decorator)
    ]
    assert loose == []


@pytest.mark.parametrize("name", modules())
def test_functions_fit_a_screen_and_modules_a_sitting(name: str) -> None:
    for node in ast.walk(modules()[name]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            has_docstring = ast.get_docstring(node) is not None and len(node.body) > 1
            first = node.body[1] if has_docstring else node.body[0]
            assert (node.end_lineno or 0) - first.lineno < 45, node.name
    assert max((getattr(node, "end_lineno", 0) or 0) for node in ast.walk(modules()[name])) <= 450
