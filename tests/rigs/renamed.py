"""Mirrors whose accounts are renamed or leave the configuration."""

from __future__ import annotations

from dcsync.app.from_config import account_settings
from dcsync.app.mirror import open_mirror_unlocked
from dcsync.core.retention import KeepPolicy
from dcsync.ops.accounts import LeftAccount, left_settings
from dcsync.ops.integrity.prune import prune
from dcsync.ops.integrity.report import VerifyReport
from dcsync.ops.integrity.verify import verify
from dcsync.ops.peers import SingleHost
from tests.rigs.mirror import Mirror, add_extract, sidecar, status_of, tables


def configure(mirror: Mirror, *names: str, **others: str) -> None:
    """Configure accounts with the ID of the first one, and others with their own."""
    accounts = [{"name": name, "id": mirror.world.hub_id} for name in names]
    mirror.config["account"] = accounts + [{"name": name, "id": other} for name, other in others.items()]


async def fill(mirror: Mirror, layout: str = "dated", days: int = 4) -> list[str]:
    """Mirror snapshots of two data requests, and prune one."""
    mirror.config["mirror"] = {"layout": layout}
    jobs = [add_extract(mirror, tables(2, seed=day), days_ago=days - day) for day in range(days)]
    other = mirror.world.add_request("Other")
    jobs.append(add_extract(mirror, tables(1, seed=9), request=other, days_ago=1))
    await mirror.sync()
    async with mirror.opened() as context:
        await prune(context, account_settings(mirror.configuration()), KeepPolicy(last=days - 1))
    return jobs


async def left(mirror: Mirror) -> list[LeftAccount]:
    return list((await status_of(mirror)).not_configured)


async def codes(mirror: Mirror) -> set[tuple[str, str]]:
    accounts = (await status_of(mirror)).accounts
    return {(item.alert.code.value, item.alert.subject) for account in accounts for item in account.alerts}


async def verified(mirror: Mirror) -> VerifyReport:
    async with open_mirror_unlocked(mirror.configuration(), mirror.stores(), clock=mirror.clock) as context:
        accounts = account_settings(mirror.configuration())
        return await verify(context, [*accounts, *await left_settings(context.manifest, accounts)])


def found(mirror: Mirror) -> dict[str, str]:
    """Return the folder of each snapshot by its job."""
    paths = [path.parent for path in mirror.root.rglob("_dcsync.json") if ".dcsync" not in path.parts]
    return {
        sidecar(path)["job"]["id"]: str(path.relative_to(mirror.root))
        for path in paths
        if not any(part.is_symlink() for part in (path, *path.parents))
    }


class AtWork(SingleHost):
    """Other hosts are running."""

    are_at_work = True
