"""The manifest's grammar: what is written, what is read, what is refused and where."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from ovfbuild.errors import FileError
from ovfbuild.formats import manifest, names
from ovfbuild.formats.manifest import Line
from tests.unit.formats.conftest import Program

A, B = "a" * 64, "0123456789abcdef" * 4


def test_dump() -> None:
    assert manifest.dump([("x.ovf", A), ("x-disk1.vmdk", B)]) == (
        f"SHA256(x.ovf)= {A}\nSHA256(x-disk1.vmdk)= {B}\n".encode()
    )


def test_round_trip() -> None:
    lines = manifest.parse(manifest.dump([("x.ovf", A), ("x-disk1.vmdk", B)]))
    assert lines == [Line("SHA256", "x.ovf", A), Line("SHA256", "x-disk1.vmdk", B)]


def test_sha256sum_computes_the_same_digest(tmp_path: Path, judge: Program) -> None:
    (tmp_path / "x.ovf").write_bytes(b"content")
    said = judge("sha256sum", tmp_path / "x.ovf").stdout.split()[0]
    assert manifest.dump([("x.ovf", hashlib.sha256(b"content").hexdigest())]) == f"SHA256(x.ovf)= {said}\n".encode()


@pytest.mark.parametrize(("algorithm", "digits"), [("SHA1", 40), ("SHA256", 64), ("SHA512", 128)])
def test_algorithms_and_upper_case_and_carriage_returns(algorithm: str, digits: int) -> None:
    octets = f"{algorithm}(My VM.ovf)= {'AB' * (digits // 2)}\r\n".encode()
    assert manifest.parse(octets) == [Line(algorithm, "My VM.ovf", "ab" * (digits // 2))]


REFUSED = {
    "nothing": (b"", "empty"),
    "space before parenthesis": (f"SHA256 (x)= {A}\n".encode(), "line 1: spaces"),
    "no space after equals": (f"SHA256(x)={A}\n".encode(), "line 1: spaces"),
    "two spaces after equals": (f"SHA256(x)=  {A}\n".encode(), "line 1: spaces"),
    "space before equals": (f"SHA256(x) = {A}\n".encode(), "line 1: spaces"),
    "space at the end": (f"SHA256(x)= {A} \n".encode(), "line 1: spaces"),
    "openssl 3": (f"SHA256(x)= {A}\nSHA2-256(y)= {A}\n".encode(), "line 2: unknown algorithm SHA2-256"),
    "md5": (f"MD5(x)= {'a' * 32}\n".encode(), "line 1: unknown algorithm MD5"),
    "lower case": (f"sha256(x)= {A}\n".encode(), "line 1: unknown algorithm sha256"),
    "short digest": (f"SHA256(x)= {A[:-1]}\n".encode(), "line 1: 63 digits"),
    "digest of another algorithm": (f"SHA1(x)= {A}\n".encode(), "line 1: 64 digits"),
    "no hex": (f"SHA256(x)= {'g' * 64}\n".encode(), "line 1: spaces"),
    "sha256sum": (f"{A}  x.ovf\n".encode(), "line 1: no digest"),
    "empty line": (f"SHA256(x)= {A}\n\nSHA256(y)= {A}\n".encode(), "line 2: no digest"),
    "no name": (f"SHA256()= {A}\n".encode(), "line 1: spaces"),
    "twice": (f"SHA256(x)= {A}\nSHA256(y)= {A}\nSHA256(x)= {B}\n".encode(), "line 3: x is named twice"),
    "no line end": (f"SHA256(x)= {A}\nSHA256(y)= {A}".encode(), "line 2: no line end"),
    "latin-1": (f"SHA256(x)= {A}\nSHA256(\u00e9)= {A}\n".encode("latin-1"), "line 2: no UTF-8"),
    "byte order mark": (f"\ufeffSHA256(x)= {A}\n".encode(), "line 1"),
    "binary": (bytes(100) + b"\n", "line 1: no digest"),
    "endless": (b"x" * ((1 << 20) + 1), "1048577 bytes"),
}


@pytest.mark.parametrize(("octets", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(octets: bytes, message: str) -> None:
    with pytest.raises(FileError, match=message) as caught:
        manifest.parse(octets)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "a(b)", "a:b", "ä", "x" * 100, "a\n", "a\\b"])
def test_names_that_are_not_portable(name: str) -> None:
    with pytest.raises(FileError, match="no portable file name"):
        names.portable(name)
    with pytest.raises(FileError, match="no portable file name"):
        manifest.dump([(name, A)])


@pytest.mark.parametrize("name", ["x.ovf", "a_B-1.2+3=4.vmdk", "x" * 99])
def test_portable_names(name: str) -> None:
    assert names.portable(name) == name


def test_digest_that_is_none() -> None:
    with pytest.raises(ValueError, match="no SHA256"):
        manifest.dump([("x.ovf", A.upper())])
