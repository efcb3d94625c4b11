"""What a cloud has to be able to do, and what goes there.

A cloud is a module with `connect(target, around)`, and a line in `clouds.CLOUDS`. It stores a shipment in two steps,
`send` and `finish`: what was sent and not finished must be told from what is whole by what lies on the server alone,
so that a run that is killed anywhere leaves nothing that the next one does not find. The order of the steps, retries,
what is resumed, abandoned and retired, is `delivery`'s, and the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ovfbuild.errors import ProgramError
from ovfbuild.progress import Progress
from ovfbuild.publish.credentials import Secrets
from ovfbuild.publish.meter import Meter
from ovfbuild.verify.package import Package


@dataclass(frozen=True)
class Surroundings:
    """What a cloud is connected with."""

    environ: Mapping[str, str]
    secrets: Secrets
    progress: Progress
    workspace: Callable[[], AbstractContextManager[Path]]
    """A folder that goes when the block ends, for conversions; large."""


@dataclass(frozen=True)
class Shipment:
    """A package on its way. `digest` is the SHA-256 of the whole OVA, in hex, and its identity; `size` its bytes."""

    package: Package
    name: str
    version: str
    digest: str
    size: int
    sbom: Path | None = None

    @property
    def path(self) -> Path:
        return self.package.path


@dataclass(frozen=True)
class Stored:
    """What a cloud has under a name, put there by ovfbuild: whole, or what an upload left."""

    name: str
    version: str
    digest: str
    """The SHA-256 of the OVA that it came from."""
    whole: bool
    made: float
    """When, in seconds since 1970; it orders those of one name."""
    ids: Mapping[str, str] = field(default_factory=dict)
    """What the cloud calls it, by kind (`url`, `image`, `domain`), the first of them the most useful."""
    key: str = ""
    """What the cloud's own module finds it by."""
    resumable: bool = False
    """Not in use, and `send` can go on with it."""
    retired: bool = False
    """Whole, and set aside by `retire`: it counts as gone, is never abandoned, and may be resumable."""


@dataclass(frozen=True)
class Standing:
    """How it stands with a target."""

    server: str
    """Who answered: program, version, place, as far as they are told."""
    room: int | None = None
    """Free bytes, where the server tells."""
    notes: tuple[str, ...] = ()
    """What could not be found out, and what else is worth knowing."""


class Cloud(Protocol):
    """One target, connected. Every method may raise TryAgain, or PublishError where trying again is no use."""

    def standing(self, *, write: bool) -> Standing:
        """Whether it is there and lets us in. `write`: whether we may store and remove, proven by doing so."""

    def stored(self, name: str) -> Sequence[Stored]:
        """What ovfbuild stored under that name, whole or not; of others' nothing."""

    def send(self, shipment: Shipment, resume: Stored | None, meter: Meter) -> Stored:
        """Brings all of a shipment there; it is not yet to be seen as whole.

        What lies there is found by `stored` from before the first byte of a disk on. `resume` is a resumable one of
        the same digest.
        """

    def finish(self, shipment: Shipment, sent: Stored) -> Stored:
        """Compares what arrived with what was sent, by digest or size, and makes it whole, in one step."""

    def abandon(self, leftover: Stored) -> None:
        """Removes what is not whole; what of it is gone already is no mistake."""

    def retire(self, old: Stored) -> None:
        """Takes a whole one away; killed in the middle, what is left is found as not whole."""


def missing(library: str, extra: str) -> ProgramError:
    """The client library of a cloud is not installed."""
    return ProgramError(f"{library} is not installed", f"install it: pip install 'ovfbuild[{extra}]'")
