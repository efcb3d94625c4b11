"""What a host's apt says, in each of the forms that it may be said in."""

from __future__ import annotations

from pathlib import Path

from ovfbuild.vm.apt import (
    Mirrors,
    host_mirrors,
    parse_deb822,
    parse_one_line,
    parse_settings,
    pick_mirrors,
)

KEY = "/usr/share/keyrings/debian-archive-keyring.gpg"

ONE_LINE = """\
# deb http://old.example.org/debian bookworm main
deb http://mirror.example.org/debian bookworm main contrib  # ours
deb-src http://mirror.example.org/debian bookworm main
 deb http://mirror.example.org/debian bookworm-updates main
deb [ arch=amd64,i386 signed-by=/etc/x.gpg ] https://sec.example.org/debian-security bookworm-security main
"""

DEB822 = f"""\
Types: deb deb-src
URIs: https://mirror.example.org/debian
 https://second.example.org/debian
Suites: trixie trixie-updates
# a comment inside
Components: main contrib
Signed-By: {KEY}

Types: deb
URIs: https://sec.example.org/debian-security
Suites: trixie-security
Components: main
Signed-By: {KEY}

Enabled: no
Types: deb
URIs: https://off.example.org/debian
Suites: trixie
Components: main

Types: deb-src
URIs: https://src.example.org/debian
Suites: trixie
Components: main
"""

THIRD_PARTIES = """\
deb [signed-by=/usr/share/keyrings/h.gpg] https://apt.h.example.com bookworm main
deb [arch=amd64 signed-by=/etc/apt/keyrings/d.gpg] https://download.d.example.com/linux/debian bookworm stable
deb https://packages.m.example.com/debian/12/prod bookworm main
deb https://apt.p.example.com/pub bookworm-pgdg main
deb https://n.example.com/node_20.x nodistro main
"""


def put(root: Path, path: str, text: str) -> None:
    target = root / "etc/apt" / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)


def test_one_line_sources() -> None:
    found = parse_one_line(ONE_LINE)
    assert [(s.uri, s.suite) for s in found] == [
        ("http://mirror.example.org/debian", "bookworm"),
        ("http://mirror.example.org/debian", "bookworm-updates"),
        ("https://sec.example.org/debian-security", "bookworm-security"),
    ]
    assert found[0].components == ("main", "contrib")
    assert found[2].options == {"arch": "amd64,i386", "signed-by": "/etc/x.gpg"}


def test_deb822_sources() -> None:
    found = parse_deb822(DEB822)
    assert [(s.uri.split("/")[2].split(".")[0], s.suite) for s in found] == [
        ("mirror", "trixie"),
        ("mirror", "trixie-updates"),
        ("second", "trixie"),
        ("second", "trixie-updates"),
        ("sec", "trixie-security"),
    ]
    assert found[0].signed_by == KEY


def test_deb822_key_in_the_stanza_is_no_file() -> None:
    text = (
        "Types: deb\nURIs: http://m.example.org/debian\nSuites: sid\nComponents: main\n"
        "Signed-By:\n -----BEGIN PGP-----\n .\n abc\n -----END PGP-----\n"
    )
    (source,) = parse_deb822(text)
    assert "abc" in source.signed_by
    assert pick_mirrors((source, source)) is None  # whoever's key that is, it is not known to be Debian's


def test_mirrors_of_both_forms() -> None:
    one = pick_mirrors(parse_one_line(ONE_LINE))
    assert one == Mirrors("http://mirror.example.org/debian", "https://sec.example.org/debian-security")
    new = pick_mirrors(parse_deb822(DEB822))
    assert new is not None
    assert (new.main, new.signed_by) == ("https://mirror.example.org/debian", KEY)


def test_third_parties_with_debians_suite_names_are_no_mirror() -> None:
    assert pick_mirrors(parse_one_line(THIRD_PARTIES)) is None
    both = pick_mirrors(parse_one_line(THIRD_PARTIES + ONE_LINE))
    assert both is not None and both.main == "http://mirror.example.org/debian"


def test_mirror_without_updates_and_security() -> None:
    found = pick_mirrors(parse_one_line("deb http://m.example.org/debian/ stable main"))
    assert found == Mirrors("http://m.example.org/debian/", None, has_updates=False)


def test_other_architectures_and_unusable_places_do_not_count() -> None:
    assert pick_mirrors(parse_one_line("deb [arch=arm64] http://m.example.org/debian sid main")) is None
    assert pick_mirrors(parse_one_line("deb cdrom:[Debian_12]/debian bookworm main")) is None
    local = pick_mirrors(parse_one_line("deb [trusted=yes] file:/srv/debian bookworm main"))
    assert local is not None
    assert local.lines("sid") == ("deb [trusted=yes] file:/srv/debian sid main",)


def test_lines_for_another_release() -> None:
    mirrors = Mirrors("http://m.example.org/debian", "http://s.example.org/debian-security", signed_by=KEY)
    assert mirrors.lines("trixie") == (
        f"deb [signed-by={KEY}] http://m.example.org/debian trixie main",
        f"deb [signed-by={KEY}] http://m.example.org/debian trixie-updates main",
        f"deb [signed-by={KEY}] http://s.example.org/debian-security trixie-security main",
    )
    assert Mirrors("http://m.example.org/debian").lines("sid") == ("deb http://m.example.org/debian sid main",)


def test_host_without_sources(tmp_path: Path) -> None:
    assert host_mirrors(root=tmp_path) is None
    put(tmp_path, "sources.list", "deb http://archive.example.org/ubuntu noble main\n")
    assert host_mirrors(root=tmp_path) is None


def test_host_reads_every_file_that_apt_reads(tmp_path: Path) -> None:
    put(tmp_path, "sources.list.d/debian.sources", DEB822)
    put(tmp_path, "sources.list.d/a.list.disabled", "deb http://not.example.org/debian trixie main\n")
    put(tmp_path, "sources.list", "deb http://first.example.org/debian trixie main\n")
    found = host_mirrors(root=tmp_path)
    assert found is not None
    assert found.main == "https://mirror.example.org/debian"  # signed by Debian's key, with updates
    assert host_mirrors("fedora", root=tmp_path) is None


def test_host_with_a_mirror_list(tmp_path: Path) -> None:
    uri = "mirror+file:///etc/apt/mirrors/debian.list"
    stanza = f"Types: deb\nURIs: {uri}\nSuites: trixie trixie-updates\nComponents: main\n"
    put(tmp_path, "sources.list.d/debian.sources", stanza)
    put(tmp_path, "mirrors/debian.list", "# nearest first\nhttps://near.example.org/debian\tpriority:1\n")
    found = host_mirrors(root=tmp_path)
    assert found is not None and found.main == "https://near.example.org/debian"
    (tmp_path / "etc/apt/mirrors/debian.list").unlink()
    assert host_mirrors(root=tmp_path) is None


def test_settings() -> None:
    found = parse_settings(
        'APT::Architecture "amd64";\n'
        'Acquire::cdrom::mount "/media/cdrom/";\n'
        'Acquire::http "";\n'
        'Acquire::http::Proxy "http://proxy.example.org:3142/";\n'
        'Acquire::http::Proxy::local.example.org "DIRECT";\n'
        'Acquire::https::Proxy "DIRECT";\n'
        'Acquire::https::CaInfo "/etc/ssl/corp.pem";\n'
        'Acquire::Check-Valid-Until "false";\n'
        'DPkg::Post-Invoke:: "rm -f \\"x\\" || true";\n'
    )
    assert found.options() == (
        'Acquire::http::Proxy "http://proxy.example.org:3142/";',
        'Acquire::http::Proxy::local.example.org "DIRECT";',
        'Acquire::https::Proxy "DIRECT";',
        'Acquire::https::CaInfo "/etc/ssl/corp.pem";',
        'Acquire::Check-Valid-Until "false";',
    )
    assert found.proxy("http") == "http://proxy.example.org:3142/"
    assert found.proxy("https") == ""
    assert found.ca_file == Path("/etc/ssl/corp.pem")
    assert parse_settings("").ca_file is None
