"""A content library of a vCenter as a `Cloud`: a package becomes an item of type `ovf`, whose files are its members.

What ovfbuild stored is known by a line of the item's description, JSON behind `ovfbuild: `. While an item is not whole,
the line has the name that it bears meanwhile; when it is whole, the item's own id, since a copy has the line too, and
is its owner's. Both, name and line, change in one request. The API: vSphere Automation API, content.library.item with
its update sessions, as vCenter 6.5 and later have it.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from ovfbuild.errors import FileError, PublishError
from ovfbuild.files import absorb
from ovfbuild.formats.ova import Member
from ovfbuild.publish.automation import Automation, Missing, Unanswered, messages, one
from ovfbuild.publish.cloud import Shipment, Standing, Stored
from ovfbuild.publish.heartbeat import beating
from ovfbuild.publish.meter import Meter, Metered
from ovfbuild.publish.shipment import member_digests
from ovfbuild.publish.vim_session import VimSession, numbers, vim
from ovfbuild.spec.targets import VSphereTarget
from ovfbuild.tries import TryAgain
from ovfbuild.verify.package import Package

_LIBRARY = "/com/vmware/content/library"
_ITEM = f"{_LIBRARY}/item"
_FILE = f"{_ITEM}/file"
_UPDATE = f"{_ITEM}/update-session"
_UPDATE_FILE = f"{_ITEM}/updatesession/file"
_LINE = re.compile(r"^ovfbuild: (\{.*\})$", re.MULTILINE)
_MARKS = ("name", "version", "sha256", "made")
_SECONDS = re.compile(r"\d{1,12}(\.\d{1,9})?")
_SHORTLY = 0.5
"""Seconds between two looks at an update session."""
_COMPLETING = 3600.0
"""Seconds for a server to take in what it was sent."""
_ANSWER = 600.0
"""Seconds until it is asked how far it is, which it answers when all is taken in, else."""
_UNSEEN = (".mf", ".cert")
"""Ends of members that a server may use and not keep."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _told(method: Callable[Concatenate[ContentLibrary, _P], _T]) -> Callable[Concatenate[ContentLibrary, _P], _T]:
    """The method, which does not raise Missing: what went under its hands, another try finds gone."""

    @wraps(method)
    def asked(self: ContentLibrary, /, *args: _P.args, **more: _P.kwargs) -> _T:
        try:
            return method(self, *args, **more)
        except Missing:
            raise TryAgain(f"{self.host}: what was there a moment ago is gone") from None

    return asked


class ContentLibrary:
    """See `cloud.Cloud`."""

    def __init__(self, target: VSphereTarget, session: VimSession, api: Automation) -> None:
        self._target = target
        self._session = session
        self._api = api
        self._known: Mapping[str, Any] | None = None

    @property
    def host(self) -> str:
        return self._target.host

    @_told
    def standing(self, *, write: bool) -> Standing:
        library, room = self._library(), self._room()
        with self._session.told():
            about = self._session.content.about
        if write:
            probe = self._create(f"ovfbuild-probe-{secrets.token_hex(8)}", "")
            self._api.ask("DELETE", one(_ITEM, probe))
        notes = () if room is not None else ("the library lies on no datastore: nobody tells its room",)
        return Standing(f"{about.fullName} at {self.host}, library {library['name']}", room, notes)

    @_told
    def stored(self, name: str) -> Sequence[Stored]:
        found = (self._stored(item) for item in self._items())
        return [stored for stored in found if stored and stored.name == name]

    @_told
    def send(self, shipment: Shipment, resume: Stored | None, meter: Meter) -> Stored:
        del resume  # what an update session was sent is nowhere until it is complete
        final = f"{shipment.name}-{shipment.version}"
        for other in self._items():
            if other["name"] == final and self._stored(other) is None:
                raise PublishError(
                    f"{self._target.library} has an item {final} that ovfbuild did not put there",
                    "rename it, or publish under another --name, or into another library",
                )
        package, begun = shipment.package, f"{final}.unfinished-{secrets.token_hex(4)}"
        made = Stored(shipment.name, shipment.version, shipment.digest, whole=False, made=time.time())
        item = self._create(begun, _described(made, begun=begun))
        update = self._api.ask("POST", _UPDATE, {"create_spec": {"library_item_id": item}})
        meter.total = sum(member.size for member in package.members)
        digests = member_digests(package)
        with beating(
            lambda: self._api.ask("POST", one(_UPDATE, update), action="keep-alive"),
            (PublishError, Missing),
            (TryAgain,),
        ) as alive:
            for member in package.members:
                self._push(update, package, member, digests.get(member.name), meter)
                alive()
            self._complete(update)
        return self._seen(item)

    @_told
    def finish(self, shipment: Shipment, sent: Stored) -> Stored:
        self._compare(shipment.package, sent.key)
        final = f"{shipment.name}-{shipment.version}"
        for other in self._items():
            if other["name"] == final and self._stored(other):
                # What it replaces, which delivery removes when this one is whole.
                self._change(other["id"], name=f"{final}.replaced-{secrets.token_hex(4)}")
        self._change(sent.key, name=final, description=_described(sent, item=sent.key))
        return self._seen(sent.key)

    @_told
    def abandon(self, leftover: Stored) -> None:
        with suppress(Missing):
            for update in self._updates(leftover.key):
                with suppress(Missing, PublishError):  # one that is over can't be cancelled
                    self._api.ask("POST", one(_UPDATE, update), action="cancel")
                with suppress(Missing):
                    self._api.ask("DELETE", one(_UPDATE, update))
            self._api.ask("DELETE", one(_ITEM, leftover.key))

    @_told
    def retire(self, old: Stored) -> None:
        with suppress(Missing):
            self._api.ask("DELETE", one(_ITEM, old.key))

    # --- what goes there ---

    def _create(self, name: str, description: str) -> str:
        """The id of a new item, without any file."""
        spec = {"name": name, "description": description, "library_id": self._library()["id"], "type": "ovf"}
        return str(self._api.ask("POST", _ITEM, {"create_spec": spec}))

    def _change(self, item: str, **fields: str) -> None:
        self._api.ask("PATCH", one(_ITEM, item), {"update_spec": fields})

    def _push(
        self, update: str, package: Package, member: Member, digest: tuple[str, str] | None, meter: Meter
    ) -> None:
        """A member goes as it lies there; `digest` is (algorithm, hex) of the manifest, for the server to verify."""
        spec: dict[str, Any] = {"name": member.name, "source_type": "PUSH", "size": member.size}
        if digest and self._verifies(digest[0]):
            spec["checksum_info"] = {"algorithm": digest[0].upper(), "checksum": digest[1]}
        told = self._api.ask("POST", one(_UPDATE_FILE, update), {"file_spec": spec}, action="add") or {}
        if not (uri := (told.get("upload_endpoint") or {}).get("uri")):
            raise TryAgain(f"{self.host} does not take {member.name}: {messages(told.get('error_message'))}")
        with package.window(member) as stream:
            body = Metered(stream, member.size, meter)
            self._api.put(uri, body)
        if digest and digest[0] == "sha256" and body.digest != digest[1]:
            raise FileError(f"{package.path}: {member.name} was changed while it was read", "let nothing write to it")

    def _verifies(self, algorithm: str) -> bool:
        """Whether the server knows it: SHA-256 and SHA-512 since version 6.8 of the API."""
        with self._session.told():
            return algorithm == "sha1" or numbers(self._session.content.about.apiVersion) >= (6, 8)

    def _complete(self, update: str) -> None:
        """Has the server take in what it was sent, and waits for it."""
        deadline = time.monotonic() + _COMPLETING
        with suppress(Unanswered):  # it goes on there
            self._api.ask("POST", one(_UPDATE, update), action="complete", timeout=max(_ANSWER, self._target.timeout))
        while (told := self._api.ask("GET", one(_UPDATE, update)))["state"] == "ACTIVE":
            if time.monotonic() > deadline:
                raise TryAgain(f"{self.host}: the update session did not end in {_COMPLETING:.0f} s")
            time.sleep(_SHORTLY)
        if told["state"] != "DONE":
            said = messages(told.get("error_message")) or "it says no more"
            if warnings := [messages(warning.get("message")) for warning in _warnings(told)]:
                raise PublishError(
                    f"{self.host} does not trust the package's signature: {'; '.join(warnings)}",
                    "make its authority known to the vCenter, or publish a package that is not signed",
                )
            raise TryAgain(f"{self.host}: the update session is {told['state']}: {said}")
        with suppress(Missing):
            self._api.ask("DELETE", one(_UPDATE, update))

    def _compare(self, package: Package, item: str) -> None:
        """The item's files with the members: by checksum, else by size but for disks, whose size there is another."""
        told = {file["name"]: file for file in self._api.ask("GET", _FILE, library_item_id=item) or ()}
        disks = {member.name for disk in package.stored_disks for member in disk.members}
        digests = member_digests(package)
        for member in package.members:
            file = told.get(member.name)
            if file is None and not member.name.endswith(_UNSEEN):
                raise TryAgain(f"{self.host} has no {member.name}, which was sent")
            if file and (known := file.get("checksum_info")):
                algorithm = str(known.get("algorithm") or "SHA1").lower()
                ours, wanted = digests.get(member.name, ("", ""))
                wanted = wanted if algorithm == ours else _digest(package, member, algorithm)
                if wanted != str(known["checksum"]).lower():
                    raise TryAgain(f"{self.host}: {member.name} arrived with another content")
            elif file and member.name not in disks and file.get("size") != member.size:
                raise TryAgain(f"{self.host}: {file.get('size')} of {member.size} bytes of {member.name} arrived")

    # --- what is there ---

    def _library(self) -> Mapping[str, Any]:
        """The library, which has to be a local one."""
        if self._known is None:
            name = self._target.library
            found = list(self._gotten(_LIBRARY, self._api.ask("GET", _LIBRARY)))
            fit = [library for library in found if library["name"] == name]
            if len(fit) != 1:
                there = ", ".join(sorted(library["name"] for library in found)) or "none"
                raise PublishError(
                    f"library: {f'{name!r} is there twice' if fit else f'there is no {name!r}'}",
                    f"set library of the target; there is: {there}",
                )
            if fit[0].get("type") != "LOCAL":
                raise PublishError(f"library: {name} is subscribed to another one", "publish into that one")
            self._known = fit[0]
        return self._known

    def _room(self) -> int | None:
        """Free bytes of the library's datastore; None where it lies on none."""
        backings = self._library().get("storage_backings") or ()
        stores = [one["datastore_id"] for one in backings if "datastore_id" in one]
        with self._session.told():
            stub = self._session.content.rootFolder._stub
            return sum(int(vim.Datastore(one, stub).summary.freeSpace) for one in stores) if stores else None

    def _items(self) -> list[Mapping[str, Any]]:
        return list(self._gotten(_ITEM, self._api.ask("GET", _ITEM, library_id=self._library()["id"])))

    def _updates(self, item: str) -> list[str]:
        """The update sessions of an item, those of runs that were killed among them."""
        found = self._gotten(_UPDATE, self._api.ask("GET", _UPDATE, library_item_id=item))
        return [str(update["id"]) for update in found if update.get("library_item_id") == item]

    def _gotten(self, path: str, ids: Sequence[str] | None) -> Iterator[Mapping[str, Any]]:
        """Each of a list of ids, with its id, but those that went meanwhile."""
        for identifier in ids or ():
            with suppress(Missing):
                yield {**self._api.ask("GET", one(path, identifier)), "id": identifier}

    def _stored(self, item: Mapping[str, Any]) -> Stored | None:
        """An item that ovfbuild made, by its description; None of any other."""
        marks = _marks(str(item.get("description") or ""))
        begun = marks.get("begun") == item["name"]
        if not (begun or marks.get("item") == item["id"]) or not all(marks.get(key) for key in _MARKS):
            return None
        if not _SECONDS.fullmatch(marks["made"]):
            return None
        ids = {"item": item["id"], "name": item["name"], "library": str(self._target.library), "server": self.host}
        name, version, digest, made = (marks[key] for key in _MARKS)
        return Stored(name, version, digest, not begun, float(made), ids, item["id"])

    def _seen(self, item: str) -> Stored:
        """An item that was ours a moment ago."""
        found = self._stored({**self._api.ask("GET", one(_ITEM, item)), "id": item})
        if found is None:
            raise PublishError(f"{self.host} has not kept the description of item {item}", "look at it")
        return found


def _described(stored: Stored, **more: str) -> str:
    values = (stored.name, stored.version, stored.digest, f"{stored.made:.6f}")
    marks = dict(zip(_MARKS, values, strict=True)) | more
    state = "unfinished" if "begun" in more else "whole"
    return f"{stored.name} {stored.version}, {state}\novfbuild: {json.dumps(marks)}"


def _marks(description: str) -> dict[str, str]:
    found = _LINE.search(description)
    with suppress(ValueError, RecursionError):
        table = json.loads(found[1]) if found else {}
        return {key: value for key, value in table.items() if isinstance(value, str)}
    return {}


def _warnings(update: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What the server minds of a signature, and was not told to ignore."""
    return [warning for warning in (update.get("preview_info") or {}).get("warnings") or () if not warning["ignored"]]


def _digest(package: Package, member: Member, algorithm: str) -> str:
    """Of a member, in hex. Raises TryAgain where nobody knows the algorithm."""
    try:
        running = hashlib.new(algorithm, usedforsecurity=False)
    except ValueError:
        raise PublishError(f"the server tells checksums by {algorithm!r}", "which ovfbuild does not know") from None
    with package.window(member) as stream:
        absorb(stream, running)
    return running.hexdigest()
