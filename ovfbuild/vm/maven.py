"""A file by its Maven coordinates, through the client as it is configured here: its mirrors, proxies, logins."""

from __future__ import annotations

import shutil
from pathlib import Path

from ovfbuild.cache import Cache
from ovfbuild.errors import FileError, ProgramError, UsageError
from ovfbuild.files import digest_of
from ovfbuild.progress import Progress
from ovfbuild.vm.process import run

_NOT_THERE = ("Could not find artifact", "Unable to find artifact", "was not found in", "Failure to find")


def fetch_maven(coordinates: str, cache: Cache, progress: Progress, *, offline: bool) -> Path:
    """The file that `group:artifact:version:packaging` names; kept in the cache.

    Raises:
        UsageError: it is not in the cache, and there is to be no network.
        FileError: the repositories that mvn knows have not got it.
        ProgramError: mvn is missing, or failed for another reason.
    """
    key = digest_of(["maven", coordinates])
    found = cache.find("maven", key)
    if found is None:
        if offline:
            raise UsageError(
                f"{coordinates} is not in the cache, and this build is offline", "build once with a network"
            )
        found, _ = cache.obtain("maven", key, coordinates, lambda folder: _copy(coordinates, folder, progress))
    return found.path / "file"


def _copy(coordinates: str, folder: Path, progress: Progress) -> None:
    out = folder / "out"
    out.mkdir()
    argv = ["mvn", "--batch-mode", "-Dstyle.color=never", "dependency:copy", "-Dmdep.overWriteReleases=true"]
    # In a folder without a pom.xml: a project of the user's must not have a say. What is wrong, mvn says on stdout.
    said = run(
        [*argv, f"-Dartifact={coordinates}", f"-DoutputDirectory={out}"],
        on_line=progress.line,
        cwd=out,
        timeout=1800,
        ok=(0, 1),
    )
    files = list(out.iterdir())
    if not files:
        raise _failure(coordinates, said)
    files[0].rename(folder / "file")
    shutil.rmtree(out)


def _failure(coordinates: str, said: str) -> FileError | ProgramError:
    errors = [line.removeprefix("[ERROR] ").strip() for line in said.splitlines() if line.startswith("[ERROR]")]
    if any(words in line for line in errors for words in _NOT_THERE):
        return FileError(
            f"{coordinates} is not in the repositories that mvn knows here",
            "check the coordinates, or get the file elsewhere and write agent.archive = its path",
        )
    first = next(filter(None, errors), "it said nothing")
    return ProgramError(f"mvn could not fetch {coordinates}: {first}", "check mvn's settings.xml and the network")
