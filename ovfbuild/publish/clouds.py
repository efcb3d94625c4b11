"""Which module serves which kind of target: a line each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from ovfbuild.publish import http, s3
from ovfbuild.publish.cloud import Cloud, Surroundings
from ovfbuild.spec.targets import Target

CLOUDS: Mapping[str, Callable[[Any, Surroundings], AbstractContextManager[Cloud]]] = {
    "http": http.connect,
    "s3": s3.connect,
}


def connect(target: Target, around: Surroundings) -> AbstractContextManager[Cloud]:
    """The target, connected until the block ends.

    Raises:
        UsageError: a credential is named that is not there.
        ProgramError: its client library is not installed.
        PublishError: it can't be reached, or does not let us in.
    """
    return CLOUDS[target.kind](target, around)
