"""The whole command with guests of 512 bytes: what it prints, what it leaves, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tiny
from tests.integration.test_machine import running

pytestmark = pytest.mark.qemu

SEALED = (tiny.console("booting"), tiny.report("sealed"), tiny.POWER_OFF)


class Shop:
    """A folder with an appliance, a cache of its own, and the command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dist = folder / "dist"
        self.env = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}

    def appliance(self, *acts: tuple[int, bytes] | bytes, more: str = "", head: str = "") -> Path:
        tiny.disk(self.folder / "tiny.raw", *acts)
        path = self.folder / "appliance.toml"
        path.write_text(
            f'name = "tiny"\nversion = "1.0.0"\n{head}\n'
            f'[base]\nimage = "tiny.raw"\n[hardware]\ndisk = "1 GiB"\n{more}\n'
        )
        return path

    def argv(self, *words: str | Path) -> list[str]:
        return [sys.executable, "-m", "tests.tiny_cli", *map(str, words)]

    def run(self, *words: str | Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.argv(*words), env=self.env, capture_output=True, text=True, timeout=timeout)

    def make(self, path: Path, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run("make", path, "-o", self.dist, "--accel", "tcg", "--no-boot", *words)

    def left(self) -> list[str]:
        """What lies in the output folder."""
        return sorted(entry.name for entry in self.dist.iterdir()) if self.dist.exists() else []

    def assert_nothing_runs(self) -> None:
        assert not running(str(self.folder / "cache")), "a process outlived the command"


@pytest.fixture
def shop(tmp_path: Path, needs: Callable[..., None]) -> Shop:
    needs("qemu-system-x86_64", "qemu-img")
    return Shop(tmp_path)


def test_make_prints_the_path_and_nothing_else(shop: Shop) -> None:
    done = shop.make(shop.appliance(*SEALED))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{shop.dist}/tiny-1.0.0.ova\n"
    assert shop.left() == ["tiny-1.0.0.ova"]
    assert not list((shop.folder / "cache/ovfbuild/work").iterdir())
    shop.assert_nothing_runs()


def test_make_is_a_good_package_to_other_programs(shop: Shop, needs: Callable[..., None]) -> None:
    needs("tar", "sha256sum")
    assert shop.make(shop.appliance(*SEALED)).returncode == 0
    subprocess.run(["tar", "-xf", shop.dist / "tiny-1.0.0.ova", "-C", shop.folder], check=True)
    for line in (shop.folder / "tiny-1.0.0.mf").read_text().splitlines():
        name, _, digest = line.removeprefix("SHA256(").partition(")= ")
        assert subprocess.check_output(["sha256sum", shop.folder / name], text=True).split()[0] == digest
    disk = shop.folder / "tiny-1.0.0-disk1.vmdk"
    subprocess.run(["qemu-img", "check", "-f", "vmdk", disk], check=True)
    raw = shop.folder / "disk.raw"
    subprocess.run(["qemu-img", "convert", "-f", "vmdk", "-O", "raw", disk, raw], check=True)
    assert raw.stat().st_size == 2**30
    with raw.open("rb") as stream:
        assert stream.read(512) == (shop.folder / "tiny.raw").read_bytes()[:512]


def test_the_second_make_takes_the_disk_from_the_cache(shop: Shop) -> None:
    path = shop.appliance(*SEALED)
    first = shop.make(path)
    assert "boot the build VM" in first.stderr
    before = (shop.dist / "tiny-1.0.0.ova").read_bytes()
    again = shop.make(path)
    assert "boot the build VM" not in again.stderr
    assert "from the cache, made" in again.stderr
    assert (shop.dist / "tiny-1.0.0.ova").read_bytes() == before, "the same disk gives the same bytes"
    anew = shop.make(path, "--no-cache")
    assert "boot the build VM" in anew.stderr


def test_what_makes_a_new_disk_and_what_does_not(shop: Shop) -> None:
    def built(more: str = "", head: str = "") -> bool:
        path = shop.appliance(*SEALED, more=more, head=head)
        done = shop.make(path)
        assert done.returncode == 0, done.stderr
        return "boot the build VM" in done.stderr

    script = '[[scripts]]\nname = "a"\nrun = "true"\n'
    assert built(script)
    assert not built(script, head='summary = "other words"\nvendor = "V"')
    assert not built(f'cpus = 4\nmemory = "2 GiB"\nfirmware = "efi"\n{script}')
    assert not built(f'{script}[package]\ncompression = "small"\n')
    assert not built(f'{script}[[networks]]\nname = "other"\n')
    assert built(script.replace("true", "false"))
    assert built(f'{script}[[files]]\ncontent = "x"\ntarget = "/x"\n')
    assert built(f'{script}[system]\npackages = ["curl"]\n')
    assert built(f"serial = true\n{script}")


def test_a_disk_beside_it_comes_back_from_the_build_vm(shop: Shop, needs: Callable[..., None]) -> None:
    """One that is mounted is built, and is in the cache with the first; one that is not needs no VM."""
    needs("tar", "mke2fs", "e2fsck")
    mounted = '[[disks]]\nsize = "64 MiB"\nlabel = "data"\nmount = "/srv/data"\n'
    path = shop.appliance(*SEALED, more=mounted)
    first = shop.make(path)
    assert first.returncode == 0, first.stderr
    before = (shop.dist / "tiny-1.0.0.ova").read_bytes()
    again = shop.make(path)
    assert "boot the build VM" not in again.stderr
    assert (shop.dist / "tiny-1.0.0.ova").read_bytes() == before
    subprocess.run(["tar", "-xf", shop.dist / "tiny-1.0.0.ova", "-C", shop.folder], check=True)
    raw = shop.folder / "data.raw"
    vmdk = shop.folder / "tiny-1.0.0-disk2.vmdk"
    subprocess.run(["qemu-img", "convert", "-f", "vmdk", "-O", "raw", vmdk, raw], check=True)
    assert subprocess.run(["e2fsck", "-f", "-n", raw]).returncode == 0
    beside = shop.make(shop.appliance(*SEALED, more=f'{mounted}[[disks]]\nsize = "1 GiB"\n'))
    assert "boot the build VM" not in beside.stderr
    larger = shop.make(shop.appliance(*SEALED, more=mounted.replace("64", "128")))
    assert "boot the build VM" in larger.stderr


def test_a_changed_image_makes_a_new_disk(shop: Shop) -> None:
    assert shop.make(shop.appliance(*SEALED)).returncode == 0
    done = shop.make(shop.appliance(tiny.console("other"), *SEALED))
    assert "boot the build VM" in done.stderr


Act = tuple[int, bytes] | bytes
FAILURES: dict[str, tuple[list[Act], str, str]] = {
    "a step fails": (
        [
            tiny.report("begin", step="configure"),
            tiny.report("failed", step="configure", error="exit 3", output=["no"]),
        ],
        "",
        "step 'configure' failed in the guest: exit 3\n  | no",
    ),
    "power-off without a verdict": ([tiny.POWER_OFF], "", "powered off before its first step"),
    "reboot": ([tiny.report("begin", step="x"), tiny.REBOOT], "", "in step 'x'"),
    "panic": ([tiny.console("Kernel panic - not syncing: no init")], "", "kernel panicked"),
    "stall": ([tiny.console("zzz")], '[build]\nstall = "2 s"', "no sign of life"),
    "timeout": ([tiny.console("zzz")], '[build]\ntimeout = "2 s"', "not done in time"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_guest_that_fails(shop: Shop, name: str) -> None:
    acts, more, message = FAILURES[name]
    done = shop.make(shop.appliance(*acts, more=more))
    assert done.returncode == 4, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    failed = shop.dist / "tiny-1.0.0.failed"
    assert f"the logs are in {failed}" in done.stderr
    assert shop.left() == ["tiny-1.0.0.failed"]
    assert {"build.log", "console.log", "firmware.log", "report.jsonl"} <= {p.name for p in failed.iterdir()}
    if "power-off" not in name:
        assert (failed / "screenshot.png").read_bytes().startswith(b"\x89PNG")
    assert not (failed / "overlay.qcow2").exists()
    shop.assert_nothing_runs()


def test_a_disk_that_does_not_boot(shop: Shop) -> None:
    path = shop.appliance(*SEALED)
    (shop.folder / "tiny.raw").write_bytes(bytes(2**20))
    done = shop.make(path)
    assert done.returncode == 4
    assert "nothing to boot" in done.stderr


def test_keep_keeps_the_disk_and_the_seed(shop: Shop) -> None:
    done = shop.make(shop.appliance(tiny.report("failed", step="x", error="no")), "--on-failure", "keep")
    assert done.returncode == 4
    assert {"overlay.qcow2", "seed.iso"} <= {p.name for p in (shop.dist / "tiny-1.0.0.failed").iterdir()}


def test_a_failure_leaves_a_good_package_alone_and_success_takes_old_logs_away(shop: Shop) -> None:
    assert shop.make(shop.appliance(*SEALED)).returncode == 0
    before = (shop.dist / "tiny-1.0.0.ova").read_bytes()
    assert shop.make(shop.appliance(tiny.POWER_OFF)).returncode == 4
    assert (shop.dist / "tiny-1.0.0.ova").read_bytes() == before
    assert shop.left() == ["tiny-1.0.0.failed", "tiny-1.0.0.ova"]
    assert shop.make(shop.appliance(*SEALED)).returncode == 0
    assert shop.left() == ["tiny-1.0.0.ova"]


def test_a_package_that_does_not_answer_is_not_published(shop: Shop) -> None:
    path = shop.appliance(*SEALED, more='[build]\ntimeout = "8 s"')
    done = shop.run("make", path, "-o", shop.dist, "--accel", "tcg")
    assert done.returncode == 6, done.stderr
    assert "did not come up" in done.stderr
    assert shop.left() == ["tiny-1.0.0.failed"]
    shop.assert_nothing_runs()


def wait_for(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_nothing_outlives_an_end_by_force(shop: Shop, sent: signal.Signals, code: int) -> None:
    path = shop.appliance(tiny.console("waiting"))
    argv = shop.argv("make", path, "-o", shop.dist, "--accel", "tcg")
    with subprocess.Popen(argv, env=shop.env, stderr=subprocess.PIPE, text=True) as command:
        wait_for(lambda: [pid for pid in running(str(shop.folder / "cache")) if pid != command.pid])
        command.send_signal(sent)
        _, said = command.communicate(timeout=20)
    assert command.returncode == code
    wait_for(lambda: not running(str(shop.folder / "cache")), 5)
    assert shop.left() == []
    if sent is not signal.SIGKILL:
        assert "interrupted" in said
        assert "Traceback" not in said
        assert not list((shop.folder / "cache/ovfbuild/work").iterdir())


def test_the_console_of_a_failed_guest(shop: Shop) -> None:
    """A person at a terminal: the step fails, the console opens, keys reach the guest, Ctrl-] leaves."""
    path = shop.appliance(tiny.report("failed", step="x", error="no"), tiny.echo())
    argv = shop.argv("make", path, "-o", shop.dist, "--accel", "tcg", "--on-failure", "shell")
    parent, child = pty.openpty()
    with subprocess.Popen(argv, env=shop.env, stdin=child, stderr=child, stdout=subprocess.PIPE) as command:
        os.close(child)
        screen = b""

        def seen(words: bytes) -> bool:
            nonlocal screen
            if select.select([parent], [], [], 0.1)[0]:
                screen += os.read(parent, 65536)
            return words in screen

        wait_for(lambda: seen(b"serial console"))
        time.sleep(0.3)
        os.write(parent, b"k")
        wait_for(lambda: seen(b"K"))
        os.write(parent, b"\x1d")
        wait_for(lambda: seen(b"the logs are in"))
        assert command.wait(20) == 4
    os.close(parent)
    shop.assert_nothing_runs()


def test_shell_needs_a_terminal(shop: Shop) -> None:
    done = shop.make(shop.appliance(*SEALED), "--on-failure", "shell")
    assert done.returncode == 2
    assert "terminal" in done.stderr


def test_pack_wraps_a_disk_without_a_vm(shop: Shop) -> None:
    path = shop.appliance(*SEALED)
    for image_format in ("qcow2", "vmdk"):
        target = shop.folder / f"disk.{image_format}"
        command = ["qemu-img", "convert", "-q", "-O", image_format, shop.folder / "tiny.raw", target]
        subprocess.run(command, check=True)
        done = shop.run("pack", path, "--disk", target, "-o", shop.dist)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{shop.dist}/tiny-1.0.0.ova\n"
        assert "build VM" not in done.stderr


def test_the_time_of_a_package_is_that_of_its_data(shop: Shop) -> None:
    """A disk of 1 TiB with one boot sector in it: packed, walked and compared within the timeout of any test."""
    disk = shop.folder / "huge.qcow2"
    path = shop.appliance(*SEALED)
    subprocess.run(["qemu-img", "convert", "-q", "-O", "qcow2", shop.folder / "tiny.raw", disk], check=True)
    subprocess.run(["qemu-img", "resize", "-q", disk, "1T"], check=True)
    done = shop.run("pack", path, "--disk", disk, "-o", shop.dist, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (shop.dist / "tiny-1.0.0.ova").stat().st_size < 2**20


def test_verify_and_inspect(shop: Shop) -> None:
    path = shop.appliance(*SEALED)
    assert shop.run("pack", path, "--disk", shop.folder / "tiny.raw", "-o", shop.dist).returncode == 0
    ova = shop.dist / "tiny-1.0.0.ova"
    done = shop.run("verify", ova)
    assert done.returncode == 0, done.stderr
    assert "good" in done.stdout
    facts = json.loads(shop.run("inspect", ova, "--json").stdout)
    assert facts["system"]["name"] == "tiny"
    assert facts["system"]["memory"] == 2**30
    assert facts["disks"][0]["capacity"] == 2**20
    assert "tiny-1.0.0-disk1.vmdk" in shop.run("inspect", ova).stdout
    octets = bytearray(ova.read_bytes())
    octets[octets.index(b"1.0.0</Version>")] = ord("9")
    ova.write_bytes(octets)
    broken = shop.run("verify", ova)
    assert broken.returncode == 6
    assert "digest does not match" in broken.stderr
    ova.write_bytes(b"no tar at all")
    assert shop.run("verify", ova).returncode == 5


def test_offline_without_a_cache(shop: Shop) -> None:
    path = shop.appliance(*SEALED, more='[system]\npackages = ["curl"]')
    done = shop.make(path, "--offline")
    assert done.returncode == 2
    assert "--offline" in done.stderr


def test_other_ends(shop: Shop) -> None:
    path = shop.appliance(*SEALED)
    assert shop.run("make", path, "--accel", "steam").returncode == 2
    assert shop.run("make", shop.folder / "none.toml").returncode == 2
    assert shop.run("pack", path, "--disk", shop.folder / "none").returncode == 5
    empty = {**shop.env, "PATH": str(shop.folder)}
    argv = shop.argv("make", path, "-o", shop.dist, "--accel", "tcg")
    done = subprocess.run(argv, env=empty, capture_output=True, text=True, timeout=30)
    assert done.returncode == 3
    assert "apt install qemu" in done.stderr
    for command in ([], ["make"], ["verify"], ["cache", "list"]):
        text = shop.run(*command, "--help").stdout
        assert "130  interrupted" in text


def test_new_writes_what_plan_can_read(shop: Shop) -> None:
    done = shop.run("new", shop.folder / "mine")
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.strip())
    plan = json.loads(shop.run("plan", path).stdout)
    assert plan["appliance"]["base"]["distribution"] == "debian:12"
    assert shop.run("new", shop.folder / "mine").returncode == 5


def test_the_cache_can_be_listed_and_pruned(shop: Shop) -> None:
    assert shop.make(shop.appliance(*SEALED)).returncode == 0
    assert "sealed disk on tiny.raw" in shop.run("cache", "list").stdout
    assert shop.run("cache", "prune").stdout == ""
    assert "sealed disk" in shop.run("cache", "prune", "--all").stdout
    assert shop.run("cache", "list").stdout == ""
