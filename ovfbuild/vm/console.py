"""The user's terminal, connected with the guest's serial console (`--on-failure shell`)."""

from __future__ import annotations

import os
import select
import socket
import sys
import termios
import tty

ESCAPE = b"\x1d"
"""Ctrl-] leaves the console, as in telnet and virsh."""


def bridge(console: socket.socket) -> None:
    """Copies keys to the guest and its output to the terminal until Ctrl-], or until the guest is gone."""
    keyboard, screen = sys.stdin.fileno(), sys.stderr.fileno()
    os.write(screen, b"\r\nThe guest's serial console. Ctrl-] leaves it and ends the guest.\r\n")
    before = termios.tcgetattr(keyboard)
    console.setblocking(True)
    try:
        tty.setraw(keyboard)
        console.sendall(b"\n")
        while True:
            ready, _, _ = select.select([keyboard, console], [], [])
            if console in ready:
                output = console.recv(65536)
                if not output:
                    return
                os.write(screen, output)
            if keyboard in ready:
                keys = os.read(keyboard, 4096)
                if not keys or ESCAPE in keys:
                    return
                console.sendall(keys)
    except OSError:
        return  # the guest powered off, or the terminal is gone
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
        os.write(screen, b"\r\n")
