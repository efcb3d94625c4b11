"""The order in which a shipment is delivered, the same for every cloud.

    stored ─▶ decide ─▶ abandon leftovers ─▶ send ─▶ finish ─▶ retire what is old
                 └▶ there already

Every try begins with what is on the server, so a try that broke and a run that was killed are the same case.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal, NoReturn

from ovfbuild.errors import OvfbuildError, PublishError
from ovfbuild.progress import Progress, step
from ovfbuild.publish.cloud import Cloud, Shipment, Stored
from ovfbuild.publish.meter import Meter
from ovfbuild.tries import Patience, TryAgain, patiently


@dataclass(frozen=True)
class How:
    """What is asked for beside the shipment."""

    replace: bool = False
    """Send it even if it is there, and let it take the place of what has its version."""
    keep_old: int | None = None
    """How many other versions stay; None for all."""
    dry_run: bool = False
    supersede: bool = False
    """Let another content of its version be replaced, but send nothing that is there."""


@dataclass(frozen=True)
class Decision:
    """What has to be done, by what is there."""

    present: Stored | None
    """It is there already."""
    resume: Stored | None
    abandon: tuple[Stored, ...]
    retire: tuple[Stored, ...]
    """When it is there: what goes."""


@dataclass(frozen=True)
class Receipt:
    """What came of it."""

    outcome: Literal["published", "present", "planned"]
    stored: Stored | None
    """None of what is only planned."""
    removed: tuple[Stored, ...]
    """Versions that went, or would go."""


def decide(found: Sequence[Stored], shipment: Shipment, how: How) -> Decision:
    """What has to be done.

    Raises:
        PublishError: that version is there with another content, and is not to be replaced.
    """
    whole = sorted((one for one in found if one.whole and not one.retired), key=lambda one: one.made)
    broken = [one for one in found if not one.whole]
    twins = [one for one in whole if one.version == shipment.version]
    others = [one for one in reversed(whole) if one.version != shipment.version]
    current = twins[-1] if twins else None
    present = current if current and current.digest == shipment.digest and not how.replace else None
    if current and present is None and not (how.replace or how.supersede):
        raise PublishError(
            f"{shipment.name} {shipment.version} is there already with another content ({_said(current)})",
            "publish --replace puts this in its place; else give it another version, or another --name",
        )
    resume = None if present else _begun(found, shipment, how)
    old = others[how.keep_old :] if how.keep_old is not None else []
    return Decision(
        present,
        resume,
        abandon=tuple(one for one in broken if one is not resume),
        # Two of one version are what a replacement left that was killed before its last step.
        retire=tuple(one for one in twins if one is not present) + tuple(old),
    )


def _begun(found: Sequence[Stored], shipment: Shipment, how: How) -> Stored | None:
    """What `send` can go on with: a part, or rather what was set aside, unless all is to be sent again."""
    idle = [one for one in found if one.retired or not one.whole]  # what is in use is not written to
    same = [one for one in idle if one.resumable and one.digest == shipment.digest]
    return max((one for one in same if not (one.retired and how.replace)), key=lambda one: one.retired, default=None)


def deliver(
    cloud: Cloud, shipment: Shipment, how: How, progress: Progress, patience: Patience | None = None
) -> Receipt:
    """Brings a shipment to a cloud, if it is not there already.

    Raises:
        PublishError: the cloud refused, or failed as often as it was tried. Nothing half-done is left, as far as the
            cloud can still be reached; the next run removes the rest.
    """
    patience = patience or Patience()
    meter = Meter(progress, shipment.size)
    if how.dry_run:
        decision = patiently(lambda: decide(cloud.stored(shipment.name), shipment, how), patience, progress, give_up)
        _tell(decision, shipment, progress)
        return Receipt("present" if decision.present else "planned", decision.present, decision.retire)
    try:
        receipt = patiently(
            lambda: _once(cloud, shipment, how, progress, meter), patience, progress, give_up, lambda: meter.furthest
        )
    except BaseException as error:
        left = _clear(cloud, shipment)
        if left and isinstance(error, OvfbuildError):
            error.hint = "\n  → ".join(filter(None, (error.hint, left)))
        raise
    for old in receipt.removed:
        progress.note(f"removing {old.name} {old.version} ({_said(old)})")
        patiently(partial(cloud.retire, old), patience, progress, give_up)
    return receipt


def _once(cloud: Cloud, shipment: Shipment, how: How, progress: Progress, meter: Meter) -> Receipt:
    """One try, from what is there to what is whole."""
    decision = decide(cloud.stored(shipment.name), shipment, how)
    for leftover in decision.abandon:
        progress.note(f"removing what an earlier upload of {leftover.name} {leftover.version} left")
        cloud.abandon(leftover)
    if decision.present:
        return Receipt("present", decision.present, decision.retire)
    meter.begin()
    with step(progress, f"{_what(decision)} {shipment.name} {shipment.version}"):
        sent = cloud.send(shipment, decision.resume, meter)
    with step(progress, "compare what arrived"):
        stored = cloud.finish(shipment, sent)
    return Receipt("published", stored, decision.retire)


def give_up(last: TryAgain, failed: int) -> NoReturn:
    """Ends what was tried too often."""
    tries = f" ({failed} tries)" if failed > 1 else ""
    raise PublishError(f"{last}{tries}", "check the network and the server, then publish again") from None


def _clear(cloud: Cloud, shipment: Shipment) -> str:
    """Removes what this upload left; says what the user has to know when that could not be done."""
    with suppress(TryAgain, OvfbuildError):
        for one in cloud.stored(shipment.name):
            if not one.whole and one.digest == shipment.digest:
                cloud.abandon(one)
        return ""
    return "what was sent so far may lie there still, marked as unfinished: the next publish removes it"


def _tell(decision: Decision, shipment: Shipment, progress: Progress) -> None:
    """What would be done."""
    for one in decision.abandon:
        progress.note(f"would remove what an earlier upload of {one.name} {one.version} left")
    if decision.present is None:
        progress.note(f"would {_what(decision)} {shipment.name} {shipment.version}, {shipment.size / 1e6:.0f} MB")
    for one in decision.retire:
        progress.note(f"would remove {one.name} {one.version} ({_said(one)})")


def _what(decision: Decision) -> str:
    """What is done with what is not there."""
    if decision.resume is None:
        return "send"
    return "bring back" if decision.resume.retired else "go on with"


def _said(stored: Stored) -> str:
    return next(iter(stored.ids.values()), stored.digest[:12])
