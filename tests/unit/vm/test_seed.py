"""The seed: what other programs find in it, and the same bytes every time."""

from __future__ import annotations

import hashlib
import io
import os
import time
from pathlib import Path

import pycdlib
import pytest
import yaml

from ovfbuild.vm import seed


def names_in(path: Path) -> dict[str, bytes]:
    """Every file of an ISO by its Rock Ridge path, read back."""
    iso = pycdlib.PyCdlib()
    iso.open(str(path))
    found = {}
    for folder, _, names in iso.walk(rr_path="/"):
        for name in names:
            content = io.BytesIO()
            full = f"{folder.rstrip('/')}/{name}"
            iso.get_file_from_iso_fp(content, rr_path=full)
            found[full] = content.getvalue()
    iso.close()
    return found


def test_a_build_seed_has_what_cloud_init_and_the_runner_read(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 3_000_000)
    files = seed.build_seed("i-1", "hello", "#cloud-config\n{}\n", b"{}")
    seed.write(tmp_path / "seed.iso", {**files, "files/000001": tmp_path / "big"})
    found = names_in(tmp_path / "seed.iso")
    assert found["/user-data"] == b"#cloud-config\n{}\n"
    assert yaml.safe_load(found["/meta-data"]) == {"instance-id": "i-1", "local-hostname": "hello"}
    # Without the wrapper `network:`: before cloud-init 22.2 it was not always taken off.
    assert yaml.safe_load(found["/network-config"])["version"] == 2
    assert found["/files/000001"] == b"x" * 3_000_000
    assert "/ovfbuild/guest/runner.py" in found
    with (tmp_path / "seed.iso").open("rb") as iso:
        iso.seek(16 * 2048 + 40)
        assert iso.read(32).strip() == b"CIDATA"


def test_the_same_files_give_the_same_bytes_at_any_time_and_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = set()
    for zone in ("UTC", "Asia/Kolkata"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        path = tmp_path / "seed.iso"
        seed.write(path, seed.build_seed("i-1", "hello", "x", b"{}"))
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
        path.unlink()
        time.sleep(1.1)
    monkeypatch.undo()
    time.tzset()
    assert len(digests) == 1
    assert vars(pycdlib.pycdlib)["time"].time() > 1e9, "pycdlib has its clock back"


def test_the_witness_does_not_decide_how_a_disk_comes_out() -> None:
    inputs = seed.guest_modules_digest_inputs()
    assert not any("Tells the host, from inside a packed appliance" in text for text in inputs)
    assert any("Sealing: everything unique" in text for text in inputs)


def test_no_path_of_the_host_is_on_the_seed(tmp_path: Path) -> None:
    seed.write(tmp_path / "seed.iso", seed.build_seed("i-1", "hello", "x", b"{}"))
    octets = (tmp_path / "seed.iso").read_bytes()
    assert str(tmp_path).encode() not in octets
    assert os.uname().nodename.encode() not in octets or len(os.uname().nodename) < 4
