"""One broken part: everything else is mirrored, the part is named, and its repair is enough.

Each kind of part is broken in turn, and some in seeded pairs, in a daemon with three accounts. No run may cost more
than twice the calls of a run in which nothing is broken.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import timedelta
from itertools import islice
from pathlib import Path

import pytest

from dcsync.errors import ExitStatus
from dcsync.ops.status import Status
from tests.rigs.broken import TARGETS, Bench, Target, broken_bench
from tests.torture.conftest import SEED, Figure, need, pick
from tests.torture.parts import KINDS, Kind

pytestmark = pytest.mark.timeout(1800)

#: How many kinds are broken one after the other in the same mirror.
_CHAIN = 4


def test_there_are_at_least_25_kinds() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS) >= 25


def _chosen() -> list[list[tuple[Kind, ...]]]:
    """Return what to break, in chains: each kind alone, then pairs."""
    chance = random.Random(SEED)
    kinds = chance.sample(KINDS, len(KINDS))
    singles: list[tuple[Kind, ...]] = [(kind,) for kind in kinds[: pick(len(KINDS), 6)]]
    drawn = (tuple(chance.sample(KINDS, 2)) for _ in range(1000))
    pairs = list(islice((pair for pair in drawn if not _hides(*pair)), pick(12, 2)))
    steps = singles + pairs
    return [steps[start : start + _CHAIN] for start in range(0, len(steps), _CHAIN)]


def _hides(one: Kind, other: Kind) -> bool:
    """Return whether one of two parts is not found as long as the other one is broken."""
    return bool(one.codes & other.hides or other.codes & one.hides)


def _id_of(chain: Sequence[tuple[Kind, ...]]) -> str:
    return "-".join("+".join(kind.name for kind in step) for step in chain)


@pytest.fixture(scope="session")
def healthy() -> dict[str, int]:
    """How many calls the API receives when nothing is broken, measured once in each process."""
    return {}


@pytest.mark.first
@pytest.mark.parametrize("chain", _chosen(), ids=_id_of)
async def test_a_broken_part_stops_nothing_else(
    memory_path: Path, chain: list[tuple[Kind, ...]], healthy: dict[str, int], figure: Figure
) -> None:
    need("mount", "umount")
    chance = random.Random(f"{SEED}/{_id_of(chain)}")
    async with broken_bench(memory_path) as bench:
        if not healthy:
            healthy["calls"] = await _healthy_day(bench)
        for step in chain:
            calls = await _one_step(bench, step, chance)
            said = f"{calls:.0f} calls a day, {healthy['calls']} when nothing is broken"
            assert calls <= 2 * healthy["calls"], said
            figure(f"broken: {'+'.join(kind.name for kind in step)}", said)


async def _healthy_day(bench: Bench) -> int:
    before = bench.calls()
    await bench.day()
    return bench.calls() - before


async def _one_step(bench: Bench, step: tuple[Kind, ...], chance: random.Random) -> float:
    """Break these kinds for a night or two and mend them. Return how many calls a day took."""
    before, began, heard = bench.calls(), bench.rig.clock.now(), len(bench.events())
    targets = _targets(step, chance)
    with ExitStack() as stack:
        named = [stack.enter_context(kind.broken(bench, target)) for kind, target in zip(step, targets, strict=True)]
        if any(kind.is_slow for kind in step):
            await bench.day()
        await bench.night()

        held = {other for kind, target in zip(step, targets, strict=True) for other in _held(kind, target)}
        bench.assert_newest_published(set(TARGETS) - held)
        await _assert_named(bench, step, targets, named, heard)
    await bench.afternoon()
    await bench.day()

    bench.assert_newest_published(set(TARGETS))
    status = await bench.status()
    assert (status.codes, status.check) == ([], ExitStatus.DONE), _messages(status)
    assert (await bench.rig.service.health())[0]
    bench.assert_everything_published()
    codes = {event["code"] for event in bench.events()[heard:] if event["event"] == "recovered"}
    assert all(codes & kind.codes for kind in step if kind.tells_hooks), f"no repair of {step} was told: {codes}"
    return (bench.calls() - before) / ((bench.rig.clock.now() - began) / timedelta(days=1))


def _messages(status: Status) -> list[str]:
    return [item.alert.message for account in status.accounts for item in account.alerts]


def _targets(step: Sequence[Kind], chance: random.Random) -> list[Target]:
    """Return a data request for each kind, in accounts of their own."""
    while True:
        targets = [
            chance.choice([target for target in TARGETS if kind.account in {None, target.account}]) for kind in step
        ]
        if len({target.account for target in targets}) == len(step):
            return targets


def _held(kind: Kind, target: Target) -> set[Target]:
    if kind.holds_account:
        return {other for other in TARGETS if other.account == target.account}
    return {target} if kind.holds else set()


async def _assert_named(
    bench: Bench, step: Sequence[Kind], targets: Sequence[Target], named: Sequence[str], heard: int
) -> None:
    """Check that status, health and hooks name each broken part and nothing that works."""
    status = await bench.status()
    alerts = [item.alert for account in status.accounts for item in account.alerts]
    told = [event for event in bench.events()[heard:] if event["event"] != "recovered"]
    health = await bench.rig.service.health()
    for kind, target, name in zip(step, targets, named, strict=True):
        found = [alert for alert in alerts if alert.code in kind.codes and name in f"{alert.subject} {alert.message}"]
        assert found, f"{kind.name}: {name!r} is not named in {[(alert.code, alert.message) for alert in alerts]}"
        assert all(alert.hint for alert in found)
        heard_of = [event for event in told if event["code"] in kind.codes]
        assert bool(heard_of) is kind.tells_hooks, f"{kind.name}: what hooks heard: {told}"
        assert kind.codes & {str(code) for code in health[1]["problems"]}  # type: ignore[union-attr]
        others = {str(alert.account) for alert in alerts if alert.code in kind.codes} - {target.account}
        assert kind.codes <= {"P-REPORT", "P-METRICS", "D-CHORE", "H-FAILED", "M-TRASH"} or not others
    is_green = all(kind.stays_green for kind in step)
    assert (status.check is ExitStatus.DONE) is is_green, f"{status.check}: {[alert.code for alert in alerts]}"
    assert health[0] is is_green
