"""Python packages for a guest, fetched by the host's pip, which knows the index, the proxy and the CA.

    requirements ─ pip download ─▶ wheels for the guest's Python
         ▲              │ what has no wheel
         └── pip wheel ◀┘ here, where it is pure Python

The host's Python and the guest's are seldom the same. pip takes the guest's version and platform for
wheels' tags, but the host's for environment markers (`; python_version < "3.12"`); so it is started
with markers of the guest's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ovfbuild.errors import ProgramError, UsageError
from ovfbuild.files import sha256_of
from ovfbuild.progress import Progress
from ovfbuild.vm.process import run

LOCK = "lock.txt"
"""Beside the wheels: `name==version --hash=sha256:HEX`, a line a wheel."""

_MOST_BUILT = 50
_EPOCH = "315532800"
"""1980-01-01, the first moment that a wheel (a zip archive) can hold."""
_SHOWN = 12
_UNMET = re.compile(
    r"satisfies the requirement (?P<wanted>.+?)(?: \(from (?!versions:)[^()]*\))* \(from versions: (?P<has>.*)\)"
)
_WHEEL = re.compile(
    r"(?P<name>[^-]+)-(?P<version>[^-]+)(?:-\d[^-]*)?-(?P<python>[^-]+)-(?P<abi>[^-]+)-(?P<platform>[^-]+)\.whl"
)
_START_PIP = """\
import json, runpy, sys
from pip._vendor.packaging import markers
real, guest = markers.default_environment, json.loads(sys.argv.pop(1))
markers.default_environment = lambda: {**real(), **guest}
sys.argv[0] = "pip"
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class GuestPython:
    """The Python that a guest's distribution has, on its C library; always x86_64."""

    version: str
    """`3.11.2`."""
    glibc: tuple[int, int]
    """`(2, 36)`."""

    @property
    def short(self) -> str:
        return ".".join(self.version.split(".")[:2])

    def platforms(self) -> tuple[str, ...]:
        """Every platform whose wheels it runs, the newest first (PEP 600)."""
        major, minor = self.glibc
        plain = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
        names = []
        for older in range(minor, 4, -1):
            names.append(f"manylinux_{major}_{older}_x86_64")
            names += [f"{plain[older]}_x86_64"] if older in plain else []
        return (*names, "linux_x86_64")

    def markers(self) -> dict[str, str]:
        """PEP 508's environment markers."""
        return {
            "implementation_name": "cpython",
            "implementation_version": self.version,
            "os_name": "posix",
            "platform_machine": "x86_64",
            "platform_python_implementation": "CPython",
            "platform_system": "Linux",
            "python_full_version": self.version,
            "python_version": self.short,
            "sys_platform": "linux",
        }


def fetch_wheels(requirements: Sequence[str], python: GuestPython, folder: Path, progress: Progress) -> None:
    """Writes the wheels of requirements, and of all that they require, into a folder, and LOCK.

    Raises:
        UsageError: an index has no such version, or only one that can't be built here.
        ProgramError: pip is missing, or failed.
    """
    _require_pip()
    wanted = folder / "wanted.txt"
    wanted.write_text("".join(f"{line}\n" for line in requirements), encoding="utf-8")
    built = folder / "built"
    built.mkdir()
    tried: set[str] = set()
    while True:
        try:
            _download(wanted, built, python, folder)
            break
        except ProgramError as error:
            unmet = _UNMET.search(error.message)
            if unmet is None or unmet["wanted"] in tried or len(tried) == _MOST_BUILT:
                raise
            tried.add(unmet["wanted"])
            progress.line(f"{unmet['wanted']} has no wheel; building it")
            _build(unmet["wanted"], built, python, error)
    for left in built.iterdir():
        left.unlink()
    built.rmdir()
    wanted.unlink()
    lock = "".join(f"{line}\n" for line in _locked(folder))
    (folder / LOCK).write_text(lock, encoding="ascii")


def _require_pip() -> None:
    try:
        run(["python3", "-c", "import pip"], timeout=60)
    except ProgramError as error:
        raise ProgramError(
            f"the host's Python has no pip, which fetches what [python] names:\n{error.message}",
            "install it: apt install python3-pip",
        ) from error


def _pip(arguments: Iterable[str | Path], markers: dict[str, str], env: dict[str, str] | None = None) -> None:
    words = ["--disable-pip-version-check", "--no-input", *arguments]
    argv = ["python3", "-c", _START_PIP, json.dumps(markers, sort_keys=True), *words]
    try:
        run(argv, env={"PIP_REQUIRE_VIRTUALENV": "0", **(env or {})}, timeout=1800)
    except ProgramError as error:
        lines = error.message.replace(f"{argv[0]} failed", "pip failed", 1)
        raise ProgramError(lines, f"try it: python3 -m pip {' '.join(map(str, words))}") from error


def _download(wanted: Path, built: Path, python: GuestPython, folder: Path) -> None:
    platforms = [f"--platform={name}" for name in python.platforms()]
    _pip(
        [
            *("download", "--only-binary=:all:", "--implementation=cp", f"--python-version={python.version}"),
            *platforms,
            *("--find-links", built, "--dest", folder, "--requirement", wanted),
        ],
        python.markers(),
    )


def _build(wanted: str, built: Path, python: GuestPython, unmet: ProgramError) -> None:
    """A wheel of what is only there as source, into `built`; refused unless it runs on any Python 3.

    Building it runs the package's own code on this host, as pip does with every source.
    """
    name = re.split(r"[\[<>=!~; ]", wanted)[0]
    before = set(built.iterdir())
    arguments = ["wheel", "--no-deps", "--no-binary", name, "--ignore-requires-python", "--wheel-dir", built, wanted]
    try:
        # Markers stay the host's: what builds it runs here.
        _pip(map(str, arguments), {}, {"SOURCE_DATE_EPOCH": _EPOCH})
    except ProgramError as error:
        missing = _UNMET.search(error.message)
        if missing and missing["wanted"].startswith(name):
            raise _not_there(wanted, python, missing["has"], unmet) from error
        raise ProgramError(
            f"{wanted} has no wheel for Python {python.short}, and could not be built here: {error.message}",
            "take a version that has wheels, or put one into your index",
        ) from error
    for wheel in sorted(set(built.iterdir()) - before):
        tags = _WHEEL.fullmatch(wheel.name)
        if tags is None or (tags["abi"], tags["platform"]) != ("none", "any") or "py3" not in tags["python"]:
            raise UsageError(
                f"{wanted} has no wheel for Python {python.short} on x86_64, and is not pure Python ({wheel.name})",
                "take a version that has wheels, or put one into your index; ovfbuild compiles nothing for a guest",
            )


def _not_there(wanted: str, python: GuestPython, has: str, unmet: ProgramError) -> ProgramError | UsageError:
    versions = [] if has in ("", "none") else has.split(", ")[::-1]
    if not versions:
        return ProgramError(
            f"python: nothing of {wanted} could be had. {unmet.message}",
            "check its name, and that pip reaches its index: " + unmet.hint.removeprefix("try it: "),
        )
    shown = ", ".join(versions[:_SHOWN]) + (f" and {len(versions) - _SHOWN} older" if len(versions) > _SHOWN else "")
    return UsageError(
        f"python: {wanted} can't be had for Python {python.short}; there is {shown}", "name one of these versions"
    )


def _locked(folder: Path) -> list[str]:
    found = []
    for wheel in sorted(folder.glob("*.whl")):
        tags = _WHEEL.fullmatch(wheel.name)
        if tags is None:
            raise ProgramError(f"pip brought {wheel.name}, which is no wheel's name", "report this: it is a bug")
        name = re.sub(r"[-_.]+", "-", tags["name"]).lower()
        found.append(f"{name}=={tags['version'].replace('_', '-')} --hash=sha256:{sha256_of(wheel)}")
    return found
