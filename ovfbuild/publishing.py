"""A package that is good goes to a target: judged, connected, delivered, told."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ovfbuild import packages, sbom
from ovfbuild.cache import Cache
from ovfbuild.errors import OvfbuildError, PublishError
from ovfbuild.progress import Progress, step
from ovfbuild.publish.cloud import Cloud, Shipment, Standing, Stored, Surroundings
from ovfbuild.publish.clouds import connect
from ovfbuild.publish.credentials import Redacting, Secrets
from ovfbuild.publish.delivery import How, Receipt, deliver, give_up
from ovfbuild.publish.shipment import name_of, prepare
from ovfbuild.spec.targets import Target
from ovfbuild.tries import Patience, patiently
from ovfbuild.verify.package import open_package

Ask = Callable[[str], str]
"""Shows a question and returns the secret that was typed."""


@dataclass(frozen=True)
class Published:
    """A shipment, where it went, and what came of it."""

    target: Target
    shipment: Shipment
    receipt: Receipt

    @property
    def lines(self) -> tuple[str, ...]:
        """The identifiers, the most useful first."""
        return tuple(self.receipt.stored.ids.values()) if self.receipt.stored else ()

    def to_json(self) -> dict[str, Any]:
        stored = self.receipt.stored
        return {
            "target": self.target.name,
            "kind": self.target.kind,
            "package": str(self.shipment.path),
            "name": self.shipment.name,
            "version": self.shipment.version,
            "sha256": self.shipment.digest,
            "size": self.shipment.size,
            "outcome": self.receipt.outcome,
            "ids": dict(stored.ids) if stored else {},
            "removed": [_named(one) for one in self.receipt.removed],
        }


def _named(stored: Stored) -> dict[str, Any]:
    return {"name": stored.name, "version": stored.version, "sha256": stored.digest, "ids": dict(stored.ids)}


@dataclass(frozen=True)
class Tested:
    """What a look at a target told: how it stands, or why it can't be used."""

    target: Target
    standing: Standing | None
    error: str = ""
    hint: str = ""

    def to_json(self) -> dict[str, Any]:
        standing = self.standing
        return {
            "target": self.target.name,
            "kind": self.target.kind,
            "usable": standing is not None,
            "server": standing.server if standing else None,
            "room": standing.room if standing else None,
            "notes": list(standing.notes) if standing else [],
            "error": self.error or None,
        }


class Publisher:
    """Targets that packages go to, in one run: each secret is asked for once, and none gets out."""

    def __init__(
        self,
        progress: Progress,
        ask: Ask | None = None,
        environ: Mapping[str, str] | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._environ = os.environ if environ is None else environ
        self._secrets = Secrets(self._environ, ask)
        self._progress = Redacting(progress, self._secrets)
        self._patience = patience

    def test(self, target: Target) -> Tested:
        """Whether a target is there, lets us write, and has room, at once; never raises for its own failure."""
        try:
            with self._connected(target) as cloud:
                once = Patience(1)
                return Tested(target, patiently(lambda: cloud.standing(write=True), once, self._progress, give_up))
        except OvfbuildError as error:
            return Tested(target, None, error.message, error.hint)

    def require(self, targets: Sequence[Target]) -> None:
        """The same before a long build. Raises what the first target that can't be used says."""
        for target in targets:  # in no step: a secret may be asked for
            with self._connected(target) as cloud:
                standing = self._standing(cloud, target, write=True)
            self._progress.note(f"target {target.name} can be used: {standing.server}")

    def publish(
        self, path: Path, target: Target, how: How, *, name: str | None = None, proven: bool = False
    ) -> Published:
        """Judges a package, unless it is `proven`, and brings it to a target.

        Raises:
            UsageError: a credential is named that is not there, or the package has no name to be used.
            FileError: it is no package.
            VerificationError: something is wrong with it.
            PublishError: the target refused, or failed.
        """
        opened = open_package(path)
        name = name_of(opened, name)
        # The target first: a wrong password is said before minutes of reading, and asked for before them, too.
        with self._connected(target) as cloud:
            standing = self._standing(cloud, target, write=False)
            if not proven:
                with step(self._progress, "verify"):
                    opened, _ = packages.judged(path, self._progress)
            bill = sbom.beside(path)
            shipment = prepare(opened, name, bill if bill.is_file() else None, self._progress)
            _fits(shipment, standing)
            receipt = deliver(cloud, shipment, _merged(how, target), self._progress, self._patience_of(target))
        published = Published(target, shipment, receipt)
        if receipt.outcome == "present":
            self._progress.note(f"{shipment.name} {shipment.version} is on {target.name} already, with this content")
        return published

    @contextmanager
    def _connected(self, target: Target) -> Iterator[Cloud]:
        """The cloud; no error that leaves the block has a secret in it."""
        around = Surroundings(self._environ, self._secrets, self._progress, Cache().workspace)
        try:
            with connect(target, around) as cloud:
                yield cloud
        except OvfbuildError as error:
            raise self._secrets.redacted(error) from None
        except Exception as error:
            told = "".join(traceback.format_exception(error))
            if (safe := self._secrets.redact(told)) == told:
                raise
            raise RuntimeError(safe) from None  # a bug, told with all but the secret

    def _standing(self, cloud: Cloud, target: Target, *, write: bool) -> Standing:
        return patiently(lambda: cloud.standing(write=write), self._patience_of(target), self._progress, give_up)

    def _patience_of(self, target: Target) -> Patience:
        return self._patience or Patience(target.tries)


def _merged(how: How, target: Target) -> How:
    """What is asked for, and where nothing is, what the target's table says."""
    keep_old = target.keep_old if how.keep_old is None else how.keep_old
    return replace(how, keep_old=keep_old, supersede=target.same_version == "replace")


def _fits(shipment: Shipment, standing: Standing) -> None:
    if standing.room is not None and standing.room < shipment.size:
        raise PublishError(
            f"{standing.server} has {standing.room / 1e6:.0f} MB free, and {shipment.path.name} needs "
            f"{shipment.size / 1e6:.0f} MB",
            "make room there",
        )
