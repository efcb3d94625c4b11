"""Every compressor's streams, read by zlib; the same bytes where they are promised."""

from __future__ import annotations

import hashlib
import random
import time
import zlib
from typing import get_args

import pytest

from ovfbuild.errors import ProgramError
from ovfbuild.formats import compression, vmdk
from ovfbuild.formats.compression import COMPRESSORS, compressor
from ovfbuild.spec.models import Compression
from tests.unit.formats.conftest import Pieces, noise

GRAIN = 65536
STABLE = sorted(name for name, one in COMPRESSORS.items() if one.stable)


def words(length: int, seed: int) -> bytes:
    """Bytes as a disk has them: some noise, much that comes again, at distances of all sizes."""
    chance = random.Random(seed)
    out = bytearray()
    while len(out) < length:
        back = chance.randrange(3, 40000)
        if len(out) > back and chance.random() < 0.7:
            out += out[-back:][: chance.randrange(3, 300)]
        else:
            out += chance.randbytes(chance.randrange(1, 40))
    return bytes(out[:length])


def test_there_is_one_for_each_word_of_the_file() -> None:
    assert {*get_args(Compression), "reproducible"} == set(COMPRESSORS)


@pytest.mark.parametrize("name", COMPRESSORS)
@pytest.mark.parametrize(
    "grain", [bytes(GRAIN), b"a" * GRAIN, noise(GRAIN), words(GRAIN, 1)], ids=["zeros", "a", "noise", "words"]
)
def test_zlib_reads_what_each_writes(name: str, grain: bytes) -> None:
    stream = compressor(name).compress(memoryview(grain))
    reader = zlib.decompressobj()
    assert reader.decompress(stream) == grain
    assert reader.eof
    assert not reader.unused_data
    assert len(stream) < GRAIN + 64, "noise must not grow"


def test_harder_is_smaller() -> None:
    grains = [words(GRAIN, seed) for seed in range(4)]
    sizes = [sum(len(COMPRESSORS[name].compress(grain)) for grain in grains) for name in get_args(Compression)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)


class Shuffled(Pieces):
    """Reads take a random time, so that batches end in another order each run."""

    def read_into(self, offset: int, buffer: memoryview) -> int:
        time.sleep(random.random() * 0.004)
        return super().read_into(offset, buffer)


def digest(disk: Pieces, name: str, threads: int) -> str:
    class Nowhere:
        def write(self, octets: bytes) -> None: ...

    compress = compressor(name).compress
    packing = vmdk.Packing(compress, threads=threads)
    return vmdk.write(disk, Nowhere(), name="x.vmdk", cid=1, packing=packing).digest


@pytest.mark.parametrize("name", STABLE)
def test_the_same_bytes_in_whatever_order_the_threads_run(name: str) -> None:
    pieces = tuple((i * 70 * GRAIN + i * 777, words(9 * GRAIN, i)) for i in range(10))
    disk = Shuffled(700 * GRAIN, pieces)
    digests = {digest(disk, name, threads) for threads in (1, 2, 3, 7) for _ in range(6)}
    assert len(digests) == 1


def test_reproducible_refuses_a_zlib_of_another_mind(monkeypatch: pytest.MonkeyPatch) -> None:
    other = compression.Compressor(lambda octets: zlib.compress(octets, 5), "another zlib")
    monkeypatch.setitem(COMPRESSORS, "reproducible", other)
    with pytest.raises(ProgramError, match="compresses in a way of its own") as error:
        compressor("reproducible")
    assert error.value.exit_code == 3


def test_reproducible_is_what_it_was() -> None:
    """The bytes of a grain, pinned: a change of them breaks what was promised to those who rebuild."""
    stream = compressor("reproducible").compress(b"".join(b"%d\n" % i for i in range(20000))[:GRAIN])
    assert hashlib.sha256(stream).hexdigest() == "ae023d66e4d02347788692291a378c9381559ff1006215cb356b47b2edc7d88d"
