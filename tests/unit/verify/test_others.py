"""Packages that other programs made: `check` says what is wrong, `fix` mends it, and the disk is what it was."""

from __future__ import annotations

import lzma
import shutil
import sys
from pathlib import Path

import pytest

from ovfbuild import packages
from ovfbuild.formats import manifest
from ovfbuild.progress import Silent
from ovfbuild.verify.catalogue import REFUSES
from ovfbuild.verify.package import open_package
from ovfbuild.verify.verdict import IMPORTS, WARNS
from tests.unit.formats.conftest import Pieces, noise, run
from tests.unit.verify import kit

DISK = Pieces(4 << 20, ((0, noise(100000, 1)), ((4 << 20) - 65536, noise(65536, 2))))
VMWARE = ("vsphere-6.7", "vsphere-7.0", "vsphere-8.0")
COMPOSE = """\
system: {name: example, type: vmx-14, os_vmw: other4xLinux64Guest}
networks: {vm_network: {name: "VM Network", description: "The VM Network network"}}
hardware:
    cpus: 2
    memory: 2048
    scsi1: {type: scsi_controller, subtype: lsilogic}
    rootdisk: {type: hard_disk, parent: scsi1, disk_image: disk.vmdk}
    ethernet1: {type: ethernet, subtype: E1000, network: vm_network}
    videocard1: {type: video_card}
    vmci1: {type: vmci}
product: {product: An Example VM, vendor: A Company Inc.}
"""


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(DISK.read(0, DISK.capacity))
    return path


def qemu_vmdk(raw: Path, target: Path) -> Path:
    made = run("qemu-img", "convert", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, target)
    assert made.returncode == 0, made.stderr
    return target


def found(path: Path) -> set[str]:
    return {finding.rule for finding in packages.check(path, Silent()).findings}


def refusing(path: Path) -> set[str]:
    said = packages.check(path, Silent()).by_importer()
    return {importer for importer, outcome in said.items() if outcome == REFUSES}


def fixed(path: Path, raw: Path | None) -> Path:
    """The package, mended: judged to be good, by others' programs too, and its disk the one that was packed."""
    target = path.with_name("fixed.ova")
    packages.fix(path, target, Silent())
    assert [str(finding) for finding in packages.check(target, Silent()).errors] == []
    folder = path.parent / "unpacked"
    folder.mkdir()
    assert run("tar", "-xf", target, "-C", folder).returncode == 0
    listed = run("tar", "-tf", target).stdout.split()
    assert listed[0].endswith(".ovf")
    assert run("xmllint", "--nonet", "--noout", folder / listed[0]).returncode == 0
    for line in manifest.parse((folder / listed[1]).read_bytes()):
        assert run("sha256sum", folder / line.name).stdout.split()[0] == line.digest
    for _, disk in open_package(target).disks:
        assert run("qemu-img", "check", folder / disk.name).returncode == 0
        if raw:
            same = run("qemu-img", "compare", "-f", "raw", "-F", "vmdk", raw, folder / disk.name)
            assert "identical" in same.stdout, same.stderr
    return target


def test_qemu_img_openssl_and_tar(raw: Path, tmp_path: Path) -> None:
    """As the recipes of the web have it, each step with its own fault."""
    disk = qemu_vmdk(raw, tmp_path / "a-disk1.vmdk")
    unit = b'ovf:capacity="3" ovf:capacityAllocationUnits="byte * 2^20"'
    text = kit.descriptor(DISK.capacity)  # the disk's capacity for the size of its file, a mistake often made
    assert unit in text
    other = b'ovf:capacity="%d" ovf:capacityAllocationUnits="byte"' % DISK.capacity
    (tmp_path / "a.ovf").write_bytes(text.replace(unit, other))
    listed = [
        run("openssl", "dgst", "-sha256", tmp_path / name).stdout.replace(f"{tmp_path}/", "")
        for name in ("a.ovf", disk.name)
    ]
    (tmp_path / "a.mf").write_text("".join(listed))
    ova = tmp_path / "a.ova"
    packed = run("tar", "--format=pax", "-C", tmp_path, "-cf", ova, "./a-disk1.vmdk", "./a.ovf", "./a.mf")
    assert packed.returncode == 0, packed.stderr
    rules = {"archive-first", "archive-folder", "capacity-units", "file-size", "disk-no-end", "manifest-order"}
    assert found(ova) >= rules
    assert ("manifest-algorithm" in found(ova)) == listed[0].startswith("SHA2-256"), "OpenSSL 3"
    assert refusing(ova) >= {"virtualbox", *VMWARE}
    assert refusing(fixed(ova, raw)) == set()


def test_cot(raw: Path, tmp_path: Path) -> None:
    """COT 2.2 packs with Python's tarfile, whose headers have been PAX since 3.8, and gives OVF's elements a prefix."""
    octets = qemu_vmdk(raw, tmp_path / "a-disk1.vmdk").read_bytes()
    good = kit.Kit(kit.descriptor(len(octets)).replace(b'capacity="3"', b'capacity="4"'), {"a-disk1.vmdk": octets})
    ova = tmp_path / "cot.ova"
    done = run(
        str(Path(sys.executable).with_name("cot")),
        "-f",
        "edit-product",
        good.pack(tmp_path / "a.ova"),
        "-o",
        ova,
        "--version",
        "2.0",
    )
    assert ova.exists(), done.stderr
    assert found(ova) >= {"archive-pax", "descriptor-prefix", "disk-no-end"}
    assert refusing(ova) >= {"virtualbox", "xo", "cloudstack", *VMWARE}
    assert refusing(fixed(ova, raw)) == set()


def test_ova_compose(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """open-vmdk's video card and VMCI, which VirtualBox refuses; its unit is the one that Proxmox VE does not read."""
    if shutil.which("ova-compose") is None or shutil.which("vmdk-convert") is None:
        pytest.skip("open-vmdk is not installed; Debian 12 has no package of it")
    monkeypatch.chdir(tmp_path)
    assert run("vmdk-convert", "disk.raw", "disk.vmdk").returncode == 0
    Path("a.yaml").write_text(COMPOSE)
    made = run("ova-compose", "-i", "a.yaml", "-o", "b.ova")
    assert made.returncode == 0, made.stderr
    ova = tmp_path / "b.ova"
    assert found(ova) >= {"item-required", "capacity-units", "two-names"}
    assert refusing(ova) == {"virtualbox", "vsphere-6.5"}
    assert refusing(fixed(ova, raw)) == {"vsphere-6.5"}, "the family vmx-14 is the author's wish"


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """What VirtualBox 7.2 exported (data/README.md)."""
    path = tmp_path / "desktop.ova"
    path.write_bytes(lzma.decompress((kit.DESCRIPTORS / "virtualbox-ovf10.ova.xz").read_bytes()))
    return path


def test_what_virtualbox_exports(exported: Path) -> None:
    rules = {"manifest-spacing", "hardware-family", "capacity-units", "archive-end", "manifest-order", "os-type"}
    assert found(exported) >= rules
    assert refusing(exported) >= {"vcloud", "cloudstack", *VMWARE}
    said = packages.check(fixed(exported, None), Silent()).by_importer()
    assert {said[importer] for importer in (*VMWARE, "virtualbox", "cloudstack", "proxmox")} <= {IMPORTS, WARNS}
    assert said["glance"] == REFUSES, "two disks"


def test_what_virtualbox_exports_as_ovf_2(tmp_path: Path) -> None:
    shutil.copy(kit.DESCRIPTORS / "virtualbox-ovf20.ovf", tmp_path / "desktop.ovf")
    verdict = packages.check(tmp_path / "desktop.ovf", Silent())
    assert {"descriptor-version", "file-missing"} <= {finding.rule for finding in verdict.findings}
    assert "one-of-each" not in {finding.rule for finding in verdict.findings}, "its items were read"
