"""`doctor`: every check in its order. A failed check is not an error. A check that needs a failed one is skipped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec

from dcsync.api.client import DataConnector
from dcsync.api.limiter import Limiter
from dcsync.auth.token_store import ChainStore
from dcsync.clock import Clock
from dcsync.database import Database
from dcsync.errors import ConfigError, DcsyncError, ManifestMissing
from dcsync.manifest import open_manifest
from dcsync.mirror.latest import LatestKind
from dcsync.ops.context import AccountSettings
from dcsync.ops.doctor import api as check_api
from dcsync.ops.doctor import machine as check_machine
from dcsync.ops.doctor.checks import Check, CheckList, Level, exit_status, failed, ok, skipped, warned, worst
from dcsync.ops.doctor.machine import Secret
from dcsync.ops.status import Holder
from dcsync.tasks import DiskThreads

__all__ = ["Check", "Level", "Secret", "Subject", "examine", "exit_status", "unconfigured", "worst"]

P = ParamSpec("P")

#: Every check in its order; those of `check_api.OF_ACCOUNT` come before the quota, for each account.
NAMES = (
    "configuration",
    "secrets",
    "state.dir",
    "manifest",
    "mirror.root",
    "mount",
    "staging",
    "space",
    "inodes",
    "write",
    "hardlinks",
    "symlinks",
    "rename",
    "lock",
    "token",
    "network",
    "api",
    "clock",
    "quota",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is examined: a configuration as plain values, and the ways into it."""

    place: Path
    #: Names in it that only this version still accepts, one line each.
    old_names: Sequence[str] = ()
    version: str
    root: Path
    min_free: int
    latest: LatestKind
    state: Path
    manifest: Path | Database
    #: Opens the store of tokens to look at it, and what to look from.
    open_store: Callable[[], AbstractAsyncContextManager[tuple[ChainStore, DiskThreads]]]
    instance: Path
    base_url: str
    accounts: Sequence[AccountSettings]
    method: str
    #: What must be there at each start, and the token that begins a chain, needed once.
    secrets: Sequence[Secret]
    seed: Secret | None
    #: Whether a chain of refresh tokens is kept in the state folder.
    chained: bool
    holder: Callable[[], Holder | None]
    open_api: Callable[[], AbstractAsyncContextManager[tuple[DataConnector, Limiter]]]


def unconfigured(error: ConfigError, tell: Callable[[Check], None]) -> list[Check]:
    """Return the checks when there is no configuration to go by."""
    checks = CheckList(tell=tell)
    checks.add(failed("configuration", error), *(skipped(name, "needs configuration") for name in NAMES[1:]))
    return checks.checks


async def examine(subject: Subject, *, clock: Clock, disk: DiskThreads, tell: Callable[[Check], None]) -> list[Check]:
    """Make every check and return them; `tell` hears of each at once. Nothing that it writes lasts, no lock is held.

    The token source is the usual one: an access token that has ended is renewed, as any command would.
    """
    checks = CheckList(tell=tell)
    checks.add(_configuration(subject))
    await checks.take("secrets", disk.run(check_machine.secrets, subject.secrets))
    await checks.take("state.dir", disk.run(check_machine.state_folder, subject.state))
    await _examine_mirror(checks, subject, disk)
    checks.add(check_machine.lock(await disk.run(subject.holder)))
    await _examine_token(checks, subject, clock)
    await checks.take("network", check_api.network(subject.base_url))
    await _examine_api(checks, subject, disk)
    return checks.checks


def _configuration(subject: Subject) -> Check:
    told = f"{subject.place}, dcsync {subject.version}"
    if not subject.accounts:
        return warned("configuration", f"{told}; it has no [[account]]", "add one: `dcsync accounts` shows their ids")
    if subject.old_names:
        return warned("configuration", "\n".join((told, *subject.old_names)), "use the new names in these lines")
    return ok("configuration", told)


async def _examine_mirror(checks: CheckList, subject: Subject, disk: DiskThreads) -> None:
    async def step(name: str, needs: str, function: Callable[P, Check], *args: P.args, **kwargs: P.kwargs) -> None:
        reason = checks.why_not(*needs.split())
        if reason is not None:
            checks.add(skipped(name, reason))
        else:
            await checks.take(name, disk.run(function, *args, **kwargs))

    state_id, knows_snapshots = await _examine_manifest(checks, subject, disk)
    root = subject.root
    await step("mirror.root", "", check_machine.root, root)
    await step(
        "mount",
        "mirror.root manifest",
        lambda: check_machine.mount(root, state_id=state_id, knows_snapshots=knows_snapshots),
    )
    # Without its own disk, what the root is on says nothing.
    await step("staging", "mirror.root mount", check_machine.staging, root)
    await step("space", "mirror.root mount", lambda: check_machine.space(root, min_free=subject.min_free))
    await step("inodes", "mirror.root mount", check_machine.inodes, root)
    # Nothing is written to what may be a bare mount point, or somebody else's mirror.
    reason = checks.why_not("mirror.root", "mount", "staging")
    if reason is None:
        try:
            able = await disk.run(check_machine.try_out, root)
        except DcsyncError as error:
            checks.add(failed("write", error))
            reason = "needs write"
        else:
            checks.add(ok("write", "files can be written and removed again"))
            checks.add(*check_machine.abilities(able, subject.latest))
            return
    else:
        checks.add(skipped("write", reason))
    checks.add(*(skipped(name, reason) for name in ("hardlinks", "symlinks", "rename")))


async def _examine_manifest(checks: CheckList, subject: Subject, disk: DiskThreads) -> tuple[str | None, bool]:
    """Check the manifest; return the instance that the state folder is of, and whether it knows snapshots."""
    reason = checks.why_not("state.dir")
    if reason is not None:
        checks.add(skipped("manifest", reason))
        return None, False
    stored: str | None = None
    knows = False

    async def look() -> Check:
        nonlocal stored, knows
        stored = await disk.run(check_machine.instance, subject.instance)
        place = subject.manifest
        if isinstance(place, Path) and not await disk.run(check_machine.has_content, place):
            return ok("manifest", "none yet; the first run makes it")
        where = "" if isinstance(place, Path) else f", in {place.shown}"
        try:
            async with open_manifest(place, read_only=True) as manifest:
                stored = await manifest.instance() or stored
                knows = await manifest.knows_snapshots()
        except ManifestMissing:
            return ok("manifest", f"none yet{where}; the first run makes it")
        return ok("manifest", ("whole; it knows snapshots" if knows else "whole; it knows no snapshot yet") + where)

    await checks.take("manifest", look())
    return stored, knows


async def _examine_token(checks: CheckList, subject: Subject, clock: Clock) -> None:
    if subject.method == "service-account":
        checks.add(ok("token", "a service account: a new token is made when one is needed, without a deadline"))
    elif not subject.chained:
        advice = 'for unattended runs use method = "login" or "service-account", or a refresh_token'
        checks.add(warned("token", "auth.access_token ends an hour after it was issued, for good", advice))
    elif (reason := checks.why_not("state.dir")) is not None:
        checks.add(skipped("token", reason))
    else:
        await checks.take("token", _look_at_store(subject, clock))


async def _look_at_store(subject: Subject, clock: Clock) -> Check:
    async with subject.open_store() as (store, threads):
        return await threads.run(check_machine.stored_token, store, seed=subject.seed, now=clock.now())


async def _examine_api(checks: CheckList, subject: Subject, disk: DiskThreads) -> None:
    reason = checks.why_not("secrets", "state.dir", "token", "network")
    if reason is None and subject.chained and not await disk.run(subject.state.is_dir):
        reason = "asking would spend auth.refresh_token, and there is no state.dir yet to keep the next one in"
    async with AsyncExitStack() as stack:
        if reason is None:
            try:
                api, limiter = await stack.enter_async_context(subject.open_api())
            except DcsyncError as error:
                checks.add(failed("api", error))
            else:
                await check_api.examine_api(checks, api, limiter, subject.accounts)
                return
        else:
            checks.add(skipped("api", reason))
        checks.add(skipped("clock", "needs api"))
        for account in subject.accounts:
            check_api.skip_account(checks, account)
        checks.add(skipped("quota", "needs api"))
