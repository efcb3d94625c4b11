"""An OpenStack of a test's own: real Keystone and Glance on loopback, on SQLite and a folder (scripts/setup has them).

Three regions: `one` stores in a folder, `full` in a file system of a few MiB; of `gone` only the catalogue knows.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.integration.guests import free_port
from tests.servers import running

PINS = Path(__file__).with_suffix(".txt")
HOME = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ovfbuild-tests" / "openstack"
"""Where scripts/setup installs the servers; read before a test gives itself another cache."""

SECRET = "canary-9f31 x@:/%"
"""The password of every account: nothing may show it, and it needs every kind of quoting."""

_KEYSTONE = """
import sys
from keystone.server.wsgi import initialize_public_application
from werkzeug.serving import run_simple
port = int(sys.argv.pop())
run_simple("127.0.0.1", port, initialize_public_application())
"""


@dataclass(frozen=True)
class Cloud:
    """Servers that answer on 127.0.0.1; the project `appliances`, in which `publisher` is a member and no more."""

    folder: Path
    keystone: str
    """With /v3."""
    glance: Mapping[str, str]
    """By region."""
    nobody: str
    """Where nobody answers for as long as the cloud runs: the image service of the region `gone`."""
    project: str = ""
    """The id of `appliances`."""

    def auth(self, user: str = "publisher", project: str = "appliances") -> dict[str, str]:
        """The words of clouds.yaml for a login by password."""
        domains = {"user_domain_id": "default", "project_domain_id": "default"}
        return {"auth_url": self.keystone, "username": user, "password": SECRET, "project_name": project, **domains}

    def call(self, method: str, url: str, body: object = None, *, token: str = "", **headers: str) -> Any:
        """What an API answers, as JSON; the admin's voice unless a token says otherwise. Raises HTTPError."""
        sent = json.dumps(body).encode() if body is not None else None
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named = {"Content-Type": "application/json", "X-Auth-Token": token or _admin(self.keystone), **named}
        with urllib.request.urlopen(urllib.request.Request(url, sent, named, method=method), timeout=60) as answer:
            content = answer.read()
        return json.loads(content) if content else None

    def token(self, user: str = "publisher", project: str = "appliances") -> str:
        """A new login."""
        return _token(self.keystone, user, project)

    def images(self, region: str = "one", **filters: str) -> list[dict[str, Any]]:
        """Every image of the project, hidden and unfinished ones too."""
        found = []
        for hidden in ("false", "true"):
            query = "&".join(f"{key}={value}" for key, value in {"owner": self.project, **filters}.items())
            url = f"{self.glance[region]}/v2/images?limit=1000&os_hidden={hidden}&{query}"
            found += self.call("GET", url)["images"]
        return found

    def content(self, image: str, region: str = "one") -> bytes:
        """What a user of the image downloads."""
        request = urllib.request.Request(
            f"{self.glance[region]}/v2/images/{image}/file", headers={"X-Auth-Token": _admin(self.keystone)}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return bytes(answer.read())

    def files(self, region: str = "one") -> list[str]:
        """The names of what lies on the server's disk: images, and what is staged for them."""
        root = Path(f"/proc/{(self.folder / region / 'pid').read_text()}/root")  # `full` has mounts of its own
        places = (root / f"{self.folder}/{region}/{name}".lstrip("/") for name in ("images", "staging"))
        return sorted(path.name for place in places for path in place.rglob("*") if path.is_file())

    def clear(self) -> None:
        """Removes every image."""
        for region in self.glance:
            for image in self.images(region):
                url = f"{self.glance[region]}/v2/images/{image['id']}"
                if image["protected"]:
                    patch = [{"op": "replace", "path": "/protected", "value": False}]
                    kind = "application/openstack-images-v2.1-json-patch"
                    self.call("PATCH", url, patch, Content_Type=kind)
                self.call("DELETE", url)

    def credential(self, name: str) -> tuple[str, str]:
        """A new application credential of publisher's: its id and its secret."""
        token = self.token()
        user = self.call("GET", f"{self.keystone}/auth/tokens", token=token, X_Subject_Token=token)["token"]["user"]
        body = {"application_credential": {"name": name, "secret": SECRET, "roles": [{"name": "member"}]}}
        made = self.call("POST", f"{self.keystone}/users/{user['id']}/application_credentials", body, token=token)
        return made["application_credential"]["id"], SECRET

    def limit(self, resource: str, value: int) -> str:
        """Limits the project in the region `full` (Keystone's unified limits); the URL that takes it back."""
        services = self.call("GET", f"{self.keystone}/services?type=image")["services"]
        one = {"service_id": services[0]["id"], "project_id": self.project, "resource_name": resource}
        body = {"limits": [{**one, "region_id": "full", "resource_limit": value}]}
        return f"{self.keystone}/limits/{self.call('POST', f'{self.keystone}/limits', body)['limits'][0]['id']}"


def needed() -> None:
    """Skips a test on a laptop without the servers, and fails it in CI."""
    if not (HOME / "ready").exists():
        missing = f"not installed: {PINS.name} (scripts/setup openstack)"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)


def python(source: str, *words: str) -> str:
    """What a program says that runs beside the servers' own modules."""
    argv = [str(HOME / "bin" / "python"), "-W", "ignore", "-c", source, *words]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=400).stdout


@contextmanager
def openstack(folder: Path, full: int = 3 << 20) -> Iterator[Cloud]:
    """Runs the servers until the block is done. The region `full` can hold so many bytes, and stage twice as many."""
    folder.mkdir(parents=True)
    ports = {name: free_port() for name in ("keystone", "one", "full")}
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    with ExitStack() as stack, ThreadPoolExecutor() as workers:
        empty = workers.submit(_empty_database, folder)
        keystone = f"{urls['keystone']}/v3"
        _configure_keystone(folder, keystone)
        stack.enter_context(_keystone(folder, ports["keystone"]))
        nobody = stack.enter_context(socket.socket())
        nobody.bind(("127.0.0.1", 0))  # taken, and not listened to
        regions = {region: urls[region] for region in ("one", "full")}
        cloud = _populated(Cloud(folder, keystone, regions, f"http://127.0.0.1:{nobody.getsockname()[1]}"))
        empty.result()
        starting = []
        for region, url in cloud.glance.items():
            home = _configure_glance(folder / region, ports[region], urls["keystone"], cloud)
            argv: list[str | Path] = [HOME / "bin" / "glance-api", "--config-file", home / "glance-api.conf"]
            if region == "full":
                mount = "mount -t tmpfs -o size={} tmpfs {}"
                mounts = f"{mount.format(full, 'images')} && {mount.format(2 * full, 'staging')}"
                argv = ["unshare", "-rm", "sh", "-c", f'{mounts} && exec "$@"', "sh", *argv]
            server = stack.enter_context(running(argv, home / "glance.log", _environment(home)))
            (home / "pid").write_text(str(server.pid))
            starting.append(workers.submit(_wait, url, server, home / "glance.log"))
        for started in starting:
            started.result()
        yield cloud


@contextmanager
def short_lived(cloud: Cloud, seconds: int) -> Iterator[str]:
    """A second Keystone of the same cloud, until the block is done, whose tokens live so long: its URL, with /v3."""
    port = free_port()
    folder = cloud.folder / f"keystone-{port}"
    folder.mkdir()
    told = (cloud.folder / "keystone.conf").read_text()
    (folder / "keystone.conf").write_text(f"{told}[token]\nexpiration = {seconds}\n")
    with _keystone(folder, port):
        yield f"http://127.0.0.1:{port}/v3"


@contextmanager
def _keystone(folder: Path, port: int) -> Iterator[None]:
    """A Keystone of the keystone.conf in a folder."""
    own = {"OS_KEYSTONE_CONFIG_FILES": str(folder / "keystone.conf"), "OS_KEYSTONE_CONFIG_DIR": str(folder)}
    log = folder / "keystone.log"
    with running([HOME / "bin" / "python", "-c", _KEYSTONE, str(port)], log, _environment(folder, own)) as server:
        _wait(f"http://127.0.0.1:{port}/v3", server, log)
        yield


def _environment(folder: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    return {"PATH": path, "HOME": str(folder), "PYTHONWARNINGS": "ignore", **(more or {})}


def _configure_keystone(folder: Path, url: str) -> None:
    """A database with the admin, the roles and Keystone itself; and keys for tokens."""
    (folder / "keystone.conf").write_text(
        f"[database]\nconnection = sqlite:///{folder}/keystone.db\n"
        f"[fernet_tokens]\nkey_repository = {folder}/fernet\n[fernet_receipts]\nkey_repository = {folder}/fernet\n"
        f"[credential]\nkey_repository = {folder}/credential\n"
        # Without it, a look at a token takes half a thousand queries, and half a second.
        "[cache]\nenabled = true\nbackend = oslo_cache.dict\n"
        "[identity]\npassword_hash_rounds = 4\n"
    )
    for repository in ("fernet", "credential"):
        (folder / repository).mkdir(mode=0o700)
        for key in "01":  # the next one, and the one that signs
            (folder / repository / key).write_bytes(base64.urlsafe_b64encode(os.urandom(32)))
    bootstrap = {"password": SECRET, "username": "admin", "project-name": "admin", "role-name": "admin"}
    bootstrap |= {"service-name": "keystone", "region-id": "one", "public-url": url, "internal-url": url}
    _tool(folder, "keystone-manage", "--config-file", folder / "keystone.conf", "db_sync")
    words = [f"--bootstrap-{key}={value}" for key, value in bootstrap.items()]
    _tool(folder, "keystone-manage", "--config-file", folder / "keystone.conf", "bootstrap", *words)
    _unlocked(folder / "keystone.db")


def _configure_glance(home: Path, port: int, keystone: str, cloud: Cloud) -> Path:
    """One region's configuration, folders and database."""
    for name in ("images", "staging", "tasks", "lock"):
        (home / name).mkdir(parents=True)
    endpoints = cloud.call("GET", f"{cloud.keystone}/endpoints")["endpoints"]
    endpoint = next(one["id"] for one in endpoints if one["url"] == cloud.glance[home.name])
    login = (
        f"auth_url = {keystone}\nauth_type = password\nusername = admin\npassword = {SECRET}\n"
        "user_domain_id = default\n"
    )
    (home / "glance-api.conf").write_text(
        f"[DEFAULT]\nbind_host = 127.0.0.1\nbind_port = {port}\nworkers = 0\nenabled_backends = disk:file\n"
        f"enabled_import_methods = [glance-direct,web-download]\nuse_keystone_limits = {home.name == 'full'}\n"
        f"[database]\nconnection = sqlite:///{home}/glance.db\n[glance_store]\ndefault_backend = disk\n"
        f"[disk]\nfilesystem_store_datadir = {home}/images\n"
        f"[os_glance_staging_store]\nfilesystem_store_datadir = {home}/staging\n"
        f"[os_glance_tasks_store]\nfilesystem_store_datadir = {home}/tasks\n"
        f"[paste_deploy]\nflavor = keystone\nconfig_file = {HOME}/etc/glance/glance-api-paste.ini\n"
        f"[oslo_concurrency]\nlock_path = {home}/lock\n"
        f"[keystone_authtoken]\n{login}project_name = admin\nproject_domain_id = default\n"
        # Without a cache a token that was taken back is none from that moment on.
        f"token_cache_time = {-1 if home.name == 'full' else 300}\n"
        f"[oslo_limit]\n{login}system_scope = all\nendpoint_id = {endpoint}\n"
        # The servers of the tests fetch from the servers of the tests.
        "[import_filtering_opts]\nallowed_ports =\ndisallowed_hosts =\n"
    )
    shutil.copy(home.parent / "glance.db", home / "glance.db")
    return home


def _empty_database(folder: Path) -> None:
    """A Glance's database, glance.db, for each region to copy."""
    conf = folder / "glance-manage.conf"
    conf.write_text(f"[database]\nconnection = sqlite:///{folder}/glance.db\n")
    _tool(folder, "glance-manage", "--config-file", conf, "db_sync")
    _unlocked(folder / "glance.db")


def _unlocked(database: Path) -> None:
    """Lets SQLite write while another connection reads: else a request waits for one that forgot to end, for a 500."""
    connection = sqlite3.connect(database)
    assert connection.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
    connection.close()


def _populated(empty: Cloud) -> Cloud:
    """With Glance in the catalogue, the project and its member, and limits that are none."""
    v3, token = empty.keystone, _token(empty.keystone, "admin", "admin")

    def make(kind: str, **body: object) -> str:
        return str(empty.call("POST", f"{v3}/{kind}s", {kind: body}, token=token)[kind]["id"])

    def roles(**query: str) -> str:
        (role,) = empty.call("GET", f"{v3}/roles?name={query['name']}", token=token)["roles"]
        return str(role["id"])

    image = make("service", name="glance", type="image")
    make("region", id="full")
    make("region", id="gone")
    for region, url in {**empty.glance, "gone": empty.nobody}.items():
        make("endpoint", service_id=image, interface="public", url=url, region_id=region)
    project = make("project", name="appliances", domain_id="default")
    user = make("user", name="publisher", password=SECRET, domain_id="default")
    empty.call("PUT", f"{v3}/projects/{project}/users/{user}/roles/{roles(name='member')}", token=token)
    (admin,) = empty.call("GET", f"{v3}/users?name=admin", token=token)["users"]
    empty.call("PUT", f"{v3}/system/users/{admin['id']}/roles/{roles(name='admin')}", token=token)
    names = ("image_size_total", "image_stage_total", "image_count_total", "image_count_uploading")
    limits = [
        {"service_id": image, "region_id": region, "resource_name": name, "default_limit": 100_000}
        for name in names
        for region in empty.glance
    ]
    empty.call("POST", f"{v3}/registered_limits", {"registered_limits": limits}, token=token)
    return replace(empty, project=project)


@cache
def _admin(keystone: str) -> str:
    """The admin's login, once for all calls: it lasts an hour."""
    return _token(keystone, "admin", "admin")


def _token(keystone: str, user: str, project: str) -> str:
    domain = {"id": "default"}
    who = {"methods": ["password"], "password": {"user": {"name": user, "domain": domain, "password": SECRET}}}
    body = {"auth": {"identity": who, "scope": {"project": {"name": project, "domain": domain}}}}
    request = urllib.request.Request(f"{keystone}/auth/tokens", json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(answer.headers["X-Subject-Token"])


def _tool(folder: Path, name: str, *words: str | Path) -> None:
    done = subprocess.run([HOME / "bin" / name, *words], cwd=folder, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, (name, done.stdout[-1000:], done.stderr[-3000:])


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 300
    while True:
        try:
            urllib.request.urlopen(url, timeout=10).close()
            return
        except urllib.error.HTTPError:
            return  # 300: which versions there are
        except OSError:
            words = log.read_text(errors="replace")[-3000:]
            assert server.poll() is None, words
            assert time.monotonic() < until, words
            time.sleep(0.2)


if __name__ == "__main__":  # to look around: python -m tests.openstack FOLDER
    with openstack(Path(sys.argv[1])) as shown:
        print(
            json.dumps({"auth": shown.auth(), "glance": {**shown.glance, "gone": shown.nobody}}, indent=1), flush=True
        )
        with suppress(KeyboardInterrupt):
            signal.pause()
    shutil.rmtree(sys.argv[1])
