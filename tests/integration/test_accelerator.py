"""KVM is believed in when a guest came to its end in it, and not before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ovfbuild.cache import Cache
from ovfbuild.errors import ProgramError
from ovfbuild.progress import Silent
from ovfbuild.vm import accelerator
from ovfbuild.vm.accelerator import KVM, TCG, choose
from ovfbuild.vm.hardware import Accelerator
from ovfbuild.vm.machine import Limits

pytestmark = pytest.mark.qemu


class Heard(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture(autouse=True)
def _qemu(needs: Callable[..., None]) -> None:
    needs("qemu-system-x86_64")


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """Something that can be opened, as a /dev/kvm that is no use can be."""
    path = tmp_path / "kvm"
    path.touch()
    return path


def test_the_tiny_guest_comes_to_its_end_under_emulation(tmp_path: Path) -> None:
    assert accelerator._try(TCG, tmp_path) == ""


def test_a_cpu_that_qemu_refuses_is_no_accelerator(tmp_path: Path) -> None:
    assert "no-such-cpu" in accelerator._try(Accelerator("tcg", "no-such-cpu"), tmp_path)


def test_a_guest_that_never_ends_is_no_accelerator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "_COUNT_AND_POWER_OFF", b"\xf4\xeb\xfd")
    monkeypatch.setattr(accelerator, "_PROBE", Limits(2, 2))
    assert "did not come to its end" in accelerator._try(TCG, tmp_path)


def test_tcg_is_said_aloud_with_what_it_costs(tmp_path: Path) -> None:
    heard = Heard()
    assert choose("auto", Cache(tmp_path / "cache"), heard, tmp_path / "no-device") == TCG
    (warning,) = heard.warnings
    assert "TCG" in warning
    assert "ten times slower" in warning
    assert "no-device" in warning


def test_kvm_that_was_asked_for_and_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match="KVM does not work here"):
        choose("kvm", Cache(tmp_path / "cache"), Heard(), tmp_path / "no-device")


@pytest.mark.parametrize("why", ["", "the guest hung"])
def test_the_answer_is_remembered(tmp_path: Path, device: Path, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    tried: list[Accelerator] = []

    def try_it(one: Accelerator, folder: Path) -> str:
        tried.append(one)
        return why

    monkeypatch.setattr(accelerator, "_try", try_it)
    cache = Cache(tmp_path / "cache")
    wanted = TCG if why else KVM
    assert [choose("auto", cache, Heard(), device) for _ in range(3)] == [wanted] * 3
    assert tried == [KVM], "with the -cpu that a build will use, once"


def test_this_machine_answers_within_its_limit(tmp_path: Path) -> None:
    """Whatever KVM is worth here, the answer comes, and is one of the two."""
    assert choose("auto", Cache(tmp_path / "cache"), Heard()) in (KVM, TCG)
