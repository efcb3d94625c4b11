"""Every way in which ovfbuild ends without success.

    OvfbuildError
    ├── UsageError          2  the command line or appliance.toml is wrong
    ├── ProgramError        3  a program is missing or failed
    ├── GuestError          4  the guest failed
    ├── FileError           5  a file is not what it should be
    ├── VerificationError   6  the package was judged and found wrong
    └── PublishError        7  a target refused, or failed

Ctrl-C, a KeyboardInterrupt, ends with 130. An error says what is wrong and, as `hint`, what to do about it.
Anything that is not an OvfbuildError is a bug and ends with 1 and a traceback.
"""

from __future__ import annotations


class OvfbuildError(Exception):
    """What went wrong in one sentence, and what to do in another."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(OvfbuildError):
    exit_code = 2


class ProgramError(OvfbuildError):
    exit_code = 3


class GuestError(OvfbuildError):
    exit_code = 4


class FileError(OvfbuildError):
    exit_code = 5


class VerificationError(OvfbuildError):
    exit_code = 6


class PublishError(OvfbuildError):
    exit_code = 7


INTERRUPTED = 130
"""The exit code of Ctrl-C and SIGTERM, as a shell has it."""
