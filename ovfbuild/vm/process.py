"""The one door to other programs: they are found, started, heard, and never outlive ovfbuild."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ovfbuild.errors import ProgramError

_PACKAGES = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mmdebstrap": "mmdebstrap",
    "qemu-io": "qemu-utils",
    "debugfs": "e2fsprogs",
    "dumpe2fs": "e2fsprogs",
    "mke2fs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "sfdisk": "fdisk",
    "mkfs.vfat": "dosfstools",
    "mcopy": "mtools",
    "apt-config": "apt",
    "mvn": "maven",
    "newuidmap": "uidmap",
    "unshare": "util-linux",
    "grub-mkimage": "grub-common",
    "fakeroot": "fakeroot",
}
"""The Debian package of each program that ovfbuild starts."""

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> Callable[[], None]:
    """What a child does between fork and exec so that the kernel kills it when ovfbuild dies (prctl(2)).

    The second look at the parent closes the gap in which it died before the call.
    """
    parent = os.getpid()

    def bind() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return bind


def find_program(name: str) -> str:
    """The path of a program.

    Raises:
        ProgramError: it is not installed; the hint names its Debian package.
    """
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if path is None:
        package = _PACKAGES.get(name, name)
        raise ProgramError(f"{name} is not installed", f"install it: apt install {package}")
    return path


def run(
    argv: Sequence[str | Path],
    *,
    on_line: Callable[[str], None] | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    cwd: Path | None = None,
    timeout: float = 600,
    ok: Sequence[int] = (0,),
) -> str:
    """Runs a program to its end and returns what it wrote on stdout.

    Args:
        on_line: gets each line of stderr as it comes (progress of long programs).
        env: added to the environment; the locale is C.UTF-8 whatever the user's is.
        timeout: seconds; then the program is killed.
        ok: exit codes that are not a failure.

    Raises:
        ProgramError: missing, failed (with its last words), or not done in time.
    """
    command = [find_program(str(argv[0])), *map(str, argv[1:])]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
        cwd=cwd,
        start_new_session=True,
        preexec_fn=die_with_parent(),  # noqa: PLW1509 - only prctl and _exit run there
    ) as child:
        said: list[str] = []
        reader = threading.Thread(target=_listen, args=(child, said, on_line), daemon=True)
        feeder = threading.Thread(target=_feed, args=(child, stdin), daemon=True)
        killer = threading.Timer(timeout, _kill_group, args=(child,))
        killer.daemon = True  # an interrupt while it starts must not make ovfbuild wait for it
        try:
            for thread in (reader, feeder, killer):
                thread.start()
            assert child.stdout is not None
            out = child.stdout.read()
            child.wait()
        except BaseException:
            _kill_group(child)
            raise
        finally:
            timed_out = not killer.is_alive()
            killer.cancel()
        reader.join(5)
    if child.returncode not in ok:
        why = f"was not done after {timeout:.0f} s" if timed_out else f"failed with {child.returncode}"
        last = "\n".join(said[-15:]) or out.decode(errors="replace")[-2000:]
        raise ProgramError(f"{argv[0]} {why}:\n{last}", f"the command was: {' '.join(command)}")
    return out.decode(errors="replace")


def _listen(child: subprocess.Popen[bytes], said: list[str], on_line: Callable[[str], None] | None) -> None:
    assert child.stderr is not None
    with suppress(ValueError):  # an interrupt has closed it under our hands
        for raw in child.stderr:
            line = raw.decode(errors="replace").rstrip()
            said.append(line)
            del said[:-200]
            if on_line:
                on_line(line)


def _feed(child: subprocess.Popen[bytes], data: bytes | None) -> None:
    if child.stdin is not None and data is not None:
        try:
            child.stdin.write(data)
            child.stdin.close()
        except BrokenPipeError:
            pass  # it died first; its exit code says why


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
