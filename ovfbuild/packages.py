"""What is done with a package that is there already, whoever made it: judged, booted, mended, read, told who it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovfbuild import identity, sbom
from ovfbuild.errors import UsageError, VerificationError
from ovfbuild.files import published
from ovfbuild.progress import Progress, step
from ovfbuild.verify import boot as boot_check
from ovfbuild.verify import catalogue, mend
from ovfbuild.verify.inside import facts
from ovfbuild.verify.judging import judge
from ovfbuild.verify.mend import Mended
from ovfbuild.verify.package import Package, open_package
from ovfbuild.verify.verdict import Verdict
from ovfbuild.workshop import Workshop, workshop


@dataclass(frozen=True)
class Boot:
    """How a package is booted to prove it."""

    accel: str = "auto"
    timeout: float = 1800.0
    settings: tuple[str, ...] = ()
    """`key=value` of each property that it is told."""
    deliver: identity.Format = "nocloud"


@dataclass(frozen=True)
class Seed:
    """What an ISO for a deployment is, beside the properties."""

    form: identity.Format = "nocloud"
    hostname: str | None = None
    ssh_key: Path | None = None


def verify(path: Path, *, boot: Boot | None, progress: Progress) -> Verdict:
    """Judges a package that is there already, and boots it if asked to.

    Raises:
        UsageError: a value that it is to be told is not one of its properties'.
        FileError: it is no package.
        VerificationError: something is wrong with it.
    """
    told = _told(path, boot) if boot and boot.settings else None
    with step(progress, "verify"):
        opened, verdict = judged(path, progress)
    if boot is None:
        return verdict
    with workshop(path.with_name(f"{path.name}.failed"), boot.accel, progress) as shop:
        answer = booted(opened, boot.timeout, shop, told, servers=True)
    also = [*(["identity"] if told else []), *(["agent"] if answer.agent and answer.agent.seen else [])]
    return Verdict(verdict.findings, (*verdict.checked, "boot", *also))


def _told(path: Path, boot: Boot) -> boot_check.Told:
    values = identity.values_of(identity.declared_in(open_package(path)), boot.settings)
    return boot_check.Told(values, boot.deliver)


def judged(path: Path, progress: Progress, waived: Sequence[str] = ()) -> tuple[Package, Verdict]:
    opened = open_package(path)
    verdict = judge(opened, progress)
    for finding in verdict.findings:
        if finding.level == "warning" and finding.rule not in waived:
            progress.warn(str(finding))
    if verdict.errors:
        raise VerificationError(
            f"{path.name} is not a good package:\n" + "\n".join(f"  {finding}" for finding in verdict.errors),
            "build it again",
        )
    return opened, verdict


def booted(
    opened: Package, timeout: float, shop: Workshop, told: boot_check.Told | None = None, *, servers: bool = False
) -> boot_check.Answer:
    chosen, room = shop.accelerator, boot_check.Room(timeout, shop.scratch, shop.evidence)
    with step(shop.progress, "boot the package"):
        answer = boot_check.boot(opened, chosen, room, shop.progress, told, servers=servers)
    for finding in answer.findings():
        shop.progress.warn(str(finding))
    shop.progress.note(f"the package booted: multi-user and cloud-init done after {answer.seconds:.0f} s")
    if told:
        shop.progress.note(f"it took what it was told: {', '.join(told.values)}")
    if answer.agent and answer.agent.seen:
        shop.progress.note(f"{answer.agent.title} was seen alive: {'; '.join(answer.agent.seen)}")
    for skipped in answer.agent.skipped if answer.agent and answer.agent.seen else ():
        shop.progress.note(f"not looked for: {skipped}")
    return answer


def deploy_seed(source: Path, settings: Sequence[str], target: Path, seed_of: Seed, progress: Progress) -> Path:
    """Writes the ISO that tells an appliance who it is; warns of what it still is not told."""
    declared = identity.declared_by(source)
    values = identity.values_of(declared, settings)
    who = identity.account(seed_of.hostname, seed_of.ssh_key)
    for key in declared.missing(values):
        progress.warn(f"{key} is required and has no value")
    identity.write(target, declared, values, who, seed_of.form)
    return target


def check(path: Path, progress: Progress) -> Verdict:
    """Judges a package that anybody made: an OVA, or a descriptor with its files beside it.

    Raises:
        FileError: it is no package, it is cut, or it was made to do harm.
    """
    with step(progress, "check"):
        return judge(open_package(path), progress)


def importers(words: Sequence[str]) -> tuple[str, ...]:
    """The ids of the importers that a user names, such as `vsphere` for all its versions.

    Raises:
        UsageError: a word is no importer.
    """
    for word in words:
        if not catalogue.named(word):
            raise UsageError(
                f"--for {word}: no such importer", f"there are {', '.join(catalogue.importers())}, vsphere"
            )
    return tuple(dict.fromkeys(one for word in words for one in catalogue.named(word)))


def fix(path: Path, target: Path, progress: Progress) -> Mended:
    """Writes a package anew without what can be mended, and judges what came out.

    Raises:
        UsageError: it would be written over its own input.
        FileError: it is no package, it is cut, or it was made to do harm.
    """
    with step(progress, "read"):
        opened = open_package(path)
        before = judge(opened, progress)
    if target.is_dir():
        raise UsageError(f"{target} is a folder", "name the OVA to write")
    if any(target.exists() and target.samefile(opened.file_of(member)) for member in opened.members):
        raise UsageError(f"{target} is what is to be mended", "name another file")
    with published(target) as partial:
        with step(progress, f"write {target.name}"):
            notes = mend.write(opened, before, partial)
        with step(progress, "check"):
            after = judge(open_package(partial), progress)
    return mend.outcome(before, after, notes)


def inspect(path: Path) -> dict[str, Any]:
    """What is inside a package, for JSON; and what is installed, where its bill of materials lies beside it."""
    return {**facts(open_package(path)), "sbom": sbom.summary(path)}
