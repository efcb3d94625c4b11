"""The order of a build, top to bottom.

    make ─▶ sealed_disk ─▶ base_image            the slow half: one VM, or none where the cache has the disk
         └▶ publish     ─▶ package.write         the fast half: one package a profile
                        ─▶ prove                 ... opened again, judged, compared, booted

What the two halves know is in a `Plan`; what they share is the `Workshop` of one run.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ovfbuild import identity, libraries, package, sbom
from ovfbuild.agent_files import agent_files
from ovfbuild.bases import BaseImage, base_image
from ovfbuild.cache import Cache
from ovfbuild.errors import FileError, OvfbuildError, ProgramError, UsageError, VerificationError
from ovfbuild.files import digest_of, published, send, sha256_of
from ovfbuild.formats import compression, ovf
from ovfbuild.progress import Both, LogProgress, Progress, step
from ovfbuild.spec import appliance as appliance_file
from ovfbuild.spec import cloud_config
from ovfbuild.spec.plan import Plan, disk_inputs
from ovfbuild.spec.profile import Profile
from ovfbuild.spec.units import format_duration
from ovfbuild.verify import boot as boot_check
from ovfbuild.verify import catalogue, content, mend
from ovfbuild.verify.inside import facts
from ovfbuild.verify.judging import judge
from ovfbuild.verify.mend import Mended
from ovfbuild.verify.package import Package, open_package
from ovfbuild.verify.verdict import Verdict
from ovfbuild.vm import accelerator, apt, build, guest_apt, seed
from ovfbuild.vm.hardware import Accelerator
from ovfbuild.vm.machine import Limits
from ovfbuild.vm.sealed import COMPONENTS, SealedDisk, adopt, keep, seal, sealed_in


@dataclass(frozen=True)
class Options:
    """How a build is run; none of it changes what comes out."""

    out: Path
    accel: str = "auto"
    boot: bool = True
    offline: bool = False
    use_cache: bool = True
    on_failure: str = "clean"


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


@dataclass(frozen=True)
class Workshop:
    """One run's place to work: the cache, a scratch folder that goes, and the evidence of a failure."""

    cache: Cache
    scratch: Path
    evidence: Path
    progress: Progress
    accel: str

    @cached_property
    def accelerator(self) -> Accelerator:
        """What runs guests here; proven, and said, when it is first needed."""
        return accelerator.choose(self.accel, self.cache, self.progress)


def make(plan: Plan, options: Options, progress: Progress) -> list[Path]:
    """Builds, packages and verifies; returns the paths of the packages."""
    with _workshop(plan, options, progress) as shop:
        return publish_all(sealed_disk(plan, options, shop), plan, options, shop)


def pack(plan: Plan, disk_file: Path, options: Options, progress: Progress) -> list[Path]:
    """Packages a disk that is there already, as it is; returns the paths of the packages."""
    with _workshop(plan, options, progress) as shop:
        sealed = _with_components(adopt(disk_file), shop.scratch, shop)
        return publish_all(sealed, plan, options, shop)


def pack_to(descriptor: int, plan: Plan, disk_file: Path, options: Options, progress: Progress) -> None:
    """The same into an open file that may be a pipe, of the plan's only profile.

    A package begins with what is known when its disk is packed, so it is written in the scratch folder first, and
    proven there: not a byte of a bad one leaves. Logs of a failure go to `options.out`.

    Raises:
        ProgramError: whoever reads the pipe went away.
        FileError: the file takes no more.
    """
    (profile,) = plan.profiles
    with _workshop(plan, options, progress) as shop:
        path, _ = publish(adopt(disk_file), plan, profile, replace(options, out=shop.scratch), shop)
        with step(shop.progress, f"write {path.name} to stdout"):
            try:
                send(path, descriptor)
            except BrokenPipeError as error:
                raise ProgramError("the program that reads stdout ended before the whole OVA was written") from error
            except OSError as error:
                raise FileError(f"stdout: {error.strerror}", "make room there, or use -o DIR") from error


def sealed_disk(plan: Plan, options: Options, shop: Workshop) -> SealedDisk:
    """The sealed disk of this plan: from the cache if nothing that it is made of has changed."""
    base = base_image(plan, shop.cache, shop.progress, offline=options.offline, again=not options.use_cache)
    fetched = {
        **agent_files(plan, shop.cache, shop.progress, offline=options.offline),
        **libraries.library_files(plan, base, _source(options, shop)),
    }
    inputs = {"plan": disk_inputs(plan), "base": base.digest, "guest": seed.guest_modules_digest_inputs()}
    key = digest_of(inputs | {"fetched": {name: sha256_of(path) for name, path in fetched.items()}})
    found = shop.cache.find("disks", key) if options.use_cache else None
    if found:
        age = format_duration(round(time.time() - found.made))
        shop.progress.note(f"the sealed disk is from the cache, made {age} ago (--no-cache makes a new one)")
        return sealed_in(found.path)
    if options.offline and (needed := _from_apt(plan)):
        raise UsageError(
            f"{needed[0]} can't be installed with --offline, and the cache has no disk of this appliance",
            "build it once with a network; from then on --offline takes the disk from the cache",
        )

    def produce(folder: Path) -> None:
        _build(plan, base, key, fetched, options, shop, folder)

    title = f"{plan.appliance.name}: sealed disk on {base.title}"
    entry, _ = shop.cache.obtain(
        "disks",
        key,
        title,
        produce,
        again=not options.use_cache,
        on_wait=lambda: shop.progress.note("another ovfbuild builds this appliance now; waiting for it"),
    )
    return sealed_in(entry.path)


def _from_apt(plan: Plan) -> list[str]:
    """What the guest installs from its distribution, for which it needs a network."""
    found = ["system.packages"] if plan.appliance.system.packages else []
    found += [f"the packages of [{name}]" for name in plan.language_packages]
    return found + (["the agent's packages"] if plan.agent_packages else [])


def _build(
    plan: Plan,
    base: BaseImage,
    key: str,
    fetched: Mapping[str, Path],
    options: Options,
    shop: Workshop,
    folder: Path,
) -> None:
    """Boots the build VM, and seals what it leaves into `folder`."""
    order = _order(plan, base, key, fetched, options)
    try:
        overlay = build.build(order, shop.accelerator, shop.scratch, shop.evidence, shop.progress)
    except OvfbuildError:
        if options.on_failure == "keep":
            keep(shop.scratch, shop.evidence)
        raise
    with step(shop.progress, "seal the disk"):
        shipped = "".join(plan.appliance.base.sources).encode()
        secrets = [word for word in guest_apt.passwords(order.payload) if word not in shipped]
        sealed = seal(overlay, folder / "disk.qcow2", shop.scratch, shop.progress, secrets)
    overlay.unlink()
    _with_components(sealed, folder, shop)


def _with_components(sealed: SealedDisk, folder: Path, shop: Workshop) -> SealedDisk:
    """The same, with what is installed on it read into `folder`; as it was where that can't be seen."""
    with step(shop.progress, "read what is installed"):
        found = sbom.components_of(sealed.path, sealed.format, shop.scratch)
    if found is None:
        shop.progress.note("the disk has no ext4 file system that can be read: there is no SBOM of it")
        return sealed
    sbom.write(folder / COMPONENTS, found)
    return replace(sealed, components=folder / COMPONENTS)


def _source(options: Options, shop: Workshop) -> libraries.Source:
    return libraries.Source(
        shop.cache, shop.scratch, shop.progress, offline=options.offline, again=not options.use_cache
    )


def _order(plan: Plan, base: BaseImage, key: str, fetched: Mapping[str, Path], options: Options) -> build.BuildOrder:
    appliance = plan.appliance
    if base.capacity > appliance.hardware.disk:
        raise UsageError(
            f"hardware.disk is smaller than the base, which has {base.capacity} bytes",
            "make hardware.disk larger",
        )
    return build.BuildOrder(
        base=base.path,
        base_format=base.format,
        capacity=appliance.hardware.disk,
        instance=f"ovfbuild-{key[:16]}",
        hostname=appliance.hostname,
        user_data=cloud_config.merge(seed.build_cloud_config(), plan.user_data, str(appliance.cloud_init.user_data)),
        steps={"steps": [one.to_json() for one in plan.steps], "seal": _seal_orders(plan)},
        payload={
            **_payload(plan),
            **fetched,
            **guest_apt.seed_files(base.mirrors, base.suite, _apt_settings(), os.environ),
        },
        limits=Limits(appliance.build.timeout, appliance.build.stall),
        cpus=appliance.build.cpus,
        memory=appliance.build.memory,
        efi=appliance.build.firmware == "efi",
        isolated=options.offline,
        on_failure=options.on_failure,
    )


def _payload(plan: Plan) -> dict[str, bytes | Path]:
    return {blob.name: blob.source for blob in plan.payload}


def _seal_orders(plan: Plan) -> dict[str, Any]:
    appliance = plan.appliance
    lines = appliance.base.sources
    return {
        "hostname": appliance.hostname,
        "locale": appliance.system.locale,
        "serial": appliance.hardware.serial,
        "sources": "".join(f"{line}\n" for line in lines) if lines else None,
        "agent": plan.agent.seal if plan.agent else None,
        "firstboot": plan.deployment.seal_orders(),
    }


def _apt_settings() -> apt.Settings:
    """The host's, where it has an apt."""
    return apt.host_settings() if shutil.which("apt-config") else apt.Settings()


def publish_all(sealed: SealedDisk, plan: Plan, options: Options, shop: Workshop) -> list[Path]:
    """A package for each profile. The disk is compressed for the first; the others get what lies there."""
    paths: list[Path] = []
    stream: package.PackedStream | None = None
    for profile in plan.profiles:
        path, stream = publish(sealed, plan, profile, options, shop, stream)
        paths.append(path)
    return paths


def publish(
    sealed: SealedDisk,
    plan: Plan,
    profile: Profile,
    options: Options,
    shop: Workshop,
    earlier: package.PackedStream | None = None,
) -> tuple[Path, package.PackedStream]:
    """Packs for one profile and proves it; only then does the package get its name. Says where its VMDK lies."""
    target = options.out / package.Names.of(plan, profile).package
    with published(target) as partial:
        with step(shop.progress, f"pack {target.name}"):
            stream = package.write(sealed, plan, profile, partial, shop.scratch, shop.progress, earlier)
        prove(partial, sealed, plan, options, shop)
        if sealed.components:
            sbom.write(sbom.beside(target), sbom.document(plan, sbom.load(sealed.components)))
        else:  # one of an earlier build would tell of another disk
            sbom.beside(target).unlink(missing_ok=True)
    return target, replace(stream, package=target)


def prove(path: Path, sealed: SealedDisk, plan: Plan, options: Options, shop: Workshop) -> None:
    """Opens the package again and judges it; its disk is the sealed one; it boots.

    Raises:
        VerificationError: anything of this is not so.
    """
    with step(shop.progress, "verify"):
        opened, _ = _judged(path, shop.progress)
        if problems := ovf.validate(opened.descriptor):
            raise VerificationError(f"{opened.name}, {problems[0]}", "report this: it is a bug")
        for _, member in opened.disks:
            if not content.is_packed(sealed, opened.path, member, shop.scratch):
                raise VerificationError(f"{member.name} is not the disk that was packed", "report this: it is a bug")
    if options.boot:
        _boot(opened, plan.appliance.build.timeout, shop)


def verify(path: Path, *, boot: Boot | None, progress: Progress) -> Verdict:
    """Judges a package that is there already, and boots it if asked to.

    Raises:
        UsageError: a value that it is to be told is not one of its properties'.
        FileError: it is no package.
        VerificationError: something is wrong with it.
    """
    told = _told(path, boot) if boot and boot.settings else None
    with step(progress, "verify"):
        opened, verdict = _judged(path, progress)
    if boot is None:
        return verdict
    cache = Cache()
    final = path.with_name(f"{path.name}.failed")
    with _evidence(final, cache) as (scratch, evidence), _logged(evidence, progress) as both:
        shop = Workshop(cache, scratch, evidence, both, boot.accel)
        answer = _boot(opened, boot.timeout, shop, told, servers=True)
    also = [*(["identity"] if told else []), *(["agent"] if answer.agent and answer.agent.seen else [])]
    return Verdict(verdict.findings, (*verdict.checked, "boot", *also))


def _told(path: Path, boot: Boot) -> boot_check.Told:
    values = identity.values_of(identity.declared_in(open_package(path)), boot.settings)
    return boot_check.Told(values, boot.deliver)


def _judged(path: Path, progress: Progress) -> tuple[Package, Verdict]:
    opened = open_package(path)
    verdict = judge(opened, progress)
    for finding in verdict.findings:
        if finding.level == "warning":
            progress.warn(str(finding))
    if verdict.errors:
        raise VerificationError(
            f"{path.name} is not a good package:\n" + "\n".join(f"  {finding}" for finding in verdict.errors),
            "build it again",
        )
    return opened, verdict


def _boot(
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


def new(folder: Path) -> Path:
    """Writes a commented appliance.toml that builds; never over one that is there."""
    target = folder / "appliance.toml"
    if target.exists():
        raise FileError(f"{target} is there already", "name another folder")
    with published(target) as partial:
        partial.write_text(appliance_file.template(), encoding="utf-8")
    return target


@contextmanager
def _workshop(plan: Plan, options: Options, progress: Progress) -> Iterator[Workshop]:
    compression.compressor(plan.compression)  # what can't be packed need not be built
    cache = Cache()
    final = options.out / f"{plan.appliance.name}-{plan.appliance.version}.failed"
    with _evidence(final, cache) as (scratch, evidence), _logged(evidence, progress) as both:
        yield Workshop(cache, scratch, evidence, both, options.accel)


@contextmanager
def _logged(evidence: Path, progress: Progress) -> Iterator[Progress]:
    """Progress that is written to build.log as well, every line of it."""
    with (evidence / "build.log").open("w", encoding="utf-8") as log:
        yield Both(progress, LogProgress(log, verbose=True))


@contextmanager
def _evidence(final: Path, cache: Cache) -> Iterator[tuple[Path, Path]]:
    """A scratch folder, and one for logs that is moved to `final` when anything but the user's text was wrong.

    Logs that say nothing, of what failed before anything began, are not left; what an earlier failure
    left there is gone once a run does not fail.
    """
    with cache.workspace() as scratch:
        evidence = scratch / "evidence"
        evidence.mkdir()
        try:
            yield scratch, evidence
        except UsageError:
            raise
        except Exception as error:
            if any(log.stat().st_size for log in evidence.iterdir()):
                _replace(evidence, final)
                if isinstance(error, OvfbuildError):
                    error.hint = "\n  → ".join(filter(None, (error.hint, f"the logs are in {final}")))
            raise
        if final.exists():
            shutil.rmtree(final)


def _replace(evidence: Path, final: Path) -> None:
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        shutil.rmtree(final)
    shutil.move(evidence, final)
