"""The status of the mirror. To start quickly, it imports neither the network nor the log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from dcsync.app.backfills import Backfills
from dcsync.app.from_config import account_settings
from dcsync.app.state_dir import DAEMON_NAME, INSTANCE_NAME, LOCK_NAME, read_text
from dcsync.app.stores import Stores
from dcsync.auth.token_store import ChainStore, TokenPair, fingerprint
from dcsync.clock import Clock, SystemClock
from dcsync.config import Config
from dcsync.core.alerts import Alert
from dcsync.core.oauth import REFRESH_LIFE
from dcsync.core.wire import parse_time
from dcsync.errors import DcsyncError, MirrorLocked
from dcsync.manifest import SqlManifest
from dcsync.mirror.binding import bound_to
from dcsync.mirror.root import FileLock, open_root
from dcsync.opening import read_regular
from dcsync.ops.accounts import left_accounts
from dcsync.ops.alerts.collect import AlertSources
from dcsync.ops.context import AccountSettings
from dcsync.ops.loads.states import load_state
from dcsync.ops.peers import Host
from dcsync.ops.status import Holder, Status, TokenState, account_statuses, token_alert
from dcsync.tasks import DiskThreads

if TYPE_CHECKING:
    # Imported at run time, it would import the network.
    from dcsync.ops.context import SyncContext


async def read_status(config: Config, stores: Stores, *, clock: Clock | None = None) -> Status:
    """Read the stored status of the mirror. It takes no lock, writes nothing, and makes no call."""
    clock = clock or SystemClock()
    async with AsyncExitStack() as stack:
        disk = stack.enter_context(DiskThreads())
        hosts: Sequence[Host] = ()
        used, pair, token = 0, None, None
        manifest = await stack.enter_async_context(stores.open_existing())
        if manifest is not None:
            hosts = await stores.known_hosts(manifest)
        if manifest is not None or not stores.needs_manifest:
            window = await stores.open_window(stack, disk, makes=False)
            used = await window.used(now=clock.monotonic())
            store, threads = await stores.open_token_store(stack, disk, makes=False)
            pair, token = await threads.run(read_token, config, store)
        return await _status(config, manifest, disk, clock.now(), used=used, pair=pair, token=token, hosts=hosts)


async def current_status(config: Config, context: SyncContext) -> Status:
    """Read the status of the mirror through an open context."""
    used, now, hosts = await context.limiter.used(), context.clock.now(), await context.peers.known()
    pair, token = await context.token_threads.run(read_token, config, context.token_store)
    return await _status(config, context.manifest, context.disk, now, used=used, pair=pair, token=token, hosts=hosts)


async def _status(
    config: Config,
    manifest: SqlManifest | None,
    disk: DiskThreads,
    now: datetime,
    *,
    used: int,
    pair: TokenPair | None,
    token: TokenState | None,
    hosts: Sequence[Host],
) -> Status:
    state = Path(config.state.dir)
    free_bytes, disk_alert = await _examine_disk(config, manifest, disk)
    accounts = await account_statuses(
        manifest,
        [alert_sources(config, account, token, now) for account in account_settings(config)],
        now,
        stale_after=config.poll.stale_after,
    )
    issued_at = None if pair is None else pair.issued_at
    loads = {} if manifest is None else {load.name: await load_state(manifest, load.name) for load in config.loads}
    return Status(
        accounts=accounts,
        quota_limit=config.api.requests_per_minute,
        quota_used=used,
        token_method=config.auth.method,
        token_expires_at=None if pair is None else pair.expires_at,
        token_refresh_by=None if issued_at is None else issued_at + REFRESH_LIFE,
        free_bytes=free_bytes,
        disk_alert=disk_alert,
        holder=await disk.run(lock_holder, state / LOCK_NAME),
        next_poll=await disk.run(_next_poll, state / DAEMON_NAME),
        hosts=tuple(hosts),
        loads=loads,
        backfills=await disk.run(Backfills(state).all),
        not_configured=() if manifest is None else tuple(await left_accounts(manifest, _names(config))),
    )


def _names(config: Config) -> set[str]:
    return {account.name for account in config.accounts}


def alert_sources(config: Config, account: AccountSettings, token: TokenState | None, now: datetime) -> AlertSources:
    """Return everything except the manifest that decides which alerts an account has."""
    return AlertSources(
        account=account,
        root=Path(config.mirror.root),
        hooks={tuple(hook.run) for hook in config.hooks},
        token=None if token is None else token_alert(account.name, token, now),
    )


def read_token(config: Config, store: ChainStore) -> tuple[TokenPair | None, TokenState | None]:
    """Return the stored tokens and their state, for the methods that have any. No locks, no network, no token used."""
    if config.auth.method != "login" and config.auth.refresh_token is None:
        return None, None
    pair, token = _token_state(store)
    # Before the first run with method "token", no stored token is expected.
    if not token.is_stored and config.auth.method == "token":
        return None, None
    return pair, token


def _token_state(store: ChainStore) -> tuple[TokenPair | None, TokenState]:
    """Read the store without its lock. The file is replaced in one step."""
    pair, intent = store.read(), store.intent()
    if pair is None:
        return None, TokenState(is_stored=False, is_refused=False, issued_at=None)
    refused = intent is not None and intent.refused and intent.spending == fingerprint(pair.refresh_token)
    return pair, TokenState(is_stored=True, is_refused=refused, issued_at=pair.issued_at)


async def _examine_disk(
    config: Config, manifest: SqlManifest | None, disk: DiskThreads
) -> tuple[int | None, Alert | None]:
    """Return the free bytes of the mirror's disk, or why it cannot be used now. Never waits for a disk that hangs.

    Only the instance ID in the root proves that the disk is the mirror's. A bare mount point belongs to another disk.
    """
    instance = None if manifest is None else await manifest.instance()
    knows = manifest is not None and await manifest.knows_snapshots()
    try:
        root, state = Path(config.mirror.root), Path(config.state.dir)
        return await disk.ask(_free_bytes, root, state, instance, knows=knows), None
    except DcsyncError as error:
        return None, Alert.of_error(error, account="")


def _free_bytes(path: Path, state: Path, instance: str | None, *, knows: bool) -> int | None:
    instance = instance or read_text(state / INSTANCE_NAME)
    with open_root(path) as root:
        found = bound_to(root, state_id=instance, knows_snapshots=knows)
        return None if found is None and instance is not None else root.free_bytes()


def _next_poll(path: Path) -> datetime | None:
    """Return the time of the next poll, as the daemon recorded it."""
    try:
        entry = json.loads(read_regular(path))
        return parse_time(entry["next_poll"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def lock_holder(path: Path) -> Holder | None:
    """Return the holder of the lock, by trying it. The file alone proves nothing: it stays when its holder ends."""
    if not path.is_file():
        return None
    try:
        with FileLock(path, "the state folder", role=None):
            return None
    except MirrorLocked as error:
        return Holder(pid=error.pid, is_daemon=error.role == "run")
    except DcsyncError:
        return None
