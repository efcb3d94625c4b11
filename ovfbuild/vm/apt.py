"""What this host's apt is configured with: where its Debian packages come from, and through what.

A base image is made through the mirror and the proxy that the host already uses, since these are the
ones that can be reached. Formats: sources.list(5), apt.conf(5), apt-transport-mirror(1).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ovfbuild.vm.process import run

SUITES = ("bullseye", "bookworm", "trixie", "forky", "duke", "sid", "oldoldstable", "oldstable", "stable")
"""Names under which Debian publishes a release; `testing` and `unstable` too, below."""

_SUITE = re.compile(rf"(?P<base>{'|'.join(SUITES)}|testing|unstable)(?P<part>-updates|-security|/updates)?/?")
_ONE_LINE = re.compile(r"deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s*(?P<components>[^#]*)")
_SETTING = re.compile(r'(?P<key>[^\s"]+) "(?P<value>.*)";')
_USABLE = frozenset({"http", "https", "ftp", "file", "copy"})
_WANTED = re.compile(
    r"Acquire::(?:(?:http|https|ftp)::.*(?:Proxy|Proxy-Auto-Detect|CaInfo|CaPath|Verify-Peer|Verify-Host)(?:::.*)?"
    r"|Check-Valid-Until|Check-Date|Retries|ForceIPv4|ForceIPv6)",
    re.IGNORECASE,
)
"""What decides whether a mirror can be reached; the rest of a host's apt.conf is its own affair."""


@dataclass(frozen=True)
class Source:
    """One archive, one suite: a `deb` line taken apart."""

    uri: str
    suite: str
    components: tuple[str, ...]
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def signed_by(self) -> str:
        return self.options.get("signed-by", "")


@dataclass(frozen=True)
class Mirrors:
    """Where Debian's packages are fetched from."""

    main: str
    security: str | None = None
    has_updates: bool = True
    signed_by: str = ""
    """A keyring file named by the host's sources, else ""."""
    trusted: bool = False
    """The host's sources say that this mirror needs no signature."""

    def lines(self, suite: str) -> tuple[str, ...]:
        """The one-line sources of a suite of this mirror."""
        words = [f"signed-by={self.signed_by}"] if self.signed_by else []
        words += ["trusted=yes"] if self.trusted else []
        options = f"[{' '.join(words)}] " if words else ""
        found = [f"deb {options}{self.main} {suite} main"]
        if suite not in ("sid", "unstable"):
            if self.has_updates:
                found.append(f"deb {options}{self.main} {suite}-updates main")
            if self.security:
                found.append(f"deb {options}{self.security} {suite}-security main")
        return tuple(found)


@dataclass(frozen=True)
class Settings:
    """The lines of the host's apt.conf without which its mirror cannot be reached."""

    values: tuple[tuple[str, str], ...] = ()

    def options(self) -> tuple[str, ...]:
        """As text for apt.conf or mmdebstrap's --aptopt."""
        return tuple(f'{key} "{value}";' for key, value in self.values)

    def proxy(self, scheme: str) -> str:
        """The proxy for every host of a scheme ("http", "https"), else ""."""
        return self._first(f"Acquire::{scheme}::Proxy")

    @property
    def ca_file(self) -> Path | None:
        """The certificates that the host's apt trusts instead of the system's."""
        found = self._first("Acquire::https::CaInfo")
        return Path(found) if found else None

    def _first(self, wanted: str) -> str:
        for key, value in self.values:
            if key.lower() == wanted.lower() and value and value.upper() != "DIRECT":
                return value
        return ""


def parse_one_line(text: str) -> tuple[Source, ...]:
    """The `deb` lines of a sources.list (what is commented out or deb-src is not there)."""
    found = []
    for line in text.splitlines():
        if match := _ONE_LINE.match(line.strip()):
            options = dict(_option(word) for word in (match["options"] or "").split())
            if options.get("enabled", "yes") != "no":
                components = tuple(match["components"].split())
                found.append(Source(match["uri"], match["suite"], components, options))
    return tuple(found)


def _option(word: str) -> tuple[str, str]:
    key, _, value = word.partition("=")
    return key.rstrip("+-").lower(), value


def parse_deb822(text: str) -> tuple[Source, ...]:
    """The sources of a .sources file; every URI with every suite of its stanza."""
    found: list[Source] = []
    for stanza in _stanzas(text):
        if "deb" not in stanza.get("types", "").split() or stanza.get("enabled", "yes").lower() in (
            "no",
            "false",
        ):
            continue
        options: dict[str, str] = {key: stanza[key] for key in ("signed-by", "trusted") if key in stanza}
        if "architectures" in stanza:
            options["arch"] = ",".join(stanza["architectures"].split())
        components = tuple(stanza.get("components", "").split())
        found += [
            Source(uri, suite, components, options)
            for uri in stanza.get("uris", "").split()
            for suite in stanza.get("suites", "").split()
        ]
    return tuple(found)


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    stanza: dict[str, str] = {}
    key = ""
    for line in [*text.splitlines(), ""]:
        if line.startswith("#"):
            continue
        if not line.strip():
            if stanza:
                yield stanza
            stanza, key = {}, ""
        elif line[0] in " \t":
            stanza[key] = f"{stanza.get(key, '')}\n{line.strip()}"
        else:
            name, _, value = line.partition(":")
            key = name.strip().lower()
            stanza[key] = value.strip()


def read_sources(root: Path = Path("/")) -> tuple[Source, ...]:
    """Every source of a system, in apt's own order."""
    folder = root / "etc/apt"
    found: list[Source] = []
    for path in [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]:
        if path.is_file() and path.suffix in (".list", ".sources"):
            parse = parse_deb822 if path.suffix == ".sources" else parse_one_line
            found += parse(path.read_text(errors="replace"))
    return tuple(found)


def pick_mirrors(sources: tuple[Source, ...]) -> Mirrors | None:
    """Debian's main and security archive among a host's sources.

    Others publish under Debian's suite names too, even with a component `main`. Debian's own archive
    is known by its keyring, by a `-updates` suite beside it, or by its path.
    """
    ours = [source for source in sources if _serves_debian(source)]
    with_updates = {source.uri for source in ours if _part(source) == "-updates"}
    main = [source for source in ours if _part(source) == "" and _is_debians(source, with_updates)]
    if not main:
        return None
    best = max(main, key=lambda source: (_has_debians_key(source), source.uri in with_updates))
    security = next((source.uri for source in ours if _part(source) in ("-security", "/updates")), None)
    key = best.signed_by if best.signed_by.startswith("/") and " " not in best.signed_by else ""
    trusted = best.options.get("trusted", "no").lower() == "yes"
    return Mirrors(best.uri, security, best.uri in with_updates, key, trusted)


def _serves_debian(source: Source) -> bool:
    archs = source.options.get("arch", "amd64").split(",")
    usable = urlsplit(source.uri).scheme in _USABLE
    return usable and "main" in source.components and "amd64" in archs and bool(_SUITE.fullmatch(source.suite))


def _part(source: Source) -> str:
    match = _SUITE.fullmatch(source.suite)
    return (match["part"] or "") if match else ""


def _has_debians_key(source: Source) -> bool:
    return "debian-archive" in source.signed_by


def _is_debians(source: Source, with_updates: set[str]) -> bool:
    if _has_debians_key(source) or source.uri in with_updates:
        return True
    return not source.signed_by and urlsplit(source.uri).path.rstrip("/").endswith("/debian")


def host_mirrors(distribution: str = "debian", root: Path = Path("/")) -> Mirrors | None:
    """Where this host's apt gets Debian from.

    Returns:
        None if it gets no Debian from anywhere (another distribution, or nothing is configured).
    """
    if distribution != "debian":
        return None
    sources: list[Source] = []
    for source in read_sources(root):
        for uri in _behind(source.uri, root):
            sources.append(Source(uri, source.suite, source.components, source.options))  # noqa: PERF401
    return pick_mirrors(tuple(sources))


def _behind(uri: str, root: Path) -> tuple[str, ...]:
    """The mirrors of a `mirror+file:` list (Debian's cloud images use one); any other URI is itself."""
    parts = urlsplit(uri)
    if parts.scheme != "mirror+file":
        return (uri,)
    path = root / parts.path.lstrip("/")
    if not path.is_file():
        return ()
    words = (line.split("#")[0].split() for line in path.read_text().splitlines())
    return tuple(line[0] for line in words if line)


def parse_settings(dump: str) -> Settings:
    """The settings that matter for reaching a mirror, out of what `apt-config dump` wrote."""
    matches = (_SETTING.fullmatch(line.strip()) for line in dump.splitlines())
    return Settings(tuple((m["key"], m["value"]) for m in matches if m and m["value"] and _WANTED.fullmatch(m["key"])))


def host_settings() -> Settings:
    """Proxies, certificates and patience of this host's apt."""
    return parse_settings(run(["apt-config", "dump"], timeout=30))
