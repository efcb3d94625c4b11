"""Every base there is: each distribution made here, and images that are fetched."""

from __future__ import annotations

import hashlib
import http.server
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from ovfbuild.cache import Cache
from ovfbuild.files import digest_of
from ovfbuild.vm.debian import Recipe
from tests.integration import guests

pytestmark = pytest.mark.acceptance


@pytest.fixture
def appliance(tmp_path: Path) -> Path:
    _, public = guests.key_pair(tmp_path)
    return guests.copy_of_hello(tmp_path / "hello", public)


def visit_and_check(ova: Path, tmp_path: Path, *, efi: bool, wanted: str) -> None:
    with guests.visiting(ova, tmp_path / f"efi-{efi}", tmp_path / "key", efi=efi) as visit:
        assert "hello" in visit.page().lower()
        said = visit.run("cat /etc/os-release; echo failed=$(systemctl --failed --no-legend --plain)")
        assert wanted in said
        assert said.endswith("failed=")


def test_debian_13(appliance: Path, tmp_path: Path) -> None:
    appliance.write_text(appliance.read_text().replace("debian:12", "debian:13"))
    done = guests.command("make", appliance, "-o", tmp_path / "dist")
    assert done.returncode == 0, done.stderr[-5000:]
    for efi in (False, True):
        visit_and_check(tmp_path / "dist/hello-1.0.0.ova", tmp_path, efi=efi, wanted="VERSION_CODENAME=trixie")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server on loopback with the base of debian:12 as somebody's cloud image."""
    folder = tmp_path / "www"
    folder.mkdir()
    entry = Cache().find("bases", digest_of(list(Recipe("12").digest_inputs())))
    assert entry, "make test has made the base"
    shutil.copy(entry.path / "disk.qcow2", folder / "image.qcow2")
    digest = hashlib.sha512((folder / "image.qcow2").read_bytes()).hexdigest()
    (folder / "SHA512SUMS").write_text(f"{'0' * 128}  other.qcow2\n{digest}  image.qcow2\n")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as http_server:
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http_server.server_port}", folder
        http_server.shutdown()


def test_an_image_from_a_server_built_under_uefi(
    appliance: Path, server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = server
    base = f'image = "{address}/image.qcow2"\nchecksums = "{address}/SHA512SUMS"\nos = "debian:12"\n'
    text = appliance.read_text().replace('timeout = "30 min"', 'timeout = "30 min"\nfirmware = "efi"')
    lines = [base if line.startswith("distribution") else line for line in text.splitlines()]
    appliance.write_text("\n".join(lines).replace("cpus = 2", 'cpus = 2\nfirmware = "efi"'))
    done = guests.command("make", appliance, "-o", tmp_path / "dist")
    assert done.returncode == 0, done.stderr[-5000:]
    assert "fetch image.qcow2" in done.stderr
    assert "the package booted" in done.stderr, "under OVMF: the descriptor says efi"
    (folder / "image.qcow2").unlink()
    again = guests.command("make", appliance, "-o", tmp_path / "dist", "--offline", "--no-boot")
    assert again.returncode == 0, "a fetched image is in the cache" + again.stderr
