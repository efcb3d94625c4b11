"""An OVA as a shipment: what it is called, which version it is, and its digest."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from ovfbuild.errors import UsageError
from ovfbuild.formats import manifest
from ovfbuild.progress import Progress, step
from ovfbuild.publish.cloud import Shipment
from ovfbuild.publish.meter import PIECE
from ovfbuild.verify.judging import named, text_of
from ovfbuild.verify.package import Package

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_NOT_IN_VERSIONS = re.compile(r"[^A-Za-z0-9.+~_-]")


def name_of(package: Package, name: str | None) -> str:
    """What a package is called on a server: `name`, else as in its descriptor.

    Raises:
        UsageError: it is no OVA, or it has no name that can be used everywhere.
    """
    if package.in_folder:
        raise UsageError(f"{package.path} is a descriptor, and an OVA is published", "ovfbuild fix makes an OVA of it")
    system = package.envelope.virtual_system
    called = name or system.id or system.name or package.path.stem
    if not _NAME.fullmatch(called):
        raise UsageError(
            f"{called[:120]!r} can't be the name of files and images everywhere",
            "give it another: --name, of letters, digits and . _ -",
        )
    return called


def prepare(package: Package, name: str | None, sbom: Path | None, progress: Progress) -> Shipment:
    """The shipment of a package that was opened. Raises UsageError as `name_of` does."""
    called, system = name_of(package, name), package.envelope.virtual_system
    with step(progress, f"read {package.path.name}"):
        digest, size = _digest(package.path, progress)
    said = next((product.version for product in system.products if product.version), "")
    version = _NOT_IN_VERSIONS.sub("_", said or "")[:64].lstrip(".+~_-") or digest[:12]
    return Shipment(package, called, version, digest, size, sbom)


def _digest(path: Path, progress: Progress) -> tuple[str, int]:
    running, done, total = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as stream:
        while piece := stream.read(PIECE):
            running.update(piece)
            done += len(piece)
            progress.bytes(done, total)
    return running.hexdigest(), done


def member_digests(package: Package) -> dict[str, tuple[str, str]]:
    """By member, what the manifest says: (hashlib's name of the algorithm, hex)."""
    member = named(package, ".mf")
    lines = manifest.read(text_of(package, member, manifest.LARGEST)).lines if member else ()
    return {
        line.name: (line.algorithm.lower(), line.digest.lower())
        for line in lines
        if line.algorithm in manifest.ALGORITHMS
    }
