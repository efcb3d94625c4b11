"""The order of the steps, against a cloud of a few lines that breaks off where it is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ovfbuild.errors import PublishError
from ovfbuild.progress import Silent
from ovfbuild.publish.cloud import Shipment, Standing, Stored
from ovfbuild.publish.delivery import How, decide, deliver
from ovfbuild.publish.meter import Meter
from ovfbuild.tries import Patience, TryAgain
from tests.unit.publish.kit import Heard, shipment

QUICK = Patience(tries=3, first_wait=0.001, longest_wait=0.002)
KEEP_OLD = How(keep_old=1)


class Killed(BaseException):
    """The run ends here, and nothing is cleaned up: see `dead`."""


class Cloudlet:
    """A cloud in memory. `trouble` has what the next steps of a name raise, in order; `dead` answers nobody."""

    def __init__(self) -> None:
        self.things: list[Stored] = []
        self.trouble: dict[str, list[BaseException]] = {}
        self.did: list[str] = []
        self.dead = False
        self.resumable = False

    def _step(self, name: str) -> None:
        if self.dead:
            raise Killed
        self.did.append(name)
        if waiting := self.trouble.get(name):
            error = waiting.pop(0)
            self.dead = isinstance(error, Killed)
            raise error

    def standing(self, *, write: bool) -> Standing:
        return Standing("memory")

    def stored(self, name: str) -> Sequence[Stored]:
        self._step("stored")
        return [one for one in self.things if one.name == name]

    def send(self, shipment: Shipment, resume: Stored | None, meter: Meter) -> Stored:
        self.did.append("resume" if resume else "anew")
        begun = resume or Stored(
            *(shipment.name, shipment.version, shipment.digest, False, len(self.did)),
            ids={"id": str(len(self.did))},
            resumable=self.resumable,
        )
        if not resume:
            self.things.append(begun)
        self._step("send")
        meter.add(shipment.size)
        return begun

    def finish(self, shipment: Shipment, sent: Stored) -> Stored:
        self._step("finish")
        whole = replace(sent, whole=True)
        self.things[self.things.index(sent)] = whole
        return whole

    def abandon(self, leftover: Stored) -> None:
        self._step("abandon")
        self.things.remove(leftover)

    def retire(self, old: Stored) -> None:
        self._step("retire")
        self.things.remove(old)


@pytest.fixture
def cargo(tmp_path: Path) -> Shipment:
    return shipment(tmp_path / "a.ova")


def stored(version: str = "1.0", digest: str = "d", made: float = 0, *, whole: bool = True) -> Stored:
    return Stored("a", version, digest, whole, made, {"id": f"{version}@{made}"})


def test_twice_is_once(cargo: Shipment) -> None:
    cloud = Cloudlet()
    first = deliver(cloud, cargo, How(), Silent(), QUICK)
    second = deliver(cloud, cargo, How(), Silent(), QUICK)
    assert (first.outcome, second.outcome) == ("published", "present")
    assert [one.whole for one in cloud.things] == [True]
    assert cloud.did.count("send") == 1


def test_replace_sends_again_and_then_removes(cargo: Shipment) -> None:
    cloud = Cloudlet()
    deliver(cloud, cargo, How(), Silent(), QUICK)
    deliver(cloud, cargo, How(replace=True), Silent(), QUICK)
    assert len(cloud.things) == 1
    assert cloud.did.index("retire") > len(cloud.did) - 1 - cloud.did[::-1].index("finish")


def test_what_is_in_use_is_replaced_and_never_written_to(cargo: Shipment) -> None:
    """Even if a cloud calls it resumable: sent over it, and then removed as the old one, nothing would be left."""
    cloud = Cloudlet()
    cloud.resumable = True
    first, again = deliver(cloud, cargo, How(), Silent()), deliver(cloud, cargo, How(replace=True), Silent())
    assert again.stored != first.stored and again.removed == (first.stored,) and cloud.things == [again.stored]
    assert "resume" not in cloud.did


def test_another_content_of_the_same_version_is_refused(cargo: Shipment) -> None:
    cloud = Cloudlet()
    cloud.things = [stored()]
    with pytest.raises(PublishError, match=r"a 1\.0 is there already with another content \(1\.0@0\)"):
        deliver(cloud, cargo, How(), Silent(), QUICK)
    assert cloud.things == [stored()]


def test_a_target_may_let_it_be_superseded_but_not_sent_again(cargo: Shipment) -> None:
    cloud = Cloudlet()
    cloud.things = [stored()]
    outcomes = [deliver(cloud, cargo, How(supersede=True), Silent(), QUICK).outcome for _ in range(2)]
    assert outcomes == ["published", "present"]
    assert [one.digest for one in cloud.things] == [cargo.digest]


def test_old_versions_go_by_age(cargo: Shipment) -> None:
    cloud = Cloudlet()
    cloud.things = [stored("0.1", made=1), stored("0.3", made=3), stored("0.2", made=2)]
    receipt = deliver(cloud, cargo, KEEP_OLD, Silent(), QUICK)
    assert [one.version for one in receipt.removed] == ["0.2", "0.1"]
    assert [one.version for one in cloud.things] == ["0.3", "1.0"]


def test_a_run_that_was_killed_before_it_removed_is_completed_by_the_next(cargo: Shipment) -> None:
    cloud = Cloudlet()
    cloud.things = [stored("1.0", "other", made=-1)]
    cloud.trouble = {"retire": [Killed()]}
    with pytest.raises(Killed):
        deliver(cloud, cargo, How(replace=True), Silent(), QUICK)
    cloud.dead = False
    receipt = deliver(cloud, cargo, How(), Silent(), QUICK)
    assert (receipt.outcome, [one.digest for one in receipt.removed]) == ("present", ["other"])
    assert [one.digest for one in cloud.things] == [cargo.digest]


@pytest.mark.parametrize("at", ["send", "finish"])
@pytest.mark.parametrize("resumable", [False, True])
def test_a_run_that_was_killed_is_found_by_the_next(cargo: Shipment, at: str, resumable: bool) -> None:
    cloud = Cloudlet()
    cloud.resumable = resumable
    cloud.trouble = {at: [Killed()]}
    with pytest.raises(Killed):
        deliver(cloud, cargo, How(), Silent(), QUICK)
    assert [one.whole for one in cloud.things] == [False]
    cloud.dead = False
    deliver(cloud, cargo, How(), Silent(), QUICK)
    assert [one.whole for one in cloud.things] == [True]
    assert ("resume" in cloud.did, "abandon" in cloud.did) == (resumable, not resumable)


@pytest.mark.parametrize("at", ["stored", "send", "finish", "retire"])
def test_what_passes_is_tried_again(cargo: Shipment, at: str) -> None:
    cloud, heard = Cloudlet(), Heard()
    cloud.things = [stored("0.1"), stored("0.2", made=1)]
    cloud.trouble = {at: [TryAgain("the line broke"), TryAgain("the line broke")]}
    deliver(cloud, cargo, KEEP_OLD, heard, QUICK)
    assert [(one.version, one.whole) for one in cloud.things] == [("0.2", True), ("1.0", True)]
    assert heard.text.count("the line broke; trying again in") == 2


@pytest.mark.parametrize("at", ["send", "finish"])
@pytest.mark.parametrize("error", [TryAgain("the line broke"), PublishError("no room"), KeyboardInterrupt()])
def test_nothing_half_done_is_left(cargo: Shipment, at: str, error: BaseException) -> None:
    cloud = Cloudlet()
    cloud.trouble = {at: [error] * 9}
    with pytest.raises((PublishError, KeyboardInterrupt)) as caught:
        deliver(cloud, cargo, How(), Silent(), QUICK)
    assert cloud.things == []
    if isinstance(error, TryAgain):
        assert caught.value.args == ("the line broke (3 tries)",)


def test_what_could_not_be_removed_is_said(cargo: Shipment) -> None:
    cloud = Cloudlet()
    cloud.trouble = {"send": [PublishError("no room", "make some")], "abandon": [PublishError("no")]}
    with pytest.raises(PublishError) as caught:
        deliver(cloud, cargo, How(), Silent(), QUICK)
    assert caught.value.hint.startswith("make some\n") and "the next publish removes it" in caught.value.hint


def test_a_try_that_gets_further_does_not_count(cargo: Shipment) -> None:
    class Crawling(Cloudlet):
        def send(self, shipment: Shipment, resume: Stored | None, meter: Meter) -> Stored:
            self.did.append("send")
            meter.begin(meter.furthest)
            meter.add(2 << 20)
            if self.did.count("send") < 8:
                raise TryAgain("cut")
            return super().send(shipment, resume, meter)

    assert deliver(Crawling(), cargo, How(), Silent(), QUICK).outcome == "published"


def test_a_dry_run_changes_nothing(cargo: Shipment) -> None:
    cloud, heard = Cloudlet(), Heard()
    cloud.things = before = [stored("0.1"), stored("1.0", "other"), stored("1.0", whole=False)]
    receipt = deliver(cloud, cargo, How(replace=True, dry_run=True), heard, QUICK)
    assert (receipt.outcome, cloud.things, set(cloud.did)) == ("planned", before, {"stored"})
    assert "would remove a 1.0 (1.0@0)" in heard.text


def test_two_of_one_version_are_an_interrupted_replacement(cargo: Shipment) -> None:
    """The newest of them is the one that counts, even where the older is the same as what is sent."""
    ours = stored("1.0", cargo.digest, made=1)
    with pytest.raises(PublishError, match="another content"):
        decide([ours, stored("1.0", "other", made=2)], cargo, How())
    decision = decide([ours, stored("1.0", "other", made=0)], cargo, How())
    assert decision.present == ours and [one.digest for one in decision.retire] == ["other"]


def test_what_was_set_aside_counts_as_gone_and_is_brought_back(cargo: Shipment) -> None:
    aside = replace(stored("1.0", cargo.digest), retired=True, resumable=True)
    others = [replace(stored("0.9", "old", made=5), retired=True), replace(stored("1.0", "other"), retired=True)]
    decision = decide([*others, aside], cargo, KEEP_OLD)
    assert (decision.present, decision.resume, decision.abandon, decision.retire) == (None, aside, (), ())
    part = replace(stored("1.0", cargo.digest, whole=False), resumable=True)
    decision = decide([part, aside], cargo, How())
    assert (decision.resume, decision.abandon) == (aside, (part,))
    decision = decide([part, aside], cargo, How(replace=True))
    assert (decision.resume, decision.abandon) == (part, ())
    assert decide([replace(aside, resumable=False)], cargo, How()).resume is None
    decision = decide([aside, stored("1.0", "other", made=9)], cargo, How(supersede=True))
    assert (decision.resume, [one.digest for one in decision.retire]) == (aside, ["other"])


def test_what_is_brought_back_is_said_and_survives_a_failure(cargo: Shipment) -> None:
    cloud, heard = Cloudlet(), Heard()
    cloud.things = [replace(stored("1.0", cargo.digest), retired=True, resumable=True)]
    deliver(cloud, cargo, How(dry_run=True), heard, QUICK)
    assert "would bring back a 1.0" in heard.text
    cloud.trouble = {"finish": [PublishError("no")]}
    with pytest.raises(PublishError):
        deliver(cloud, cargo, How(), heard, QUICK)
    assert [one.whole for one in cloud.things] == [True]
