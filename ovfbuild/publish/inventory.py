"""Where on a vSphere a package goes: the objects that a target's names mean, or the only ones that there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ovfbuild.errors import PublishError
from ovfbuild.publish.vim_session import VimSession, vim
from ovfbuild.spec.targets import VSphereTarget


@dataclass(frozen=True)
class Place:
    """Managed objects of the server."""

    datacenter: Any
    datastore: Any
    pool: Any
    folder: Any


def place(session: VimSession, target: VSphereTarget) -> Place:
    """PublishError names what there is, where a name is wrong or there is more than one."""
    root = session.content.rootFolder
    found = _named(session, vim.Datacenter, root)
    center = _pick(found, target.datacenter, "datacenter")
    stores = [(one.name, one) for one in center.datastore]
    hosts = _named(session, vim.ComputeResource, center.hostFolder)
    compute = _pick(hosts, target.cluster, "cluster")
    pool = compute.resourcePool
    for name in _parts(target.resource_pool):
        pool = _pick([(one.name, one) for one in pool.resourcePool], name, "resource_pool")
    folder = center.vmFolder
    for name in _parts(target.folder):
        inner = [(one.name, one) for one in folder.childEntity if isinstance(one, vim.Folder)]
        folder = _pick(inner, name, "folder")
    return Place(center, _pick(stores, target.datastore, "datastore"), pool, folder)


def networks(center: Any, wanted: Sequence[str], target: VSphereTarget) -> list[tuple[str, Any]]:
    """For each network of the package one of the datacenter's: the one that the target says, or of the same name."""
    there = [(one.name, one) for one in {one._moId: one for one in center.network}.values()]
    known = dict(there)
    return [
        (name, known[name] if name in known and name not in target.networks else _mapped(there, name, target))
        for name in wanted
    ]


def _mapped(there: Sequence[tuple[str, Any]], name: str, target: VSphereTarget) -> Any:
    return _pick(there, target.networks.get(name), f'networks."{name}"')


def _named(session: VimSession, kind: Any, root: Any) -> list[tuple[str, Any]]:
    return [(str(row.get("name", "")), one) for one, row in session.rows(kind, root, "name")]


def _parts(path: str | None) -> list[str]:
    return [part for part in (path or "").split("/") if part]


def _pick(found: Sequence[tuple[str, Any]], name: str | None, key: str) -> Any:
    """The one of that name, or the only one."""
    fit = [one for called, one in found if name is None or called == name]
    if len(fit) == 1:
        return fit[0]
    there = ", ".join(sorted(called for called, _ in found)) or "none"
    wrong = (
        f"there are {len(fit)}" if name is None else f"there is no '{name}'" if not fit else f"'{name}' is there twice"
    )
    raise PublishError(f"{key}: {wrong}", f"set {key} of the target; there is: {there}")
