"""The remotes of the `incus` client: where a server is, and what it is told by that it is we.

The client's folder is `$INCUS_CONF`, else `incus` in `$XDG_CONFIG_HOME` or ~/.config; `$INCUS_GLOBAL_CONF`, else
/etc/incus, has the remotes of everybody. Source: Incus, shared/cliconfig/{config,file,remote}.go.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ovfbuild.errors import UsageError
from ovfbuild.spec.mistakes import closest, quoted

_LOCAL = {"addr": "unix://"}
_SOCKETS = ("unix.socket", "unix.socket.user")
"""Of the daemon, and of incus-user, which gives each user a project of his own."""


@dataclass(frozen=True)
class Remote:
    """A server that the client knows."""

    name: str
    url: str
    """`https://…`, or "" where it is a socket."""
    socket: Path | None
    project: str
    certificate: Path | None
    """The one certificate (PEM) that the server has to have; None: one that the system trusts."""
    login: tuple[Path, Path] | None
    """The client's certificate and key (PEM)."""


def find(name: str | None, environ: Mapping[str, str]) -> Remote:
    """The remote of that name; by default the one that `INCUS_REMOTE` or the client's configuration say.

    Raises:
        UsageError: there is no such remote, or none that images can be put to with a certificate.
    """
    home = Path(environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    own = Path(environ.get("INCUS_CONF") or home / "incus").expanduser()
    everybody = Path(environ.get("INCUS_GLOBAL_CONF") or "/etc/incus")
    config = _read(own / "config.yml")
    remotes = {**_remotes(_read(everybody / "config.yml")), **_remotes(config), "local": _LOCAL | _local(config)}
    called = name or environ.get("INCUS_REMOTE") or str(config.get("default-remote") or "local")
    if called not in remotes:
        raise UsageError(
            f"the incus client knows no remote {quoted(called)}{closest(called, remotes)}",
            f"incus remote add {called} ADDRESS; looked for in {own / 'config.yml'}",
        )
    folder = own if called in _remotes(config) else everybody
    return _remote(called, remotes[called], own, folder, environ)


def _remote(name: str, table: Mapping[str, Any], own: Path, folder: Path, environ: Mapping[str, str]) -> Remote:
    address = str(table.get("addr") or "")
    if table.get("public") or table.get("protocol", "incus") != "incus":
        raise UsageError(
            f"the remote {name} only hands out images", "name one that can be written to: incus remote list"
        )
    if table.get("auth_type", "tls") != "tls":
        raise UsageError(
            f"the remote {name} logs in by {table['auth_type']}, in a browser",
            "add a remote with a client certificate: incus config trust add there, incus remote add here",
        )
    project = environ.get("INCUS_PROJECT") or str(table.get("project") or "default")
    if address.startswith("unix:"):
        path = address.removeprefix("unix:").removeprefix("//")
        return Remote(name, "", Path(path) if path else _socket(environ), project, None, None)
    certificate = folder / "servercerts" / f"{name}.crt"
    login = (own / "client.crt", own / "client.key")
    for one in login:
        if not one.is_file():
            raise UsageError(
                f"the incus client has no {one}",
                f"incus remote add {name} makes it, or incus remote generate-certificate",
            )
    return Remote(name, address.rstrip("/"), None, project, certificate if certificate.is_file() else None, login)


def _socket(environ: Mapping[str, str]) -> Path:
    """The local server's, the first that may be written to."""
    if named := environ.get("INCUS_SOCKET"):
        return Path(named)
    folder = Path(environ.get("INCUS_DIR") or "/var/lib/incus")
    return next((folder / one for one in _SOCKETS if os.access(folder / one, os.W_OK)), folder / _SOCKETS[0])


def _read(path: Path) -> dict[str, Any]:
    """A config.yml; nothing where there is none. Raises UsageError."""
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not YAML"
        raise UsageError(f"{path} can't be read: {why}", "incus remote list says what it makes of it") from None
    return table if isinstance(table, dict) else {}


def _remotes(config: Mapping[str, Any]) -> dict[str, Any]:
    found = config.get("remotes")
    return {str(key): one for key, one in found.items() if isinstance(one, dict)} if isinstance(found, dict) else {}


def _local(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of the static remote `local` only its project is the configuration's to say."""
    table = _remotes(config).get("local", {})
    return {"project": table["project"]} if "project" in table else {}
