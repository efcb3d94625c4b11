"""Where secrets come from, and that none gets out."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from urllib.parse import quote

import pytest

from ovfbuild.errors import PublishError, UsageError
from ovfbuild.publish.credentials import Redacting, Secrets
from tests.unit.publish.kit import Heard

SECRET = 'pass/w"ord é&+'


def test_where_a_secret_is_read(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("first\nsecond\n")
    secrets = Secrets({"TOLD": "told"}, ask=lambda question: question.upper())
    assert secrets.read("x", "TOLD", None) == "told"
    assert secrets.read("x", None, file) == "first"
    assert secrets.read("x", None, None) is None
    assert secrets.ask("password", "") == "PASSWORD"
    file.write_text("renewed")
    assert secrets.read("x", None, file) == "renewed"


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff"])
def test_what_is_not_there_is_said(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=r"target lab: .*secret"):
        Secrets({}).read("target lab", None, file)
    with pytest.raises(UsageError, match="the environment has no PASSWORD"):
        Secrets({"PASSWORD": ""}).read("target lab", "PASSWORD", None)
    with pytest.raises(UsageError, match="no terminal to ask"):
        Secrets({}).ask("password", "set password_file")


def test_no_form_of_a_secret_gets_out() -> None:
    secrets, heard = Secrets({"P": SECRET}), Heard()
    secrets.read("x", "P", None)
    forms = [SECRET, quote(SECRET), quote(SECRET, safe=""), json.dumps(SECRET), repr(SECRET)]
    forms.append(base64.b64encode(SECRET.encode()).decode())
    progress = Redacting(heard, secrets)
    for form in forms:
        for say in (progress.begin, progress.line, progress.note, progress.warn):
            say(f"before {form} after")
        error = secrets.redacted(PublishError(f"message {form}", f"hint {form}"))
        heard.said += (error.message, error.hint)
    assert heard.text.count("***") == 6 * len(forms)
    assert "ord" not in heard.text and "w%22" not in heard.text
