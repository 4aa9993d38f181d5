"""An account leaves the configuration: nothing that it has is hidden or lost."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from dcsync.app.from_config import account_settings
from dcsync.app.mirror import open_mirror
from dcsync.core.retention import KeepPolicy
from dcsync.ops.accounts import left_settings, record_left_damage
from dcsync.ops.integrity.prune import prune
from dcsync.ops.integrity.verify import verify
from dcsync.ops.recovery import recover
from tests.rigs.mirror import Mirror, status_of
from tests.rigs.renamed import AtWork, codes, configure, fill, found, left, verified


async def test_an_account_whose_disk_is_away_is_not_forgotten(mirror: Mirror) -> None:
    """Its folder is the mount point of another file system, and empty."""
    await fill(mirror)
    configure(mirror, new="11111111-1111-4111-8111-111111111111")
    (mirror.root / "acme").rename(mirror.root.parent / "away")
    (mirror.root / "acme").mkdir()

    async with mirror.opened():
        pass

    assert [account.name for account in await left(mirror)] == ["acme"]
    (mirror.root / "acme").rmdir()
    (mirror.root.parent / "away").rename(mirror.root / "acme")
    assert (await verified(mirror)).damage == []


@pytest.mark.parametrize("case", ["another ID", "two heirs", "the new name has snapshots"])
async def test_an_account_that_is_not_in_the_configuration_stays_in_verify_and_status(
    mirror: Mirror, case: str
) -> None:
    await fill(mirror)
    before = found(mirror)
    unknown = "11111111-1111-4111-8111-111111111111"
    match case:
        case "two heirs":
            configure(mirror, "one", "two")
        case "another ID":
            configure(mirror, new=unknown)
        case _:
            # As an older version left it after a rename.
            configure(mirror, "acme", "new")
            await mirror.sync()
            before = {job: path for job, path in found(mirror).items() if path.startswith("acme/")} or before
            configure(mirror, "new")
    async with mirror.opened():
        pass

    (account,) = await left(mirror)

    assert all((mirror.root / path / "_dcsync.json").exists() for path in before.values())
    assert (account.name, account.snapshots) == ("acme", 4)
    assert account.newest_snapshot.startswith("acme/")
    assert (await status_of(mirror)).json()["not_configured"] != []
    assert (await verified(mirror)).snapshots >= 4
    async with mirror.opened() as context:
        await prune(context, account_settings(mirror.configuration()), KeepPolicy(last=1), force=True)
    assert all((mirror.root / path / "_dcsync.json").exists() for path in before.values())


async def test_damage_of_an_account_that_is_not_in_the_configuration_is_an_alert(mirror: Mirror) -> None:
    await fill(mirror)
    configure(mirror, new="11111111-1111-4111-8111-111111111111")
    damaged = mirror.root / next(iter(found(mirror).values())) / "admin_table_000.csv"
    whole = damaged.read_bytes()
    for body, expected in ((b"x" * len(whole), {("V-DAMAGED", "acme")}), (whole, set[tuple[str, str]]())):
        damaged.chmod(0o644)
        damaged.write_bytes(body)
        async with mirror.opened() as context:
            accounts = account_settings(mirror.configuration())
            await verify(context, [*accounts, *await left_settings(context.manifest, accounts)], records=True)
            await record_left_damage(context.manifest, {account.name for account in accounts})

        assert await codes(mirror) == expected


async def test_an_account_whose_folder_was_removed_as_well_is_forgotten(mirror: Mirror) -> None:
    await fill(mirror)
    configure(mirror, new="11111111-1111-4111-8111-111111111111")
    async with mirror.opened():
        pass
    assert len(await left(mirror)) == 1

    shutil.rmtree(mirror.root / "acme")
    async with mirror.opened():
        pass

    assert await left(mirror) == []
    assert (await verified(mirror)).damage == []


async def test_an_account_with_another_layout_stays_in_verify_and_prune(mirror: Mirror) -> None:
    await fill(mirror)
    before = found(mirror)
    mirror.config["mirror"] = {"layout": "hive"}
    await mirror.sync()

    assert (await verified(mirror)).snapshots == len(before)
    async with mirror.opened() as context:
        report = await prune(context, account_settings(mirror.configuration()), KeepPolicy(last=2))
    assert report.removed == 1
    assert len(found(mirror)) == len(before) - 1
    assert all(path.startswith("acme/") for path in found(mirror).values())


async def test_a_folder_that_another_host_may_still_use_is_not_forgotten(mirror: Mirror) -> None:
    await fill(mirror)
    configure(mirror, new="11111111-1111-4111-8111-111111111111")
    shutil.rmtree(mirror.root / "acme")
    async with open_mirror(mirror.configuration(), mirror.stores(), role="sync", clock=mirror.clock) as opened:
        await recover(replace(opened, peers=AtWork()), account_settings(mirror.configuration()))

    assert len(await left(mirror)) == 1
