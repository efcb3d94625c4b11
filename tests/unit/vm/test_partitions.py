"""Where things lie on a base image."""

from __future__ import annotations

import pytest

from ovfbuild.vm.partitions import MIB, SECTOR, dump_sfdisk, fixed_serial, fixed_uuid, lay_out


@pytest.mark.parametrize("content", [0, 1, 700 * MIB, 800 * MIB + 12345, 5000 * MIB])
def test_partitions_are_aligned_and_do_not_overlap(content: int) -> None:
    layout = lay_out(content)
    end = 34 * SECTOR
    for part in layout.partitions:
        assert part.start >= end
        assert part.start % MIB == part.size % MIB == 0
        end = part.start + part.size
    assert layout.root.start + layout.root.size == layout.size - MIB  # the second GPT, and nothing else
    assert layout.size % (256 * MIB) == 0
    assert layout.root.size >= content * 5 // 4 + 300 * MIB


def test_esp_is_large_enough_for_fat32() -> None:
    assert lay_out(0).esp.size // SECTOR > 65525 + 1100  # clusters of a sector, and two FATs


def test_sfdisk_script() -> None:
    script = dump_sfdisk(lay_out(800 * MIB))
    lines = script.splitlines()
    assert lines[0] == "label: gpt"
    assert lines[4].startswith("start=2048, size=2048, type=21686148-")
    assert lines[5].startswith("start=4096, size=131072, type=C12A7328-")
    assert lines[6].startswith("start=135168, ") and 'name="root"' in lines[6]
    assert script == dump_sfdisk(lay_out(800 * MIB))


def test_identifiers_differ_and_stay() -> None:
    guids = {fixed_uuid("disk"), *(part.guid for part in lay_out(0).partitions)}
    assert len(guids) == 4
    assert fixed_uuid("disk") == "5482B017-1FAD-5BE4-A5EF-FA46DEEF9D3E"
    assert 0 <= fixed_serial("esp") < 1 << 32
