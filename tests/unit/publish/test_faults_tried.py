"""docs/clouds.md says which faults were tried with which cloud: that is what the marks of the tests say."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]
FAULTS = (
    *("server down", "wrong password", "no permission", "quota", "full disk", "connection cut at half"),
    *("500 in the middle", "token expired", "slow server", "certificate wrong"),
    *("image of that name there already", "process killed at half"),
)
TESTS = {
    "http": "tests/integration/test_publish_http.py",
    "s3": "tests/integration/test_publish_s3.py",
    "libvirt": "tests/integration/test_publish_libvirt.py",
    "openstack": "tests/integration/test_openstack.py",
    "vsphere": "tests/importers/test_publish_vsphere.py",
    "incus": "tests/importers/test_publish_incus.py",
    "library": "tests/importers/test_publish_library.py",
}


def marked(path: Path) -> Iterator[str]:
    """The faults that the tests of a module are marked with."""
    for test in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(test, ast.FunctionDef) and test.name.startswith("test_"):
            for mark in test.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.fault":
                    yield from (str(ast.literal_eval(argument)) for argument in mark.args)


def table() -> dict[str, dict[str, str]]:
    """By cloud and fault, what stands in the table."""
    lines = (ROOT / "docs/clouds.md").read_text(encoding="utf-8").splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("| fault |"))
    _, *clouds = (cell.strip() for cell in lines[at].strip("|").split("|"))
    found: dict[str, dict[str, str]] = {cloud: {} for cloud in clouds}
    for line in lines[at + 2 : at + 2 + len(FAULTS)]:
        fault, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        for cloud, cell in zip(clouds, cells, strict=True):
            found[cloud][fault] = cell
    return found


def test_the_table_is_what_the_tests_try() -> None:
    tried = {cloud: set(marked(ROOT / path)) for cloud, path in TESTS.items()}
    assert {fault for faults in tried.values() for fault in faults} <= set(FAULTS)
    expected = {cloud: {fault: "✓" if fault in faults else "—" for fault in FAULTS} for cloud, faults in tried.items()}
    assert table() == expected
