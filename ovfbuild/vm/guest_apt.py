"""What apt in the build VM is told: the host's mirror, proxies and certificates, as files on the seed.

They are used by an apt.conf snippet that the seal takes away; /etc/apt/sources.list in the guest is
never touched, so the finished image has the distribution's public sources.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from ovfbuild.vm.apt import Mirrors, Settings
from ovfbuild.vm.seed import MOUNT

_HOST_SEEN_FROM_THE_GUEST = "10.0.2.2"
"""The host's loopback, on QEMU's user network."""

_CA_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")


def seed_files(
    mirrors: Mirrors | None, suite: str, settings: Settings, environ: Mapping[str, str]
) -> dict[str, bytes | Path]:
    """`apt.conf`, and `sources.list` and `ca.crt` where they are needed.

    Args:
        mirrors: None leaves the guest its own sources (an image of somebody's).
        environ: names the host's certificates (`SSL_CERT_FILE`), where it has others than the system's.
    """
    sources = [] if mirrors is None else [_without_options(line) for line in mirrors.lines(suite)]
    reachable = [seen_from_guest(line) for line in sources if re.match(r"deb https?:", line)]
    told = [*_from_environment(settings, environ), *settings.options()]
    options = [seen_from_guest(line) for line in told if "cainfo" not in line.lower()]
    options.append('Acquire::Languages "none";')
    files: dict[str, bytes | Path] = {}
    if reachable:
        options.append(f'Dir::Etc::sourcelist "{MOUNT}/sources.list";')
        files["sources.list"] = ("\n".join(reachable) + "\n").encode()
    if any("https:" in line for line in [*reachable, *options]):
        bundle = _ca_bundle(settings, environ)
        if bundle is not None:
            options.append(f'Acquire::https::CAInfo "{MOUNT}/ca.crt";')
            files["ca.crt"] = bundle
    files["apt.conf"] = ("\n".join(options) + "\n").encode()
    return files


def passwords(files: Mapping[str, bytes | Path]) -> list[bytes]:
    """Those that apt in the guest was told, in URIs of mirrors and proxies; too short a one would be found anywhere."""
    texts = [files.get(name, b"") for name in ("apt.conf", "sources.list")]
    found = [re.findall(rb"://[^/@:\s\"]*:([^/@\s\"]{6,})@", text) for text in texts if isinstance(text, bytes)]
    return sorted({word for words in found for word in words})


def _from_environment(settings: Settings, environ: Mapping[str, str]) -> list[str]:
    """Proxies that the host's apt takes from its environment, as apt does where its own settings name none."""
    return [
        f'Acquire::{scheme}::Proxy "{environ[f"{scheme}_proxy"]}";'
        for scheme in ("http", "https")
        if environ.get(f"{scheme}_proxy") and not settings.proxy(scheme)
    ]


def seen_from_guest(text: str) -> str:
    """A URI on the host's loopback, as the guest reaches it."""
    return re.sub(r"(?<=://)(localhost|127\.\d+\.\d+\.\d+|\[::1\])(?=[:/\"]|$)", _HOST_SEEN_FROM_THE_GUEST, text)


def _without_options(line: str) -> str:
    """The host's keyring is not the guest's, which has its own distribution's."""
    return re.sub(r"^deb \[[^]]*\] ", "deb ", line)


def _ca_bundle(settings: Settings, environ: Mapping[str, str]) -> Path | None:
    named = [settings.ca_file, Path(environ["SSL_CERT_FILE"]) if environ.get("SSL_CERT_FILE") else None]
    candidates = [path for path in named if path is not None] + [Path(path) for path in _CA_BUNDLES]
    return next((path for path in candidates if path.is_file() and os.access(path, os.R_OK)), None)
