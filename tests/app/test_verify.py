"""A verify by hand records what it found, also while another process holds the mirror."""

from __future__ import annotations

from pathlib import Path

from dcsync.app.from_config import account_settings
from dcsync.app.verify import record_findings
from dcsync.core.model import AccountName
from dcsync.manifest.damage import known_damage
from dcsync.ops.accounts import left_settings
from dcsync.ops.integrity.report import VerifyReport
from dcsync.ops.integrity.verify import Part, verify
from tests.rigs.mirror import Mirror, add_extract, tables
from tests.rigs.renamed import codes, configure, fill, found


async def by_hand(mirror: Mirror, *, part: tuple[int, int] | None = None, others: bool = True) -> VerifyReport:
    """Verify and record while a daemon has the mirror open."""
    config = mirror.configuration()
    accounts = account_settings(config)
    async with mirror.opened(role="daemon") as context:
        left = await left_settings(context.manifest, accounts) if others else []
        report = await verify(context, [*accounts, *left], part=part)
        names = [account.name for account in (*accounts, *left)]
        configured = [account.name for account in accounts] if others else None
        await record_findings(mirror.stores(config), context.manifest, report, names, configured=configured)
    return report


def spoil(path: Path) -> bytes:
    body = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(b"x" * len(body))
    return body


async def test_a_part_resolves_only_what_it_read(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(2))
    await mirror.sync()
    paths = [mirror.snapshot_of(job) / f"admin_table_00{number}.csv" for number in range(2)]
    bodies = [spoil(path) for path in paths]
    await by_hand(mirror)
    assert await codes(mirror) == {("V-DAMAGED", "")}
    for path, body in zip(paths, bodies, strict=True):
        path.write_bytes(body)

    async with mirror.opened() as context:
        known = await known_damage(context.manifest, AccountName("acme"))
    parts = {
        item.key: number for item in known for number in range(1, 65) if Part(number=number, of=64).has(item.key or "")
    }
    first, second = parts.values()
    assert first != second
    await by_hand(mirror, part=(first, 64))
    assert await codes(mirror) == {("V-DAMAGED", "")}
    await by_hand(mirror, part=(second, 64))
    assert await codes(mirror) == set()


async def test_damage_of_an_account_that_is_not_in_the_configuration_is_an_alert(mirror: Mirror) -> None:
    await fill(mirror)
    configure(mirror, new="11111111-1111-4111-8111-111111111111")
    damaged = mirror.root / next(iter(found(mirror).values())) / "admin_table_000.csv"
    body = spoil(damaged)

    await by_hand(mirror)
    assert await codes(mirror) == {("V-DAMAGED", "acme")}
    damaged.write_bytes(body)
    # Only the accounts that were named are resolved.
    await by_hand(mirror, others=False)
    assert await codes(mirror) == {("V-DAMAGED", "acme")}
    await by_hand(mirror)
    assert await codes(mirror) == set()
