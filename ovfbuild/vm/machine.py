"""QEMU from its start to its end, steered over QMP: the one place that knows asyncio and qemu.qmp.

`run` starts a machine, listens to its four channels and its events, and returns why it ended. What
ends it first wins: the listener's decision, the guest's power-off, a panic, silence, the deadline,
or QEMU's own death. QEMU is gone when `run` returns, whatever happened, and dies with ovfbuild.

Facts from qemu.qmp 0.0.6: a listener stays silent when QEMU dies, so its process is awaited too;
`disconnect()` raises EOFError when QEMU left first, which is the normal end.
"""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from qemu.qmp import ConnectError, EventListener, ExecuteError, QMPClient, QMPError

from ovfbuild.errors import ProgramError
from ovfbuild.vm.console import bridge
from ovfbuild.vm.hardware import Channels, Hardware, command_line
from ovfbuild.vm.process import die_with_parent, find_program

_EVENTS = ("SHUTDOWN", "GUEST_PANICKED", "BLOCK_IO_ERROR")
_CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)"  # OSC, DCS, SOS, PM, APC: systemd 257 tells terminals much
    r"|\x1b[ -/]*[0-~]"
    r"|[\x00-\x08\x0b-\x1f\x7f]"
)
"""What a terminal obeys and a log does not want (ECMA-48, clause 5)."""
_PANIC = "Kernel panic - not syncing"
_NO_DISK = ("No bootable device", "No bootable option or device was found")


class Cause(Enum):
    """Why a machine ended."""

    FINISHED = "the listener had heard enough"
    FAILED = "the guest reported a failure"
    POWERED_OFF = "the guest powered itself off"
    REBOOTED = "the guest rebooted"
    PANICKED = "the guest's kernel panicked"
    NOT_BOOTABLE = "the firmware found nothing to boot"
    IO_ERROR = "a disk of the guest could not be read or written"
    STALLED = "no sign of life"
    TIMED_OUT = "not done in time"
    DIED = "QEMU itself died"
    INTERRUPTED = "somebody interrupted it"


class Decision(Enum):
    """What a listener makes of a report."""

    GO_ON = 1
    FINISH = 2
    FAIL = 3


class Listener(Protocol):
    """Who hears the guest."""

    def report(self, line: str) -> Decision:
        """A line from the report port."""

    def console(self, line: str) -> None:
        """A line from the serial console, without control characters."""


@dataclass(frozen=True)
class Limits:
    """How long a guest may take altogether, and how long it may be silent, in seconds."""

    timeout: float
    stall: float


@dataclass(frozen=True)
class Ending:
    """Why and after how many seconds the machine ended."""

    cause: Cause
    seconds: float
    detail: str = ""


class Running:
    """A machine that runs, for whoever looks at it from outside, in a thread beside it."""

    def __init__(self, session: _Session, guest_agent: socket.socket) -> None:
        self._session = session
        self._loop = asyncio.get_running_loop()
        self.guest_agent = guest_agent
        """Our end of the channel to a guest agent, where the hardware has one."""
        self.over = threading.Event()
        """Set when the machine has ended; a watcher waits with it, and then returns."""

    def forward(self, port: int) -> int:
        """The port on 127.0.0.1 of this host that leads to a TCP port of the guest, on its first NIC."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            free = int(probe.getsockname()[1])
        words = f"hostfwd_add net0 tcp:127.0.0.1:{free}-:{port}"
        answer = self._do(self._session.order("human-monitor-command", {"command-line": words}))
        if str(answer).strip():  # HMP has no errors, only words
            raise ProgramError(f"QEMU forwards no port to the guest: {answer}", "has the appliance a network card?")
        return free

    def finish(self) -> None:
        """The machine has done what it was run for."""
        self._loop.call_soon_threadsafe(self._session.finish)

    def _do(self, task: Coroutine[Any, Any, object]) -> object:
        return asyncio.run_coroutine_threadsafe(task, self._loop).result(60)


Watcher = Callable[[Running], None]


def run(
    hardware: Hardware,
    limits: Limits,
    listener: Listener,
    evidence: Path,
    *,
    beside: Watcher | None = None,
    shell_on_failure: bool = False,
) -> Ending:
    """Runs a machine to its end.

    Args:
        beside: called in a thread of its own while the machine runs.
        evidence: a folder that gets console.log, firmware.log, qemu.log, and, if it did not end
            well, screenshot.png.
        shell_on_failure: when the listener decides FAIL, the terminal is connected with the
            guest's serial console until the user leaves it.

    Raises:
        ProgramError: QEMU is missing or refuses its arguments (with its own words).
        KeyboardInterrupt: Ctrl-C; QEMU is gone by then.
    """
    evidence.mkdir(parents=True, exist_ok=True)
    ending = asyncio.run(_Session(hardware, limits, listener, evidence, shell_on_failure).run(beside))
    if ending.cause is Cause.INTERRUPTED:
        raise KeyboardInterrupt
    return ending


class _Session:
    """One run. Its fields are the state of that run and end with it."""

    def __init__(
        self, hardware: Hardware, limits: Limits, listener: Listener, evidence: Path, shell_on_failure: bool
    ) -> None:
        self._hardware = hardware
        self._limits = limits
        self._listener = listener
        self._evidence = evidence
        self._shell = shell_on_failure
        self._started = self._alive = time.monotonic()
        self._interrupted = False
        self._qmp = QMPClient("ovfbuild")
        self._events = EventListener(_EVENTS)
        self._qmp.register_listener(self._events)

    async def run(self, beside: Watcher | None) -> Ending:
        self._ending: asyncio.Future[tuple[Cause, str]] = asyncio.get_running_loop().create_future()
        with (
            self._interruptible(),
            _socket_pairs() as (ours, theirs, close_theirs),
            self._log("qemu.log") as errors,
        ):
            self._console = ours["console"]
            qemu = await self._start(theirs, errors)
            close_theirs()
            watchers: list[asyncio.Task[None]] = []
            try:
                await self._connect(ours["qmp"], qemu)
                with self._log("firmware.log") as firmware:
                    self._listen(ours, firmware)
                    watchers = [asyncio.create_task(w) for w in (self._hear(), self._await_death(qemu), self._watch())]
                    await self._qmp.execute("cont")
                    with self._watched(beside, ours["guest_agent"]):
                        cause, detail = await self._ending
                    self._deafen(ours)
                    await self._see_out(cause, qemu)
                    cause = Cause.INTERRUPTED if self._interrupted else cause
                    return Ending(cause, time.monotonic() - self._started, detail)
            except ExecuteError as error:
                raise ProgramError(f"QEMU refused an order: {error}", "see qemu.log") from error
            finally:
                for watcher in watchers:
                    watcher.cancel()
                await self._end(qemu)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Ctrl-C, and SIGTERM where it means the same, end the machine first, and then the program.

        As an exception in the middle of whatever coroutine runs just then, an interrupt is at that coroutine's mercy.
        """
        mine = threading.current_thread() is threading.main_thread()
        before = {sent: signal.getsignal(sent) for sent in (signal.SIGINT, signal.SIGTERM) if mine}
        caught = {sent: way for sent, way in before.items() if callable(way)}
        loop = asyncio.get_running_loop()
        for sent in caught:
            loop.add_signal_handler(sent, self._interrupt)
        try:
            yield
        finally:
            for sent, way in caught.items():
                loop.remove_signal_handler(sent)
                signal.signal(sent, way)

    def _interrupt(self) -> None:
        self._finish(Cause.INTERRUPTED)
        self._interrupted = True
        with suppress(OSError):  # who sits at the guest's console is shown out
            self._console.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def _watched(self, beside: Watcher | None, guest_agent: socket.socket) -> Iterator[None]:
        """Lets a watcher look on, until it or the machine is done."""
        if beside is None:
            yield
            return
        running = Running(self, guest_agent)
        watcher = threading.Thread(target=beside, args=(running,), name="beside", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            running.over.set()

    async def order(self, command: str, arguments: dict[str, object]) -> object:
        return await self._qmp.execute(command, arguments)

    def finish(self) -> None:
        self._finish(Cause.FINISHED)

    def _log(self, name: str) -> Any:
        return (self._evidence / name).open("wb", buffering=0)

    async def _start(self, theirs: dict[str, socket.socket], errors: Any) -> asyncio.subprocess.Process:
        channels = Channels(**{name: end.fileno() for name, end in theirs.items()})
        argv = command_line(self._hardware, channels, self._evidence / "console.log")
        return await asyncio.create_subprocess_exec(
            find_program(argv[0]),
            *argv[1:],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            pass_fds=tuple(end.fileno() for end in theirs.values()),
            start_new_session=True,
            preexec_fn=die_with_parent(),
        )

    async def _connect(self, sock: socket.socket, qemu: asyncio.subprocess.Process) -> None:
        """Waits for QEMU's greeting; QEMU that refuses its arguments dies instead and says why on stderr."""
        try:
            await asyncio.wait_for(self._qmp.connect(sock), 60)
        except (ConnectError, TimeoutError) as error:
            with suppress(TimeoutError):
                await asyncio.wait_for(qemu.wait(), 5)
            words = (self._evidence / "qemu.log").read_text(errors="replace").strip() or repr(error)
            raise ProgramError(
                f"QEMU did not start: {words}",
                "check that QEMU is whole: qemu-system-x86_64 --version",
            ) from error

    def _listen(self, ours: dict[str, socket.socket], firmware: Any) -> None:
        loop = asyncio.get_running_loop()
        sinks: dict[str, Callable[[str], None]] = {
            "report": self._on_report,
            "console": self._on_console,
            "firmware": self._on_firmware,
        }
        for name, sink in sinks.items():
            sock, lines = ours[name], _Lines(sink)
            sock.setblocking(False)
            raw = firmware if name == "firmware" else None
            loop.add_reader(sock, self._receive, sock, lines, raw)

    def _receive(self, sock: socket.socket, lines: _Lines, raw: Any) -> None:
        try:
            chunk = sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk:
            asyncio.get_running_loop().remove_reader(sock)
            return
        if raw is not None:
            raw.write(chunk)
        else:
            self._alive = time.monotonic()
        lines.feed(chunk)

    def _deafen(self, ours: dict[str, socket.socket]) -> None:
        for name in ("report", "console", "firmware"):
            asyncio.get_running_loop().remove_reader(ours[name])

    def _on_report(self, line: str) -> None:
        decision = self._listener.report(line)
        if decision is not Decision.GO_ON:
            self._finish(Cause.FINISHED if decision is Decision.FINISH else Cause.FAILED)

    def _on_console(self, line: str) -> None:
        self._listener.console(line)
        if _PANIC in line:
            self._finish(Cause.PANICKED, line.strip())

    def _on_firmware(self, line: str) -> None:
        if any(words in line for words in _NO_DISK):
            self._finish(Cause.NOT_BOOTABLE, line.strip())

    def _finish(self, cause: Cause, detail: str = "") -> None:
        if not self._ending.done():
            self._ending.set_result((cause, detail))

    async def _hear(self) -> None:
        while True:
            event = await self._events.get()
            facts: Any = event.get("data", {})
            if event["event"] == "SHUTDOWN":
                await asyncio.sleep(0.2)  # what the guest said last is still in its sockets
                reason = str(facts.get("reason"))
                self._finish(Cause.REBOOTED if reason == "guest-reset" else Cause.POWERED_OFF, reason)
            elif event["event"] == "GUEST_PANICKED":
                self._finish(Cause.PANICKED, "reported by pvpanic")
            elif facts.get("action") != "ignore":
                self._finish(Cause.IO_ERROR, str(facts.get("reason", "")))

    async def _await_death(self, qemu: asyncio.subprocess.Process) -> None:
        code = await qemu.wait()
        words = (self._evidence / "qemu.log").read_text(errors="replace").strip()[-500:]
        self._finish(Cause.DIED, f"exit code {code}{': ' if words else ''}{words}")

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(0.25)
            now = time.monotonic()
            if now - self._started > self._limits.timeout:
                self._finish(Cause.TIMED_OUT, f"{self._limits.timeout:.0f} s")
            elif now - self._alive > self._limits.stall:
                self._finish(Cause.STALLED, f"nothing for {self._limits.stall:.0f} s")

    async def _see_out(self, cause: Cause, qemu: asyncio.subprocess.Process) -> None:
        """Takes evidence of what did not end well, and lets the user look around in it."""
        if cause in (Cause.FINISHED, Cause.POWERED_OFF, Cause.DIED, Cause.INTERRUPTED):
            return
        with suppress(QMPError, TimeoutError):
            shot = {"filename": str(self._evidence.absolute() / "screenshot.png"), "format": "png"}
            await asyncio.wait_for(self._qmp.execute("screendump", shot), 20)
        if self._shell and cause is Cause.FAILED and qemu.returncode is None:
            await asyncio.get_running_loop().run_in_executor(None, bridge, self._console)

    async def _end(self, qemu: asyncio.subprocess.Process) -> None:
        """`quit` over QMP, then SIGTERM, then SIGKILL; afterwards it is gone."""
        with suppress(QMPError, TimeoutError, EOFError, OSError):
            await asyncio.wait_for(self._qmp.execute("quit"), 5)
        for sent in (None, signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                if sent is not None and qemu.returncode is None:
                    qemu.send_signal(sent)
            with suppress(TimeoutError):
                await asyncio.wait_for(qemu.wait(), 5)
                break
        with suppress(QMPError, EOFError, OSError, TimeoutError):
            await asyncio.wait_for(self._qmp.disconnect(), 5)


class _Lines:
    """Bytes in, whole lines out, without escape sequences; a line without end is cut at 64 KiB."""

    def __init__(self, sink: Callable[[str], None]) -> None:
        self._sink = sink
        self._rest = b""

    def feed(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > 65536:
            lines, self._rest = [*lines, self._rest], b""
        for line in lines:
            text = _CONTROL.sub("", line.rstrip(b"\r").rpartition(b"\r")[2].decode(errors="replace"))
            if text.strip():
                self._sink(text)


@contextmanager
def _socket_pairs() -> Iterator[tuple[dict[str, socket.socket], dict[str, socket.socket], Callable[[], None]]]:
    """A socket pair a channel: our ends, QEMU's ends, and what closes QEMU's once it has them."""
    with ExitStack() as stack:
        ours, theirs = {}, {}
        for name in ("qmp", "report", "console", "firmware", "guest_agent"):
            mine, its = socket.socketpair()
            ours[name], theirs[name] = stack.enter_context(mine), stack.enter_context(its)

        def close_theirs() -> None:
            for end in theirs.values():
                end.close()

        yield ours, theirs, close_theirs
