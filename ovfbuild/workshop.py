"""One run's place to work, and what it leaves where it fails."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ovfbuild.cache import Cache
from ovfbuild.errors import OvfbuildError, UsageError
from ovfbuild.progress import Both, LogProgress, Progress
from ovfbuild.vm import accelerator
from ovfbuild.vm.hardware import Accelerator


@dataclass(frozen=True)
class Workshop:
    """One run's place to work: the cache, a scratch folder that goes, and the evidence of a failure."""

    cache: Cache
    scratch: Path
    evidence: Path
    progress: Progress
    accel: str

    @cached_property
    def accelerator(self) -> Accelerator:
        """What runs guests here; proven, and said, when it is first needed."""
        return accelerator.choose(self.accel, self.cache, self.progress)


@contextmanager
def workshop(final: Path, accel: str, progress: Progress) -> Iterator[Workshop]:
    """The place for one run, whose logs are kept in the folder `final` where it fails."""
    cache = Cache()
    with _evidence(final, cache) as (scratch, evidence), _logged(evidence, progress) as both:
        yield Workshop(cache, scratch, evidence, both, accel)


@contextmanager
def _logged(evidence: Path, progress: Progress) -> Iterator[Progress]:
    """Progress that is written to build.log as well, every line of it."""
    with (evidence / "build.log").open("w", encoding="utf-8") as log:
        yield Both(progress, LogProgress(log, verbose=True))


@contextmanager
def _evidence(final: Path, cache: Cache) -> Iterator[tuple[Path, Path]]:
    """A scratch folder, and one for logs that is moved to `final` when anything but the user's text was wrong.

    Logs that say nothing, of what failed before anything began, are not left; what an earlier failure
    left there is gone once a run does not fail.
    """
    with cache.workspace() as scratch:
        evidence = scratch / "evidence"
        evidence.mkdir()
        try:
            yield scratch, evidence
        except UsageError:
            raise
        except Exception as error:
            if any(log.stat().st_size for log in evidence.iterdir()):
                _replace(evidence, final)
                if isinstance(error, OvfbuildError):
                    error.hint = "\n  → ".join(filter(None, (error.hint, f"the logs are in {final}")))
            raise
        if final.exists():
            shutil.rmtree(final)


def _replace(evidence: Path, final: Path) -> None:
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        shutil.rmtree(final)
    shutil.move(evidence, final)
