"""Every profile and every example through the importers that they are meant for.

Compared are the disks, bit by bit, as the importer has them, and the machine that it made with the one asked for.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ovfbuild import pipeline
from ovfbuild.progress import Silent
from ovfbuild.spec import plan
from tests.importers import vsphere
from tests.importers.appliances import EXAMPLES, Case, cases, in_virtualbox, in_vsphere
from tests.importers.conftest import MIB, Row, synthetic
from tests.importers.imported import Import
from tests.importers.virtualbox import VirtualBox

pytestmark = [pytest.mark.importers, pytest.mark.timeout(1800)]  # the first installs


def packed(case: Case, disk: Path, folder: Path) -> Path:
    """As `ovfbuild pack` does it."""
    resolved = plan.resolve(case.appliance, {}, profiles=(case.profile,))
    (ova,) = pipeline.pack(resolved, disk, pipeline.Options(out=folder, boot=False), Silent())
    return ova


def qemu_img(*argv: str) -> str:
    done = subprocess.run(["qemu-img", *argv], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def compare(made: Import, *disks: Path) -> str:
    """`same`, or an assertion: qemu-img reads both sides, of the same size."""
    assert len(made.images) == len(disks)
    for image, disk in zip(made.images, disks, strict=True):
        form = "vmdk" if image.suffix == ".vmdk" else "raw"
        described = json.loads(qemu_img("info", "--output=json", "-f", form, str(image)))
        assert described["virtual-size"] == disk.stat().st_size
        assert "identical" in qemu_img("compare", "-f", form, "-F", "raw", str(image), str(disk))
        image.unlink()
    return "same"


def further(case: Case, folder: Path) -> list[Path]:
    """The empty disks behind the first."""
    found = [folder / f"empty-{number}.raw" for number in range(len(case.appliance.disks))]
    for path, one in zip(found, case.appliance.disks, strict=True):
        with path.open("wb") as stream:
            stream.truncate(one.size)
    return found


def name(case: Case) -> str:
    return f"{case.profile}: {case.title}"


@pytest.mark.parametrize("case", cases("VirtualBox"), ids=name)
def test_virtualbox(
    case: Case, virtualbox: VirtualBox, disk: Path, own_cache: Path, tmp_path: Path, table: list[Row]
) -> None:
    made = virtualbox.take(packed(case, disk, tmp_path))
    content = compare(made, disk, *further(case, tmp_path))
    table.append(("VirtualBox", case.profile, case.title, made.machine, content))
    assert made.machine == in_virtualbox(case)
    assert made.warnings == ()
    assert (made.details["vrde"], made.details["paravirtprovider"]) == ("off", "default"), "as in a new machine"


@pytest.mark.parametrize("case", cases("vSphere"), ids=name)
def test_vsphere(
    case: Case, simulator: vsphere.Simulator, disk: Path, own_cache: Path, tmp_path: Path, table: list[Row]
) -> None:
    made = vsphere.take(simulator, packed(case, disk, tmp_path), tmp_path.name)
    content = compare(made, disk, *further(case, tmp_path))
    table.append(("vSphere", case.profile, case.title, made.machine, content))
    assert made.machine == in_vsphere(case)
    assert made.warnings == ()


def test_a_disk_beyond_4_gib_and_a_second_one(
    virtualbox: VirtualBox, simulator: vsphere.Simulator, own_cache: Path, tmp_path: Path, needs: Callable[..., None]
) -> None:
    """Where 32 bits end: of bytes, at 4 GiB."""
    needs("qemu-img")
    disk = synthetic(tmp_path / "disk.raw", 4096 * MIB + 130 * MIB)
    second = synthetic(tmp_path / "second.raw", 20 * MIB)
    ova = packed(Case("hello", EXAMPLES / "hello", "portable", {"disks": [{"image": str(second)}]}), disk, tmp_path)
    compare(virtualbox.take(ova), disk, second)
    compare(vsphere.take(simulator, ova, "large"), disk, second)


def test_damage_is_refused(virtualbox: VirtualBox, disk: Path, own_cache: Path, tmp_path: Path) -> None:
    """So that `Successfully imported` and `same` mean something: one bit of the disk's data is wrong."""
    ova = packed(Case("hello", EXAMPLES / "hello", "portable"), disk, tmp_path)
    with ova.open("r+b") as stream:
        stream.seek(ova.stat().st_size // 2)
        byte = stream.read(1)[0]
        stream.seek(-1, 1)
        stream.write(bytes([byte ^ 1]))
    with pytest.raises(Exception, match=r"VERR_NOT_EQUAL|VERR_ZIP_CORRUPTED|VERR_VD"):
        virtualbox.take(ova)
