"""[java], [python] and [node]: what is refused, with what would work, and what the guest is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ovfbuild.errors import UsageError
from ovfbuild.spec import guest_os, languages
from ovfbuild.spec.appliance import Appliance
from ovfbuild.spec.plan import disk_inputs, resolve
from ovfbuild.spec.references import requirement_lines

Find = Callable[..., list[str]]
Make = Callable[..., Appliance]
SUM = "sha256:" + "0" * 64


def steps(appliance: Appliance) -> list[dict[str, Any]]:
    return [step.to_json() for step in resolve(appliance, {}).steps[1:]]


@pytest.mark.parametrize(
    ("tables", "base", "sentence"),
    [
        (
            "[java]\nversion = 8",
            "debian:12",
            (
                "java: version 8 is not in debian:12, which has Java 17; "
                'write 17, take base.distribution = "debian:sid", or archive = a path or URL'
            ),
        ),
        (
            "[java]\nversion = 17",
            "debian:13",
            (
                "java: version 17 is not in debian:13, which has Java 21 or 25; "
                'write 21 or 25, take base.distribution = "debian:12" or "debian:sid", or archive = a path or URL'
            ),
        ),
        (
            "[node]\nversion = 99",
            "debian:12",
            "node: version 99 is not in debian:12, which has Node.js 18; write 18, or archive = a path or URL",
        ),
        ("[java]", "debian:12", "java: has neither version nor archive; write for example version = 17"),
        ("[java]\nversion = 0", "debian:sid", "java.version: 0 is out of range; write at least 1"),
        (
            '[java]\nversion = "17"',
            "debian:12",
            "java.version: must be an integer, not a string; leave out the quotes: 17",
        ),
        (
            '[java]\nversion = 17\npath = "/opt/x"',
            "debian:12",
            "java.path: is for an archive; leave it out, the distribution's package has its own place",
        ),
        (
            '[java]\narchive = "https://example.org/jdk.tar.gz"',
            "debian:12",
            'java.archive: is a URL without a checksum; add checksum = "sha256:…"',
        ),
        (f'[node]\nchecksum = "{SUM}"', "debian:12", "node.checksum: is for an archive; leave it out"),
        (
            '[node]\npath = "/opt"',
            "debian:12",
            "node.path: '/opt' is not a folder of its own; write one such as \"/opt/tools\"",
        ),
        (
            "[python]",
            "debian:12",
            'python: has neither packages nor requirements; write for example packages = ["requests==2.32.3"]',
        ),
        (
            "[python]\npackages = []",
            "debian:12",
            "python.packages: is empty; write a package, or leave out [python]",
        ),
        (
            '[python]\npackages = ["Ruamel.yaml", "ruamel-YAML==1"]',
            "debian:12",
            "python.packages: has 'ruamel-YAML' twice; keep one",
        ),
        (
            '[python]\npackages = ["--index-url=x"]',
            "debian:12",
            (
                "python.packages[0]: '--index-url=x' is not a requirement of pip; "
                'write "name" or "name==version", such as "requests==2.32.3"'
            ),
        ),
        (
            '[node]\npackages = ["git+ssh://x/y"]',
            "debian:12",
            (
                "node.packages[0]: 'git+ssh://x/y' is not a package of npm; "
                'write "name" or "name@version", such as "pm2@5.4.2"'
            ),
        ),
        ('[node]\npackages = ["@a/b@1", "@a/b"]', "debian:12", "node.packages: has '@a/b' twice; keep one"),
    ],
)
def test_mistakes(mistakes: Find, tables: str, base: str, sentence: str) -> None:
    assert mistakes(tables, base=f'[base]\ndistribution = "{base}"\n') == [sentence]


def test_a_requirements_file_is_all_that_pip_reads(mistakes: Find, folder: Path) -> None:
    (folder / "r.txt").write_text("six==1.17.0\n-r more.txt\n")
    (said,) = mistakes('[python]\nrequirements = "r.txt"')
    assert said == (
        "python.requirements: 'r.txt': '-r more.txt' is not a requirement by name; write name==version "
        "(what is pip's own, such as an index, stands in the host's pip.conf)"
    )
    (folder / "r.txt").write_text("# nothing\n\n")
    (said,) = mistakes('[python]\nrequirements = "r.txt"')
    assert "asks for nothing" in said


def test_requirement_lines() -> None:
    text = "# head\nsix==1.17.0 \\\n    --hash=sha256:00 \\\n    --hash=sha256:11\n"
    text += "requests[socks] >=2, <3 ; python_version < '4'  # why\n"
    assert requirement_lines(text) == [
        "six==1.17.0      --hash=sha256:00      --hash=sha256:11",
        "requests[socks] >=2, <3 ; python_version < '4'",
    ]


@pytest.mark.parametrize("wrong", ["-e .", "./x.whl", "x @ https://example.org/x.whl", "https://example.org/x.whl"])
def test_requirements_that_are_no_names(wrong: str) -> None:
    with pytest.raises(ValueError, match="not a requirement by name"):
        requirement_lines(wrong)


def test_the_distribution_s_packages(appliance: Make) -> None:
    tables = '[java]\nversion = 17\n[python]\npackages = ["six"]\n[node]\nversion = 18\npackages = ["@a/b@^1.2"]'
    assert steps(appliance(tables)) == [
        {
            "kind": "java",
            "name": "java",
            "version": 17,
            "package": "openjdk-17-jre-headless",
            "archive": "",
            "path": "/opt/java",
        },
        {"kind": "python", "name": "python", "path": "/opt/hello/venv", "wheels": "libraries/python"},
        {
            "kind": "node",
            "name": "node",
            "version": 18,
            "package": "nodejs",
            "archive": "",
            "path": "/opt/hello/node",
            "packages": "libraries/node",
        },
    ]


def test_archives(appliance: Make, folder: Path) -> None:
    (folder / "jdk.tgz").write_bytes(b"")
    tables = '[java]\nversion = 8\narchive = "jdk.tgz"\npath = "/srv/java/"\n'
    tables += f'[node]\narchive = "https://x.org/n.tar.xz"\nchecksum = "{SUM}"'
    java, node = steps(appliance(tables))
    assert (java["package"], java["archive"], java["path"]) == ("", "libraries/java/archive", "/srv/java")
    assert (node["package"], node["archive"], node["packages"]) == ("", "libraries/node/archive", "")
    assert resolve(appliance(tables), {}).language_packages == ()


def test_they_come_after_packages_and_before_users(appliance: Make) -> None:
    tables = '[system]\npackages = ["curl"]\n[[system.users]]\nname = "a"\n'
    tables += '[java]\nversion = 17\n[[files]]\ncontent = ""\ntarget = "/a"\n'
    plan = resolve(appliance(tables), {})
    kinds = [step.kind for step in plan.steps]
    assert kinds[kinds.index("packages") :][:3] == ["packages", "java", "users"]
    assert plan.language_packages == ("java",)


def test_a_path_is_another_disk(appliance: Make) -> None:
    one = resolve(appliance('[python]\npackages = ["six"]'), {})
    other = resolve(appliance('[python]\npackages = ["six"]\npath = "/srv/venv"'), {})
    assert disk_inputs(one) != disk_inputs(other)


def test_an_image_of_an_unknown_system_is_not_judged(appliance: Make, folder: Path) -> None:
    (folder / "x.qcow2").write_bytes(b"")
    appliance("[java]\nversion = 8", base='[base]\nimage = "x.qcow2"\nos = "ubuntu:24.04"\n')
    with pytest.raises(UsageError):
        appliance("[java]\nversion = 8", base='[base]\nimage = "x.qcow2"\nos = "debian:12"\n')


def test_every_distribution_that_is_made_here_is_in_the_table() -> None:
    assert set(guest_os.distributions()) == set(languages._offers())
