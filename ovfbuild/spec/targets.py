"""Where packages are published to: `[[publish]]`, in the user's targets.toml or in an appliance.toml.

A kind of target is a table below, its name in `AnyTarget`, and its module in `ovfbuild.publish`. No key holds a
secret: one names the environment variable or the file that does, and what a cloud's own client keeps is used where
it lies.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError, ValidationInfo, WrapValidator
from pydantic_core import InitErrorDetails

from ovfbuild.errors import UsageError
from ovfbuild.spec import fields as f
from ovfbuild.spec.mistakes import closest, in_toml, mistake, quoted, sentences, wrong_type
from ovfbuild.spec.table import Table

FILE_NAME = "targets.toml"
HINT = "Every key of a target, with an example: man 5 appliance.toml, [[publish]]"


def _some_path(text: str, folder: Path) -> Path:
    if not text or "\0" in text:
        raise ValueError("is not a path; name a file")
    try:
        return folder / Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"{quoted(text)} begins with the home of an unknown user; write the path") from None


SomePath = Annotated[Path, f.text_field(_some_path), f.json_string()]
"""A file that has to be there when the target is used, not when its table is read."""


class Target(Table):
    """What every target has."""

    name: f.ScriptName = Field(examples=["lab"])
    """What `--to` and `--publish` call it."""
    timeout: f.Duration = Field("60 s", validate_default=True)
    """How long the server may say nothing before the connection counts as lost."""
    kind: str
    """The kind of target."""
    tries: int = Field(5, ge=1, le=100)
    """How often an upload is tried; a try that got further does not count."""
    same_version: Literal["refuse", "replace"] = "refuse"
    """What becomes of another content of a version that is there."""
    keep_old: int | None = Field(None, ge=0)
    """How many other versions stay when a package has arrived; by default all."""


class Connected(Target):
    """A target behind TLS."""

    ca_file: SomePath | None = None
    """Certificates (PEM) of the authority that the server's own is signed by, if the system does not know it."""
    insecure: bool = False
    """true: believe any certificate. Whoever is on the way may then read and change everything."""


class HttpTarget(Connected):
    """A web server that takes PUT: a catalogue of packages that others build from."""

    kind: Literal["http"]
    """The kind of target."""
    url: f.HttpUrl = Field(examples=["https://files.example.org/appliances/"])
    """The folder on the server."""
    user: str | None = None
    """Who logs in, with a password; without it ~/.netrc is asked."""
    password_env: str | None = None
    """The environment variable that holds the password."""
    password_file: SomePath | None = None
    """The file whose first line is the password."""
    token_env: str | None = None
    """The environment variable that holds a bearer token, instead of user and password."""
    token_file: SomePath | None = None
    """The file whose first line is a bearer token; it is read again when the server says that the token is over."""
    read_back: bool = False
    """true: what arrived is read again and its digest compared, where the server tells no digest by itself."""

    @classmethod
    def contradictions(cls, table: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        yield from _one_secret(table, "password_env", "password_file", "token_env", "token_file")
        if "user" not in table:
            for key in ("password_env", "password_file"):
                if key in table:
                    yield key, 'has no user beside it; add user = "…"'
        url = table.get("url")
        if isinstance(url, str) and "@" in url.split("://")[-1].partition("/")[0]:
            yield "url", "has a user or a password in it; write user = and password_file = instead"
        if isinstance(url, str) and ("?" in url or "#" in url):
            yield "url", "has a query or a fragment; write a folder's URL"


class S3Target(Connected):
    """A bucket of an S3-compatible store: a catalogue like that of a web server. Credentials are where boto3 looks."""

    kind: Literal["s3"]
    """The kind of target."""
    bucket: str = Field(examples=["appliances"])
    """The bucket; it has to be there."""
    prefix: str = ""
    """What all keys begin with, such as "stable"."""
    endpoint: f.HttpUrl | None = None
    """The store's URL; without it, AWS."""
    region: str | None = None
    """Its region, if the profile names none."""
    profile: str | None = None
    """A profile of ~/.aws, by default AWS_PROFILE or "default"."""
    public_url: f.HttpUrl | None = None
    """Where others read what lies under bucket and prefix, if not at the endpoint."""
    parallel: int = Field(4, ge=1, le=16)
    """How many parts of 8 MiB are sent at once; each takes its size of memory."""


class OpenStackTarget(Target):
    """A project of an OpenStack cloud: images in Glance. Who logs in, and where, stands in clouds.yaml."""

    kind: Literal["openstack"]
    """The kind of target."""
    cloud: str | None = Field(None, examples=["lab"])
    """The cloud's name in clouds.yaml; by default what OS_CLOUD or the other OS_ variables say."""
    region: str | None = None
    """The region, if clouds.yaml does not say which."""
    disk_format: Literal["qcow2", "vmdk"] = "qcow2"
    """qcow2 for KVM; vmdk, streamOptimized as it lies in the package, for a cloud on VMware."""
    visibility: Literal["private", "shared", "community", "public"] = "private"
    """Who sees the image."""
    tags: tuple[str, ...] = ()
    """Tags of the image."""
    image_properties: dict[str, str] = Field(default_factory=dict, examples=[{"hw_disk_bus": "virtio"}])
    """Image properties, beside and instead of those that the package comes to."""
    upload: Literal["auto", "import", "direct"] = "auto"
    """import: staged, then taken in by the cloud's own import (glance-direct); auto: wherever it is offered."""
    block_device_mapping: bool = True
    """Of several disks: the image that boots tells Nova to make volumes of the others with each machine."""
    old: Literal["remove", "hide"] = "remove"
    """What --keep-old does to a version: hide leaves it to those who know its id."""


class IncusTarget(Target):
    """A project of an Incus server: images of virtual machines. Who logs in, and where, stands in the incus client's
    configuration."""

    kind: Literal["incus"]
    """The kind of target."""
    remote: str | None = Field(None, examples=["lab"])
    """The remote, of those that `incus remote list` shows; by default the client's own default."""
    project: str | None = None
    """The project; by default that of the remote."""
    public: bool = False
    """true: everybody who reaches the server may see and copy the image."""
    image_properties: dict[str, str] = Field(default_factory=dict)
    """Image properties, beside and instead of those that the package comes to."""


class LibvirtTarget(Target):
    """A libvirt daemon with QEMU. Credentials are libvirt's and ssh's own."""

    kind: Literal["libvirt"]
    """The kind of target."""
    uri: str = "qemu:///system"
    """How libvirt is reached, such as "qemu+ssh://root@host/system"."""
    pool: f.ScriptName = "default"
    """The storage pool, of type dir, fs or netfs."""
    network: str = "default"
    """Where network cards hang: a network of libvirt's, "bridge:NAME", or "user" for QEMU's own."""
    networks: Mapping[str, str] = {}
    """The same for networks of the descriptor by name."""
    domain_type: Literal["kvm", "qemu"] | None = None
    """What runs the domain; by default kvm where the host has it."""
    disk_bus: Literal["ahci", "ide", "pvscsi", "lsilogicsas", "virtio-scsi", "virtio"] | None = None
    """The disks' controller, instead of the one that the descriptor declares."""
    start: bool = False
    """true: start the domain when it is defined."""
    read_back: bool = False
    """true: what arrived is read again and its digest compared."""

    @classmethod
    def contradictions(cls, table: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        uri = table.get("uri")
        if isinstance(uri, str) and not re.match(r"qemu(\+[a-z0-9]+)?://", uri):
            yield "uri", 'is no URI of QEMU in libvirt; such as "qemu:///system" or "qemu+ssh://root@host/system"'
        if isinstance(uri, str) and re.search(r"://[^/@]*:[^/@]*@", uri):
            yield "uri", "has a password in it; ssh and libvirt have places of their own for it"


class VSphereTarget(Connected):
    """A vCenter, or a single ESXi: packages become machines, templates, or items of a content library."""

    kind: Literal["vsphere"]
    """The kind of target."""
    host: f.Host = Field(examples=["vcenter.example.org"])
    """The server's name or address; with `:port` if that is not 443."""
    user: str = Field(examples=["ci@vsphere.local"])
    """Who logs in."""
    password_env: str | None = None
    """The environment variable that holds the password."""
    password_file: SomePath | None = None
    """The file whose first line is the password."""
    datacenter: str | None = None
    """The datacenter; this key and those below may be left out where there is only one."""
    cluster: str | None = None
    """The cluster, or the host, that the machine belongs to."""
    resource_pool: str | None = None
    """A resource pool in it, with / between those that lie in each other; by default the cluster itself."""
    datastore: str | None = None
    """The datastore for the disks."""
    folder: str | None = Field(None, examples=["templates/linux"])
    """The folder of machines, with / between; by default the datacenter's own."""
    networks: dict[str, str] = Field(default_factory=dict)
    """By the package's network the server's; one of the same name needs no entry."""
    template: bool = False
    """true: it becomes a template."""
    library: str | None = Field(None, examples=["appliances"])
    """A local content library of a vCenter: the package becomes an item of type ovf in it, and no machine."""
    provisioning: Literal["thin", "thick", "eagerZeroedThick"] = "thin"
    """How the disks' space is taken."""
    deployment_option: str | None = None
    """The id of one of the package's deployment options; by default its own default."""
    property_mapping: dict[str, str] = Field(default_factory=dict)
    """Values of the package's properties, by class.key.instance."""

    @classmethod
    def contradictions(cls, table: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        yield from _one_secret(table, "password_env", "password_file")
        if "library" in table:
            for key in _OF_MACHINES:
                if key in table:
                    yield key, "stands beside library; it is asked for when a machine is deployed from there"


_OF_MACHINES = (
    *("datacenter", "cluster", "resource_pool", "datastore", "folder", "networks", "template", "provisioning"),
    *("deployment_option", "property_mapping"),
)
"""Keys of a vSphere target that say what becomes of a machine."""


def _one_secret(table: Mapping[str, Any], *keys: str) -> Iterable[tuple[str, str]]:
    """A mistake for every key that names a second place of the same secret."""
    found = [key for key in keys if key in table]
    for key in found[1:]:
        yield key, f"stands beside {found[0]}; keep one of the two"


_Any = HttpTarget | IncusTarget | LibvirtTarget | OpenStackTarget | S3Target | VSphereTarget
KINDS: Mapping[str, type[Target]] = {get_args(kind.model_fields["kind"].annotation)[0]: kind for kind in get_args(_Any)}
"""The table of each kind."""


def _of_its_kind(table: Any, handler: object, info: ValidationInfo) -> Target:
    """A table as the model of its kind: pydantic would try all kinds, and put their names into the mistakes' paths."""
    del handler
    if isinstance(table, Target):
        return table
    if not isinstance(table, Mapping):
        raise mistake(wrong_type("a table", table))
    kind = table.get("kind")
    if isinstance(kind, str) and kind in KINDS:
        return KINDS[kind].model_validate(table, context=info.context)
    there = f"there are {', '.join(KINDS)}"
    said = f"is missing; {there}" if kind is None else f"must be a string, not {in_toml(kind)}; {there}"
    if isinstance(kind, str):
        said = f"{quoted(kind)} is no kind of target{closest(kind, KINDS)}; {there}"
    details = InitErrorDetails(type=mistake(said), loc=("kind",), input=None)
    raise ValidationError.from_exception_data("target", [details])


AnyTarget = Annotated[_Any, WrapValidator(_of_its_kind)]
"""A table of `[[publish]]`."""


def same_names(tables: object) -> Iterable[tuple[str, str]]:
    """A mistake for every name that an earlier table of `[[publish]]` has too."""
    names = [one.get("name") for one in tables if isinstance(one, Mapping)] if isinstance(tables, list | tuple) else []
    for name in dict.fromkeys(one for one in names if isinstance(one, str) and names.count(one) > 1):
        yield "publish", f"has {quoted(name)} twice; keep one"


class Targets(Table):
    """targets.toml."""

    publish: tuple[AnyTarget, ...] = ()
    """The targets."""

    @classmethod
    def contradictions(cls, table: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        yield from same_names(table.get("publish"))


def default_file(environ: Mapping[str, str]) -> Path:
    """The user's targets.toml; it need not be there."""
    home = environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / "ovfbuild" / FILE_NAME


def load(path: Path) -> tuple[Target, ...]:
    """The targets of a targets.toml, or of an appliance.toml, of which nothing else is looked at.

    Raises:
        UsageError: with a line for each mistake.
    """
    table = _tables(path)
    return _valid(Targets, {"publish": table}, path.absolute().parent, str(path)).publish


def find(name: str, paths: Sequence[Path], settings: Sequence[str] = ()) -> Target:
    """The target of that name, in the first of the files that has it, changed by `key=value` of the settings.

    Raises:
        UsageError: no file has it, or there is a mistake in it or in the settings.
    """
    known: list[str] = []
    for path in paths:
        tables = _tables(path)
        known += (one.name for one in load(path))
        for table in tables:
            if table["name"] == name:
                changed = _with_settings(table, settings)
                (found,) = _valid(
                    Targets, {"publish": [changed]}, path.absolute().parent, f"{path}: target {name}"
                ).publish
                return found
    where = " and ".join(map(str, paths))
    hint = f"there are {', '.join(known)}" if known else f"write a table [[publish]] into {paths[-1]}"
    raise UsageError(f"there is no target {quoted(name)} in {where}{closest(name, known)}", hint)


def _tables(path: Path) -> list[Any]:
    """`[[publish]]` as it stands in a file; none where there is no file."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: not TOML: {error}") from None
    found = table.get("publish", [])
    if path.name == FILE_NAME and (others := sorted(table.keys() - {"publish"})):
        raise UsageError(f"{path}: {others[0]}: unknown key; a target is a table [[publish]]", HINT)
    if not isinstance(found, list):
        raise UsageError(f"{path}: publish: {wrong_type('an array', found)}", HINT)
    return found


def _valid(model: type[Targets], table: Mapping[str, Any], folder: Path, where: str) -> Targets:
    try:
        return model.model_validate(table, context={"folder": folder})
    except ValidationError as error:
        lines = [": ".join(filter(None, (where, path, said))) for path, said in sentences(error)]
        raise UsageError("\n".join(lines), HINT) from None


def _with_settings(table: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """The table with each `key=value` put in; `key.inner=value` goes into a table in it."""
    changed = dict(table)
    for setting in settings:
        path, equals, text = setting.partition("=")
        *outer, key = path.split(".")
        if not equals or not key:
            raise UsageError(f"--set {setting}: there is no value", "write --set key=value")
        if path in ("name", "kind"):
            raise UsageError(f"--set {path}: it says which target it is", "name another target with --to")
        inner = changed
        for step in outer:
            at = inner.get(step)
            inner[step] = dict(at) if isinstance(at, Mapping) else {}
            inner = inner[step]
        inner[key] = text if outer else _value(table.get("kind"), key, text)
    return changed


def _value(kind: Any, key: str, text: str) -> Any:
    """A setting as TOML would have it: where the key takes no string, `true`, `3` and `["a"]` are no strings."""
    field = KINDS[kind].model_fields.get(key)
    if field is None or str in (field.annotation, *get_args(field.annotation)):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
