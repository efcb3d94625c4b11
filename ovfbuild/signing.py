"""Who signs the packages: what [package] or the command line name, read before anything is built.

A passphrase is never on a command line: it lies in an environment variable or a file, or is asked for, without an echo.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ovfbuild.errors import UsageError
from ovfbuild.formats import certificate
from ovfbuild.formats.certificate import Signer
from ovfbuild.publish.credentials import Secrets
from ovfbuild.spec.plan import Plan


@dataclass(frozen=True)
class By:
    """The files of who signs, and where the key's passphrase lies, as far as they were named."""

    certificate: Path | None = None
    key: Path | None = None
    passphrase_env: str | None = None
    passphrase_file: Path | None = None


def signer(plan: Plan, by: By, ask: Callable[[str], str] | None) -> Signer | None:
    """Who signs: whom `by` names, else the appliance's own [package]; None where nobody does.

    `ask` shows its argument and returns what was typed; None where nobody is there to ask.

    Raises:
        UsageError: a part is missing, there is nothing to sign, or the passphrase is wrong or can't be asked for.
        FileError: the certificate or the key can't be used.
    """
    own = plan.appliance.package.sign
    if by == By():
        if own is None:
            return None
        by = By(own.certificate, own.key, own.passphrase_env, own.passphrase_file)
    if by.certificate is None or by.key is None:
        raise UsageError("a signature needs a key and its certificate", "--sign-key FILE --sign-cert FILE")
    if bare := next((profile for profile in plan.profiles if not profile.packaged), None):
        raise UsageError(
            f"a {bare.format} alone has no manifest that could be signed (profile {bare.name})",
            "leave out the signature, or choose the format ova or ovf",
        )
    key, secrets = by.key, Secrets(os.environ, ask)
    return certificate.load(by.certificate, key, lambda: _passphrase(by, f"the passphrase of {key}", secrets))


def _passphrase(by: By, what: str, secrets: Secrets) -> str:
    found = secrets.read(what, by.passphrase_env, by.passphrase_file)
    return found or secrets.ask(what, "name it: --sign-passphrase-env NAME, or --sign-passphrase-file FILE")
