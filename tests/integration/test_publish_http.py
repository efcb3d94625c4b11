"""Packages on a real nginx: whole, once, and nothing half-done whatever goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ovfbuild import bases
from ovfbuild.cache import Cache
from ovfbuild.errors import OvfbuildError, PublishError, UsageError
from ovfbuild.progress import Silent
from ovfbuild.publish.delivery import How
from ovfbuild.publishing import Published, Publisher
from ovfbuild.spec.models import Base
from ovfbuild.tries import Patience
from ovfbuild.verify.package import open_package
from ovfbuild.vm import disk
from ovfbuild.vm.fetch import fetch
from tests import faults
from tests.unit.publish.kit import Heard, ova, target

PASSWORD = "not-to-be-seen-0815"
QUICK = Patience(tries=3, first_wait=0.01, longest_wait=0.02)
CONFIG = """
{user} daemon off; worker_processes 1; pid {root}/pid; error_log stderr crit;
events {{}}
http {{
  access_log off; client_body_temp_path {root}/body; proxy_temp_path {root}/p; fastcgi_temp_path {root}/f;
  uwsgi_temp_path {root}/u; scgi_temp_path {root}/s; client_max_body_size 0; dav_methods PUT DELETE MKCOL;
  root {root}/files;
  server {{
    listen 127.0.0.1:{port};
    location / {{ create_full_put_path on; }}
    location /strict/ {{ }}
    location /locked/ {{ create_full_put_path on; auth_basic "x"; auth_basic_user_file {root}/users; }}
    location /readable/ {{ limit_except GET HEAD {{ deny all; }} }}
    location /small/ {{ create_full_put_path on; client_max_body_size 20k; }}
    location /full/ {{ create_full_put_path on; if ($request_method = PUT) {{ return 507; }} }}
    location /plain/ {{ dav_methods off; }}
  }}
  server {{
    listen 127.0.0.1:{tls} ssl; ssl_certificate {root}/server.pem; ssl_certificate_key {root}/server.key;
    location / {{ create_full_put_path on; }}
  }}
}}
"""


@dataclass(frozen=True)
class Nginx:
    root: Path
    port: int
    tls: int

    @property
    def files(self) -> Path:
        return self.root / "files"

    def listing(self, folder: str = "") -> list[str]:
        """Every file that lies there."""
        below = self.files / folder
        return sorted(str(path.relative_to(below)) for path in below.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def nginx(needs: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    needs("nginx", "openssl")
    root = tmp_path_factory.mktemp("nginx")
    server = Nginx(root, faults.free_port(), faults.free_port())
    for folder in ("", "strict/twice", "readable", "small", "full", "plain"):
        (server.files / folder).mkdir(parents=True, exist_ok=True)
    hashed = subprocess.run(["openssl", "passwd", "-apr1", PASSWORD], capture_output=True, text=True, check=True).stdout
    (root / "users").write_text(f"ci:{hashed}")
    name: list[str | Path] = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    made: list[str | Path] = [
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        root / "server.key",
        "-out",
        root / "server.pem",
    ]
    subprocess.run(["openssl", "req", "-x509", "-days", "2", *name, *made], check=True, capture_output=True)
    user = "user root;" if os.getuid() == 0 else ""
    (root / "nginx.conf").write_text(CONFIG.format(root=root, port=server.port, tls=server.tls, user=user))
    env = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    with subprocess.Popen(["nginx", "-c", root / "nginx.conf"], env=env) as running:
        _until_it_answers(server.port)
        yield server
        running.terminate()


def _until_it_answers(port: int) -> None:
    import socket

    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("nginx does not start")


@dataclass
class Shop:
    nginx: Nginx
    folder: Path
    heard: Heard

    def publish(self, path: Path, how: How | None = None, place: str = "", **table: Any) -> Published:
        at = {"url": f"http://127.0.0.1:{self.nginx.port}/{place}", **table}
        aim = target(self.folder, name="web", kind="http", **at)
        publisher = Publisher(self.heard, environ={"SECRET": PASSWORD, "WRONG": PASSWORD[::-1]}, patience=QUICK)
        return publisher.publish(path, aim, how or How())

    def catalogue(self, place: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.nginx.files / place / "a/catalogue.json").read_text())
        return found


@pytest.fixture
def shop(nginx: Nginx, tmp_path: Path, own_cache: Path) -> Shop:
    return Shop(nginx, tmp_path, Heard())


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = ova(tmp_path / "a-1.0.ova")
    (tmp_path / "a-1.0.cdx.json").write_text('{"bomFormat": "CycloneDX", "components": []}')
    return path


@pytest.mark.parametrize("place", ["twice", "strict/twice"])
def test_twice_is_once_and_what_is_there_is_what_was_sent(shop: Shop, package: Path, place: str) -> None:
    """In the strict folder nginx makes no folders by itself."""
    first, second = shop.publish(package, place=place), shop.publish(package, place=place)
    assert (first.receipt.outcome, second.receipt.outcome) == ("published", "present")
    assert first.lines == second.lines and first.lines[0].endswith("/a-1.0.ova")
    entry = shop.catalogue(place)["versions"][0]
    folder = shop.nginx.files / place / "a" / entry["ova"].partition("/")[0]
    checked = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, text=True, check=True)
    assert checked.stdout == "a-1.0.ova: OK\na-1.0.cdx.json: OK\n"
    assert (folder / "a-1.0.ova").read_bytes() == package.read_bytes()
    assert len(shop.nginx.listing(place)) == 4


def test_the_catalogue_is_one_to_build_from(shop: Shop, package: Path) -> None:
    published = shop.publish(package, place="base")
    url, checksums, _ = published.lines
    assert fetch(url, None, checksums, Cache(), Silent()).read_bytes() == package.read_bytes()


def test_replaced_and_old_versions_go(shop: Shop, package: Path, tmp_path: Path) -> None:
    for version in ("0.1", "0.2", "1.0"):
        shop.publish(ova(tmp_path / "old.ova", version), place="old")
    shop.publish(package, How(replace=True), place="old")
    assert [one["version"] for one in shop.catalogue("old")["versions"]] == ["0.1", "0.2", "1.0"]
    receipt = shop.publish(package, How(keep_old=1), place="old").receipt
    assert (receipt.outcome, [one.version for one in receipt.removed]) == ("present", ["0.1"])
    catalogue = shop.catalogue("old")
    assert [one["version"] for one in catalogue["versions"]] == ["0.2", "1.0"] and catalogue["unfinished"] == []
    ovas = [one["ova"] for one in catalogue["versions"]]
    assert sorted(path for path in shop.nginx.listing("old/a") if path.endswith(".ova")) == ovas
    folders = [path for path in (shop.nginx.files / "old/a").iterdir() if path.is_dir()]
    assert len(folders) == 2, "no empty folder is left"


@pytest.mark.fault("image of that name there already")
def test_another_content_of_that_version_is_refused(shop: Shop, package: Path, tmp_path: Path) -> None:
    shop.publish(package, place="same")
    other = ova(tmp_path / "other.ova", product="q")
    before = shop.nginx.listing("same")
    with pytest.raises(PublishError, match=r"a 1\.0 is there already with another content"):
        shop.publish(other, place="same")
    assert shop.nginx.listing("same") == before


REFUSED = [
    ("locked/", {"user": "ci", "password_env": "WRONG"}, "401 Unauthorized", "check user and password"),
    ("readable/", {}, "403 Forbidden", "right to write"),
    ("small/", {}, "413 Request Entity Too Large", "make room"),
    ("full/", {}, "507 Insufficient Storage", "make room"),
    ("plain/", {}, "405 Not Allowed", "let it allow PUT"),
]


@pytest.mark.fault("wrong password", "no permission", "full disk")
@pytest.mark.parametrize(("place", "table", "said", "hint"), REFUSED, ids=[case[0] for case in REFUSED])
def test_a_refusal_is_said_and_leaves_nothing(
    shop: Shop, package: Path, place: str, table: dict[str, Any], said: str, hint: str
) -> None:
    with pytest.raises(PublishError, match=said) as caught:
        shop.publish(package, place=place, **table)
    assert hint in caught.value.hint and caught.value.exit_code == 7
    assert shop.nginx.listing(place) == []


def test_a_password_opens_and_is_never_seen(shop: Shop, package: Path, nginx: Nginx) -> None:
    shop.publish(package, place="locked/", user="ci", password_env="SECRET")
    assert shop.catalogue("locked")["versions"]
    with faults.line(nginx.port) as line:
        line.faults = [faults.Fault("PUT .*ova", "503")]
        with pytest.raises(PublishError) as caught:
            url = f"http://127.0.0.1:{line.port}/locked/"
            shop.publish(package, How(replace=True), url=url, user="ci", password_env="SECRET")
    for text in (shop.heard.text, str(caught.value), caught.value.hint, repr(caught.getrepr())):
        assert PASSWORD not in text
    assert "is not encrypted" in shop.heard.text


def test_a_secret_that_is_not_there(shop: Shop, package: Path) -> None:
    with pytest.raises(UsageError, match="the environment has no NOWHERE"):
        shop.publish(package, user="ci", password_env="NOWHERE")
    with pytest.raises(UsageError, match=r"Password of ci at .* is needed"):
        shop.publish(package, user="ci")


@pytest.mark.fault("server down")
def test_a_server_that_is_down(shop: Shop, package: Path) -> None:
    with pytest.raises(PublishError, match=r"127.0.0.1:\d+ can't be reached: Connection refused \(3 tries\)"):
        shop.publish(package, url=f"http://127.0.0.1:{faults.free_port()}/")


@pytest.mark.fault("certificate wrong")
def test_certificates(shop: Shop, package: Path, nginx: Nginx) -> None:
    url = f"https://127.0.0.1:{nginx.tls}/tls/"
    with pytest.raises(PublishError, match="no certificate that is trusted here: self-signed certificate") as caught:
        shop.publish(package, url=url)
    assert "ca_file" in caught.value.hint
    assert shop.publish(package, url=url, ca_file=str(nginx.root / "server.pem")).receipt.outcome == "published"
    assert "warning" not in shop.heard.text
    assert shop.publish(package, url=url, insecure=True).receipt.outcome == "present"
    assert "warning: web: insecure = true, so any certificate is believed" in shop.heard.text


PASSES = [("cut", 2), ("500", 2), ("503", 1), ("429", 1), ("slow", 1), ("silent", 1)]


@pytest.mark.fault("slow server")
@pytest.mark.parametrize(("does", "times"), PASSES, ids=[case[0] for case in PASSES])
def test_what_passes_is_tried_again(shop: Shop, package: Path, nginx: Nginx, does: str, times: int) -> None:
    with faults.line(nginx.port) as line:
        line.faults = [faults.Fault(r"PUT .*\.ova", does, times)]
        shop.publish(package, url=f"http://127.0.0.1:{line.port}/passes-{does}", timeout="1 s")
    assert len([one for one in line.requests if one.startswith("PUT") and one.endswith(".ova")]) >= times
    assert len(shop.nginx.listing(f"passes-{does}")) == 4
    assert shop.catalogue(f"passes-{does}")["unfinished"] == []


@pytest.mark.fault("connection cut at half", "500 in the middle")
@pytest.mark.parametrize("does", ["cut", "500", "silent", "507"])
@pytest.mark.parametrize("what", [r"\.ova", "SHA256SUMS"])
def test_what_does_not_pass_leaves_nothing(shop: Shop, package: Path, nginx: Nginx, does: str, what: str) -> None:
    with faults.line(nginx.port) as line:
        line.faults = [faults.Fault(f"PUT .*{what}", does)]
        with pytest.raises(PublishError):
            shop.publish(package, url=f"http://127.0.0.1:{line.port}/never", timeout="0.5 s")
    assert shop.nginx.listing("never") == []


def test_a_broken_replacement_leaves_what_was_there(shop: Shop, package: Path, nginx: Nginx) -> None:
    shop.publish(package, place="keep")
    before = shop.nginx.listing("keep")
    with faults.line(nginx.port) as line:
        line.faults = [faults.Fault(r"PUT .*\.ova", "cut")]
        with pytest.raises(PublishError, match="3 tries"):
            shop.publish(package, How(replace=True), url=f"http://127.0.0.1:{line.port}/keep")
    assert shop.nginx.listing("keep") == before


@pytest.mark.fault("token expired")
def test_a_token_that_is_renewed_meanwhile(shop: Shop, package: Path, nginx: Nginx, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("the-old-token")
    with faults.line(nginx.port) as line:
        url = f"http://127.0.0.1:{line.port}/token"

        def renew() -> None:
            token.write_text("the-new-token")

        line.faults = [faults.Fault(r"PUT .*\.ova", "401", 1, renew)]
        assert shop.publish(package, url=url, token_file=str(token)).receipt.outcome == "published"
        line.faults = [faults.Fault(r"PUT .*\.ova", "401")]
        with pytest.raises(PublishError, match="401"):
            shop.publish(package, How(replace=True), url=url, token_file=str(token))
    assert "the token was renewed" in shop.heard.text and "-token" not in shop.heard.text


@pytest.mark.fault("process killed at half")
def test_killed_at_half_and_done_by_the_next(shop: Shop, package: Path, nginx: Nginx, tmp_path: Path) -> None:
    with faults.line(nginx.port) as line:
        line.faults = [faults.Fault(r"PUT .*\.ova", "silent")]
        config = tmp_path / "ovfbuild" / "targets.toml"
        config.parent.mkdir()
        config.write_text(f'[[publish]]\nname="x"\nkind="http"\nurl="http://127.0.0.1:{line.port}/killed"\n')
        argv = [sys.executable, "-m", "ovfbuild", "publish", str(package), "--to", "x"]
        with subprocess.Popen(argv, env={**os.environ, "XDG_CONFIG_HOME": str(tmp_path)}) as running:
            while not any(one.endswith(".ova") for one in line.requests):
                assert running.poll() is None
                time.sleep(0.05)
            running.send_signal(signal.SIGKILL)
    assert [one["version"] for one in shop.catalogue("killed")["unfinished"]] == ["1.0"]
    assert shop.catalogue("killed")["versions"] == []
    shop.publish(package, place="killed")
    assert "removing what an earlier upload of a 1.0 left" in shop.heard.text
    assert len(shop.nginx.listing("killed")) == 4 and shop.catalogue("killed")["unfinished"] == []


def test_what_is_no_catalogue_is_not_touched(shop: Shop, package: Path) -> None:
    strange = shop.nginx.files / "strange/a/catalogue.json"
    strange.parent.mkdir(parents=True)
    strange.write_text('{"mine": true}')
    with pytest.raises(PublishError, match="is no catalogue of ovfbuild"):
        shop.publish(package, place="strange")
    assert strange.read_text() == '{"mine": true}'


def test_a_target_is_tried(nginx: Nginx, tmp_path: Path, own_cache: Path) -> None:
    publisher = Publisher(Silent(), environ={}, patience=QUICK)
    good = publisher.test(target(tmp_path, name="w", kind="http", url=f"http://127.0.0.1:{nginx.port}/tried"))
    assert good.standing and good.standing.server.startswith("nginx/")
    bad = publisher.test(target(tmp_path, name="w", kind="http", url=f"http://127.0.0.1:{nginx.port}/readable"))
    assert bad.standing is None and "403" in bad.error
    assert not list((nginx.files / "tried").iterdir()), "the probe is gone"


def test_a_bad_package_goes_nowhere(shop: Shop, package: Path) -> None:
    octets = bytearray(package.read_bytes())
    octets[len(octets) // 2] ^= 1
    package.write_bytes(octets)
    with pytest.raises(OvfbuildError) as caught:
        shop.publish(package, place="bad")
    assert caught.value.exit_code == 6 and shop.nginx.listing("bad") == []


def test_the_next_appliance_is_built_over_it(shop: Shop, package: Path, needs: Callable[..., None]) -> None:
    """Over its disk, byte by byte, which is unpacked once."""
    needs("qemu-img")
    url, checksums, _ = shop.publish(package, place="bases").lines
    base = Base.model_validate({"image": url, "checksums": checksums, "os": "debian:12"})
    cache, heard = Cache(), Heard()
    found, again = (bases._image(base, cache, heard, offline=offline) for offline in (False, True))
    assert found == again and (found.format, found.capacity) == ("qcow2", 3 << 20)
    (_, member), *_ = open_package(package).disks
    packed = disk.inside(package, member.offset, member.size)
    assert disk.compare(packed, disk.described(found.path, "qcow2"))
    assert heard.said.count("unpack a-disk1.vmdk") == 1


@dataclass(frozen=True)
class Told:
    """What a command ended with."""

    code: int
    out: str
    err: str


def ovfbuild(folder: Path, *words: str, **environ: str) -> Told:
    env = {**os.environ, "XDG_CONFIG_HOME": str(folder), **environ}
    done = subprocess.run([sys.executable, "-m", "ovfbuild", *words], env=env, capture_output=True, text=True)
    return Told(done.returncode, done.stdout, done.stderr)


def test_the_commands(shop: Shop, package: Path, nginx: Nginx, tmp_path: Path) -> None:
    (tmp_path / "ovfbuild").mkdir()
    (tmp_path / "ovfbuild/targets.toml").write_text(
        f'[[publish]]\nname = "web"\nkind = "http"\nurl = "http://127.0.0.1:{nginx.port}/cli"\n'
        f'[[publish]]\nname = "shut"\nkind = "http"\nurl = "http://127.0.0.1:{nginx.port}/locked"\n'
        'user = "ci"\npassword_env = "SECRET"\ntries = 1\n'
    )
    listed = ovfbuild(tmp_path, "targets", SECRET=PASSWORD[::-1])
    assert listed.code == 7 and "web           http        good: nginx/" in listed.out
    assert "shut          http        can't be used: " in listed.out and "401" in listed.out
    sent = ovfbuild(tmp_path, "publish", str(package), "--to", "web", "--json")
    told = json.loads(sent.out)
    assert (sent.code, told["outcome"], told["kind"], told["size"]) == (0, "published", "http", package.stat().st_size)
    again = ovfbuild(tmp_path, "publish", str(package), "--to", "web")
    assert again.out.splitlines() == list(told["ids"].values())
    dry = ovfbuild(tmp_path, "publish", str(package), "--to", "web", "--name", "b", "--dry-run")
    assert (dry.code, dry.out) == (0, "") and "would send b 1.0" in dry.err
    assert shop.nginx.listing("cli/b") == []
    refused = ovfbuild(tmp_path, "publish", str(package), "--to", "shut", SECRET=PASSWORD[::-1])
    assert refused.code == 7 and PASSWORD[::-1] not in refused.err and "401" in refused.err
    both = ovfbuild(tmp_path, "publish", str(package), "--to", "web", "--replace", "--keep-old", "1")
    assert both.code == 2 and "keep one of the two" in both.err
