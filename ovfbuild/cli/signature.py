"""The options that name who signs a package, of `make` and `pack`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ovfbuild.signing import By

F = TypeVar("F", bound=Callable[..., Any])
_FILE = click.Path(path_type=Path)
_OPTIONS = (
    click.option("--sign-key", type=_FILE, help="Sign with this RSA key, in PEM."),
    click.option("--sign-cert", type=_FILE, help="The X.509 certificate of that key, in PEM."),
    click.option("--sign-passphrase-env", metavar="NAME", help="The environment variable with the key's passphrase."),
    click.option("--sign-passphrase-file", type=_FILE, help="The file whose first line it is."),
)


def options(function: F) -> F:
    """A command that takes them."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def by(how: dict[str, Any]) -> By:
    """What they said."""
    return By(how["sign_cert"], how["sign_key"], how["sign_passphrase_env"], how["sign_passphrase_file"])
