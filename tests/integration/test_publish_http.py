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
from tests import faults, filesystems
from tests.faulty import certificate
from tests.nginx import PASSWORD, TOKENS, Nginx, nginx
from tests.unit.publish.kit import Heard, ova, target

QUICK = Patience(tries=3, first_wait=0.01, longest_wait=0.02)


@pytest.fixture(scope="module")
def web(needs: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    needs("nginx", "openssl")
    root = tmp_path_factory.mktemp("nginx")
    with nginx(root, certificate(root)) as server:
        for folder in ("strict/twice", "readable", "small", "full", "plain"):
            (server.files / folder).mkdir(parents=True)
        yield server


@dataclass
class Shop:
    web: Nginx
    folder: Path
    heard: Heard

    def publish(self, path: Path, how: How | None = None, place: str = "", **table: Any) -> Published:
        at = {"url": f"http://127.0.0.1:{self.web.port}/{place}", **table}
        aim = target(self.folder, name="web", kind="http", **at)
        publisher = Publisher(self.heard, environ={"SECRET": PASSWORD, "WRONG": PASSWORD[::-1]}, patience=QUICK)
        return publisher.publish(path, aim, how or How())

    def refused(self, path: Path, said: str, how: How | None = None, place: str = "", **table: Any) -> PublishError:
        """What it ends with: these words, exit code 7, and no secret in any text."""
        with pytest.raises(PublishError, match=said) as caught:
            self.publish(path, how, place, **table)
        error = caught.value
        assert error.exit_code == 7
        for text in (self.heard.text, str(error), error.hint, repr(caught.getrepr())):
            assert not [one for one in (PASSWORD, PASSWORD[::-1], *TOKENS) if one in text]
        return error

    def catalogue(self, place: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.web.files / place / "a/catalogue.json").read_text())
        return found


@pytest.fixture
def shop(web: Nginx, tmp_path: Path, own_cache: Path) -> Shop:
    return Shop(web, tmp_path, Heard())


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
    folder = shop.web.files / place / "a" / entry["ova"].partition("/")[0]
    checked = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, text=True, check=True)
    assert checked.stdout == "a-1.0.ova: OK\na-1.0.cdx.json: OK\n"
    assert (folder / "a-1.0.ova").read_bytes() == package.read_bytes()
    assert len(shop.web.listing(place)) == 4


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
    assert sorted(path for path in shop.web.listing("old/a") if path.endswith(".ova")) == ovas
    folders = [path for path in (shop.web.files / "old/a").iterdir() if path.is_dir()]
    assert len(folders) == 2, "no empty folder is left"


@pytest.mark.fault("image of that name there already")
def test_another_content_of_that_version_is_refused(shop: Shop, package: Path, tmp_path: Path) -> None:
    shop.publish(package, place="same")
    other = ova(tmp_path / "other.ova", product="q")
    before = shop.web.listing("same")
    said = shop.refused(other, r"a 1\.0 is there already with another content", place="same")
    assert "--replace" in said.hint
    assert shop.web.listing("same") == before


REFUSED = [
    ("locked/", {"user": "ci", "password_env": "WRONG"}, "401 Unauthorized", "check user and password"),
    ("readable/", {}, "403 Forbidden", "right to write"),
    ("small/", {}, "413 Request Entity Too Large", "make room"),
    ("full/", {}, "507 Insufficient Storage", "make room"),
    ("plain/", {}, "405 Not Allowed", "let it allow PUT"),
]


@pytest.mark.fault("wrong password", "no permission")
@pytest.mark.parametrize(("place", "table", "said", "hint"), REFUSED, ids=[case[0] for case in REFUSED])
def test_a_refusal_is_said_and_leaves_nothing(
    shop: Shop, package: Path, place: str, table: dict[str, Any], said: str, hint: str
) -> None:
    assert hint in shop.refused(package, said, place=place, **table).hint
    assert shop.web.listing(place) == []


def test_a_password_opens_and_is_never_seen(shop: Shop, package: Path, web: Nginx) -> None:
    shop.publish(package, place="locked/", user="ci", password_env="SECRET")
    assert shop.catalogue("locked")["versions"]
    assert "is not encrypted" in shop.heard.text


def test_a_secret_that_is_not_there(shop: Shop, package: Path) -> None:
    with pytest.raises(UsageError, match="the environment has no NOWHERE"):
        shop.publish(package, user="ci", password_env="NOWHERE")
    with pytest.raises(UsageError, match=r"Password of ci at .* is needed"):
        shop.publish(package, user="ci")


@pytest.mark.fault("server down")
def test_a_server_that_is_down(shop: Shop, package: Path) -> None:
    said = r"127.0.0.1:\d+ can't be reached: Connection refused \(3 tries\)"
    shop.refused(package, said, url=f"http://127.0.0.1:{faults.free_port()}/", user="ci", password_env="SECRET")


@pytest.mark.fault("certificate wrong")
def test_certificates(shop: Shop, package: Path, web: Nginx) -> None:
    url = f"https://127.0.0.1:{web.tls}/tls/"
    login: dict[str, Any] = {"user": "ci", "password_env": "SECRET"}
    refused = shop.refused(package, "no certificate that is trusted here: self-signed certificate", url=url, **login)
    assert "ca_file" in refused.hint and shop.web.listing("tls") == []
    assert shop.publish(package, url=url, ca_file=str(web.root / "server.pem")).receipt.outcome == "published"
    assert "warning" not in shop.heard.text
    assert shop.publish(package, url=url, insecure=True).receipt.outcome == "present"
    assert "warning: web: insecure = true, so any certificate is believed" in shop.heard.text


PASSES = [("cut", 2), ("500", 2), ("503", 1), ("429", 1), ("slow", 1), ("silent", 1)]


@pytest.mark.parametrize(("does", "times"), PASSES, ids=[case[0] for case in PASSES])
def test_what_passes_is_tried_again(shop: Shop, package: Path, web: Nginx, does: str, times: int) -> None:
    with faults.line(web.port) as line:
        line.faults = [faults.Fault(r"PUT .*\.ova", does, times)]
        timeout = "1 s" if does == "silent" else "10 s"
        shop.publish(package, url=f"http://127.0.0.1:{line.port}/passes-{does}", timeout=timeout)
    assert len([one for one in line.requests if one.startswith("PUT") and one.endswith(".ova")]) >= times
    assert len(shop.web.listing(f"passes-{does}")) == 4
    assert shop.catalogue(f"passes-{does}")["unfinished"] == []


BREAKS = [
    ("cut", r"can't be reached: .*\(3 tries\)"),
    ("500", r"the server says 500 No \(3 tries\)"),
    ("silent", r"can't be reached: .*\(3 tries\)"),
    ("507", "the server says 507 No$"),
]


@pytest.mark.fault("connection cut at half", "500 in the middle", "slow server")
@pytest.mark.parametrize(("does", "said"), BREAKS, ids=[case[0] for case in BREAKS])
@pytest.mark.parametrize("what", [r"\.ova", "SHA256SUMS"])
def test_what_does_not_pass_leaves_nothing(
    shop: Shop, package: Path, web: Nginx, does: str, said: str, what: str
) -> None:
    with faults.line(web.port) as line:
        line.faults = [faults.Fault(f"PUT .*{what}", does)]
        url = f"http://127.0.0.1:{line.port}/locked/never"
        shop.refused(package, said, url=url, timeout="0.5 s", user="ci", password_env="SECRET")
    assert shop.web.listing("locked/never") == []


@pytest.mark.fault("full disk", "quota")
@pytest.mark.parametrize("room", [filesystems.full, filesystems.quota])
def test_a_disk_that_is_full(
    needs: Callable[..., None], tmp_path: Path, own_cache: Path, room: Callable[[Path, str], list[str]]
) -> None:
    """One package is there, a second does not fit, and is not begun; then there is room."""
    needs("nginx", "openssl", "unshare", "mkfs.btrfs")
    (root := tmp_path / "nginx").mkdir()
    (root / "disk").mkdir()
    with nginx(root, certificate(root), room(root / "disk", "10m")) as server:
        shop = Shop(server, tmp_path, Heard())
        small, large = ova(tmp_path / "small.ova", "0.9"), ova(tmp_path / "large.ova", "1.0", more=12)
        shop.publish(small, place="locked", user="ci", password_env="SECRET")
        before = server.listing()
        shop.refused(large, r"500 Internal Server Error \(3 tries\)", place="locked", user="ci", password_env="SECRET")
        assert server.listing() == before and shop.catalogue("locked")["unfinished"] == []
        assert [one["version"] for one in shop.catalogue("locked")["versions"]] == ["0.9"]
        shop.publish(ova(tmp_path / "next.ova", "1.1"), place="locked", user="ci", password_env="SECRET")


@pytest.mark.fault("connection cut at half")
def test_a_broken_replacement_leaves_what_was_there(shop: Shop, package: Path, web: Nginx) -> None:
    shop.publish(package, place="keep")
    before = shop.web.listing("keep")
    with faults.line(web.port) as line:
        line.faults = [faults.Fault(r"PUT .*\.ova", "cut")]
        with pytest.raises(PublishError, match="3 tries"):
            shop.publish(package, How(replace=True), url=f"http://127.0.0.1:{line.port}/keep")
    assert shop.web.listing("keep") == before


@pytest.mark.fault("token expired")
def test_a_token_that_is_over_is_read_again(shop: Shop, package: Path, web: Nginx, tmp_path: Path) -> None:
    """The server itself refuses it, from the moment on when the first file is there."""
    token, (old, new) = tmp_path / "token", TOKENS
    with faults.line(web.port) as line:
        aim: dict[str, Any] = {"url": f"http://127.0.0.1:{line.port}/token", "token_file": str(token)}

        def over() -> None:
            web.token_is_over()
            if renewed:
                token.write_text(new)

        renewed = False
        try:
            for renewed in (False, True):
                token.write_text(old)
                web.token_is_over(False)
                line.faults = [faults.Fault("PUT .*SHA256SUMS", "pass", 1, over)]
                if renewed:
                    shop.publish(package, How(replace=True), **aim)
                else:
                    refused = shop.refused(package, "PUT: the server says 401 Unauthorized", **aim)
                    assert "check user and password, or the token" in refused.hint
                    assert "the next publish removes it" in refused.hint, "nobody lets us in to remove it"
                    assert [path for path in web.listing("token") if path.endswith(".ova")] == []
        finally:
            web.token_is_over(False)
    assert "the token was renewed" in shop.heard.text and "removing what an earlier upload" in shop.heard.text
    assert len(web.listing("token")) == 4 and shop.catalogue("token")["unfinished"] == []


@pytest.mark.fault("process killed at half")
def test_killed_at_half_and_done_by_the_next(shop: Shop, package: Path, web: Nginx, tmp_path: Path) -> None:
    with faults.line(web.port) as line:
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
    assert len(shop.web.listing("killed")) == 4 and shop.catalogue("killed")["unfinished"] == []


def test_what_is_no_catalogue_is_not_touched(shop: Shop, package: Path) -> None:
    strange = shop.web.files / "strange/a/catalogue.json"
    strange.parent.mkdir(parents=True)
    strange.write_text('{"mine": true}')
    with pytest.raises(PublishError, match="is no catalogue of ovfbuild"):
        shop.publish(package, place="strange")
    assert strange.read_text() == '{"mine": true}'


def test_a_target_is_tried(web: Nginx, tmp_path: Path, own_cache: Path) -> None:
    publisher = Publisher(Silent(), environ={}, patience=QUICK)
    good = publisher.test(target(tmp_path, name="w", kind="http", url=f"http://127.0.0.1:{web.port}/tried"))
    assert good.standing and good.standing.server.startswith("nginx/")
    bad = publisher.test(target(tmp_path, name="w", kind="http", url=f"http://127.0.0.1:{web.port}/readable"))
    assert bad.standing is None and "403" in bad.error
    assert not list((web.files / "tried").iterdir()), "the probe is gone"


def test_a_bad_package_goes_nowhere(shop: Shop, package: Path) -> None:
    octets = bytearray(package.read_bytes())
    octets[len(octets) // 2] ^= 1
    package.write_bytes(octets)
    with pytest.raises(OvfbuildError) as caught:
        shop.publish(package, place="bad")
    assert caught.value.exit_code == 6 and shop.web.listing("bad") == []


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


def test_the_commands(shop: Shop, package: Path, web: Nginx, tmp_path: Path) -> None:
    (tmp_path / "ovfbuild").mkdir()
    (tmp_path / "ovfbuild/targets.toml").write_text(
        f'[[publish]]\nname = "web"\nkind = "http"\nurl = "http://127.0.0.1:{web.port}/cli"\n'
        f'[[publish]]\nname = "shut"\nkind = "http"\nurl = "http://127.0.0.1:{web.port}/locked"\n'
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
    assert shop.web.listing("cli/b") == []
    refused = ovfbuild(tmp_path, "publish", str(package), "--to", "shut", SECRET=PASSWORD[::-1])
    assert refused.code == 7 and PASSWORD[::-1] not in refused.err and "401" in refused.err
    both = ovfbuild(tmp_path, "publish", str(package), "--to", "web", "--replace", "--keep-old", "1")
    assert both.code == 2 and "keep one of the two" in both.err
