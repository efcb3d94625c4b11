"""A vCenter or an ESXi as a `Cloud`: machines or templates, deployed by its OVF manager and an NFC lease; `library` has
what goes into a content library.

What ovfbuild stored is known by keys in the machine's ExtraConfig, which are there from its creation on; one of them is
the machine's own instanceUuid, since a clone has the keys too, and is its owner's. While a machine is not whole, it is
called NAME-VERSION.unfinished-TOKEN; the rename to NAME-VERSION is the one step that makes it whole: a server does
it at once, to a template too.
"""

from __future__ import annotations

import re
import secrets
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Concatenate, ParamSpec, TypeVar

from ovfbuild.errors import PublishError
from ovfbuild.progress import Progress
from ovfbuild.publish import inventory, nfc
from ovfbuild.publish.automation import Automation
from ovfbuild.publish.cloud import Cloud, Shipment, Standing, Stored, Surroundings
from ovfbuild.publish.library import ContentLibrary
from ovfbuild.publish.meter import Meter
from ovfbuild.publish.shipment import member_digests
from ovfbuild.publish.vim_session import VimSession, host_and_port, sentence, vim, vmodl
from ovfbuild.spec.targets import VSphereTarget
from ovfbuild.tries import TryAgain
from ovfbuild.verify import rules
from ovfbuild.verify.package import Package

_PREFIX = "ovfbuild."
_MARKS = ("name", "version", "sha256", "made", "uuid", "begun")
"""Keys behind the prefix: of the shipment, when it was sent, the machine's instanceUuid, its name while not whole."""
_ROW = ("name", "config.extraConfig", "config.instanceUuid")
_SECONDS = re.compile(r"\d{1,12}(\.\d{1,9})?")
_PRIVILEGES = {
    "pool": ("VApp.Import", "Resource.AssignVMToPool"),
    "datastore": ("Datastore.AllocateSpace",),
    "folder": ("VirtualMachine.Inventory.Create", "VirtualMachine.Inventory.Delete"),
}
"""What a deployment needs, and where, by the field of `Place`."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


@contextmanager
def connect(target: VSphereTarget, around: Surroundings) -> Iterator[Cloud]:
    """See `clouds.connect`. The server is not asked before the first question to the cloud."""
    if target.insecure:
        around.progress.warn(f"{target.name}: insecure = true, so any certificate is believed")
    session = VimSession(target, around.secrets)
    api = Automation(target, session, around.secrets)
    try:
        yield ContentLibrary(target, session, api) if target.library else VCenter(target, session, around.progress)
    finally:
        api.close()
        session.close()


def _told(method: Callable[Concatenate[VCenter, _P], _T]) -> Callable[Concatenate[VCenter, _P], _T]:
    """The method, with what the server says as TryAgain or PublishError."""

    def asked(self: VCenter, /, *args: _P.args, **more: _P.kwargs) -> _T:
        with self._session.told():
            return method(self, *args, **more)

    return asked


class VCenter:
    """See `cloud.Cloud`."""

    def __init__(self, target: VSphereTarget, session: VimSession, progress: Progress) -> None:
        self._target = target
        self._session = session
        self._progress = progress

    @_told
    def standing(self, *, write: bool) -> Standing:
        place = inventory.place(self._session, self._target)
        about = self._session.content.about
        if self._target.template and about.apiType == "HostAgent":
            raise PublishError(
                f"{self._target.host} is an ESXi, which has no templates", "take template out of the target"
            )
        room = place.datastore.summary.freeSpace
        if write:
            self._require_privileges(place)
        return Standing(f"{about.fullName} at {self._target.host}", int(room), ())

    @_told
    def stored(self, name: str) -> Sequence[Stored]:
        folder = inventory.place(self._session, self._target).folder
        rows = self._session.rows(vim.VirtualMachine, folder, *_ROW)
        found = (self._stored(machine, row) for machine, row in rows)
        return [one for one in found if one and one.name == name]

    @_told
    def send(self, shipment: Shipment, resume: Stored | None, meter: Meter) -> Stored:
        del resume  # an NFC upload begins anew
        place = inventory.place(self._session, self._target)
        self._refuse_others(place.folder, shipment)
        spec = self._spec(place, shipment)
        pool, folder = place.pool, place.folder
        lease = pool.ImportVApp(spec.importSpec, folder)
        machine = None
        try:
            self._session.until_ready(lease)
            machine = lease.info.entity
            self._upload(shipment.package, spec.fileItem, lease, meter)
            lease.HttpNfcLeaseComplete()
        except BaseException:
            nfc.abort(lease)
            # A vCenter has removed it by now; others leave that to us.
            with suppress(Exception):
                if machine is not None:
                    self._destroy(machine)
            raise
        return self._seen(machine)

    @_told
    def finish(self, shipment: Shipment, sent: Stored) -> Stored:
        machine = self._machine(sent)
        self._compare(shipment.package, machine)
        final = _final_name(shipment)
        folder = inventory.place(self._session, self._target).folder
        for other, row in self._session.rows(vim.VirtualMachine, folder, *_ROW):
            if row.get("name") == final and self._stored(other, row):
                # What it replaces, which delivery removes when this one is whole.
                self._session.until_done(other.Rename_Task(f"{final}.replaced-{secrets.token_hex(4)}"))
        if self._target.template and not machine.config.template:
            machine.MarkAsTemplate()
        self._session.until_done(machine.Rename_Task(final))
        return self._seen(machine)

    @_told
    def abandon(self, leftover: Stored) -> None:
        with suppress(vmodl.fault.ManagedObjectNotFound):
            self._destroy(self._machine(leftover))

    @_told
    def retire(self, old: Stored) -> None:
        with suppress(vmodl.fault.ManagedObjectNotFound):
            machine = self._machine(old)
            if machine.runtime.powerState != "poweredOff":
                raise PublishError(
                    f"{machine.name} is the version that goes, and it is running",
                    "shut it down, and publish again: the new version is there already",
                )
            self._destroy(machine)

    # --- what goes there ---

    def _spec(self, place: inventory.Place, shipment: Shipment) -> Any:
        """OvfCreateImportSpecResult, with our keys in it."""
        package, target = shipment.package, self._target
        section = package.envelope.network_section
        wanted = [one.name for one in section.networks] if section else []
        mapping = inventory.networks(place.datacenter, wanted, target)
        name = f"{_final_name(shipment)}.unfinished-{secrets.token_hex(4)}"
        params = vim.OvfManager.CreateImportSpecParams(
            entityName=name,
            diskProvisioning=target.provisioning,
            deploymentOption=target.deployment_option or "",
            networkMapping=[vim.OvfManager.NetworkMapping(name=one, network=to) for one, to in mapping],
            propertyMapping=[vim.KeyValue(key=key, value=value) for key, value in self._properties(package)],
        )
        text = package.descriptor.decode("utf-8")
        spec = self._session.content.ovfManager.CreateImportSpec(text, place.pool, place.datastore, params)
        for fault in spec.warning or ():
            self._progress.warn(f"{target.host}: {sentence(fault)}")
        if spec.error:
            said = "; ".join(sentence(fault) for fault in spec.error)
            raise PublishError(f"{target.host} does not take {package.path.name}: {said}", "ovfbuild check says more")
        if not isinstance(spec.importSpec, vim.vm.VmImportSpec):
            raise PublishError(f"{package.path.name} has several machines", "publish one machine a package")
        config = spec.importSpec.configSpec
        config.instanceUuid = str(uuid.uuid4())
        values = (shipment.name, shipment.version, shipment.digest, f"{time.time():.6f}", config.instanceUuid, name)
        marks = dict(zip(_MARKS, values, strict=True))
        config.extraConfig = [
            *(config.extraConfig or ()),
            *(vim.option.OptionValue(key=f"{_PREFIX}{key}", value=value) for key, value in marks.items()),
        ]
        return spec

    def _properties(self, package: Package) -> Iterator[tuple[str, str]]:
        """The target's properties, by the keys that the descriptor has (DSP0243 9.5.1: class.key.instance)."""
        known = {
            ".".join(filter(None, (product.class_, one.key, product.instance)))
            for product in package.envelope.virtual_system.products
            for one in product.properties
        }
        for key, value in self._target.property_mapping.items():
            if key not in known:
                raise PublishError(
                    f"{package.path.name} has no property '{key}'", f"it has: {', '.join(sorted(known)) or 'none'}"
                )
            yield key, value

    def _upload(self, package: Package, items: Sequence[Any], lease: Any, meter: Meter) -> None:
        host, port = host_and_port(self._target.host)
        wanted = nfc.errands(package, items, lease, f"{f'[{host}]' if ':' in host else host}:{port}")
        meter.total = sum(one.member.size for one in wanted)
        digests = member_digests(package)
        with nfc.kept_alive(lease, meter) as ask:
            how = nfc.Sending(self._session.tls, self._target.timeout, ask)
            for errand in wanted:
                nfc.send(package, errand, digests.get(errand.member.name), meter, how)

    def _compare(self, package: Package, machine: Any) -> None:
        """The machine's disks with the DiskSection's. A server tells no digest of what it unpacked."""
        section = package.envelope.disk_section
        wanted = sorted(rules.size_of(one) or 0 for one in section.disks) if section else []
        devices = machine.config.hardware.device
        found = sorted(one.capacityInKB * 1024 for one in devices if isinstance(one, vim.vm.device.VirtualDisk))
        if found != wanted:
            raise TryAgain(f"{self._target.host}: disks of {found} bytes were made of {wanted}")

    def _refuse_others(self, folder: Any, shipment: Shipment) -> None:
        """A machine of that name that is none of ours is never touched."""
        final = _final_name(shipment)
        for machine, row in self._session.rows(vim.VirtualMachine, folder, *_ROW):
            if row.get("name") == final and self._stored(machine, row) is None:
                raise PublishError(
                    f"{self._target.host} has a machine {final} that ovfbuild did not put there",
                    "rename it, or publish under another --name, or into another folder",
                )

    # --- what is there ---

    def _stored(self, machine: Any, row: Mapping[str, Any]) -> Stored | None:
        """A machine that ovfbuild made, by its keys; None of any other."""
        config = {one.key: str(one.value) for one in row.get("config.extraConfig") or ()}
        marks = {key: config.get(f"{_PREFIX}{key}", "") for key in _MARKS}
        called = str(row.get("name", ""))
        begun = called == marks["begun"]
        ours = begun or row.get("config.instanceUuid") == marks["uuid"]
        if not ours or not all(marks.values()) or not _SECONDS.fullmatch(marks["made"]):
            return None
        ids = {"machine": called, "moid": machine._moId, "server": self._target.host}
        made = float(marks["made"])
        return Stored(marks["name"], marks["version"], marks["sha256"], not begun, made, ids, machine._moId)

    def _seen(self, machine: Any) -> Stored:
        """A machine that was ours a moment ago."""
        config = machine.config
        found = self._stored(
            machine, dict(zip(_ROW, (machine.name, config.extraConfig, config.instanceUuid), strict=True))
        )
        if found is None:
            raise PublishError(
                f"{self._target.host} has not kept what says which package {machine.name} is", "see its ExtraConfig"
            )
        return found

    def _machine(self, stored: Stored) -> Any:
        return vim.VirtualMachine(stored.key, self._session.content.rootFolder._stub)

    def _destroy(self, machine: Any) -> None:
        self._session.until_done(machine.Destroy_Task())

    def _require_privileges(self, place: inventory.Place) -> None:
        content = self._session.content
        key = content.sessionManager.currentSession.key
        for field, names in _PRIVILEGES.items():
            entity = getattr(place, field)
            allowed = content.authorizationManager.HasPrivilegeOnEntity(entity, key, list(names))
            missing = [name for name, yes in zip(names, allowed, strict=True) if not yes]
            if missing:
                raise PublishError(
                    f"{self._target.host}: {self._target.user} has not the privilege {', '.join(missing)} "
                    f"on {entity.name}",
                    "docs/clouds/vsphere.md lists the privileges that a target needs",
                )


def _final_name(shipment: Shipment) -> str:
    return f"{shipment.name}-{shipment.version}"
