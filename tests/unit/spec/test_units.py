from __future__ import annotations

import pytest

from ovfbuild.spec.units import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1 GiB", 1 << 30),
        ("1GiB", 1 << 30),
        (" 512  MiB ", 512 << 20),
        ("4 GB", 4 * 10**9),
        ("1.5 GiB", 3 << 29),
        ("2 TiB", 2 << 40),
        ("1 PiB", 1 << 50),
        ("1 kB", 1000),
        ("1 KB", 1000),
        ("100 B", 100),
        ("0 B", 0),
        ("0.1 kB", 100),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("size", [0, 1, 1000, 1024, 10**9, 1 << 30, 4 * 10**9, 3 << 29, 123456789])
def test_a_size_is_read_back_as_it_was(size: int) -> None:
    assert parse_size(format_size(size)) == size


def test_a_size_is_written_the_short_way() -> None:
    assert format_size(1 << 30) == "1 GiB"
    assert format_size(4 * 10**9) == "4 GB"
    assert format_size(1536 << 20) == "1536 MiB"
    assert format_size(7) == "7 B"


_ACCEPTED = 'write it as "512 MiB", "4 GiB" or "20 GB"'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4", f"'4' has no unit; {_ACCEPTED}"),
        ("", f"'' is not a size; {_ACCEPTED}"),
        ("-1 GiB", f"'-1 GiB' is not a size; {_ACCEPTED}"),
        ("1e3 MiB", f"'1e3 MiB' is not a size; {_ACCEPTED}"),
        ("1 gib", f"'gib' is not a unit of size; did you mean 'GiB'?; {_ACCEPTED}"),
        ("1 G", f"'G' is not a unit of size; did you mean 'GiB'?; {_ACCEPTED}"),
        ("1 Mb", f"'Mb' is not a unit of size; did you mean 'MB'?; {_ACCEPTED}"),
        ("1 apple", f"'apple' is not a unit of size; {_ACCEPTED}"),
        ("0.3 B", f"'0.3 B' is not a whole number of bytes; {_ACCEPTED}"),
        ("٣ GiB", f"'٣ GiB' is not a size; {_ACCEPTED}"),
    ],
)
def test_a_wrong_size_says_what_is_accepted(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_size(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10 s", 10.0),
        ("30 min", 1800.0),
        ("1 h", 3600.0),
        ("1.5h", 5400.0),
        ("500 ms", 0.5),
        ("2 d", 172800.0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    assert parse_duration(format_duration(seconds)) == seconds


def test_a_duration_is_written_for_people() -> None:
    assert format_duration(1800) == "30 min"
    assert format_duration(90.0) == "90 s"
    assert format_duration(0.5) == "0.5 s"
    assert format_duration(0) == "0 s"


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("30", "'30' has no unit"),
        ("0 s", "'0 s' is no time"),
        ("3 weeks", "'weeks' is not a unit"),
        ("soon", "'soon' is not a duration"),
    ],
)
def test_a_wrong_duration_says_what_is_accepted(text: str, start: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_duration(text)
    assert str(caught.value).startswith(start)
    assert '"10 s", "30 min" or "1 h"' in str(caught.value)
