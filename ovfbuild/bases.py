"""What a disk is built on: a Debian made here, or an image fetched or named. Cached by what made it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from ovfbuild.cache import Cache
from ovfbuild.errors import FileError, UsageError
from ovfbuild.files import digest_of, digests_of, sha256_of
from ovfbuild.progress import Progress, step
from ovfbuild.spec.models import Base
from ovfbuild.spec.plan import Plan
from ovfbuild.spec.units import format_duration
from ovfbuild.verify.package import open_package
from ovfbuild.vm import debian, disk
from ovfbuild.vm.apt import Mirrors, host_mirrors
from ovfbuild.vm.fetch import fetch, parse_checksum


@dataclass(frozen=True)
class BaseImage:
    """A disk to build over. `capacity` in bytes; `digest` names its content or what made it."""

    path: Path
    format: str
    capacity: int
    digest: str
    title: str
    mirrors: Mirrors | None = None
    """Where the build VM's apt gets packages instead of the image's own sources."""
    suite: str = ""


def base_image(plan: Plan, cache: Cache, progress: Progress, *, offline: bool, again: bool) -> BaseImage:
    """The base that the appliance names, made or fetched if the cache hasn't got it.

    Raises:
        UsageError: it is not in the cache, and there is to be no network.
        FileError, ProgramError: it could not be fetched or made.
    """
    base = plan.appliance.base
    if base.distribution:
        return _distribution(base, cache, progress, offline=offline, again=again)
    return _image(base, cache, progress, offline=offline)


def _distribution(base: Base, cache: Cache, progress: Progress, *, offline: bool, again: bool) -> BaseImage:
    assert base.distribution is not None
    recipe = debian.Recipe(base.distribution.partition(":")[2], mirror=base.mirror)
    digest = digest_of(list(recipe.digest_inputs()))
    if offline and (again or cache.find("bases", digest) is None):
        raise UsageError(
            f"with --offline, {base.distribution} can only come from the cache, which has none",
            "build once with a network",
        )

    def produce(folder: Path) -> None:
        with step(progress, f"make the base {base.distribution}"):
            debian.make_base(recipe, folder, progress)

    entry, made = cache.obtain(
        "bases",
        digest,
        f"{base.distribution}, made from packages",
        produce,
        again=again,
        on_wait=lambda: progress.note("another ovfbuild makes this base now; waiting for it"),
    )
    if not made:
        age = format_duration(round(time.time() - entry.made))
        progress.note(f"the base {base.distribution} is from the cache, made {age} ago")
    path = entry.path / "disk.qcow2"
    return BaseImage(
        path,
        "qcow2",
        disk.probe(path).virtual_size,
        digest,
        base.distribution,
        mirrors=Mirrors(base.mirror) if base.mirror else host_mirrors(),
        suite=recipe.suite,
    )


def _image(base: Base, cache: Cache, progress: Progress, *, offline: bool) -> BaseImage:
    if isinstance(base.image, str):
        with step(progress, f"fetch {base.image.rpartition('/')[2]}"):
            sums = str(base.checksums) if base.checksums else None
            path = fetch(base.image, base.checksum, sums, cache, progress, offline=offline)
        digest = sha256_of(path)
    else:
        assert base.image is not None
        path = base.image
        with step(progress, f"read {path.name}"):
            digest = _checked(path, base)
    if disk.is_tar(path):
        return _of_package(path, digest, cache, progress)
    image = disk.probe(path)
    return BaseImage(path, image.format, image.virtual_size, digest, path.name)


def _of_package(path: Path, digest: str, cache: Cache, progress: Progress) -> BaseImage:
    """The first disk of an OVA, as it is built over: unpacked once, by the OVA's digest."""
    opened = open_package(path)
    if not opened.disks:
        raise FileError(f"{path}: there is no disk in this package", "name one that has")
    _, member = opened.disks[0]

    def produce(folder: Path) -> None:
        with step(progress, f"unpack {member.name}"):
            disk.convert_inside(path, member.offset, member.size, folder / "disk.qcow2", "qcow2", progress)

    entry, _ = cache.obtain("bases", digest_of(["package", digest]), f"the disk of {opened.name}", produce)
    unpacked = entry.path / "disk.qcow2"
    return BaseImage(unpacked, "qcow2", disk.probe(unpacked).virtual_size, digest, opened.name)


def _checked(path: Path, base: Base) -> str:
    """The SHA-256 of an image that is here already. It need not have a checksum; one that has it is compared."""
    algorithm, wanted = parse_checksum(base.checksum) if base.checksum else ("sha256", "")
    found = digests_of(path, ("sha256", algorithm))
    if wanted and found[algorithm] != wanted:
        raise FileError(
            f"{path}: its {algorithm} is {found[algorithm]}, not {wanted}", "mend base.checksum, or get the image again"
        )
    return found["sha256"]
