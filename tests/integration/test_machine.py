"""QEMU from its start to its end, with guests of 512 bytes: every way in which a machine can end."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ovfbuild.errors import ProgramError
from ovfbuild.vm import hardware, machine
from ovfbuild.vm.accelerator import TCG
from ovfbuild.vm.hardware import Accelerator, Disk, Hardware, file_node
from ovfbuild.vm.machine import Cause, Decision, Limits
from tests import tiny

pytestmark = pytest.mark.qemu


class Ears:
    """Keeps what it hears, and decides as it was told to."""

    def __init__(self, decide: Callable[[str], Decision] = lambda line: Decision.GO_ON) -> None:
        self.reports: list[str] = []
        self.lines: list[str] = []
        self._decide = decide

    def report(self, line: str) -> Decision:
        self.reports.append(line)
        return self._decide(line)

    def console(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture(autouse=True)
def _uart(monkeypatch: pytest.MonkeyPatch, needs: Callable[..., None]) -> None:
    needs("qemu-system-x86_64")
    monkeypatch.setattr(hardware, "REPORT_DEVICES", tiny.REPORT_DEVICES)


def run(
    tmp_path: Path, ears: Ears, *acts: tuple[int, bytes] | bytes, timeout: float = 20, stall: float = 20
) -> machine.Ending:
    image = tiny.disk(tmp_path / "tiny.raw", *acts)
    spec = Hardware(TCG, 1, 2**26, (Disk(file_node(image, "raw"), "virtio", bootindex=1),))
    ending = machine.run(spec, Limits(timeout, stall), ears, tmp_path / "evidence")
    assert not running(str(image)), "QEMU outlived its run"
    return ending


def running(mark: str) -> list[int]:
    """Processes whose command line has `mark` in it, but for this one."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if mark.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def test_power_off_after_reports_and_console_lines(tmp_path: Path) -> None:
    ears = Ears()
    ending = run(tmp_path, ears, tiny.console("hello"), tiny.report("sealed"), tiny.POWER_OFF)
    assert (ending.cause, ending.detail) == (Cause.POWERED_OFF, "guest-shutdown")
    assert ears.reports == ['{"event": "sealed"}']
    assert "hello" in ears.lines
    assert "hello" in (tmp_path / "evidence/console.log").read_text()
    assert "SeaBIOS" in (tmp_path / "evidence/firmware.log").read_text()
    assert not (tmp_path / "evidence/screenshot.png").exists()


def test_the_listener_ends_it(tmp_path: Path) -> None:
    ears = Ears(lambda line: Decision.FINISH)
    assert run(tmp_path, ears, tiny.report("answered")).cause is Cause.FINISHED


def test_a_reported_failure_leaves_a_screenshot(tmp_path: Path) -> None:
    ears = Ears(lambda line: Decision.FAIL)
    assert run(tmp_path, ears, tiny.report("failed")).cause is Cause.FAILED
    assert (tmp_path / "evidence/screenshot.png").read_bytes().startswith(b"\x89PNG")


def test_reboot(tmp_path: Path) -> None:
    assert run(tmp_path, Ears(), tiny.REBOOT).cause is Cause.REBOOTED


def test_kernel_panic_on_the_console(tmp_path: Path) -> None:
    ending = run(tmp_path, Ears(), tiny.console("Kernel panic - not syncing: VFS: Unable to mount root fs"))
    assert ending.cause is Cause.PANICKED
    assert "Unable to mount root" in ending.detail


def test_panic_told_by_pvpanic(tmp_path: Path) -> None:
    # out 0x505, 1: what the kernel's pvpanic driver writes
    assert run(tmp_path, Ears(), bytes.fromhex("ba0505b001ee")).cause is Cause.PANICKED


def test_silence_is_a_stall(tmp_path: Path) -> None:
    ending = run(tmp_path, Ears(), tiny.console("going to sleep"), stall=2)
    assert ending.cause is Cause.STALLED
    assert ending.seconds < 10


def test_the_whole_guest_has_a_deadline(tmp_path: Path) -> None:
    assert run(tmp_path, Ears(), timeout=2).cause is Cause.TIMED_OUT


def test_no_boot_sector_is_seen_in_the_firmware_log(tmp_path: Path) -> None:
    image = tmp_path / "empty.raw"
    image.write_bytes(bytes(2**20))
    spec = Hardware(TCG, 1, 2**26, (Disk(file_node(image, "raw"), "virtio", bootindex=1),))
    ending = machine.run(spec, Limits(30, 30), Ears(), tmp_path / "evidence")
    assert ending.cause is Cause.NOT_BOOTABLE


def test_qemu_that_is_killed(tmp_path: Path) -> None:
    def kill(line: str) -> Decision:
        (pid,) = running(str(tmp_path / "tiny.raw"))
        os.kill(pid, signal.SIGKILL)
        return Decision.GO_ON

    ending = run(tmp_path, Ears(kill), tiny.report("started"))
    assert ending.cause is Cause.DIED
    assert "-9" in ending.detail


def test_qemu_that_refuses_its_arguments_is_quoted(tmp_path: Path) -> None:
    image = tiny.disk(tmp_path / "tiny.raw")
    disk = Disk(file_node(image, "raw"), "virtio", bootindex=1)
    spec = Hardware(Accelerator("tcg", "no-such-cpu"), 1, 2**26, (disk,))
    with pytest.raises(ProgramError, match="no-such-cpu"):
        machine.run(spec, Limits(20, 20), Ears(), tmp_path / "evidence")


@pytest.mark.parametrize("controller", ["virtio", "ahci", "ide", "nvme", "pvscsi"])
def test_every_controller_boots_with_a_cdrom_beside_it(tmp_path: Path, controller: str) -> None:
    image = tiny.disk(tmp_path / "tiny.raw", tiny.report("sealed"), tiny.POWER_OFF)
    iso = tmp_path / "seed.iso"
    iso.write_bytes(bytes(2**20))
    disks = (
        Disk(file_node(image, "raw"), controller, bootindex=1),
        Disk(file_node(iso, "raw", read_only=True), "ide", cdrom=True),
    )
    nic = hardware.Nic("e1000-82545em")
    ears = Ears()
    ending = machine.run(Hardware(TCG, 2, 2**26, disks, (nic,)), Limits(30, 30), ears, tmp_path / "evidence")
    assert ending.cause is Cause.POWERED_OFF
    assert ears.reports


def test_who_watches_from_outside_reaches_a_port_and_ends_it(tmp_path: Path) -> None:
    """QEMU takes the connection; that no guest answers is another matter."""
    image = tiny.disk(tmp_path / "tiny.raw", tiny.console("waiting"))
    disks = (Disk(file_node(image, "raw"), "virtio", bootindex=1),)
    seen: list[int] = []

    def watch(running: machine.Running) -> None:
        port = running.forward(8080)
        with socket.create_connection(("127.0.0.1", port), 5):
            seen.append(port)
        running.finish()
        running.over.wait(20)
        seen.append(0)

    spec = Hardware(TCG, 1, 2**26, disks, (hardware.Nic("e1000-82545em"),))
    ending = machine.run(spec, Limits(20, 20), Ears(), tmp_path / "evidence", beside=watch)
    assert ending.cause is Cause.FINISHED
    assert len(seen) >= 1
    assert seen[0] > 0


def test_a_machine_without_a_nic_forwards_no_port(tmp_path: Path) -> None:
    image = tiny.disk(tmp_path / "tiny.raw", tiny.console("waiting"))
    said: list[str] = []

    def watch(running: machine.Running) -> None:
        with pytest.raises(ProgramError) as caught:
            running.forward(8080)
        said.append(caught.value.message)
        running.finish()

    spec = Hardware(TCG, 1, 2**26, (Disk(file_node(image, "raw"), "virtio", bootindex=1),))
    ending = machine.run(spec, Limits(20, 20), Ears(), tmp_path / "evidence", beside=watch)
    assert ending.cause is Cause.FINISHED
    assert said[0].startswith("QEMU forwards no port to the guest: ")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_machine_whenever_it_comes(tmp_path: Path, sent: signal.Signals) -> None:
    """While QEMU starts, too."""
    image = tiny.disk(tmp_path / "tiny.raw", tiny.console("waiting"))
    spec = Hardware(TCG, 1, 2**26, (Disk(file_node(image, "raw"), "virtio", bootindex=1),))
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for milliseconds in (1, 20, 60, 120, 250, 600):
            timer = threading.Timer(milliseconds / 1000, os.kill, (os.getpid(), sent))
            with pytest.raises(KeyboardInterrupt):
                timer.start()
                machine.run(spec, Limits(20, 20), Ears(), tmp_path / "evidence")
            assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
            assert not running(str(image))
    finally:
        signal.signal(signal.SIGTERM, before)
