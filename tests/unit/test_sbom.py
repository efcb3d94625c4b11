"""The bill of materials, read from file systems made by mke2fs and judged by CycloneDX's own schema and packageurl."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ovfbuild import sbom
from ovfbuild.cli import render
from ovfbuild.spec.appliance import from_table
from ovfbuild.spec.plan import Plan, resolve

PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"

STATUS = """\
Package: libstdc++6
Status: install ok installed
Architecture: amd64
Source: gcc-12 (12.2.0-14)
Version: 12.2.0-14+deb12u1
Description: GNU C++
 Version: not this one

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 1

Package: python3-six
Status: install ok installed
Architecture: all
Source: six
Version: 1:1.16.0~a-4
"""
METADATA = "Metadata-Version: 2.1\nName: {0}\nVersion: {1}\nSummary: x\n\nName: not this one\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    files = {
        "etc/os-release": 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
        "var/lib/dpkg/status": STATUS,
        "var/lib/dpkg/info/python3-six.list": "/.\n/usr/lib/python3/dist-packages/six-1.16.dist-info/METADATA\n",
        "usr/lib/python3/dist-packages/six-1.16.dist-info/METADATA": METADATA.format("six", "1.16"),
        "usr/lib/python3/dist-packages/own-1.dist-info/METADATA": METADATA.format("own", "1"),
        "opt/hello/venv/lib/python3.11/site-packages/PyYAML-6.0.2.dist-info/METADATA": METADATA.format(
            "PyYAML", "6.0.2"
        ),
        "srv/other/lib/python3.11/site-packages/PyYAML-6.0.2.dist-info/METADATA": METADATA.format("PyYAML", "6.0.2"),
        "opt/hello/node/lib/node_modules/@pm2/io/package.json": '{"name": "@pm2/io", "version": "6.0.1"}',
        "opt/hello/node/lib/node_modules/a/node_modules/b/package.json": '{"name": "b", "version": "1.0.0-rc.1"}',
        "opt/hello/node/lib/node_modules/a/test/package.json": '{"name": "fixture", "version": "9"}',
        "opt/hello/node/lib/node_modules/broken/package.json": "{",
        "opt/java/release": 'IMPLEMENTOR="Eclipse Adoptium"\nJAVA_VERSION="17.0.9"\nJAVA_RUNTIME_VERSION="17.0.9+9"\n',
        "opt/other/release": "not Java's\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def read(tree: Path, work: Path, name: str = "disk.raw") -> list[sbom.Component] | None:
    program = shutil.which("mke2fs", path=PATH)
    assert program
    subprocess.run([program, "-q", "-F", "-t", "ext4", "-d", tree, work / name, "8M"], check=True)
    return sbom.components_of(work / name, "raw", work)


@pytest.fixture(autouse=True)
def _programs(needs: Any) -> None:
    needs("mke2fs", "debugfs", "qemu-img")


@pytest.fixture
def components(tree: Path, tmp_path: Path) -> list[sbom.Component]:
    found = read(tree, tmp_path)
    assert found is not None
    return found


@pytest.fixture
def plan() -> Plan:
    table = {"name": "hello", "version": "1.0.0", "summary": "Grüße", "base": {"distribution": "debian:12"}}
    return resolve(from_table(table, Path()), {"SOURCE_DATE_EPOCH": "1700000000"})


def test_all_that_is_installed(components: list[sbom.Component]) -> None:
    assert [one.get("purl", one["bom-ref"]) for one in components] == [
        "os:debian@12",
        "pkg:deb/debian/libstdc%2B%2B6@12.2.0-14%2Bdeb12u1?arch=amd64&distro=debian-12&upstream=gcc-12%4012.2.0-14",
        "pkg:deb/debian/python3-six@1:1.16.0~a-4?arch=all&distro=debian-12&upstream=six",
        "pkg:generic/openjdk@17.0.9%2B9",
        "pkg:npm/%40pm2/io@6.0.1",
        "pkg:npm/b@1.0.0-rc.1",
        "pkg:pypi/own@1",
        "pkg:pypi/pyyaml@6.0.2",
    ]


def test_what_lies_in_two_places_is_one(components: list[sbom.Component]) -> None:
    pyyaml = components[-1]
    assert pyyaml["name"] == "PyYAML"
    assert [one["location"].split("/")[1] for one in pyyaml["evidence"]["occurrences"]] == ["opt", "srv"]


def test_java_has_its_maker(components: list[sbom.Component]) -> None:
    (java,) = [one for one in components if one["name"] == "openjdk"]
    assert (java["type"], java["publisher"]) == ("platform", "Eclipse Adoptium")


def test_cyclonedx_s_own_schema_takes_it(components: list[sbom.Component], plan: Plan, tmp_path: Path) -> None:
    schema = pytest.importorskip("cyclonedx.schema")
    json_validation = pytest.importorskip("cyclonedx.validation.json")
    sbom.write(tmp_path / "x.cdx.json", sbom.document(plan, components))
    text = (tmp_path / "x.cdx.json").read_text(encoding="utf-8")
    strict = json_validation.JsonStrictValidator(schema.SchemaVersion.V1_5)
    assert strict.validate_str(text) is None
    assert strict.validate_str(text.replace('"type": "library"', '"type": "book"', 1)) is not None, "it can fail"


def test_packageurl_reads_every_purl_and_writes_it_alike(components: list[sbom.Component]) -> None:
    packageurl = pytest.importorskip("packageurl")
    purls = [one["purl"] for one in components if "purl" in one]
    assert [packageurl.PackageURL.from_string(purl).to_string() for purl in purls] == purls


def test_the_same_disk_the_same_bytes(tree: Path, tmp_path: Path, plan: Plan) -> None:
    (tmp_path / "work").mkdir()
    for name, work in (("one", tmp_path), ("two", tmp_path / "work")):
        found = read(tree, work)
        assert found is not None
        sbom.write(tmp_path / name, sbom.document(plan, found))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    document = json.loads((tmp_path / "one").read_text(encoding="utf-8"))
    assert document["metadata"]["timestamp"] == "2023-11-14T22:13:20Z"
    (tree / "opt/java/release").unlink()
    other = read(tree, tmp_path)
    assert other is not None
    assert sbom.document(plan, other)["serialNumber"] != document["serialNumber"]


def test_a_disk_without_ext4(tmp_path: Path) -> None:
    (tmp_path / "disk.raw").write_bytes(bytes(1 << 20))
    assert sbom.components_of(tmp_path / "disk.raw", "raw", tmp_path) is None


def test_a_system_without_dpkg(tmp_path: Path) -> None:
    (tmp_path / "tree/etc").mkdir(parents=True)
    assert read(tmp_path / "tree", tmp_path) == []


def test_inspect_shows_what_lies_beside(components: list[sbom.Component], plan: Plan, tmp_path: Path) -> None:
    ova = tmp_path / "hello-1.0.0.ova"
    assert sbom.summary(ova) is None
    assert sbom.beside(ova).name == "hello-1.0.0.cdx.json"
    sbom.write(sbom.beside(ova), sbom.document(plan, components))
    said = sbom.summary(ova)
    assert said is not None
    assert said["counts"] == {"deb": 2, "generic": 1, "npm": 2, "other": 1, "pypi": 2}
    lines = render._software(said)
    assert lines[0] == "  software   2 deb, 1 generic, 2 npm, 1 other, 2 pypi (hello-1.0.0.cdx.json)"
    assert "  library    pypi/pyyaml@6.0.2" in lines
    sbom.beside(ova).write_text("[]")
    assert render._software(sbom.summary(ova)) == [
        "  software   hello-1.0.0.cdx.json: it is no bill of materials of CycloneDX"
    ]
