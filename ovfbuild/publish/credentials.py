"""Secrets: from an environment variable, from a file, or asked for; and kept out of every text that leaves.

They are never in appliance.toml, targets.toml or on a command line. What a cloud's own client keeps (clouds.yaml,
~/.aws, ~/.netrc) is that client's to read; what it read is told to `keep`, so that it is redacted too.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote, quote_plus

from ovfbuild.errors import OvfbuildError, UsageError
from ovfbuild.progress import Progress

HIDDEN = "***"
_SHORTEST = 4
"""A secret of fewer characters would be found in every text, and hides nothing."""


class Secrets:
    """The secrets of one run, and the one place that knows all of them.

    `ask` shows its argument and returns what was typed without an echo; None where nobody is there to ask.
    """

    def __init__(self, environ: Mapping[str, str], ask: Callable[[str], str] | None = None) -> None:
        self._environ = environ
        self._ask = ask
        self._asked: dict[str, str] = {}
        self._known: set[str] = set()

    def read(self, what: str, variable: str | None, file: Path | None) -> str | None:
        """A secret where it lies, read anew each time: a token in a file may have been renewed. None if nowhere.

        Raises:
            UsageError: the variable is not set, or the file can't be read or is empty.
        """
        if variable is not None:
            if not (value := self._environ.get(variable, "")):
                raise UsageError(f"{what}: the environment has no {variable}", f"export {variable}=… before")
            return self.keep(value)
        if file is None:
            return None
        try:
            value = file.read_text(encoding="utf-8").partition("\n")[0].strip()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise UsageError(f"{what}: {file} can't be read: {why}") from None
        if not value:
            raise UsageError(f"{what}: the first line of {file} is empty")
        return self.keep(value)

    def ask(self, what: str, instead: str) -> str:
        """Asks for a secret, once a run. Raises UsageError, with what to do `instead`, where nobody can be asked."""
        if what not in self._asked:
            if self._ask is None:
                raise UsageError(f"{what} is needed, and there is no terminal to ask for it", instead)
            self._asked[what] = self._ask(what)
        return self.keep(self._asked[what])

    def keep(self, value: str) -> str:
        """Remembers a secret, so that it is redacted; returns it."""
        if value:
            self._known.add(value)
        return value

    def redact(self, text: str) -> str:
        """A text without any of the secrets, however they are written in it."""
        for form in sorted((form for value in self._known for form in _forms(value)), key=len, reverse=True):
            text = text.replace(form, HIDDEN)
        return text

    def redacted(self, error: OvfbuildError) -> OvfbuildError:
        """The same error without any of the secrets."""
        return type(error)(self.redact(error.message), self.redact(error.hint))


def _forms(value: str) -> set[str]:
    """As it is, in a URL, in a repr, in JSON, and in base64."""
    raw = value.encode()
    forms = {value, quote(value, safe=""), quote(value), quote_plus(value), repr(value)[1:-1]}
    forms |= {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    forms |= {base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()}
    return {form for form in forms if len(form) >= _SHORTEST}


class Redacting:
    """Progress that no secret gets through."""

    def __init__(self, progress: Progress, secrets: Secrets) -> None:
        self._progress = progress
        self._secrets = secrets

    def begin(self, name: str) -> None:
        self._progress.begin(self._secrets.redact(name))

    def end(self, ok: bool = True) -> None:
        self._progress.end(ok)

    def line(self, text: str) -> None:
        self._progress.line(self._secrets.redact(text))

    def bytes(self, done: int, total: int | None) -> None:
        self._progress.bytes(done, total)

    def note(self, text: str) -> None:
        self._progress.note(self._secrets.redact(text))

    def warn(self, text: str) -> None:
        self._progress.warn(self._secrets.redact(text))
