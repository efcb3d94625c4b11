from __future__ import annotations

from pathlib import Path

import pytest

from ovfbuild.errors import UsageError
from ovfbuild.spec import catalogue, guest_os
from ovfbuild.spec.profile import load_profile, parse_profile, profile_names
from ovfbuild.spec.profile_page import page
from ovfbuild.verify import catalogue as catalogue_of_rules

PAGES = Path(__file__).parents[3] / "docs" / "profiles"


def test_every_profile_that_ships_loads() -> None:
    assert "portable" in profile_names()
    assert "guest_os" not in profile_names()
    for name in profile_names():
        assert load_profile(name).name == name


def test_portable_is_what_was_found_to_import_everywhere() -> None:
    portable = load_profile("portable")
    assert portable.virtual_system_type == "vmx-14"
    assert portable.transport == ("iso", "com.vmware.guestInfo")
    controller = catalogue.controller(portable.disk.controller)
    assert (controller.resource_type, controller.resource_subtype) == (20, "vmware.sata.ahci")
    assert catalogue.nic(portable.nic.model).resource_subtype == "E1000"
    assert portable.cdrom.present
    assert not portable.cdrom.required
    assert (portable.cdrom.bus.resource_type, portable.cdrom.bus.resource_subtype) == (5, "")
    assert portable.suffix == ""


def test_an_unknown_profile_names_the_closest() -> None:
    with pytest.raises(UsageError) as caught:
        load_profile("portabel")
    assert caught.value.message == "unknown profile 'portabel'; did you mean 'portable'?"
    with pytest.raises(UsageError, match=r"known: .*portable"):
        load_profile("x")


def test_a_wrong_profile_reports_all_of_its_mistakes() -> None:
    with pytest.raises(UsageError) as caught:
        parse_profile("mine", 'title = 1\ntransport = ["iso"]\n[nic]\nmodel = "ne2k"\n')
    lines = caught.value.message.split("\n")
    assert 'mine.toml: title: must be a string, not an integer; put it in quotes: "1"' in lines
    assert any(line.startswith("mine.toml: nic.model: 'ne2k' is not a choice here") for line in lines)
    assert any(line.startswith('mine.toml: transport: has "iso" without a CD-ROM') for line in lines)
    assert any(line.startswith("mine.toml: disk: is missing") for line in lines)


def test_a_profile_that_is_not_toml() -> None:
    with pytest.raises(UsageError, match=r"mine\.toml: not TOML"):
        parse_profile("mine", "title =")


def test_systems_are_found_by_name_then_family_then_not_at_all() -> None:
    assert guest_os.guest_os("debian:12").cim == 96
    assert guest_os.guest_os("debian:12").suite == "bookworm"
    assert guest_os.guest_os("ubuntu:30.04") == guest_os.guest_os("ubuntu")
    assert guest_os.guest_os(None) == guest_os.guest_os("linux")
    assert guest_os.find("plan9") is None
    assert guest_os.distributions() == ("debian:12", "debian:13", "debian:sid")


def test_every_system_has_its_names() -> None:
    for name in guest_os.names():
        entry = guest_os.guest_os(name)
        assert entry.cim > 1
        assert entry.vmw
        assert all(int(version) and word.endswith("64Guest") for version, word in entry.vmw.items())
        assert entry.virtualbox.endswith("_64")
        assert entry.description.endswith("(64-bit)")


def test_vmware_is_told_the_newest_name_that_it_knows() -> None:
    debian = guest_os.guest_os("debian:12")
    said = [debian.vmware(version) for version in (4, 10, 12, 13, 14, 17, 19, 20, 21)]
    assert [word.removesuffix("_64Guest") for word in said] == [
        *("debian7", "debian7", "debian8", "debian10", "debian10", "debian11", "debian11", "debian12", "debian12")
    ]


def test_a_version_is_a_hardware_family_and_a_file_name_of_its_own() -> None:
    assert load_profile("vsphere:7.0").versions == {}, "a version has none of its own"
    found = load_profile("vsphere:8.0")
    assert (found.name, found.suffix, found.virtual_system_type) == ("vsphere:8.0", "-vsphere-8.0", "vmx-20")
    assert load_profile("vsphere").virtual_system_type == "vmx-14"
    with pytest.raises(UsageError, match=r"profile vsphere has no version '9'; known: 6\.5, 6\.7"):
        load_profile("vsphere:9")
    with pytest.raises(UsageError, match="profile portable has no version '1'; known: none, leave it out"):
        load_profile("portable:1")


def test_a_profile_of_one_s_own_extends_one_that_ships(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('extends = "vsphere"\nsuffix = "-mine"\n[disk]\ncontroller = "nvme"\n')
    mine, theirs = load_profile(str(path)), load_profile("vsphere")
    assert (mine.suffix, mine.disk.controller, mine.name) == ("-mine", "nvme", str(path))
    assert (mine.disk.controllers, mine.takes) == (theirs.disk.controllers, theirs.takes)
    with pytest.raises(UsageError, match=r"mine\.toml: extends: there is no profile 'vspher'; did you mean 'vsphere'"):
        parse_profile("mine", 'extends = "vspher"')
    with pytest.raises(UsageError, match="No such file"):
        load_profile(str(tmp_path / "none.toml"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[nic]\nmodel = "virtio"', "nic: model is none of models; write it there too"),
        ('virtual_system_type = "virtualbox-2.2"', "virtual_system_type: 'virtualbox-2.2' is no hardware family"),
        ('suffix = "a/b"', "suffix: is put into file names"),
        ("vmware = false", "takes: has 'efi', which is said in VMware's words; set vmware = true"),
        ('takes = ["magic"]', "takes[0]: 'magic' is not a choice here"),
    ],
)
def test_what_a_profile_can_t_be(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_profile("mine", f'extends = "portable"\n{text}\n')
    assert any(line.startswith(f"mine.toml: {said}") for line in caught.value.message.split("\n"))


def test_no_two_profiles_give_packages_of_one_name() -> None:
    suffixes = [load_profile(name).suffix for name in profile_names()]
    assert len(set(suffixes)) == len(suffixes)


@pytest.mark.parametrize("name", profile_names())
def test_each_page_of_the_docs_is_up_to_date(name: str) -> None:
    told = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert told == page(load_profile(name)), "write them anew: python -m ovfbuild.spec.profile_page docs/profiles"


def test_there_are_no_other_pages() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} == set(profile_names())


def test_what_a_profile_waives_are_rules() -> None:
    for name in profile_names():
        assert set(load_profile(name).waives) <= set(catalogue_of_rules.rules()), name
