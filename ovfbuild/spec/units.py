"""Sizes and durations as people write them: "1 GiB" is 1073741824 bytes, "30 min" is 1800.0 seconds.

The only place in which a unit other than the byte and the second exists; formats.ovf writes the
units of the OVF standard, which are numbers there, not words.
"""

from __future__ import annotations

import re
from decimal import Decimal

SIZE_PATTERN = r"^[0-9]+(\.[0-9]+)? ?(B|[kKMGTP]B|[KMGTP]iB)$"
"""What an editor accepts as a size (JSON schema, ECMA regular expression)."""
DURATION_PATTERN = r"^[0-9]+(\.[0-9]+)? ?(ms|s|min|h|d)$"

_BINARY = {f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGTP", start=1)}
_DECIMAL = {f"{prefix}B": 1000**power for power, prefix in enumerate("kMGTP", start=1)}
_SIZES = {"B": 1, "KB": 1000, **_DECIMAL, **_BINARY}
_EXACT = {**_BINARY, **_DECIMAL, "B": 1}
_SECONDS = {
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "min": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
}
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)", re.ASCII)
_ACCEPTED_SIZES = 'write it as "512 MiB", "4 GiB" or "20 GB"'
_ACCEPTED_DURATIONS = 'write it as "10 s", "30 min" or "1 h"'


def parse_size(text: str) -> int:
    """Bytes of "1 GiB" (binary), "4 GB" (decimal) or "1.5 GiB". ValueError says what is accepted."""
    amount, unit = _quantity(text, "size", _ACCEPTED_SIZES)
    factor = _SIZES.get(unit)
    if factor is None:
        raise ValueError(f"'{unit}' is not a unit of size{_meant(unit, _SIZES)}; {_ACCEPTED_SIZES}")
    size = amount * factor
    if size != int(size):
        raise ValueError(f"'{text}' is not a whole number of bytes; {_ACCEPTED_SIZES}")
    return int(size)


def format_size(size: int) -> str:
    """The shortest text that `parse_size` reads back as the same number; of two, the binary one."""
    exact = [f"{size // factor} {unit}" for unit, factor in _EXACT.items() if size % factor == 0]
    return min(exact, key=len) if size else "0 B"


def parse_duration(text: str) -> float:
    """Seconds of "10 s", "30 min", "1.5 h". ValueError says what is accepted."""
    amount, unit = _quantity(text, "duration", _ACCEPTED_DURATIONS)
    factor = _SECONDS.get(unit)
    if factor is None:
        raise ValueError(f"'{unit}' is not a unit of time; {_ACCEPTED_DURATIONS}")
    if amount == 0:
        raise ValueError(f"'{text}' is no time at all; {_ACCEPTED_DURATIONS}")
    return float(amount * factor)


def format_duration(seconds: float) -> str:
    """A duration that `parse_duration` reads back: "30 min", "90 s", "0.5 s"."""
    exact = Decimal(str(seconds))
    for unit in ("d", "h", "min"):
        if exact and exact % _SECONDS[unit] == 0:
            return f"{int(exact // _SECONDS[unit])} {unit}"
    return f"{exact.normalize():f} s"


def _quantity(text: str, what: str, accepted: str) -> tuple[Decimal, str]:
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"'{text}' is not a {what}; {accepted}")
    if not match[2]:
        raise ValueError(f"'{text}' has no unit; {accepted}")
    return Decimal(match[1]), match[2]


def _meant(unit: str, known: dict[str, int]) -> str:
    """The unit that was meant by "gib", "G" or "Mb", if one may guess."""
    for guess in (unit, f"{unit}iB", f"{unit}B"):
        for name in known:
            if name.lower() == guess.lower():
                return f"; did you mean '{name}'?"
    return ""
