"""What of a content library no server is needed for."""

from __future__ import annotations

import pytest

pytest.importorskip("pyVmomi")

from ovfbuild.publish import automation, library, vim_session
from ovfbuild.publish.cloud import Stored


@pytest.mark.parametrize(
    "description",
    [
        "",
        "another's",
        "ovfbuild: {",
        'ovfbuild: {"name": 1, "made": null, "begun": ["a"]}',
        'not at the beginning ovfbuild: {"name": "a"}',
        "ovfbuild: " + '{"a":' * 100_000 + "1" + "}" * 100_000,
    ],
)
def test_a_description_that_says_nothing(description: str) -> None:
    assert library._marks(description) == {}


def test_a_description_that_its_owner_wrote_around() -> None:
    stored = Stored("hello", '1.0-"ö', "ab" * 32, whole=False, made=1.5)
    marks = library._marks(f"See the wiki.\n{library._described(stored, item='x')}\nDeployed weekly.")
    assert marks == {"name": "hello", "version": '1.0-"ö', "sha256": "ab" * 32, "made": "1.500000", "item": "x"}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, ""),
        ({"messages": [{"default_message": "No  room\nleft."}, {"id": "x"}, "?"]}, "No room left."),
        ({"default_message": "Untrusted."}, "Untrusted."),
    ],
)
def test_the_words_of_an_error(value: object, said: str) -> None:
    assert automation.messages(value) == said


def test_the_newest_version_that_both_know() -> None:
    found = [vim_session._version(told) for told in ("5.5", "6.7.3", "7.0.3.0", "7.0.3.99")]
    assert found[:3] == ["vim.version.version9", "vim.version.version15", "vim.version.v7_0_3_0"]
    assert found[3].startswith("vim.version.v7_0_3_"), "an update of the server that pyVmomi does not know"
    assert vim_session._version("99") >= found[3], "and one of a time to come"
