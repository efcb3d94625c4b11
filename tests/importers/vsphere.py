"""govmomi's vCenter simulator over SOAP and NFC, with VMware's own client library, pyVmomi.

The road is that of a vSphere client: OvfManager.CreateImportSpec, ResourcePool.ImportVApp, each disk under the
HttpNfcLease, HttpNfcLeaseComplete; then the machine is read back. What the lease was sent is kept as it came.
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import tarfile
import time
import urllib.request
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import urllib3
from pyVim import connect as _connect
from pyVmomi import vim as _vim

from ovfbuild.errors import VerificationError
from ovfbuild.vm.process import die_with_parent
from tests.importers.imported import Import, Imported

vim: Any = _vim
connect: Any = _connect
"""Half of their types are made as they are imported."""

USER, PASSWORD = "importer@vsphere.local", "a secret that is none"


@dataclass(frozen=True)
class Simulator:
    """A simulator that listens; `kept` is the folder of what it was sent, `log` what it says."""

    host: str
    port: int
    kept: Path
    log: Path


@contextmanager
def simulator(program: Path, folder: Path, options: Sequence[str] = ()) -> Iterator[Simulator]:
    """Runs one on a free port of loopback; it ends with the block, or with this process."""
    kept, scratch, log = folder / "kept", folder / "tmp", folder / "vcsim.log"
    kept.mkdir(parents=True)
    scratch.mkdir()
    argv = [str(program), "-user", USER, "-password", PASSWORD, "-keep", str(kept), *options]
    with (
        log.open("wb") as stream,
        subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stream,
            env=os.environ | {"TMPDIR": str(scratch)},
            preexec_fn=die_with_parent(),  # noqa: PLW1509 - only prctl and _exit run there
        ) as child,
    ):
        try:
            assert child.stdout is not None
            line = child.stdout.readline()  # it listens, or it has ended
            assert line, log.read_text(errors="replace")
            said = json.loads(line)
            yield Simulator(said["host"], int(said["port"]), kept, log)
        finally:
            assert child.stdin is not None
            child.stdin.close()  # which ends it, and then it removes its datastores
            try:
                child.wait(timeout=10)
            except subprocess.TimeoutExpired:
                child.kill()


def take(server: Simulator, ova: Path, name: str) -> Import:
    """Deploys an OVA with one machine, whose networks all become the datacenter's first."""
    with tarfile.open(ova) as archive, _session(server) as content:
        members = {one.name: one for one in archive.getmembers()}
        (text,) = (archive.extractfile(one) for name, one in members.items() if name.endswith(".ovf"))
        assert text is not None
        center = content.rootFolder.childEntity[0]
        pool = center.hostFolder.childEntity[0].resourcePool
        params = vim.OvfManager.CreateImportSpecParams(diskProvisioning="thin", entityName=name)
        spec = content.ovfManager.CreateImportSpec(text.read().decode(), pool, center.datastore[0], params)
        if spec.error:
            raise VerificationError(f"the simulator refuses {ova.name}: {'; '.join(one.msg for one in spec.error)}")
        lease = pool.ImportVApp(spec.importSpec, center.vmFolder)
        _until_ready(lease)
        urls = {one.importKey: one.url for one in lease.info.deviceUrl}
        for item in spec.fileItem:
            member = members[item.path]
            assert item.size in (0, member.size), "ovf:size"
            stream = archive.extractfile(member)
            assert stream is not None
            _send(urls[item.deviceId].replace("*", f"{server.host}:{server.port}"), stream, member.size)
        machine = lease.info.entity
        lease.HttpNfcLeaseComplete()
        images = sorted((server.kept / lease._moId).iterdir()) if spec.fileItem else []
        warnings = tuple(one.msg for one in spec.warning or ())
        return Import(machine_of(machine.config), tuple(images), warnings)


@contextmanager
def _session(server: Simulator) -> Iterator[Any]:
    unverified = ssl._create_unverified_context()
    instance = connect.SmartConnect(host=server.host, port=server.port, user=USER, pwd=PASSWORD, sslContext=unverified)
    try:
        yield instance.RetrieveContent()
    finally:
        connect.Disconnect(instance)


def _until_ready(lease: Any) -> None:
    deadline = time.monotonic() + 60
    while lease.state == "initializing" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert lease.state == "ready", lease.error


def _send(url: str, stream: Any, size: int) -> None:
    headers = {"Content-Type": "application/x-vnd.vmware-streamVmdk", "Content-Length": str(size)}
    request = urllib.request.Request(url, data=stream, headers=headers, method="POST")
    with urllib.request.urlopen(request, timeout=60, context=ssl._create_unverified_context()) as answer:
        assert answer.status == 200


def machine_of(config: Any) -> Imported:
    devices = config.hardware.device
    types = {one.key: _type(one) for one in devices}
    return Imported(
        cpus=config.hardware.numCPU,
        memory=config.hardware.memoryMB,
        os_type=config.guestId,
        firmware="",  # the simulator does not read vmw:Config
        disks=tuple(types[one.controllerKey] for one in devices if isinstance(one, vim.vm.device.VirtualDisk)),
        drives=tuple(types[one.controllerKey] for one in devices if isinstance(one, vim.vm.device.VirtualCdrom)),
        nics=tuple(
            f"{_type(one)}/{one.backing.deviceName}"
            for one in devices
            if isinstance(one, vim.vm.device.VirtualEthernetCard)
        ),
    )


def _type(device: Any) -> str:
    """`VirtualAHCIController` of a data object of that type."""
    return str(type(device).__name__).rpartition(".")[2]


def machines(server: Simulator) -> dict[str, Any]:
    """By name, the config of every machine."""
    with _session(server) as content:
        return {name: one.config for name, one in _found(content).items()}


def forget(server: Simulator, name: str) -> None:
    """Takes the marks of ovfbuild off a machine: now it is anybody's."""
    with _session(server) as content:
        marks = ("name", "version", "sha256", "made", "uuid", "begun")
        gone = [vim.option.OptionValue(key=f"ovfbuild.{one}", value="") for one in marks]
        _found(content)[name].ReconfigVM_Task(vim.vm.ConfigSpec(extraConfig=gone))


def clone(server: Simulator, name: str, to: str) -> None:
    """As its owner would, who makes a machine of it; with the ExtraConfig, which a vCenter copies by itself."""
    with _session(server) as content:
        machine = _found(content)[name]
        where = vim.vm.RelocateSpec(pool=content.rootFolder.childEntity[0].hostFolder.childEntity[0].resourcePool)
        machine.CloneVM_Task(machine.parent, to, vim.vm.CloneSpec(location=where, powerOn=False, template=False))
        copied = vim.vm.ConfigSpec(extraConfig=machine.config.extraConfig)
        _found(content)[to].ReconfigVM_Task(copied)


def end_sessions(server: Simulator) -> None:
    """As an administrator, or a restart, ends them."""
    with _session(server) as content:
        mine = content.sessionManager.currentSession.key
        others = [one.key for one in content.sessionManager.sessionList if one.key != mine]
        assert others
        content.sessionManager.TerminateSession(others)


def make_folder(server: Simulator, name: str) -> None:
    with _session(server) as content:
        content.rootFolder.childEntity[0].vmFolder.CreateFolder(name)


class Libraries:
    """Content libraries, by the Automation API as others speak it (requests), until the block ends."""

    _PATH = "/com/vmware/content/library"

    def __init__(self, server: Simulator) -> None:
        self._server = server
        self._session = requests.Session()
        self._session.verify, self._session.trust_env = False, False
        self._base = f"https://{server.host}:{server.port}/rest"

    def __enter__(self) -> Libraries:
        warnings.simplefilter("ignore", urllib3.exceptions.InsecureRequestWarning)
        headers = {"vmware-use-header-authn": "true"}
        answer = self._session.post(f"{self._base}/com/vmware/cis/session", auth=(USER, PASSWORD), headers=headers)
        self._session.headers["vmware-api-session-id"] = answer.json()["value"]
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def ask(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        answer = self._session.request(method, f"{self._base}{path}", json=body, params=query)
        assert answer.ok, answer.text
        return answer.json().get("value") if answer.content else None

    def make(self, name: str, kind: str = "local") -> str:
        """On the server's first datastore."""
        with _session(self._server) as content:
            store = content.rootFolder.childEntity[0].datastore[0]._moId
        spec: dict[str, Any] = {"name": name, "type": kind.upper()}
        spec |= {"storage_backings": [{"type": "DATASTORE", "datastore_id": store}]}
        spec |= {"subscription_info": {"authentication_method": "NONE"}} if kind == "subscribed" else {}
        return str(self.ask("POST", f"/com/vmware/content/{kind}-library", {"create_spec": spec}))

    def items(self) -> dict[str, dict[str, Any]]:
        """Of all libraries, by name."""
        ids = [
            item
            for one in self.ask("GET", self._PATH)
            for item in self.ask("GET", f"{self._PATH}/item", library_id=one) or ()
        ]
        found = [self.ask("GET", f"{self._PATH}/item/id:{one}") for one in ids]
        assert len({one["name"] for one in found}) == len(found)
        return {one["name"]: one for one in found}

    def files(self, item: dict[str, Any]) -> list[str]:
        return [one["name"] for one in self.ask("GET", f"{self._PATH}/item/file", library_item_id=item["id"])]

    def updates(self) -> list[str]:
        """The update sessions that there are."""
        return self.ask("GET", f"{self._PATH}/item/update-session") or []

    def change(self, item: dict[str, Any], **fields: str) -> None:
        self.ask("PATCH", f"{self._PATH}/item/id:{item['id']}", {"update_spec": fields})

    def deploy(self, item: dict[str, Any], name: str, **properties: str) -> None:
        """New VM from This Template, as the vSphere Client has it."""
        with _session(self._server) as content:
            pool = content.rootFolder.childEntity[0].hostFolder.childEntity[0].resourcePool._moId
        values = [{"id": key, "value": value} for key, value in properties.items()]
        more = {"@class": "com.vmware.vcenter.ovf.property_params", "type": "PropertyParams", "properties": values}
        spec = {"name": name, "accept_all_EULA": True, "additional_parameters": [more]}
        asked = {"deployment_spec": spec, "target": {"resource_pool_id": pool}}
        at = f"/com/vmware/vcenter/ovf/library-item/id:{item['id']}"
        told = self.ask("POST", at, asked, **{"~action": "deploy"})
        assert told["succeeded"], told

    def copy(self, item: dict[str, Any], library: str, name: str) -> None:
        """As its owner does it: everything but the name stays, the description included."""
        spec = {"destination_create_spec": {"library_id": library, "name": name}}
        made = self.ask("POST", f"{self._PATH}/item/id:{item['id']}", spec, **{"~action": "copy"})
        self.ask("PATCH", f"{self._PATH}/item/id:{made}", {"update_spec": {"name": name}})


def _found(content: Any) -> dict[str, Any]:
    view = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True)
    try:
        return {one.name: one for one in view.view}
    finally:
        view.DestroyView()
