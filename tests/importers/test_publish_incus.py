"""`ovfbuild publish` to a real incusd, as users run it, read back by the real client; each fault with its message."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ovfbuild.verify.package import open_package
from ovfbuild.vm import disk as disks
from tests.faults import free_port
from tests.faulty import Proxy, certificate, proxy
from tests.importers import incus
from tests.importers.lab import packed
from tests.unit.publish import kit

pytestmark = [pytest.mark.importers, pytest.mark.timeout(600)]  # the first may have to install
MIB = 1 << 20
SORRY = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 5\r\nConnection: close\r\n\r\nsorry"


@pytest.fixture(scope="module")
def running(incus_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[incus.Server]:
    with incus.server(incus_root, tmp_path_factory.mktemp("incus")) as server:
        yield server


@pytest.fixture
def server(running: incus.Server) -> Iterator[incus.Server]:
    yield running
    running.clear()


@pytest.fixture
def by_tls(running: incus.Server) -> None:
    """Of a server that another user than root runs there is only the socket, which asks nobody for a certificate."""
    if running.port is None:
        pytest.skip("incusd is out of reach with TLS where root does not run it")


class User:
    """Somebody with the incus client's configuration and a targets.toml, in a folder of his own."""

    def __init__(self, server: incus.Server, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.login = incus.client_certificate(folder / "incus")
        self.environ: dict[str, str] = {}
        (folder / "ovfbuild").mkdir()
        incus.remote(folder / "incus", "lab", server)
        self.target()

    def target(self, **keys: object) -> None:
        """targets.toml, with the target `lab`."""
        table = {"name": "lab", "kind": "incus", "timeout": "20 s", "tries": 2, **keys}
        lines = [f"{key} = {json.dumps(value)}" for key, value in table.items() if not isinstance(value, dict)]
        for key, value in table.items():
            if isinstance(value, dict):
                lines += [
                    f"[publish.{key}]",
                    *(f"{json.dumps(one)} = {json.dumps(text)}" for one, text in value.items()),
                ]
        (self.folder / "ovfbuild" / "targets.toml").write_text("\n".join(["[[publish]]", *lines, ""]))

    def through(self, between: Proxy, tls: tuple[Path, Path]) -> None:
        """Goes to the server by a proxy, whose certificate is the one that the client knows."""
        incus.remote(self.folder / "incus", "lab", self.server, between.url)
        (self.folder / "incus/servercerts/lab.crt").write_bytes(tls[0].read_bytes())

    def start(self, *words: str | Path) -> subprocess.Popen[str]:
        names = {name: value for name, value in os.environ.items() if not name.startswith("INCUS_")}
        own = {"XDG_CONFIG_HOME": str(self.folder), "XDG_CACHE_HOME": str(self.folder / "cache")}
        return subprocess.Popen(
            [sys.executable, "-m", "ovfbuild", *map(str, words)],
            env={**names, **own, **self.environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def run(self, *words: str | Path) -> tuple[int, str, str]:
        """The exit code, stdout and stderr, in which nothing of the key is."""
        with self.start(*words) as child:
            out, said = child.communicate(timeout=200)
        lines = [line for line in self.login[1].read_text().splitlines()[1:-1] if len(line) > 20]
        assert not [line for line in lines if line in out + said]
        return child.returncode, out, said

    def publish(self, package: Path, *words: str) -> dict[str, Any]:
        """What came of it, which has to be good."""
        code, out, said = self.run("publish", package, "--to", "lab", "--json", *words)
        assert code == 0, said
        found: dict[str, Any] = json.loads(out)
        return {**found, "said": said}

    def refused(self, package: Path, *words: str, left: int = 0) -> str:
        """What is said when it must not succeed; so many images are there afterwards, whole, and no other file."""
        code, out, said = self.run("publish", package, "--to", "lab", *words)
        assert (code, out) == (7, ""), said
        images = self.server.images()
        assert [image["properties"]["ovfbuild.state"] for image in images] == ["whole"] * left, said
        assert len(self.server.files) == 2 * left, "metadata and disk of each"
        return said


@pytest.fixture
def user(server: incus.Server, tmp_path: Path) -> Iterator[User]:
    folder = server.folder / tmp_path.name
    made = User(server, folder)
    server.trust(tmp_path.name, made.login[0])
    yield made
    server.distrust(made.login[0])


def seen(server: incus.Server) -> dict[str, set[str]]:
    """By fingerprint, the aliases of each image."""
    return {image["fingerprint"]: {alias["name"] for alias in image["aliases"]} for image in server.images()}


def disk_of(package: Path) -> str:
    """The disk in a package, in qemu-img's words."""
    ((_, member),) = open_package(package).disks
    return disks.inside(package, member.offset, member.size)


def test_twice_is_one_image_and_its_disk_comes_back(user: User, server: incus.Server, tmp_path: Path) -> None:
    user.target(public=True, image_properties={"variant": "golden"})
    package = kit.ova(tmp_path / "a.ova")
    first = user.publish(package)
    assert (first["outcome"], first["version"], first["ids"]["alias"]) == ("published", "1.0", "a/1.0")
    again = user.publish(package)
    assert (again["outcome"], again["ids"]) == ("present", first["ids"])
    (image,) = server.images()
    assert (image["fingerprint"], image["type"], image["public"]) == (
        first["ids"]["fingerprint"],
        "virtual-machine",
        True,
    )
    assert seen(server) == {image["fingerprint"]: {"a", "a/1.0"}}
    told = {"os": "debian", "variant": "golden", "requirements.secureboot": "false", "ovfbuild.state": "whole"}
    assert (told | {"name": "a-1.0", "ovfbuild.sha256": first["sha256"]}).items() <= image["properties"].items()
    server.client("image", "export", "a/1.0", "/w/back")
    back = server.folder / "back.root"
    assert disks.compare(disks.described(back, "qcow2"), disk_of(package))
    back.unlink()
    assert not list((user.folder / "cache" / "ovfbuild").rglob("*.qcow2")), "the conversion is gone"


def test_versions_replacements_and_what_the_names_stand_for(user: User, server: incus.Server, tmp_path: Path) -> None:
    old, other = kit.ova(tmp_path / "a.ova"), kit.ova(tmp_path / "b.ova", "1.1")
    first = user.publish(old)["ids"]["fingerprint"]
    second = user.publish(other)["ids"]["fingerprint"]
    assert seen(server) == {first: {"a/1.0"}, second: {"a", "a/1.1"}}
    changed = kit.ova(tmp_path / "c.ova", "1.1", product="q")
    assert "a/1.1" in user.refused(changed, left=2)
    third = user.publish(changed, "--replace")["ids"]["fingerprint"]
    assert seen(server) == {first: {"a/1.0"}, third: {"a", "a/1.1"}}
    assert "would remove a 1.1" in user.publish(old, "--keep-old", "0", "--dry-run")["said"]
    user.publish(old, "--keep-old", "0")
    assert seen(server) == {first: {"a", "a/1.0"}}, "the newest that is left has the name"
    again = user.publish(old, "--replace")["ids"]["fingerprint"]
    assert seen(server) == {again: {"a", "a/1.0"}} and again != first


def test_another_project_and_the_local_socket(user: User, server: incus.Server, tmp_path: Path) -> None:
    server.client("project", "create", "team", "-c", "features.images=true", "-c", "features.profiles=false")
    try:
        user.target(project="team", remote="here")
        incus.remote(user.folder / "incus", "here", server, f"unix:{server.socket}")
        user.publish(kit.ova(tmp_path / "a.ova"))
        assert [image["properties"]["ovfbuild.name"] for image in server.images("team")] == ["a"]
        assert server.images() == []
        code, out, said = user.run("targets", "lab", "--json")
        assert code == 0, said
        (told,) = json.loads(out)["targets"] if out.startswith("{") else json.loads(out)
        assert told["usable"] and "Incus 6.0" in told["server"] and "project team" in told["server"]
        assert len(server.images("team")) == 1, "the probe is gone"
    finally:
        server.clear("team")
        server.client("project", "delete", "team")


def test_the_room_of_a_volume_for_images(incus_root: Path, tmp_path: Path) -> None:
    with incus.server(incus_root, tmp_path / "own") as server:
        user = User(server, server.folder / "user")
        server.trust("user", user.login[0])
        server.client("storage", "create", "default", "dir")
        server.client("storage", "volume", "create", "default", "images")
        server.client("config", "set", "storage.images_volume=default/images")
        code, out, said = user.run("targets", "lab", "--json")
        (told,) = json.loads(out)["targets"] if out.startswith("{") else json.loads(out)
        assert (code, told["room"] > MIB) == (0, True), said
        assert user.publish(kit.ova(tmp_path / "a.ova"))["outcome"] == "published"


@pytest.mark.usefixtures("by_tls")
def test_a_cluster(incus_root: Path, tmp_path: Path) -> None:
    package = kit.ova(tmp_path / "a.ova")
    with incus.server(incus_root, tmp_path / "one") as one, incus.server(incus_root, tmp_path / "two") as two:
        incus.join(one, two)
        user = User(one, one.folder / "user")
        one.trust("user", user.login[0])
        first = user.publish(package)["ids"]["fingerprint"]
        assert seen(two) == {first: {"a", "a/1.0"}}
        assert one.files == two.files, "Incus has copied it"
        incus.remote(user.folder / "incus", "lab", two)
        assert user.publish(package)["outcome"] == "present"
        second = user.publish(package, "--replace")["ids"]["fingerprint"]
        assert seen(one) == {second: {"a", "a/1.0"}} and first != second
        assert one.files == two.files and len(one.files) == 2


def test_further_disks(user: User, disk: Path, tmp_path: Path, own_cache: Path) -> None:
    said = user.publish(packed(disk, tmp_path, disks=[{"size": "3 GiB"}]))["said"]
    assert "incus storage volume create POOL hello-disk2 --type=block size=3GiB" in said
    refusal = user.refused(kit.ova_of_three(tmp_path / "b.ova"), left=1)
    assert "disk 3 of b.ova has a content, and an image of Incus's has one disk" in refusal


def test_the_line_that_starts_it_is_one_that_the_client_takes(user: User, server: incus.Server, tmp_path: Path) -> None:
    said = user.publish(kit.ova(tmp_path / "a.ova"))["said"]
    assert "no EFI system partition" in said
    (line,) = [one for one in said.splitlines() if "incus launch" in one]
    words = shlex.split(line.partition("incus launch ")[2])
    assert words[:3] == ["lab:a/1.0", "a", "--vm"]
    assert "security.csm=true" in words and "limits.memory=1024MiB" in words
    # What keeps it from being made is the server, which has no QEMU, and not what it was told.
    refusal = server.refusal("init", words[0].removeprefix("lab:"), *words[1:])
    assert 'Instance type "virtual-machine" is not supported' in refusal


# --- faults ---


@pytest.mark.fault("server down")
def test_nobody_is_there(user: User, server: incus.Server, tmp_path: Path) -> None:
    incus.remote(user.folder / "incus", "lab", server, f"https://127.0.0.1:{free_port()}")
    assert "can't be reached" in user.refused(kit.ova(tmp_path / "a.ova"))
    incus.remote(user.folder / "incus", "lab", server, f"unix:{tmp_path}/none")
    assert "can't be reached: No such file" in user.refused(kit.ova(tmp_path / "a.ova"))


@pytest.mark.fault("wrong password")
@pytest.mark.usefixtures("by_tls")
def test_a_client_certificate_that_nobody_trusts(user: User, tmp_path: Path) -> None:
    incus.client_certificate(user.folder / "incus", "somebody else")
    said = user.refused(kit.ova(tmp_path / "a.ova"))
    assert "does not trust the client certificate" in said and "incus config trust add" in said


@pytest.mark.usefixtures("by_tls")
def test_what_is_wrong_with_the_client_s_configuration(user: User, tmp_path: Path) -> None:
    package = kit.ova(tmp_path / "a.ova")
    user.target(project="none")
    said = user.refused(package)
    assert "404" in said and "check remote and project of the target" in said
    user.target(remote="lap")
    code, _, said = user.run("publish", package, "--to", "lab")
    assert code == 2 and "did you mean 'lab'?" in said
    user.target()
    key = user.login[1]
    words = f"openssl ec -in {key} -aes256 -passout pass:secret -out {key}"
    subprocess.run(words.split(), check=True, capture_output=True)
    code, _, said = user.run("publish", package, "--to", "lab")
    assert code == 2 and f"Password of {key}" in said
    key.write_text("-----BEGIN EC PRIVATE KEY-----\nnonsense\n-----END EC PRIVATE KEY-----\n")
    code, _, said = user.run("publish", package, "--to", "lab")
    assert code == 2 and "client.key can't be used: [SSL] PEM lib" in said


@pytest.mark.fault("no permission")
@pytest.mark.usefixtures("by_tls")
def test_a_certificate_for_another_project(user: User, server: incus.Server, tmp_path: Path) -> None:
    server.client("project", "create", "team")
    server.distrust(user.login[0])
    try:
        server.trust("restricted", user.login[0], "--restricted", "--projects", "team")
        said = user.refused(kit.ova(tmp_path / "a.ova"))
        assert "403" in said and "incus config trust edit" in said
        user.target(project="team")
        user.publish(kit.ova(tmp_path / "a.ova"))
    finally:
        server.clear("team")
        server.distrust(user.login[0])
        server.client("project", "delete", "team")


@pytest.mark.fault("quota")
def test_a_limit_of_the_project(user: User, server: incus.Server, tmp_path: Path) -> None:
    server.client("project", "create", "team", "-c", "limits.disk=300KiB")
    try:
        user.target(project="team")
        small, large = kit.ova(tmp_path / "a.ova"), kit.ova(tmp_path / "b.ova", more=1)
        assert "0 MB free" in user.refused(large)
        assert small.stat().st_size < 300 << 10, "that the disk in it is larger the server has to say"
        said = user.refused(small)
        assert "exceeding quota of 307200" in said and "raise the project's limits" in said
        assert server.images("team") == []
    finally:
        server.client("project", "delete", "team")


@pytest.mark.fault("full disk")
def test_a_full_disk(incus_root: Path, tmp_path: Path) -> None:
    with incus.server(incus_root, tmp_path / "full", room=MIB) as small:
        user = User(small, small.folder / "user")
        small.trust("user", user.login[0])
        assert "no space left on device" in user.refused(kit.ova(tmp_path / "a.ova", more=2))


@pytest.mark.fault("connection cut at half")
def test_a_connection_that_breaks_at_half(user: User, server: incus.Server, tmp_path: Path) -> None:
    tls = certificate(tmp_path)
    with proxy(f"unix:{server.socket}", tls) as between:
        user.through(between, tls)
        between.when(b"POST /1.0/images?", MIB)
        assert "trying again" in user.publish(kit.ova(tmp_path / "a.ova", more=2))["said"]
        assert [names for names in seen(server).values()] == [{"a", "a/1.0"}]
        between.when(b"GET /1.0/operations/", 0)
        between.heads.clear()
        assert "trying again" in user.publish(kit.ova(tmp_path / "b.ova", "1.1"))["said"]
        assert len([head for head in between.heads if head.startswith(b"POST /1.0/images?")]) == 1, "it was all there"
        between.when(b"POST /1.0/images?", MIB, times=9)
        assert "can't be reached" in user.refused(kit.ova(tmp_path / "c.ova", "1.2", more=2), left=2)


@pytest.mark.fault("500 in the middle")
def test_a_server_that_fails_in_the_middle(user: User, server: incus.Server, tmp_path: Path) -> None:
    tls = certificate(tmp_path)
    with proxy(f"unix:{server.socket}", tls) as between:
        user.through(between, tls)
        between.when(b"POST /1.0/images?", MIB, lambda head: SORRY)
        user.publish(kit.ova(tmp_path / "a.ova", more=2))
        between.when(b"POST /1.0/images/aliases?", 0, lambda head: SORRY, times=9)
        assert "500" in user.refused(kit.ova(tmp_path / "b.ova", "1.1"), left=1)
        assert [names for names in seen(server).values()] == [{"a", "a/1.0"}]


@pytest.mark.fault("token expired")
@pytest.mark.usefixtures("by_tls")
def test_a_certificate_that_is_over_or_taken_back(user: User, server: incus.Server, tmp_path: Path) -> None:
    package = kit.ova(tmp_path / "a.ova", more=8)
    with user.start("publish", package, "--to", "lab") as child:
        assert child.stderr is not None
        for line in child.stderr:
            if "convert the disk" in line:
                server.distrust(user.login[0])
                break
        out, said = child.communicate(timeout=100)
    assert (child.returncode, out, server.images(), server.files) == (7, "", [], []), said
    assert "403" in said or "does not trust the client certificate" in said, "one by the answer, one by the next try"
    short = incus.client_certificate(user.folder / "incus", "short", seconds=4)
    server.trust("short", short[0])
    time.sleep(5)
    assert "does not trust the client certificate" in user.refused(package)
    server.distrust(short[0])


@pytest.mark.fault("slow server")
def test_a_server_that_says_nothing(user: User, server: incus.Server, tmp_path: Path) -> None:
    user.target(timeout="3 s")
    tls = certificate(tmp_path)

    def sleep(head: bytes) -> bytes:
        time.sleep(8)
        return b""

    with proxy(f"unix:{server.socket}", tls) as between:
        user.through(between, tls)
        between.when(b"POST /1.0/images?", 0, sleep)
        assert "no answer in time" in user.publish(kit.ova(tmp_path / "a.ova"))["said"]
    assert len(server.images()) == 1


@pytest.mark.fault("certificate wrong")
@pytest.mark.usefixtures("by_tls")
def test_a_server_with_another_certificate(user: User, tmp_path: Path) -> None:
    package, known = kit.ova(tmp_path / "a.ova"), user.folder / "incus/servercerts/lab.crt"
    own = known.read_bytes()
    known.write_bytes(certificate(tmp_path)[0].read_bytes())
    said = user.refused(package)
    assert "no certificate that is trusted here: it is not the one" in said and "incus remote remove lab" in said
    known.unlink()
    assert "no certificate that is trusted here" in user.refused(package)
    user.environ["REQUESTS_CA_BUNDLE"] = str(user.server.certificate)
    assert user.publish(package)["outcome"] == "published"
    user.environ["REQUESTS_CA_BUNDLE"] = str(known)
    known.write_bytes(own)
    assert user.publish(package)["outcome"] == "present"


@pytest.mark.fault("image of that name there already")
def test_somebody_elses_image_of_that_name(user: User, server: incus.Server, tmp_path: Path) -> None:
    package = kit.ova(tmp_path / "a.ova")
    user.publish(package)
    server.client("image", "export", "a", "/w/theirs")
    server.clear()
    server.client("image", "import", "/w/theirs", "/w/theirs.root", "--alias", "a")
    (theirs,) = seen(server)
    code, out, said = user.run("publish", package, "--to", "lab")
    assert (code, out) == (7, "") and theirs[:12] in said and "--name" in said
    assert seen(server) == {theirs: {"a"}}
    user.publish(package, "--name", "b")


@pytest.mark.fault("process killed at half")
def test_killed_at_half(user: User, server: incus.Server, tmp_path: Path) -> None:
    package, tls = kit.ova(tmp_path / "a.ova", more=2), certificate(tmp_path)
    with proxy(f"unix:{server.socket}", tls) as between:
        user.through(between, tls)
        killed_when(user, between, b"POST /1.0/images?", MIB, package)
        until = time.monotonic() + 20
        while server.files:
            assert time.monotonic() < until, "Incus removes what it has of a request that broke"
            time.sleep(0.1)
        assert server.images() == []
        user.publish(package)
    assert [names for names in seen(server).values()] == [{"a", "a/1.0"}]


@pytest.mark.parametrize("request_line", [b"POST /1.0/images/aliases?", b"PATCH /1.0/images/"])
def test_killed_between_two_steps(user: User, server: incus.Server, tmp_path: Path, request_line: bytes) -> None:
    package, tls = kit.ova(tmp_path / "a.ova"), certificate(tmp_path)
    with proxy(f"unix:{server.socket}", tls) as between:
        user.through(between, tls)
        killed_when(user, between, request_line, 0, package)
        (left,) = server.images()
        assert left["properties"]["ovfbuild.state"] == "unfinished"
        between.heads.clear()
        assert user.publish(package)["ids"]["fingerprint"] == left["fingerprint"]
        assert not [head for head in between.heads if head.startswith(b"POST /1.0/images?")], "it is not sent again"
        assert seen(server) == {left["fingerprint"]: {"a", "a/1.0"}}
        killed_when(user, between, b"PATCH ", 0, kit.ova(tmp_path / "b.ova", product="q"), "--replace")
        other = user.publish(kit.ova(tmp_path / "c.ova", "1.1"))
        assert "removing what an earlier upload" in other["said"]
        assert seen(server) == {left["fingerprint"]: {"a/1.0"}, other["ids"]["fingerprint"]: {"a", "a/1.1"}}


def killed_when(user: User, between: Proxy, request_line: bytes, after: int, package: Path, *words: str) -> None:
    """Publishes, and is killed when so many bytes of such a request have been sent."""
    there, dead = threading.Event(), threading.Event()

    def wait(head: bytes) -> bytes:
        there.set()
        assert dead.wait(120)
        return b""

    between.when(request_line, after, wait)
    with user.start("publish", package, "--to", "lab", *words) as child:
        assert there.wait(120)
        child.kill()
        child.communicate()
        dead.set()
