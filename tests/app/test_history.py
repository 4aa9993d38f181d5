"""A verification of row histories by hand records what does not prove, also while another process holds the mirror."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dcsync.app.from_config import account_settings
from dcsync.app.history import record_proofs
from dcsync.ops.history.catch_up import Chosen, verify
from dcsync.ops.history.verify import Unproved, Verified, Verifying
from tests.rigs.histories import ALL, add_day, alerts, build, folder_of
from tests.rigs.mirror import Mirror

A, B = "admin_users", "admin_projects"


async def by_hand(mirror: Mirror, *tables: str) -> None:
    config, chosen = mirror.configuration(), Chosen(tables=tables)
    accounts = account_settings(config)
    async with mirror.opened(role="daemon") as context:
        found = await verify(context, accounts, ALL, chosen=chosen)
        names = [account.name for account in accounts]
        await record_proofs(mirror.stores(config), context.manifest, found, names, is_all=chosen.is_all)


async def tables_with_alerts(mirror: Mirror) -> set[str]:
    return {part.subject.rpartition("/")[2] for part in await alerts(mirror)}


async def two_tables(mirror: Mirror, day: int) -> None:
    await add_day(mirror, {f"{name}.csv": f"id,v\n1,{day}\n".encode() for name in (A, B)}, days_ago=5 - day)
    await build(mirror)


def spoil(path: Path) -> None:
    """Change a byte, with the time and size of the file as they were."""
    before, body = path.stat(), bytearray(path.read_bytes())
    body[8] ^= 1
    path.write_bytes(body)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


async def test_a_table_is_resolved_only_by_a_verification_of_it_or_a_build_from_its_first_step(mirror: Mirror) -> None:
    await two_tables(mirror, 0)
    paths = [folder_of(mirror) / f"{name}.parquet" for name in (A, B)]
    for path in paths:
        spoil(path)

    await by_hand(mirror)
    assert await tables_with_alerts(mirror) == {A, B}
    alert = next(part for part in await alerts(mirror) if part.subject.endswith(A))
    assert "does not have the recorded SHA-256" in alert.message
    slug = folder_of(mirror).parent.name
    assert f"dcsync history --rebuild --account acme --request {slug} --table {A} " in (alert.hint or "")

    await build(mirror)
    assert await tables_with_alerts(mirror) == {A, B}
    spoil(paths[0])
    spoil(paths[1])
    await by_hand(mirror, A)
    assert await tables_with_alerts(mirror) == {B}
    spoil(paths[1])
    await by_hand(mirror, A)
    await build(mirror, rebuilds=True, tables=[A])
    assert await tables_with_alerts(mirror) == {B}
    await build(mirror, rebuilds=True, tables=[B])
    assert await tables_with_alerts(mirror) == set()


async def test_an_alert_ends_with_the_history_of_the_table(mirror: Mirror) -> None:
    await two_tables(mirror, 0)
    spoil(folder_of(mirror) / f"{A}.parquet")
    await by_hand(mirror)
    assert await tables_with_alerts(mirror) == {A}

    await build(mirror, type(ALL)(tables=(f"{B}*",), memory=ALL.memory))
    assert await tables_with_alerts(mirror) == set()


async def test_a_build_during_the_verification_is_no_reason_for_an_alert(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    await two_tables(mirror, 0)
    run, calls = Verifying.run, 0

    def overtaken(self: Verifying, verified: Verified) -> Verified:
        nonlocal calls
        calls += 1
        if calls == 1:
            verified.unproved.append(Unproved(table=A, job=None, path="file", reason="it was replaced"))
            verified.is_outdated = True
            return verified
        return run(self, verified)

    monkeypatch.setattr(Verifying, "run", overtaken)
    await by_hand(mirror)
    assert (calls, await alerts(mirror)) == (2, [])
