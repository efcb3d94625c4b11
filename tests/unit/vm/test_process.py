"""The door to other programs: what they say, how they fail, that none is left."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ovfbuild.errors import ProgramError
from ovfbuild.vm.process import find_program, run


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def pid_in(path: Path) -> int:
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())


def test_what_a_program_says() -> None:
    heard: list[str] = []
    out = run(["sh", "-c", "echo out; echo one >&2; echo two >&2; echo $LC_ALL"], on_line=heard.append)
    assert out == "out\nC.UTF-8\n"
    assert heard == ["one", "two"]


def test_what_a_program_gets(tmp_path: Path) -> None:
    assert run(["cat"], stdin=b"in") == "in"
    assert run(["cat"]) == ""
    assert run(["sh", "-c", "echo $X $(pwd)"], env={"X": "y"}, cwd=tmp_path) == f"y {tmp_path}\n"


def test_octets_that_are_no_text() -> None:
    assert run(["printf", r"\377"]) == "\ufffd"


@pytest.mark.parametrize("size", [1, 5000, 70_000, 1 << 20])
def test_a_program_that_does_not_read(size: int) -> None:
    assert run(["true"], stdin=bytes(size)) == ""
    assert run(["sh", "-c", "exec <&-; sleep 0.1"], stdin=bytes(size)) == ""


def test_much_in_both_directions() -> None:
    octets = b"x" * (4 << 20)
    assert len(run(["sh", "-c", "tee /dev/stderr"], stdin=octets)) == len(octets)


def test_a_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovfbuild.vm.process.shutil.which", lambda *_, **__: None)
    with pytest.raises(ProgramError, match="qemu-img is not installed") as caught:
        run(["qemu-img", "info"])
    assert caught.value.hint == "install it: apt install qemu-utils"
    with pytest.raises(ProgramError) as caught:
        find_program("frobnicate")
    assert "apt install frobnicate" in caught.value.hint


def test_programs_of_the_administrator_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's PATH has no /usr/sbin on Debian."""
    if not any(Path(folder, "chroot").exists() for folder in ("/usr/sbin", "/sbin")):
        pytest.skip("no chroot")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_program("chroot").endswith("sbin/chroot")


def test_a_failure_has_the_last_words() -> None:
    with pytest.raises(ProgramError) as caught:
        run(["sh", "-c", "seq 1 500 >&2; echo the end >&2; exit 7"])
    assert caught.value.message.startswith("sh failed with 7:\n")
    assert caught.value.message.endswith("499\n500\nthe end")
    assert "\n400\n" not in caught.value.message
    assert "seq 1 500" in caught.value.hint
    with pytest.raises(ProgramError, match="only on stdout"):
        run(["sh", "-c", "echo only on stdout; exit 1"])


def test_codes_that_are_no_failure() -> None:
    assert run(["sh", "-c", "echo x; exit 3"], ok=(0, 3)) == "x\n"


def test_time_out_ends_the_whole_group(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    begun = time.monotonic()
    with pytest.raises(ProgramError, match="was not done after"):
        run(["sh", "-c", f"sleep 300 & echo $! > {pid}; wait"], timeout=0.5)
    assert time.monotonic() - begun < 10
    wait_until(lambda: not runs(pid_in(pid)))


def test_an_interrupt_ends_the_program(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = (
        "import signal; from ovfbuild.vm.process import run\n"
        # Jobs in the background of a shell inherit an ignored SIGINT.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"run(['sh', '-c', 'echo $$ > {pid}; exec sleep 60'])"
    )
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL) as parent:
        child = pid_in(pid)
        parent.send_signal(signal.SIGINT)
        try:
            assert parent.wait(10) == -signal.SIGINT
        finally:
            parent.kill()
    wait_until(lambda: not runs(child))


def test_a_program_dies_with_a_killed_parent(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = f"from ovfbuild.vm.process import run; run(['sh', '-c', 'echo $$ > {pid}; exec sleep 300'])"
    with subprocess.Popen([sys.executable, "-c", script]) as parent:
        child = pid_in(pid)
        assert runs(child)
        parent.kill()
    wait_until(lambda: not runs(child))
