"""How each grain of a VMDK is compressed: what [package] compression says, as a function of bytes.

Every one writes a zlib stream (RFC 1950), which every importer reads; they differ in time and size alone. The
levels were chosen by measuring a sealed Debian disk, see docs/performance.md.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import deflate
from isal import isal_zlib

from ovfbuild.errors import ProgramError

Compress = Callable[[bytes | memoryview], bytes | bytearray]
"""From the bytes of a grain to a zlib stream; called from several threads at once, and releases the GIL."""


@dataclass(frozen=True)
class Compressor:
    """A way to compress. `stable`: the same bytes for the same grain, whatever else the machine does."""

    compress: Compress
    program: str
    stable: bool = True


def _libdeflate(level: int) -> Compressor:
    return Compressor(lambda octets: deflate.zlib_compress(octets, level), f"libdeflate {level}")


COMPRESSORS: Mapping[str, Compressor] = {
    # ISA-L's levels 1 and 2 find other matches in other memory: rarely, but seen. Its 0 and 3 don't, and lose to
    # libdeflate 1 in size or in time.
    "turbo": Compressor(lambda octets: isal_zlib.compress(octets, 1), "ISA-L 1", stable=False),
    "fast": _libdeflate(1),
    "balanced": _libdeflate(5),
    "small": _libdeflate(9),
    "reproducible": Compressor(lambda octets: zlib.compress(octets, 6), "zlib 6"),
}
"""By name; all but the last can be said in appliance.toml."""

_KNOWN = "".join(hashlib.sha256(bytes([number])).hexdigest() for number in range(256)).encode() * 4
_ANSWER = "654f50d9333c2a9310662c36b64d00f672c39a8c88bf14b9cb836602155ba9f2"
"""SHA-256 of what zlib 1.2.13 makes of _KNOWN: another zlib may be used if it makes the same."""


def compressor(name: str) -> Compressor:
    """The compressor of that name.

    Raises:
        ProgramError: “reproducible” with a zlib that compresses in another way than zlib's own.
    """
    found = COMPRESSORS[name]
    if name == "reproducible" and hashlib.sha256(found.compress(_KNOWN)).hexdigest() != _ANSWER:
        raise ProgramError(
            f"this Python's zlib ({zlib.ZLIB_RUNTIME_VERSION}) compresses in a way of its own, as zlib-ng does",
            "leave out --reproducible, or run ovfbuild with a Python that has the zlib of zlib.net",
        )
    return found
