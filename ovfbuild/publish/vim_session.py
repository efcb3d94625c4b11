"""One login to a vSphere Web Services endpoint, and its faults in the project's words.

pyVmomi's own `SmartConnect` hides what went wrong with a connection in a HostConnectFault, so the stub is made here. It
speaks the newest version of the API that both sides know: in an older one, a server leaves out of an import spec what
that did not have yet.
"""

from __future__ import annotations

import http.client
import re
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from pyVmomi import VmomiSupport as _VmomiSupport
from pyVmomi import vim as _vim
from pyVmomi import vmodl as _vmodl
from pyVmomi.SoapAdapter import SoapStubAdapter as _SoapStubAdapter

from ovfbuild.errors import PublishError
from ovfbuild.publish.credentials import Secrets
from ovfbuild.spec.targets import VSphereTarget
from ovfbuild.tries import TryAgain

# Their types are made while they are imported, out of the API's description.
SoapStubAdapter: Any = _SoapStubAdapter
vim: Any = _vim
vmodl: Any = _vmodl
_support: Any = _VmomiSupport

_SHORTLY = 0.2
"""Seconds between two looks at a task or a lease."""
_HELD = 60.0
"""Seconds to wait for what an upload that was killed still holds; its lease ends after five minutes."""


def host_and_port(host: str) -> tuple[str, int]:
    """`vc.example.org:8443`, `[2001:db8::1]`, `vc`: name or address, and port."""
    found = re.fullmatch(r"(\[[^]]+\]|[^:]+)(?::(\d+))?", host)
    assert found, "as VSphereTarget has it"
    return found[1].strip("[]"), int(found[2] or 443)


class VimSession:
    """Logs in when it is first used, and again when the server has forgotten it."""

    def __init__(self, target: VSphereTarget, secrets: Secrets) -> None:
        self._target = target
        self._secrets = secrets
        self._content: Any = None
        self._stub: Any = None

    @property
    def content(self) -> Any:
        """The ServiceContent."""
        if self._content is None:
            first = self._connect()
            about = vim.ServiceInstance("ServiceInstance", first).RetrieveContent().about
            first.DropConnections()
            self._stub = self._connect(version=_version(about.apiVersion))
            content = vim.ServiceInstance("ServiceInstance", self._stub).RetrieveContent()
            content.sessionManager.Login(self._target.user, self.password(), None)
            self._content = content
        return self._content

    def _connect(self, **more: str) -> Any:
        """By default in the version of vSphere 5.5, which every later one understands."""
        host, port = host_and_port(self._target.host)
        timeout = self._target.timeout
        return SoapStubAdapter(host, port, sslContext=self.tls(), httpConnectionTimeout=timeout, poolSize=2, **more)

    def tls(self) -> ssl.SSLContext:
        """How certificates are judged: of the system, or of the target's authority alone, or not at all."""
        try:
            context = ssl.create_default_context(cafile=str(self._target.ca_file) if self._target.ca_file else None)
        except OSError as error:
            raise PublishError(f"{self._target.ca_file}: {error.strerror}", "check ca_file of the target") from None
        if self._target.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def close(self) -> None:
        """Logs out, if that is still possible."""
        with suppress(vmodl.MethodFault, OSError, http.client.HTTPException):
            if self._content is not None:
                self._content.sessionManager.Logout()
        self._content = None
        if self._stub is not None:
            self._stub.DropConnections()

    def rows(self, kind: Any, root: Any, *paths: str) -> list[tuple[Any, dict[str, Any]]]:
        """Everything of a kind below `root`, with those of its properties that it has, in one question."""
        collector = vmodl.query.PropertyCollector
        view = self.content.viewManager.CreateContainerView(root, [kind], True)
        try:
            walk = collector.TraversalSpec(name="view", path="view", skip=False, type=vim.view.ContainerView)
            start = collector.ObjectSpec(obj=view, skip=True, selectSet=[walk])
            wanted = collector.PropertySpec(type=kind, pathSet=list(paths), all=False)
            asked = collector.FilterSpec(objectSet=[start], propSet=[wanted])
            return list(self._retrieve(asked))
        finally:
            with suppress(vmodl.MethodFault):
                view.DestroyView()

    def _retrieve(self, asked: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
        collector = self.content.propertyCollector
        page = collector.RetrievePropertiesEx([asked], vmodl.query.PropertyCollector.RetrieveOptions())
        while page is not None:
            for one in page.objects:
                yield one.obj, {found.name: found.val for found in one.propSet or ()}
            page = collector.ContinueRetrievePropertiesEx(page.token) if page.token else None

    def until_done(self, task: Any) -> Any:
        """The result of a task. Raises the task's own fault, or TryAgain when nothing came of it."""
        deadline = time.monotonic() + max(self._target.timeout, 600)
        while time.monotonic() < deadline:
            told = task.info
            if told.state == "success":
                return told.result
            if told.state == "error":
                raise told.error
            time.sleep(_SHORTLY)
        raise TryAgain(f"{self._target.host}: a task was not done in {deadline:.0f} s")

    def until_ready(self, lease: Any) -> None:
        """Until files can be sent. Raises the lease's own fault, or TryAgain."""
        deadline = time.monotonic() + max(self._target.timeout, 300)
        while (state := lease.state) == "initializing" and time.monotonic() < deadline:
            time.sleep(_SHORTLY)
        if state == "error":
            raise lease.error
        if state != "ready":
            raise TryAgain(f"{self._target.host}: the lease for the upload is {state}")

    @contextmanager
    def told(self) -> Iterator[None]:
        """What the server and the connection say, as TryAgain or PublishError."""
        try:
            yield
        except vim.fault.NotAuthenticated:
            self._content = None
            raise TryAgain(f"{self._target.host}: the session is over") from None
        except vmodl.MethodFault as fault:
            raise self._judged(fault) from None
        except ssl.SSLCertVerificationError as error:
            raise untrusted(self._target.host, error.verify_message) from None
        except (OSError, http.client.HTTPException) as error:
            self._content = None
            said = error.strerror if isinstance(error, OSError) else None
            raise TryAgain(f"{self._target.host}: {said or error or type(error).__name__}") from None

    def _judged(self, fault: Any) -> Exception:
        host, said = self._target.host, sentence(fault)
        if isinstance(fault, vim.fault.InvalidLogin):
            return refused(self._target)
        if isinstance(fault, vim.fault.NoPermission):
            return PublishError(
                f"{host}: {self._target.user} has not the privilege {fault.privilegeId} there",
                "docs/clouds/vsphere.md lists the privileges that a target needs",
            )
        if isinstance(fault, vim.fault.NoDiskSpace | vim.fault.InsufficientStorageSpace):
            return PublishError(f"{host}: {said}", "make room on the datastore")
        if isinstance(fault, vim.fault.TaskInProgress | vmodl.fault.MethodDisabled | vim.fault.InvalidState):
            return TryAgain(f"{host}: {said}", _HELD)
        if isinstance(fault, vmodl.fault.HostCommunication | vmodl.fault.RequestCanceled | vim.fault.Timedout):
            return TryAgain(f"{host}: {said}")
        return PublishError(f"{host}: {said}", "the server's own events say more")

    def password(self) -> str:
        target = self._target
        found = self._secrets.read(f"target {target.name}", target.password_env, target.password_file)
        if found is not None:
            return found
        instead = f"add password_file = or password_env = to target {target.name}"
        return self._secrets.ask(f"Password of {target.user} at {target.host}", instead)


def refused(target: VSphereTarget) -> PublishError:
    """A login that failed."""
    return PublishError(f"{target.host} does not let {target.user} in", "check user and password of the target")


def untrusted(host: str, why: str) -> PublishError:
    """What is wrong with a server's certificate."""
    return PublishError(
        f"{host} has no certificate that is trusted here: {why}",
        "for a private authority, set ca_file of the target to its certificates",
    )


def numbers(version: str) -> tuple[int, ...]:
    """(8, 0, 3, 0) of "8.0.3.0"."""
    return tuple(map(int, re.findall(r"\d+", version)))


def _version(told: str) -> str:
    """pyVmomi's word for the newest version of the API that it has and that is no newer than the server's."""
    ids = {one: _support.versionIdMap[one] for one in _support.GetServiceVersions("vim25")}
    known = {numbers(said): str(one) for one, said in ids.items() if re.fullmatch(r"\d+(\.\d+)+", said)}
    return known[max((one for one in known if one <= numbers(told)), default=min(known))]


def sentence(fault: Any) -> str:
    """What a fault says: its message, else its kind and what it names."""
    kind = type(fault).__name__.rpartition(".")[2]
    inner: Sequence[Any] = getattr(fault, "faultMessage", None) or ()
    said = fault.msg or "; ".join(str(one.message) for one in inner if one.message)
    named = getattr(fault, "name", None) or getattr(fault, "invalidProperty", None)
    return said or (f"{kind} ({named})" if named else kind)
