from __future__ import annotations

import pytest
import yaml

from ovfbuild.errors import UsageError
from ovfbuild.spec.cloud_config import dump, merge, parse

OURS = {"runcmd": [["ours"]], "ssh_pwauth": False, "apt": {"preserve": True}}


def test_ours_alone() -> None:
    assert merge(OURS, None) == ("#cloud-config\nruncmd:\n  - - ours\nssh_pwauth: false\napt:\n  preserve: true\n")


def test_lists_are_joined_and_our_scalars_win() -> None:
    text = merge(OURS, "#cloud-config\nruncmd: [theirs]\nssh_pwauth: true\napt: {proxy: x, preserve: no}\na: 1\n")
    assert text.startswith("#cloud-config\n")
    assert yaml.safe_load(text) == {
        "runcmd": ["theirs", ["ours"]],
        "ssh_pwauth": False,
        "apt": {"preserve": True, "proxy": "x"},
        "a": 1,
    }


def test_the_same_bytes_every_time() -> None:
    author = "#cloud-config\nz: 1\ny: [1, 2]\nwrite_files:\n- {path: /a, content: 'b'}\n"
    assert len({merge(OURS, author) for _ in range(20)}) == 1


def test_texts_of_several_lines_stay_readable_and_nothing_is_an_alias() -> None:
    shared = ["a"]
    assert dump({"one": shared, "two": shared, "text": "a\nb\n"}) == (
        "#cloud-config\none:\n  - a\ntwo:\n  - a\ntext: |\n  a\n  b\n"
    )


def test_an_empty_author() -> None:
    assert parse("#cloud-config\n") == {}
    assert parse("#cloud-config   \r\n# only a comment\n") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("runcmd: []", "x:1: the first line is not #cloud-config; begin the file with it"),
        ("#!/bin/sh\n", "x:1: the first line is not #cloud-config; begin the file with it"),
        ("#cloud-config\n- a\n", "x: holds a list, where a cloud-config has keys and values"),
        ("#cloud-config\nword\n", "x: holds a single value, where a cloud-config has keys and values"),
        ("#cloud-config\na: 1\na: 2\n", "x:3:1: not YAML: the key 'a' stands twice"),
        ("#cloud-config\na: !!python/object:os.system x\n", None),
        ("#cloud-config\na: [1\n", None),
        ("#cloud-config\n\ta: 1\n", None),
        ("#cloud-config\na: \x00\n", None),
        ("#cloud-config\na: *b\n", None),
        ("#cloud-config\na: 2020-99-99\n", None),
        (
            "#cloud-config\npower_state: {mode: reboot}\n",
            "x: power_state is not an author's to set: the build powers the machine off by itself; leave it out",
        ),
        (
            "#cloud-config\ndatasource_list: [None]\n",
            "x: datasource_list is not an author's to set: the finished appliance looks everywhere; leave it out",
        ),
    ],
)
def test_what_is_refused(text: str, message: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text, "x")
    if message:
        assert caught.value.message == message
    else:
        assert caught.value.message.startswith("x:")
        assert "not YAML: " in caught.value.message
        assert "\n" not in caught.value.message


def test_a_value_of_another_kind_than_ours() -> None:
    with pytest.raises(UsageError) as caught:
        merge({"apt": {"preserve": True}}, "#cloud-config\napt: [a]\n", "extra.yaml")
    assert caught.value.message == "extra.yaml: apt is a list, where a mapping belongs"


def test_a_key_left_empty_is_as_if_it_were_not_there() -> None:
    assert yaml.safe_load(merge(OURS, "#cloud-config\nruncmd:\n")) == OURS
