from __future__ import annotations

import pytest

from ovfbuild.errors import UsageError
from ovfbuild.spec import guest_os
from ovfbuild.spec.profile import load_profile, parse_profile, profile_names


def test_every_profile_that_ships_loads() -> None:
    assert "portable" in profile_names()
    assert "guest_os" not in profile_names()
    for name in profile_names():
        assert load_profile(name).name == name


def test_portable_is_what_was_found_to_import_everywhere() -> None:
    portable = load_profile("portable")
    assert portable.virtual_system_type == "vmx-14"
    assert portable.transport == ("iso", "com.vmware.guestInfo")
    assert (portable.disk.controller.resource_type, portable.disk.controller.resource_subtype) == (
        20,
        "vmware.sata.ahci",
    )
    assert portable.nic.resource_subtype == "E1000"
    assert portable.cdrom.present
    assert not portable.cdrom.required
    assert (portable.cdrom.controller.resource_type, portable.cdrom.controller.resource_subtype) == (5, "")
    assert portable.suffix == ""


def test_an_unknown_profile_names_the_closest() -> None:
    with pytest.raises(UsageError) as caught:
        load_profile("portabel")
    assert caught.value.message == "unknown profile 'portabel'; did you mean 'portable'?"
    with pytest.raises(UsageError, match="known: portable"):
        load_profile("x")


def test_a_wrong_profile_reports_all_of_its_mistakes() -> None:
    with pytest.raises(UsageError) as caught:
        parse_profile("mine", 'title = 1\ntransport = ["iso"]\n[nic]\nresource_subtype = "ne2k"\n')
    lines = caught.value.message.split("\n")
    assert 'mine.toml: title: must be a string, not an integer; put it in quotes: "1"' in lines
    assert any(line.startswith("mine.toml: nic.resource_subtype: 'ne2k' is not a choice here") for line in lines)
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
        assert entry.vmw.endswith("64Guest")
        assert entry.description.endswith("(64-bit)")
