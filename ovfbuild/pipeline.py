"""The order of a build, top to bottom.

    make ─▶ sealed_disks ─▶ base_image           the slow half: one VM, or none where the cache has the disk
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
from pathlib import Path
from typing import Any

from ovfbuild import data_disks, disk_images, libraries, package, sbom
from ovfbuild.agent_files import agent_files
from ovfbuild.bases import BaseImage, base_image
from ovfbuild.errors import FileError, OvfbuildError, ProgramError, UsageError, VerificationError
from ovfbuild.files import digest_of, published, published_folder, send, sha256_of
from ovfbuild.formats import compression, folder, ovf
from ovfbuild.formats.certificate import Signer
from ovfbuild.packages import booted, judged
from ovfbuild.progress import Progress, step
from ovfbuild.spec import appliance as appliance_file
from ovfbuild.spec import cloud_config
from ovfbuild.spec.machine import machine
from ovfbuild.spec.plan import Plan, disk_inputs
from ovfbuild.spec.profile import Profile
from ovfbuild.spec.units import format_duration
from ovfbuild.verify import boot as boot_check
from ovfbuild.verify import content
from ovfbuild.vm import apt, build, guest_apt, seed
from ovfbuild.vm.machine import Limits
from ovfbuild.vm.sealed import COMPONENTS, SealedDisk, adopt, disk_name, keep, seal, seal_data, sealed_in
from ovfbuild.workshop import Workshop, workshop


@dataclass(frozen=True)
class Options:
    """How a build is run; none of it changes what comes out, but for who signs it."""

    out: Path
    accel: str = "auto"
    boot: bool = True
    offline: bool = False
    use_cache: bool = True
    on_failure: str = "clean"
    signer: Signer | None = None


def make(plan: Plan, options: Options, progress: Progress) -> list[Path]:
    """Builds, packages and verifies; returns the paths of the packages."""
    if options.boot:
        _provable(plan)
    with _workshop(plan, options, progress) as shop:
        return publish_all(sealed_disks(plan, options, shop), plan, options, shop)


def _provable(plan: Plan) -> None:
    """UsageError where QEMU has not got the disk controller that a package will declare: not after a long build."""
    for profile in (one for one in plan.profiles if one.packaged):
        asked = machine(plan.appliance, profile)
        if not boot_check.bootable(asked.controller.resource_type, asked.controller.resource_subtype):
            raise UsageError(
                f"hardware.controller: QEMU has no {asked.controller.title}, so that the package of profile "
                f"{profile.name} can't be booted to prove it",
                "choose another controller, or build with --no-boot",
            )


def pack(plan: Plan, disk_file: Path, options: Options, progress: Progress) -> list[Path]:
    """Packages a disk that is there already, as it is, and [[disks]]; returns the paths of the packages."""
    with _workshop(plan, options, progress) as shop:
        sealed = _with_components(adopt(disk_file), shop.scratch, shop)
        for number, one in data_disks.numbered(plan):
            if one.mount:
                shop.progress.note(
                    f"disk {number} is packed, but {disk_file.name} is not told to mount it: no VM is started"
                )
        return publish_all((sealed, *data_disks.sealed(plan, shop.scratch)), plan, options, shop)


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
        disks = (adopt(disk_file), *data_disks.sealed(plan, shop.scratch))
        ((path, *more), _) = publish(disks, plan, profile, replace(options, out=shop.scratch), shop)
        assert not more, "several files can't go into a pipe"
        with step(shop.progress, f"write {path.name} to stdout"):
            try:
                send(path, descriptor)
            except BrokenPipeError as error:
                raise ProgramError("the program that reads stdout ended before the whole OVA was written") from error
            except OSError as error:
                raise FileError(f"stdout: {error.strerror}", "make room there, or use -o DIR") from error


def sealed_disks(plan: Plan, options: Options, shop: Workshop) -> tuple[SealedDisk, ...]:
    """All disks of this plan, the one that it boots from first."""
    folder = _built(plan, options, shop)
    return sealed_in(folder), *data_disks.sealed(plan, shop.scratch, folder)


def _built(plan: Plan, options: Options, shop: Workshop) -> Path:
    """The folder with what a build VM sealed: from the cache if nothing that it is made of has changed."""
    base = base_image(plan, shop.cache, shop.progress, offline=options.offline, again=not options.use_cache)
    fetched = {
        **agent_files(plan, shop.cache, shop.progress, offline=options.offline),
        **libraries.library_files(plan, base, _source(options, shop)),
    }
    inputs = {"plan": disk_inputs(plan), "base": base.digest, "guest": seed.guest_modules_digest_inputs()}
    if disks := data_disks.inputs(plan):
        inputs |= {"disks": disks}
    key = digest_of(inputs | {"fetched": {name: sha256_of(path) for name, path in fetched.items()}})
    found = shop.cache.find("disks", key) if options.use_cache else None
    if found:
        age = format_duration(round(time.time() - found.made))
        shop.progress.note(f"the sealed disk is from the cache, made {age} ago (--no-cache makes a new one)")
        return found.path
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
    return entry.path


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
    order = replace(_order(plan, base, key, fetched, options), disks=data_disks.attached(plan, shop.scratch))
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
        for one in order.disks:
            over = overlay.with_name(one.overlay)
            seal_data(over, folder / disk_name(one.number), shop.scratch, shop.progress, secrets)
            over.unlink()
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


def publish_all(disks: Sequence[SealedDisk], plan: Plan, options: Options, shop: Workshop) -> list[Path]:
    """A package for each profile. The disks are compressed for the first; the others get what lies there."""
    paths: list[Path] = []
    streams: tuple[package.PackedStream, ...] = ()
    for profile in plan.profiles:
        found, streams = publish(disks, plan, profile, options, shop, streams)
        paths += found
    return paths


def publish(
    disks: Sequence[SealedDisk],
    plan: Plan,
    profile: Profile,
    options: Options,
    shop: Workshop,
    earlier: tuple[package.PackedStream, ...] = (),
) -> tuple[list[Path], tuple[package.PackedStream, ...]]:
    """Packs for one profile and proves it; only then does it get its name. Says what came out, and where its VMDKs lie.

    That is an OVA, the descriptor of a folder, or the disks alone, the boot disk first.
    """
    if not profile.packaged:
        if options.boot:
            shop.progress.note(
                f"{profile.format} has no descriptor: the disk is compared with the sealed one, not booted"
            )
        paths = disk_images.publish(disks, plan, profile, options.out, shop.scratch, shop.progress)
        _publish_bill(disks[0], plan, paths[0])
        return paths, earlier
    names = package.Names.of(plan, profile)
    target = options.out / names.package
    in_folder, tools = profile.format == "ovf", package.Tools(shop.scratch, shop.progress, options.signer)
    with (published_folder if in_folder else published)(target) as partial:
        with step(shop.progress, f"pack {target.name}"):
            streams = package.write(disks, plan, profile, partial, tools, earlier)
        prove(partial, disks, plan, options, shop, profile.waives)
        path = target / names.descriptor if in_folder else target
        _publish_bill(disks[0], plan, partial / names.descriptor if in_folder else target)
    return [path], tuple(replace(one, package=target) for one in streams)


def _publish_bill(sealed: SealedDisk, plan: Plan, path: Path) -> None:
    """Writes the bill of materials beside what came out; one of an earlier build, that tells of another disk, goes."""
    if sealed.components:
        sbom.write(sbom.beside(path), sbom.document(plan, sbom.load(sealed.components)))
    else:
        sbom.beside(path).unlink(missing_ok=True)


def prove(
    path: Path, disks: Sequence[SealedDisk], plan: Plan, options: Options, shop: Workshop, waived: Sequence[str] = ()
) -> None:
    """Opens the package again and judges it; its disks are the sealed ones; it boots.

    Warnings by the rules that are `waived` are not said: the profile's importers do not trip over them.

    Raises:
        VerificationError: anything of this is not so.
    """
    with step(shop.progress, "verify"):
        opened, _ = judged(path, shop.progress, waived)
        if problems := ovf.validate(opened.descriptor):
            raise VerificationError(f"{opened.name}, {problems[0]}", "report this: it is a bug")
        if len(opened.stored_disks) != len(disks):
            raise VerificationError(f"{opened.name} has {len(opened.stored_disks)} disks", "report this: it is a bug")
        for sealed, stored in zip(disks, opened.stored_disks, strict=True):
            if not content.is_same(sealed, opened, stored, shop.scratch):
                name = stored.file.href
                raise VerificationError(f"{name} is not the disk that was packed", "report this: it is a bug")
    if options.boot:
        booted(opened, plan.appliance.build.timeout, shop)


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
    for names in (package.Names.of(plan, profile) for profile in plan.profiles if profile.format == "ovf"):
        folder.refuse_other(options.out / names.package, names.descriptor)
    final = options.out / f"{plan.appliance.name}-{plan.appliance.version}.failed"
    with workshop(final, options.accel, progress) as shop:
        yield shop
