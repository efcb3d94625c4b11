"""What can go wrong in a real guest, and what its author is told."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration import guests
from tests.integration.test_machine import running

pytestmark = pytest.mark.acceptance

HEAD = 'name = "broken"\nversion = "1"\n[base]\ndistribution = "debian:12"\n[hardware]\ndisk = "3 GiB"\n'


def script(body: str) -> str:
    return f"[[scripts]]\nname = 'bad'\nrun = '''{body}'''\n"


CASES = {
    "a script fails": (
        script("echo the reason; exit 3"),
        4,
        ["step 'script bad' failed", "code 3", "| the reason"],
    ),
    "no such package": ('[system]\npackages = ["no-such-package-at-all"]', 4, ["step 'packages'", "Unable to locate"]),
    "no such version": ('[system]\npackages = ["curl=0.0.1"]', 4, ["step 'packages'", "0.0.1"]),
    "no such owner": ('[[files]]\ncontent = "x"\ntarget = "/x"\nowner = "who"', 4, ["no user or group who:who"]),
    "cloud-init": ('[cloud_init]\nuser_data = "bad.yaml"', 4, ["cloud-init ended with an error"]),
    "a kernel panic": (script("echo c > /proc/sysrq-trigger; sleep 600"), 4, ["panicked", "in step 'script bad'"]),
    "a power-off": (script("systemctl poweroff; sleep 600"), 4, ["powered off in step 'script bad'"]),
    "a reboot": (script("systemctl reboot; sleep 600"), 4, ["rebooted", "must not reboot"]),
    "a stall": (script("sleep 9999") + '[build]\nstall = "45 s"\n', 4, ["no sign of life", "in step 'script bad'"]),
}


@pytest.mark.parametrize("name", CASES)
def test_what_the_author_is_told(name: str, tmp_path: Path) -> None:
    more, code, words = CASES[name]
    (tmp_path / "bad.yaml").write_text("#cloud-config\nruncmd:\n  - [sh, -c, 'exit 7']\npackages: [no-such-thing]\n")
    (tmp_path / "appliance.toml").write_text(HEAD + more)
    done = guests.command("make", tmp_path / "appliance.toml", "-o", tmp_path / "dist")
    assert done.returncode == code, done.stderr[-3000:]
    assert [word for word in words if word not in done.stderr] == [], done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    failed = tmp_path / "dist/broken-1.failed"
    assert {"console.log", "build.log", "report.jsonl"} <= {entry.name for entry in failed.iterdir()}
    assert [entry.name for entry in (tmp_path / "dist").iterdir()] == ["broken-1.failed"]
    assert "login:" in (failed / "console.log").read_text(errors="replace")
    if name != "a power-off":
        assert (failed / "screenshot.png").exists()


def test_a_root_shell_on_the_console_of_a_failed_guest(tmp_path: Path) -> None:
    (tmp_path / "appliance.toml").write_text(HEAD + script("touch /root/was-here; exit 3"))
    argv = [sys.executable, "-m", "ovfbuild", "make", str(tmp_path / "appliance.toml")]
    argv += ["-o", str(tmp_path / "dist"), "--on-failure", "shell"]
    parent, child = pty.openpty()
    screen = b""

    def wait_for(words: bytes, seconds: float) -> None:
        nonlocal screen
        deadline = time.monotonic() + seconds
        while words not in screen:
            assert time.monotonic() < deadline, screen[-2000:]
            if select.select([parent], [], [], 1)[0]:
                screen += os.read(parent, 65536)

    with subprocess.Popen(argv, stdin=child, stderr=child, stdout=subprocess.PIPE) as process:
        os.close(child)
        wait_for(b"serial console", guests.BOOT_SECONDS)
        wait_for(b"# ", 60)
        os.write(parent, b"ls /root; id -un; echo $((6 * 7))\n")
        wait_for(b"was-here", 60)
        wait_for(b"42", 60)
        os.write(parent, b"\x1d")
        assert process.wait(60) == 4
    os.close(parent)
    assert not running(str(tmp_path))
