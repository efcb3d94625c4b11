"""What the guest tells the host: one JSON object a line, over a virtio-serial port.

{"event": "started", "cloud_init": {...}}       the runner is at work
{"event": "begin", "step": "packages"}          a step begins ...
{"event": "line", "text": "Setting up nginx"}   ... says something ...
{"event": "end", "step": "packages"}            ... and is done
{"event": "failed", "step": ..., "error": ..., "output": [...]}
{"event": "sealed"}                             the build's last word; the power-off follows
{"event": "answered", "token": ..., ...}        a packed appliance has come up
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

PORT = "/dev/virtio-ports/org.ovfbuild.report.0"


class Port:
    """The guest's end of the report port."""

    def __init__(self, path: str = PORT, patience: float = 60.0) -> None:
        """Opens the port; udev may still be making it, so it is waited for (`patience` in seconds)."""
        deadline = time.monotonic() + patience
        while not os.path.exists(path) and time.monotonic() < deadline:
            time.sleep(0.2)
        self._stream = open(path, "r+b", buffering=0)

    def tell(self, event: str, **facts: Any) -> None:
        """One line to the host; what is not ASCII is escaped, so that a line stays a line."""
        self._stream.write(json.dumps({"event": event, **facts}).encode("ascii") + b"\n")

    def orders(self) -> Any:
        """The next order from the host (a JSON object a line), waited for as long as it takes."""
        line = b""
        while not line.endswith(b"\n"):
            piece = self._stream.read(1)
            if not piece:
                time.sleep(0.1)  # nobody is connected to the other end yet
                continue
            line += piece
        return json.loads(line)
