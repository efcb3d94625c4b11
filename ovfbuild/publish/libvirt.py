"""libvirt with QEMU, local or by qemu+ssh: each disk a volume of a pool, and a domain with the declared hardware.

Volumes are called `NAME@VERSION@DIGEST@TOKEN@DISK.qcow2`; the domain that is defined last of all has name, version,
digest and token in its metadata. So volumes that no domain's token owns are what a killed run left. A replacement is
one definition under the same UUID, which libvirt does in one step; the volumes before it are nobody's then.
"""

from __future__ import annotations

import hashlib
import re
import secrets as tokens
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qs, urlsplit

import libvirt

from ovfbuild.errors import PublishError, UsageError
from ovfbuild.formats.envelope import Disk
from ovfbuild.publish import domain
from ovfbuild.publish.cloud import Cloud, Shipment, Standing, Stored, Surroundings
from ovfbuild.publish.domain import NAMESPACE, Origin, Volume
from ovfbuild.publish.meter import PIECE, Meter, Metered
from ovfbuild.spec.targets import LibvirtTarget
from ovfbuild.tries import TryAgain
from ovfbuild.verify.package import StoredDisk
from ovfbuild.verify.rules import size_of
from ovfbuild.vm import disk as images

_T = TypeVar("_T")
_DIRECTORIES = ("dir", "fs", "netfs")
"""Pools whose volumes are files, which a qcow2 has to be."""
_SEND = 256 << 10
"""Bytes: the most that libvirt's RPC takes in a message is 4 MiB, and an ssh channel likes less."""
_LINE_BROKE = ("refused", "reset", "Broken pipe", "closed", "timed out", "Cannot recv", "End of file", "keepalive")
"""What libvirt says, under one code of error, when the line broke."""
_REFUSED = ("Permission denied", "Host key", "No such file", "not found")
"""What ssh, or the program that it starts there, says last when it is no use to try again."""
_BELIEVING = {"no_verify": "1", "known_hosts_verify": "ignore"}
"""Parameters of a URI with which any host is believed (libvirt.org, Remote URIs)."""
_LET_GO = 2.0
"""Seconds in which libvirt lets go of a volume after an upload that broke off."""
_HINTS: Sequence[tuple[tuple[str, ...], tuple[str, ...], str]] = (
    (
        ("VIR_ERR_AUTH_FAILED", "VIR_ERR_AUTH_CANCELLED", "VIR_ERR_AUTH_UNAVAILABLE"),
        ("publickey", "password)"),
        "check who may log in there: the key of ssh, or auth.conf",
    ),
    (("VIR_ERR_NO_STORAGE_POOL",), (), "name a pool that is there: virsh pool-list --all"),
    ((), ("Host key",), "see that it is the right host, and let ssh know its key: ssh-keyscan, known_hosts"),
    ((), ("No space left", "Disk quota", "File too large"), "make room in the pool"),
    ((), ("not found",), "install libvirt-daemon there, which has virt-ssh-helper, or netcat-openbsd"),
    ((), ("No such file",), "start libvirt there: systemctl start libvirtd"),
    (
        ("VIR_ERR_ACCESS_DENIED", "VIR_ERR_OPERATION_DENIED"),
        ("Permission denied",),
        "let the user manage libvirt (on Debian, the group libvirt), and libvirt write to the pool",
    ),
)
"""Names of libvirt's error codes, words of its messages, and what to do."""
_ANY = "[0-9a-f]{8}"
_XML = (
    "<volume><name>{name}</name><capacity>{capacity}</capacity><allocation>0</allocation>"
    "<target><format type='{format}'/></target></volume>"
)


@contextmanager
def connect(target: LibvirtTarget, around: Surroundings) -> Iterator[Cloud]:
    """See `clouds.connect`."""
    for key, value in _BELIEVING.items():
        if parse_qs(urlsplit(target.uri).query).get(key) == [value]:
            around.progress.warn(f"{target.name}: {key}={value} is in its uri, so any host and certificate is believed")
    pool = _Host(target, around)
    try:
        yield pool
    finally:
        pool.close()


class _Host:
    """A pool and the domains of a libvirt daemon, as a `Cloud`."""

    def __init__(self, target: LibvirtTarget, around: Surroundings) -> None:
        self._target = target
        self._around = around
        self._connection: Any = None
        self._type = target.domain_type
        libvirt.registerErrorHandler(lambda *_: None, None)  # it would print them

    def close(self) -> None:
        if self._connection is not None:
            with suppress(libvirt.libvirtError):
                self._connection.close()
            self._connection = None

    # --- the Protocol ---

    def standing(self, *, write: bool) -> Standing:
        return self._asked(lambda: self._standing(write))

    def stored(self, name: str) -> Sequence[Stored]:
        return self._asked(lambda: self._stored(name))

    def send(self, shipment: Shipment, resume: Stored | None, meter: Meter) -> Stored:
        del resume  # none is resumable
        return self._asked(lambda: self._send(shipment, meter))

    def finish(self, shipment: Shipment, sent: Stored) -> Stored:
        return self._asked(lambda: self._finish(shipment, sent))

    def abandon(self, leftover: Stored) -> None:
        self._asked(lambda: self._delete(leftover))

    def retire(self, old: Stored) -> None:
        self._asked(lambda: self._retire(old))

    # --- what they do ---

    def _standing(self, write: bool) -> Standing:
        connection, pool = self._open(), self._pool()
        version = connection.getLibVersion()
        said = f"libvirt {version // 1000000}.{version // 1000 % 1000}.{version % 1000} at {connection.getHostname()}"
        if write:
            name = f".ovfbuild-{tokens.token_hex(8)}"
            pool.createXML(_XML.format(name=name, capacity=1 << 20, format="raw"), 0).delete(0)
        return Standing(f"{said}, pool {self._target.pool}", int(pool.info()[3]), ())

    def _stored(self, name: str) -> list[Stored]:
        found = []
        for machine in self._open().listAllDomains(0):
            origin = self._origin(machine)
            if origin and origin.name == name:
                ids = {"domain": machine.name(), "uuid": machine.UUIDString()}
                ids |= {f"volume{n}": one.path() for n, one in enumerate(self._volumes(name, origin.token), 1)}
                words = (origin.name, origin.version, origin.digest)
                found.append(Stored(*words, whole=True, made=origin.published, ids=ids, key=origin.token))
        owned = {one.key for one in found}
        for volume in self._volumes(name):
            _, version, digest, token, _ = volume.name().split("@")
            if token not in owned:
                owned.add(token)
                found.append(
                    Stored(name, version, digest, whole=False, made=0, ids={"volume": volume.path()}, key=token)
                )
        return found

    def _send(self, shipment: Shipment, meter: Meter) -> Stored:
        self._free(shipment)
        filed = {one.disk.disk_id: one for one in shipment.package.stored_disks}
        stem = f"{shipment.name}@{shipment.version}@{shipment.digest}@{tokens.token_hex(4)}"
        self._domain_xml(shipment, stem, {disk.disk_id: "" for disk in _disks(shipment)})  # what it can't say ends here
        for number, disk in enumerate(_disks(shipment), 1):
            name = f"{stem}@disk{number}.qcow2"
            if stored := filed.get(disk.disk_id):
                self._upload(shipment, stored, name, meter)
            else:
                self._pool().createXML(_XML.format(name=name, capacity=size_of(disk) or 0, format="qcow2"), 0)
        token = stem.rpartition("@")[2]
        return Stored(shipment.name, shipment.version, shipment.digest, whole=False, made=0, key=token)

    def _upload(self, shipment: Shipment, stored: StoredDisk, name: str, meter: Meter) -> None:
        """A disk as qcow2, which QEMU writes to; a VMDK that is made for sending can only be read."""
        if not stored.plain:
            said = f"{stored.disk.disk_id} of {shipment.path.name} is in pieces or compressed once more"
            raise PublishError(said, "ovfbuild fix makes a plain package of it")
        (member,) = stored.members
        with self._around.workspace() as scratch:
            image = scratch / "disk.qcow2"
            self._around.progress.note(f"converting {member.name} to qcow2 in {scratch}, which takes room there")
            place = (shipment.package.file_of(member), member.offset, member.size)
            images.convert_inside(*place, image, "qcow2", self._around.progress)
            size, capacity = image.stat().st_size, images.probe(image, "qcow2").virtual_size
            volume = self._pool().createXML(_XML.format(name=name, capacity=capacity, format="qcow2"), 0)
            meter.total = size
            meter.begin()
            digest = self._stream(volume, image, size, meter)
            self._compare(volume, size, digest)

    def _stream(self, volume: Any, image: Path, size: int, meter: Meter) -> str:
        """Sends a file into a volume; returns its SHA-256."""
        stream = self._open().newStream(0)
        volume.upload(stream, 0, size, 0)
        with image.open("rb") as source:
            reader = Metered(source, size, meter)
            try:
                while piece := reader.read(_SEND):
                    while piece:
                        piece = piece[stream.send(piece) :]
                stream.finish()
            except BaseException:
                with suppress(libvirt.libvirtError):
                    stream.abort()
                raise
        return reader.digest

    def _compare(self, volume: Any, size: int, digest: str) -> None:
        """By size; by digest where `read_back` is asked for, since libvirt tells none."""
        self._pool().refresh(0)
        told = re.search(r"<physical unit='bytes'>(\d+)<", volume.XMLDesc(0))
        if told and int(told[1]) != size:
            raise TryAgain(f"{volume.name()}: {told[1]} of {size} bytes arrived")
        if not self._target.read_back:
            return
        stream, running = self._open().newStream(0), hashlib.sha256()
        volume.download(stream, 0, size, 0)
        while octets := stream.recv(PIECE):
            running.update(octets)
        stream.finish()
        if running.hexdigest() != digest:
            raise TryAgain(f"{volume.name()} arrived with the SHA-256 {running.hexdigest()}, not {digest}")

    def _finish(self, shipment: Shipment, sent: Stored) -> Stored:
        stem = f"{shipment.name}@{shipment.version}@{shipment.digest}@{sent.key}"
        volumes = {one.name().split("@")[-1]: one.path() for one in self._volumes(shipment.name, sent.key)}
        section = shipment.package.envelope.disk_section
        paths = {
            one.disk_id: volumes[f"disk{number}.qcow2"]
            for number, one in enumerate(section.disks if section else (), 1)
        }
        xml = self._domain_xml(shipment, stem, paths)
        machine = self._open().defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
        if self._target.start:
            machine.create()
        return next(one for one in self._stored(shipment.name) if one.key == sent.key)

    def _domain_xml(self, shipment: Shipment, stem: str, paths: Mapping[str, str]) -> str:
        target, there = self._target, self._free(shipment)
        origin = Origin(shipment.name, shipment.version, shipment.digest, stem.rpartition("@")[2], time.time())
        self._type = self._type or self._best_type()
        host = domain.Host(self._type, target.networks, target.network, target.disk_bus)
        return domain.domain_xml(
            shipment.package.envelope,
            _called(shipment),
            there.UUIDString() if there else str(uuid.uuid4()),
            origin,
            {disk: Volume(path, "qcow2") for disk, path in paths.items()},
            host,
        )

    def _best_type(self) -> Literal["kvm", "qemu"]:
        """KVM where the host has it."""
        try:
            self._open().getDomainCapabilities(None, "x86_64", None, "kvm")
        except libvirt.libvirtError:
            self._around.progress.warn(
                f"{self._target.name}: the host has no KVM: the domain is of type qemu, and slow"
            )
            return "qemu"
        return "kvm"

    def _free(self, shipment: Shipment) -> Any:
        """The domain that is to be replaced, or None. Raises PublishError for one that is not ours, or runs."""
        name = _called(shipment)
        for machine in self._open().listAllDomains(0):
            if machine.name() != name:
                continue
            origin = self._origin(machine)
            if origin is None or origin.name != shipment.name:
                raise PublishError(f"a domain {name} is there that ovfbuild did not make", "give it another --name")
            if machine.isActive():
                raise PublishError(f"the domain {name} is running", f"shut it down first: virsh shutdown {name}")
            return machine
        return None

    def _retire(self, old: Stored) -> None:
        for machine in self._open().listAllDomains(0):
            origin = self._origin(machine)
            if origin and (origin.name, origin.token) == (old.name, old.key):
                if machine.isActive():
                    said = f"the domain {machine.name()} is running, and stays"
                    raise PublishError(said, f"shut it down and publish again: virsh shutdown {machine.name()}")
                machine.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM | libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE)
        self._delete(old)

    def _delete(self, stored: Stored) -> None:
        for volume in self._volumes(stored.name, stored.key):
            self._remove(volume)

    def _remove(self, volume: Any) -> None:
        """A volume, which libvirt holds for a moment after an upload that broke off."""
        until = time.monotonic() + _LET_GO
        while True:
            try:
                volume.delete(0)
            except libvirt.libvirtError as error:
                held = error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID and "in use" in str(error)
                if not held or time.monotonic() > until:
                    raise
                time.sleep(0.1)
            else:
                return

    def _volumes(self, name: str, upload: str = _ANY) -> list[Any]:
        """The volumes of a name, or of one upload of it."""
        pattern = rf"{re.escape(name)}@[^@]+@[0-9a-f]{{64}}@{upload}@disk\d+\.qcow2"
        pool = self._pool()
        pool.refresh(0)
        return sorted((one for one in pool.listAllVolumes(0) if re.fullmatch(pattern, one.name())), key=_name)

    def _origin(self, machine: Any) -> Origin | None:
        try:
            return Origin.of(machine.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE, 0))
        except libvirt.libvirtError:
            return None

    # --- the connection ---

    def _pool(self) -> Any:
        pool = self._open().storagePoolLookupByName(self._target.pool)
        if not pool.isActive():
            raise PublishError(f"the pool {self._target.pool} is not active", f"virsh pool-start {self._target.pool}")
        kind = re.search(r"<pool type='([\w-]+)'", pool.XMLDesc(0))
        if kind and kind[1] not in _DIRECTORIES:
            raise PublishError(
                f"the pool {self._target.pool} is of type {kind[1]}", "name one of type dir, fs or netfs"
            )
        return pool

    def _open(self) -> Any:
        if self._connection is None:
            _run_events()
            self._connection = self._in_time(self._connect)
            with suppress(libvirt.libvirtError):  # not every transport has it
                self._connection.setKeepAlive(max(1, int(self._target.timeout / 5)), 4)
        return self._connection

    def _in_time(self, step: Callable[[], _T]) -> _T:
        """What a step returns that libvirt itself waits for without end. Raises TryAgain when it takes too long."""
        done: list[_T] = []
        failed: list[BaseException] = []

        def run() -> None:
            try:
                done.append(step())
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(self._target.timeout)
        if failed:
            raise failed[0]
        if not done:
            raise TryAgain(f"{self._target.name} ({self._target.uri}): no answer in time")
        return done[0]

    def _connect(self) -> Any:
        """The connection, with what libvirt asks for and ~/.config/libvirt/auth.conf does not tell."""
        unanswered: list[UsageError] = []

        def answer(asked: list[list[Any]], _: object) -> int:
            try:
                for one in asked:
                    one[4] = self._answer(one[0], one[1])
            except UsageError as error:  # libvirt's binding would print it
                unanswered.append(error)
                return -1
            return 0

        kinds = [libvirt.VIR_CRED_AUTHNAME, libvirt.VIR_CRED_PASSPHRASE, libvirt.VIR_CRED_NOECHOPROMPT]
        try:
            return libvirt.openAuth(_unasking(self._target.uri), [kinds, answer, None], 0)
        except libvirt.libvirtError:
            if unanswered:
                raise unanswered[0] from None
            raise

    def _answer(self, kind: int, question: str) -> str:
        uri = self._target.uri
        if kind == libvirt.VIR_CRED_AUTHNAME and (user := urlsplit(uri).username):
            return user
        return self._around.secrets.ask(f"{question} for {uri}", "write it into ~/.config/libvirt/auth.conf")

    def _asked(self, step: Callable[[], _T]) -> _T:
        """What a step returns; libvirt's errors are TryAgain, after which it is connected again, or PublishError."""
        try:
            return step()
        except libvirt.libvirtError as error:
            text, code = str(error), error.get_error_code()
            where = f"{self._target.name} ({self._target.uri})"
        # ssh's refusals come as an end of file with its last words.
        refused = any(word in text for word in _REFUSED)
        if not refused and any(word in text for word in _LINE_BROKE):
            self.close()
            raise TryAgain(f"{where}: {text}")
        raise PublishError(f"{where}: {text}", self._hint(text, code))

    def _hint(self, text: str, code: int) -> str:
        for names, words, hint in _HINTS:
            if code in {getattr(libvirt, name) for name in names} or any(word in text for word in words):
                return hint
        return f"see what virsh -c {self._target.uri} says, and pool, networks and uri of the target"


def _unasking(uri: str) -> str:
    """The URI, with which ssh asks nothing: its question on a terminal would be waited for."""
    parts = urlsplit(uri)
    if not parts.scheme.endswith("+ssh") or "no_tty" in parse_qs(parts.query):
        return uri
    return f"{uri}{'&' if parts.query else '?'}no_tty=1"


def _disks(shipment: Shipment) -> tuple[Disk, ...]:
    section = shipment.package.envelope.disk_section
    return section.disks if section else ()


def _called(shipment: Shipment) -> str:
    return f"{shipment.name}-{shipment.version}"


def _name(volume: Any) -> str:
    return str(volume.name())


_events = threading.Lock()


def _run_events() -> None:
    """libvirt's event loop, once, in a thread of its own: without one, a dead connection is waited for without end."""
    if not _events.acquire(blocking=False):
        return
    libvirt.virEventRegisterDefaultImpl()

    def turn() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=turn, daemon=True).start()
