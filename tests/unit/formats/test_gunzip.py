"""What is unpacked is what was packed, and what is zero takes no room."""

from __future__ import annotations

import gzip
import io
import os

from ovfbuild.formats import gunzip
from tests.unit.formats.conftest import noise

MIB = 1 << 20


def test_zeros_are_holes() -> None:
    octets = noise(100_000) + bytes(40 * MIB) + b"word" * 1000 + bytes(9 * MIB + 5)
    packed = gzip.compress(octets, 1)
    with gunzip.unpacked(io.BytesIO(packed), len(packed), "x") as content:
        assert content.read() == octets
        assert os.fstat(content.fileno()).st_blocks * 512 <= 4 * MIB
