"""appliance.toml, key by key, as frozen models. `ovfbuild.spec.appliance.load` makes one of a file.

Sizes are bytes, durations seconds, paths absolute and seen to exist. The docstring under a key is what
an editor shows of it (the JSON schema is made of these models), and appliance.toml(5) says it at length.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from ovfbuild.spec import fields as f
from ovfbuild.spec import references as r
from ovfbuild.spec.agent_table import AgentTable
from ovfbuild.spec.deployment import Property, clashes
from ovfbuild.spec.disks import DataDisk, disk_clashes
from ovfbuild.spec.hardware import Hardware, Network, at_least
from ovfbuild.spec.languages import Java, Node, Python, not_offered
from ovfbuild.spec.mistakes import quoted
from ovfbuild.spec.products import (
    DeploymentOption,
    Product,
    VMware,
    option_clashes,
    same_products,
    told_tables,
)
from ovfbuild.spec.profile import Format
from ovfbuild.spec.table import Table
from ovfbuild.spec.targets import AnyTarget, same_names

_MIB = 1024**2


def _repeated(key: str, values: object, inner: str = "") -> Iterable[tuple[str, str]]:
    """A mistake for every string that stands a second time in an array, or in its tables under `inner`."""
    seen: set[str] = set()
    for value in values if isinstance(values, list | tuple) else ():
        word = value.get(inner) if inner and isinstance(value, dict) else value
        if isinstance(word, str) and word in seen:
            yield key, f"has {quoted(word)} twice; keep one"
        elif isinstance(word, str):
            seen.add(word)


def _one_of(table: Mapping[str, Any], first: str, second: str) -> Iterable[tuple[str, str]]:
    if first in table and second in table:
        yield second, f"stands beside a {first}; keep one of the two"
    if first not in table and second not in table:
        yield "", f"has neither {first} nor {second}; add one of the two"


class Base(Table):
    """What the appliance starts from: a distribution made here, or an image."""

    distribution: r.Distribution | None = Field(None, examples=["debian:12"])
    """Made here, from the distribution's packages."""
    image: r.FileOrUrl | None = None
    """A qcow2, raw or VMDK disk with cloud-init in it, or an OVA with one: a path, or an http(s) URL."""
    checksum: f.Checksum | None = None
    """The image's digest, "sha256:…" or "sha512:…". This or `checksums` is required for a URL."""
    checksums: f.HttpUrl | None = None
    """The URL of a SHA256SUMS or SHA512SUMS file that names the image."""
    mirror: f.Mirror | None = None
    """Where the distribution's packages come from; by default where the host's apt takes them."""
    sources: tuple[f.AptSource, ...] = ()
    """Lines of apt's sources that the finished appliance has; by default the distribution's public ones."""
    os: r.GuestOsName | None = Field(None, examples=["ubuntu:24.04"])
    """The system inside an image, as importers are told. A distribution names itself."""

    @classmethod
    def contradictions(cls, table: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        distribution, image = "distribution" in table, table.get("image")
        if distribution and "image" in table:
            yield "image", "stands beside a distribution; keep one of the two"
        if not distribution and "image" not in table:
            yield "", 'says neither distribution nor image; for example distribution = "debian:12"'
        if "checksum" in table and "checksums" in table:
            yield "checksums", "stands beside a checksum; keep one of the two"
        if isinstance(image, str) and "://" in image and not {"checksum", "checksums"} & table.keys():
            right = 'add checksum = "sha512:…" or checksums = "URL of SHA512SUMS"'
            yield "image", f"is a URL without a checksum; {right}"
        if isinstance(image, str) and "://" not in image and "checksums" in table:
            yield "checksums", 'is for an image that is a URL; write checksum = "sha512:…"'
        for key in ("checksum", "checksums", "os"):
            if key in table and "image" not in table:
                yield key, "is for an image; leave it out"
        for key in ("mirror", "sources"):
            if key in table and not distribution:
                yield key, "is for a distribution made here; leave it out"

    @property
    def guest_os(self) -> str | None:
        """The name by which descriptors/guest_os.toml is asked."""
        return self.distribution or self.os


class User(Table):
    """An account that the appliance ships with."""

    name: f.Account = Field(examples=["admin"])
    """The account's name; root may be given keys, a password hash and a shell."""
    groups: tuple[f.Account, ...] = ()
    """Further groups; those that do not exist are made."""
    sudo: f.Sudo = False
    """true: may do all without a password; or a rule of sudoers, such as "ALL=(ALL) ALL"."""
    shell: f.Shell = "/bin/bash"
    """The login shell."""
    ssh_keys: tuple[f.SshKey, ...] = ()
    """Public keys that may log in, each as in a .pub file."""
    password_hash: f.PasswordHash | None = None
    """A hash of crypt(5), made with: openssl passwd -6. Without it no password opens the account."""

    @classmethod
    def contradictions(cls, table: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        if table.get("name") == "root":
            for key in ("groups", "sudo"):
                if key in table:
                    yield key, "means nothing for root; leave it out"
        yield from _repeated("groups", table.get("groups"))
        yield from _repeated("ssh_keys", table.get("ssh_keys"))


class System(Table):
    """What is set in the guest by name: packages, users and the like."""

    packages: tuple[f.Package, ...] = ()
    """Packages of the distribution, each "name" or "name=version"."""
    hostname: f.Hostname | None = None
    """The host's name until a deployment gives another; by default the appliance's name."""
    timezone: r.Timezone = "Etc/UTC"
    """A name of the time zone database."""
    locale: f.Locale = "C.UTF-8"
    """The system's locale; made if the guest has not got it."""
    keyboard: f.Keyboard | None = None
    """The console's keyboard layout, as XKB calls it; by default the base's own."""
    users: tuple[User, ...] = ()
    """Accounts that the appliance ships with."""

    @classmethod
    def contradictions(cls, table: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        yield from _repeated("users", table.get("users"), "name")
        packages = table.get("packages")
        if isinstance(packages, list | tuple):
            names = [p.partition("=")[0] if isinstance(p, str) else p for p in packages]
            yield from _repeated("packages", names)


class File(Table):
    """A file or a folder that is put into the guest."""

    source: r.AnyPath | None = None
    """A file, or a folder whose content goes into the target folder."""
    content: f.Content | None = None
    """The file's content itself, instead of a source."""
    target: f.Target = Field(examples=["/etc/hello.conf"])
    """The absolute path in the guest."""
    mode: f.Mode | None = Field(None, examples=["0644"])
    """Octal digits; by default 0755 for what is executable at the source, else 0644."""
    owner: f.Owner = "root"
    """"user" or "user:group"; a user alone stands for the group of the same name too."""

    @classmethod
    def contradictions(cls, table: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        yield from _one_of(table, "source", "content")

    @property
    def owner_and_group(self) -> tuple[str, str]:
        """`("www-data", "adm")`."""
        user, _, group = self.owner.partition(":")
        return user, group or user


class Script(Table):
    """A program that runs once in the guest, as root, after packages, users and files."""

    name: f.ScriptName = Field(examples=["configure"])
    """What it is called in progress and messages."""
    source: r.FilePath | None = None
    """The program's file, with a #! line, or an ELF program."""
    run: f.Body | None = None
    """The script itself, instead of a source; without a #! line it is run by sh -eu."""

    @classmethod
    def contradictions(cls, table: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        yield from _one_of(table, "source", "run")


class CloudInit(Table):
    """The author's own cloud-init."""

    user_data: r.UserDataFile | None = None
    """A file that begins with #cloud-config; merged into ovfbuild's own."""


class Build(Table):
    """The VM that the appliance is built in."""

    timeout: f.Duration = Field("30 min", validate_default=True)
    """How long the whole guest may take."""
    stall: f.Duration = Field("10 min", validate_default=True)
    """How long it may go without a sign of life."""
    memory: f.Size = Field("1 GiB", validate_default=True)
    """Its memory, at least 256 MiB."""
    cpus: int = Field(2, ge=1, le=128)
    """Its virtual CPUs."""
    firmware: Literal["bios", "efi"] = "bios"
    """What it boots with."""

    @field_validator("memory")
    @classmethod
    def _memory_fits(cls, size: int) -> int:
        return at_least(size, 256 * _MIB, _MIB)


Compression = Literal["turbo", "fast", "balanced", "small"]


class Sign(Table):
    """Who signs the package."""

    certificate: r.FilePath
    """The X.509 certificate, in PEM."""
    key: r.FilePath
    """Its private RSA key, in PEM; one that is encrypted asks for its passphrase."""
    passphrase_env: str | None = None
    """The environment variable that holds the passphrase."""
    passphrase_file: r.FilePath | None = None
    """The file whose first line is the passphrase."""

    @classmethod
    def contradictions(cls, table: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        if "passphrase_env" in table and "passphrase_file" in table:
            yield "passphrase_file", "stands beside a passphrase_env; keep one of the two"


class Package(Table):
    """How the package is written."""

    compression: Compression = "balanced"
    """How hard the disk is compressed; turbo may give other bytes the next time, the others never do."""
    format: Format | None = None
    """What comes out: an OVA, a folder, or the disks alone; by default what the profile says."""
    chunk: f.Size | None = Field(None, examples=["1 GiB"])
    """In a folder, cut each disk into files of this size, which only VMware joins again."""
    gzip: bool = False
    """Compress each disk once more, which not every importer unpacks."""
    sign: Sign | None = None
    """Who signs the manifest."""

    @field_validator("chunk")
    @classmethod
    def _chunk_fits(cls, size: int | None) -> int | None:
        return None if size is None else at_least(size, _MIB, 1)


class Appliance(Table):
    """An appliance.toml of ovfbuild: one virtual appliance."""

    name: f.Name = Field(examples=["hello"])
    """A DNS label: names the machine, its files and its host."""
    version: f.Version = Field(examples=["1.0.0"])
    """The appliance's version; part of its file names."""
    summary: f.Line = ""
    """What the appliance is, in one line."""
    vendor: f.Line = ""
    """Who makes it."""
    url: f.HttpUrl | None = None
    """Where to read more about it."""
    icon: r.PngFile | None = None
    """A PNG image that stands for the appliance."""
    annotation: f.Prose = ""
    """Remarks that the importer shows."""
    eula: r.TextFile | None = None
    """A text file with the license that whoever imports it must accept."""
    profiles: tuple[r.ProfileName, ...] = ("portable",)
    """What it is packaged for, one package each."""
    base: Base
    """What the appliance starts from."""
    hardware: Hardware = Hardware()
    """The machine that the package declares."""
    disks: tuple[DataDisk, ...] = ()
    """Further disks, in this order after the one that it boots from."""
    networks: tuple[Network, ...] = (Network(name="VM Network"),)
    """The networks, one network card each."""
    system: System = System()
    """What is set in the guest by name."""
    java: Java | None = None
    """A Java runtime, of the distribution or of an archive."""
    python: Python | None = None
    """Python packages in a virtual environment, fetched by the host's pip."""
    node: Node | None = None
    """Node.js and packages of npm, fetched by the host's npm."""
    files: tuple[File, ...] = ()
    """Files and folders that are put into the guest, in this order."""
    agent: AgentTable | None = None
    """The agent that the appliance contains."""
    scripts: tuple[Script, ...] = ()
    """Programs that run once in the guest, in this order."""
    properties: tuple[Property, ...] = ()
    """Values that are given where the appliance is deployed."""
    products: tuple[Product, ...] = ()
    """Further products in the appliance, with properties of their own."""
    deployment_options: tuple[DeploymentOption, ...] = ()
    """Sizes of the machine that are chosen where the appliance is deployed; many importers misread them."""
    vmware: VMware = VMware()
    """VMware's own settings."""
    cloud_init: CloudInit = CloudInit()
    """The author's own cloud-init."""
    package: Package = Package()
    """How the package is written."""
    build: Build = Build()
    """The VM that the appliance is built in."""
    publish: tuple[AnyTarget, ...] = ()
    """Where `make --publish` sends the package."""

    @classmethod
    def contradictions(cls, table: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        yield from _repeated("networks", table.get("networks"), "name")
        yield from _repeated("scripts", table.get("scripts"), "name")
        yield from _repeated("profiles", table.get("profiles"))
        if table.get("profiles") == []:
            yield "profiles", 'is empty; write at least one, such as "portable"'
        hardware, base = table.get("hardware"), table.get("base")
        secure = isinstance(hardware, Mapping) and hardware.get("secure_boot") is True
        if secure and isinstance(base, Mapping) and "distribution" in base:
            yield "hardware", "has secure_boot, but a base made here has no signed boot loader; name an image that has"
        yield from not_offered(table)
        own = table.get("properties")
        yield from clashes([*(own if isinstance(own, list | tuple) else ()), *told_tables(table.get("products"))])
        yield from disk_clashes(table.get("disks"))
        yield from same_products(table.get("products"))
        yield from same_names(table.get("publish"))
        yield from option_clashes(table.get("deployment_options"), hardware)

    @property
    def told(self) -> tuple[Property, ...]:
        """What it is told where it is deployed, its own and its products', by the keys in the machine."""
        return (*self.properties, *(one for product in self.products for one in product.told))

    @property
    def hostname(self) -> str:
        """The host's name in the guest."""
        return self.system.hostname or self.name
