"""What an agent's source names, brought to this host: verified, and known by its digest before the guest starts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from ovfbuild.cache import Cache
from ovfbuild.errors import FileError
from ovfbuild.files import sha256_of
from ovfbuild.progress import Progress, step
from ovfbuild.spec.agent_source import Download
from ovfbuild.spec.plan import Plan
from ovfbuild.vm.fetch import fetch, parse_checksum
from ovfbuild.vm.maven import fetch_maven


def agent_files(plan: Plan, cache: Cache, progress: Progress, *, offline: bool) -> Mapping[str, Path]:
    """The downloads of the plan's agent, by their path in the seed.

    Raises:
        UsageError: one is not in the cache, and there is to be no network.
        FileError: one is not there, or not what its checksum says.
        ProgramError: a server or mvn failed.
    """
    downloads = plan.agent.downloads if plan.agent else ()
    return {download.name: _fetched(download, cache, progress, offline) for download in downloads}


def _fetched(download: Download, cache: Cache, progress: Progress, offline: bool) -> Path:
    if download.url is not None:
        with step(progress, f"fetch {download.url.rpartition('/')[2]}"):
            return fetch(download.url, download.checksum, None, cache, progress, offline=offline)
    assert download.maven is not None
    with step(progress, f"fetch {download.maven}"):
        path = fetch_maven(download.maven, cache, progress, offline=offline)
        if download.checksum is None:
            progress.note(f'{download.maven}: agent.checksum = "sha256:{sha256_of(path)}" would pin it')
        else:
            _check(path, download)
    return path


def _check(path: Path, download: Download) -> None:
    algorithm, wanted = parse_checksum(str(download.checksum))
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, algorithm).hexdigest()
    if found != wanted:
        raise FileError(f"{download.maven}: its {algorithm} is {found}, not {wanted}", "mend agent.checksum")
