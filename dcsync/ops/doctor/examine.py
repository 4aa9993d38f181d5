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
from dcsync.errors import ConfigError, DcsyncError
from dcsync.manifest import SqlManifest
from dcsync.network import Network
from dcsync.ops.context import AccountSettings, MirrorSettings
from dcsync.ops.doctor import api as check_api
from dcsync.ops.doctor import machine as check_machine
from dcsync.ops.doctor.checks import Check, CheckList, Level, exit_status, failed, ok, skipped, warned, worst
from dcsync.ops.doctor.latest import examine_latest
from dcsync.ops.doctor.machine import Secret
from dcsync.ops.doctor.outlets import Outlets, examine_outlets
from dcsync.ops.limits import search_depth
from dcsync.ops.status import Holder
from dcsync.tasks import DiskThreads

__all__ = ["Check", "Level", "Outlets", "Secret", "Subject", "examine", "exit_status", "unconfigured", "worst"]

P = ParamSpec("P")

#: Every check in its order. The checks of `check_api.OF_ACCOUNT` come before the quota, once for each account.
NAMES = (
    "configuration",
    "secrets",
    "state.dir",
    "manifest",
    "mirror.root",
    "mount",
    "staging",
    "folders",
    "space",
    "inodes",
    "write",
    "hardlinks",
    "symlinks",
    "rename",
    "modes",
    "latest",
    "lock",
    "hooks",
    "notify",
    "heartbeat",
    "metrics",
    "http",
    "history",
    "load",
    "token",
    "proxy",
    "network",
    "api",
    "clock",
    "quota",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The subject of the checks: a configuration as plain values, and functions that open its parts."""

    place: Path
    #: Deprecated names in the configuration, one line each.
    old_names: Sequence[str] = ()
    version: str
    root: Path
    settings: MirrorSettings
    state: Path
    shown_manifest: str
    #: Opens the manifest to read it. Yields None before the first run.
    open_manifest: Callable[[], AbstractAsyncContextManager[SqlManifest | None]]
    #: Opens the store of tokens to look at it, and what to look from.
    open_store: Callable[[], AbstractAsyncContextManager[tuple[ChainStore, DiskThreads]]]
    instance: Path
    base_url: str
    #: Reads the settings of the network. Raises `ConfigError`.
    network: Callable[[], Network]
    outlets: Outlets
    accounts: Sequence[AccountSettings]
    method: str
    #: The secrets that are needed at each start, and the first refresh token, which is needed once.
    secrets: Sequence[Secret]
    seed: Secret | None
    #: Whether the state folder keeps a refresh token.
    chained: bool
    holder: Callable[[], Holder | None]
    open_api: Callable[[], AbstractAsyncContextManager[tuple[DataConnector, Limiter]]]
    #: Returns the secret of the daemon's callbacks, or None if it listens for none.
    callback_secret: Callable[[], str | None] = lambda: None


def unconfigured(error: ConfigError, report: Callable[[Check], None]) -> list[Check]:
    """Return the checks when the configuration cannot be read."""
    checks = CheckList(report=report)
    checks.add(failed("configuration", error), *(skipped(name, "needs configuration") for name in NAMES[1:]))
    return checks.checks


async def examine(subject: Subject, *, clock: Clock, disk: DiskThreads, report: Callable[[Check], None]) -> list[Check]:
    """Make every check and return them. `report` is called with each at once. No file is left behind, no lock is held.

    As in any command, an expired access token is renewed.
    """
    checks = CheckList(report=report)
    checks.add(_configuration(subject))
    await checks.take("secrets", disk.run(check_machine.secrets, subject.secrets))
    await checks.take("state.dir", disk.run(check_machine.state_folder, subject.state))
    await _examine_mirror(checks, subject, disk)
    await _examine_latest(checks, subject)
    holder = await disk.run(subject.holder)
    checks.add(check_machine.lock(holder))
    await examine_outlets(checks, subject.outlets, disk, is_daemon_running=holder is not None and holder.is_daemon)
    await _examine_token(checks, subject, clock)
    await _examine_network(checks, subject)
    await _examine_api(checks, subject, clock, disk)
    return checks.checks


def _configuration(subject: Subject) -> Check:
    described = f"{subject.place}, dcsync {subject.version}"
    if not subject.accounts:
        return warned(
            "configuration", f"{described}; it has no [[account]]", "add one: `dcsync accounts` lists their ids"
        )
    if subject.old_names:
        return warned("configuration", "\n".join((described, *subject.old_names)), "use the new names in these lines")
    return ok("configuration", described)


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
    # Without its own disk, the root says nothing about the mirror's file system.
    await step("staging", "mirror.root mount", check_machine.staging, root)
    await step("folders", "mirror.root mount", check_machine.folders, root, search_depth(subject.settings))
    await step("space", "mirror.root mount", lambda: check_machine.space(root, min_free=subject.settings.min_free))
    await step("inodes", "mirror.root mount", check_machine.inodes, root)
    # An empty mount point or another mirror must not be written to.
    reason = checks.why_not("mirror.root", "mount", "staging")
    if reason is None:
        try:
            able = await disk.run(check_machine.try_out, root)
        except DcsyncError as error:
            checks.add(failed("write", error))
            reason = "needs write"
        else:
            checks.add(ok("write", "files can be written and removed"))
            checks.add(*check_machine.abilities(able, subject.settings.latest))
            return
    else:
        checks.add(skipped("write", reason))
    checks.add(*(skipped(name, reason) for name in ("hardlinks", "symlinks", "rename", "modes")))


async def _examine_latest(checks: CheckList, subject: Subject) -> None:
    async def check() -> Check:
        async with subject.open_manifest() as manifest:
            return await examine_latest(subject.root, manifest, subject.accounts, subject.settings)

    reason = checks.why_not("manifest", "mirror.root", "mount")
    if reason is None:
        await checks.take("latest", check())
    else:
        checks.add(skipped("latest", reason))


async def _examine_manifest(checks: CheckList, subject: Subject, disk: DiskThreads) -> tuple[str | None, bool]:
    """Check the manifest. Returns the mirror's id in the state folder, and whether any snapshot is recorded."""
    reason = checks.why_not("state.dir")
    if reason is not None:
        checks.add(skipped("manifest", reason))
        return None, False
    stored: str | None = None
    knows = False

    async def check() -> Check:
        nonlocal stored, knows
        stored = await disk.run(check_machine.instance, subject.instance)
        where = f" in {subject.shown_manifest}"
        async with subject.open_manifest() as manifest:
            if manifest is None:
                return ok("manifest", f"none yet{where}; the first run creates it")
            stored = await manifest.instance() or stored
            knows = await manifest.knows_snapshots()
        return ok("manifest", f"intact{where}, {'with' if knows else 'without'} snapshots")

    await checks.take("manifest", check())
    return stored, knows


async def _examine_token(checks: CheckList, subject: Subject, clock: Clock) -> None:
    if subject.method == "service-account":
        checks.add(ok("token", "a service account: dcsync gets a new token when it needs one, without a deadline"))
    elif not subject.chained:
        advice = 'for unattended runs use method = "login" or "service-account", or a refresh_token'
        checks.add(
            warned("token", "auth.access_token expires one hour after it was issued and cannot be renewed", advice)
        )
    elif (reason := checks.why_not("state.dir")) is not None:
        checks.add(skipped("token", reason))
    else:
        await checks.take("token", _check_stored_token(subject, clock))


async def _check_stored_token(subject: Subject, clock: Clock) -> Check:
    async with subject.open_store() as (store, threads):
        return await threads.run(check_machine.stored_token, store, seed=subject.seed, now=clock.now())


async def _examine_network(checks: CheckList, subject: Subject) -> None:
    try:
        network = subject.network()
    except ConfigError as error:
        checks.add(failed("proxy", error), skipped("network", "needs proxy"))
        return
    checks.add(check_api.proxy(network, subject.base_url, heartbeat=subject.outlets.heartbeat_address()))
    await checks.take("network", check_api.network(subject.base_url, network))


async def _examine_api(checks: CheckList, subject: Subject, clock: Clock, disk: DiskThreads) -> None:
    reason = checks.why_not("secrets", "state.dir", "token", "network")
    if reason is None and subject.chained and not await disk.run(subject.state.is_dir):
        reason = "a call would use auth.refresh_token, and state.dir does not exist yet to store the next token"
    async with AsyncExitStack() as stack:
        if reason is None:
            try:
                api, limiter = await stack.enter_async_context(subject.open_api())
            except DcsyncError as error:
                checks.add(failed("api", error))
            else:
                secret = await disk.run(subject.callback_secret)
                await check_api.examine_api(checks, api, limiter, subject.accounts, now=clock.now(), secret=secret)
                return
        else:
            checks.add(skipped("api", reason))
        checks.add(skipped("clock", "needs api"))
        for account in subject.accounts:
            check_api.skip_account(checks, account)
        checks.add(skipped("quota", "needs api"))
