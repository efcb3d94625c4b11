"""A catalogue of packages in a store of files: a web server's folder, or a bucket.

    NAME/catalogue.json                     every version that is whole, and every upload that is not
    NAME/VERSION-TOKEN/NAME-VERSION.ova     and SHA256SUMS, and NAME-VERSION.cdx.json where there is a bill of materials

`catalogue.json` is the journal, too: an upload is in it, under `unfinished`, before its first byte is sent, and moves
to `versions` in the one PUT that makes it whole. So a server that can neither list nor rename is enough, a reader
never sees a half one, and what a killed run left is found by the next. TOKEN keeps a second upload of one version apart
from the first, which stays whole until then. One publisher a name at a time.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from ovfbuild.errors import PublishError
from ovfbuild.files import sha256_of
from ovfbuild.publish.cloud import Shipment, Standing, Stored
from ovfbuild.publish.meter import Meter

FILE_NAME = "catalogue.json"
SUMS = "SHA256SUMS"
_FORM = 1
_JSON, _TEXT, _OVA = "application/json", "text/plain; charset=utf-8", "application/ovf"
"""The media types; of an OVA, that of IANA's registry (DMTF)."""


@dataclass(frozen=True)
class Piece:
    """A file to be uploaded, and what has to arrive."""

    path: str
    source: Path
    size: int
    sha256: str
    media_type: str


class Store(Protocol):
    """Files under paths. Every method may raise TryAgain or PublishError."""

    resumes: bool
    """Whether `upload` goes on with what an earlier one left."""

    def url(self, path: str) -> str:
        """Where others find it."""

    def read(self, path: str) -> bytes | None:
        """A small file; None where there is none."""

    def write(self, path: str, octets: bytes, media_type: str) -> None:
        """A small file, whole or not at all for whoever reads it; with the folders above it."""

    def upload(self, piece: Piece, meter: Meter) -> None:
        """A large one, in bounded memory, into a folder that is there."""

    def compare(self, piece: Piece) -> None:
        """TryAgain unless what lies there is the piece, by digest or, where none is told, by size."""

    def remove(self, path: str) -> None:
        """A file, and what a broken upload left of it."""

    def remove_folder(self, path: str) -> None:
        """A folder and what is in it, where folders are things of their own."""

    def standing(self, *, write: bool) -> Standing:
        """See `Cloud.standing`."""


@dataclass(frozen=True)
class Entry:
    """A version in a catalogue. Paths are from the folder of the catalogue."""

    version: str
    published: str
    """RFC 3339, UTC."""
    sha256: str
    """Of the OVA."""
    size: int
    ova: str
    checksums: str
    sbom: str | None
    summary: str

    @property
    def made(self) -> float:
        return datetime.fromisoformat(self.published).timestamp()


@dataclass(frozen=True)
class _Catalogue:
    versions: tuple[Entry, ...] = ()
    unfinished: tuple[Entry, ...] = ()

    def without(self, ova: str) -> _Catalogue:
        versions, unfinished = ([e for e in part if e.ova != ova] for part in (self.versions, self.unfinished))
        return _Catalogue(tuple(versions), tuple(unfinished))

    def entry(self, ova: str) -> Entry | None:
        return next((one for one in (*self.versions, *self.unfinished) if one.ova == ova), None)


class CatalogueCloud:
    """A `Cloud` that keeps packages in a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def standing(self, *, write: bool) -> Standing:
        return self._store.standing(write=write)

    def stored(self, name: str) -> Sequence[Stored]:
        catalogue = self._load(name)
        whole = [self._stored(name, one, whole=True) for one in catalogue.versions]
        return [*whole, *(self._stored(name, one, whole=False) for one in catalogue.unfinished)]

    def send(self, shipment: Shipment, resume: Stored | None, meter: Meter) -> Stored:
        catalogue = self._load(shipment.name)
        entry = catalogue.entry(resume.key) if resume else None
        if entry is None:
            entry = _entry(shipment)
            begun = replace(catalogue, unfinished=(*catalogue.unfinished, entry))
            self._save(shipment.name, begun)
        pieces = list(_pieces(shipment, entry))
        sums = "".join(f"{one.sha256}  {one.path.rpartition('/')[2]}\n" for one in pieces)
        # The small ones first: they tell what is wrong with the folder, and cost nothing.
        self._store.write(f"{shipment.name}/{entry.checksums}", sums.encode(), _TEXT)
        for small in pieces[1:]:
            self._store.write(small.path, small.source.read_bytes(), small.media_type)
        self._store.upload(pieces[0], meter)
        return self._stored(shipment.name, entry, whole=False)

    def finish(self, shipment: Shipment, sent: Stored) -> Stored:
        catalogue = self._load(shipment.name)
        entry = catalogue.entry(sent.key)
        if entry is None:
            raise PublishError(
                f"{sent.ids['catalogue']} was changed by somebody else meanwhile", "let one publish a name at a time"
            )
        for piece in _pieces(shipment, entry):
            self._store.compare(piece)
        rest = catalogue.without(entry.ova)
        self._save(shipment.name, replace(rest, versions=(*rest.versions, entry)))
        return self._stored(shipment.name, entry, whole=True)

    def abandon(self, leftover: Stored) -> None:
        catalogue = self._load(leftover.name)
        entry = catalogue.entry(leftover.key)
        if entry is None:
            return
        for path in filter(None, (entry.ova, entry.sbom, entry.checksums)):
            self._store.remove(f"{leftover.name}/{path}")
        self._store.remove_folder(f"{leftover.name}/{entry.ova.partition('/')[0]}")
        self._save(leftover.name, catalogue.without(entry.ova))

    def retire(self, old: Stored) -> None:
        catalogue = self._load(old.name)
        entry = catalogue.entry(old.key)
        if entry is not None:
            rest = catalogue.without(entry.ova)
            self._save(old.name, replace(rest, unfinished=(*rest.unfinished, entry)))
            self.abandon(old)

    def _stored(self, name: str, entry: Entry, *, whole: bool) -> Stored:
        ids = {
            "url": self._store.url(f"{name}/{entry.ova}"),
            "checksums": self._store.url(f"{name}/{entry.checksums}"),
            "catalogue": self._store.url(f"{name}/{FILE_NAME}"),
        }
        resumable = self._store.resumes and not whole
        return Stored(name, entry.version, entry.sha256, whole, entry.made, ids, entry.ova, resumable)

    def _load(self, name: str) -> _Catalogue:
        text = self._store.read(f"{name}/{FILE_NAME}")
        if text is None:
            return _Catalogue()
        try:
            found = json.loads(text)
            if found["ovfbuild-catalogue"] != _FORM:
                raise ValueError(f"it is of form {found['ovfbuild-catalogue']}")
            return _Catalogue(*(tuple(Entry(**one) for one in found[key]) for key in ("versions", "unfinished")))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            url = self._store.url(f"{name}/{FILE_NAME}")
            raise PublishError(f"{url} is no catalogue of ovfbuild ({error})", "move it away, or use --name") from None

    def _save(self, name: str, catalogue: _Catalogue) -> None:
        path = f"{name}/{FILE_NAME}"
        if catalogue == _Catalogue():
            self._store.remove(path)
            return
        table: dict[str, Any] = {"ovfbuild-catalogue": _FORM, "name": name, **asdict(catalogue)}
        self._store.write(path, (json.dumps(table, indent=2) + "\n").encode(), _JSON)


def _entry(shipment: Shipment) -> Entry:
    folder = f"{shipment.version}-{secrets.token_hex(4)}"
    stem = f"{shipment.name}-{shipment.version}"
    return Entry(
        version=shipment.version,
        published=datetime.now(UTC).isoformat(timespec="microseconds"),
        sha256=shipment.digest,
        size=shipment.size,
        ova=f"{folder}/{stem}.ova",
        checksums=f"{folder}/{SUMS}",
        sbom=f"{folder}/{stem}.cdx.json" if shipment.sbom else None,
        summary=_summary(shipment),
    )


def _summary(shipment: Shipment) -> str:
    products = shipment.package.envelope.virtual_system.products
    return (products[0].product or "") if products else ""


def _pieces(shipment: Shipment, entry: Entry) -> Iterator[Piece]:
    yield Piece(f"{shipment.name}/{entry.ova}", shipment.path, shipment.size, shipment.digest, _OVA)
    if shipment.sbom and entry.sbom:
        bill = shipment.sbom
        yield Piece(f"{shipment.name}/{entry.sbom}", bill, bill.stat().st_size, sha256_of(bill), _JSON)
