"""The composition root: from a configuration to open adapters, and back to nothing in the right order."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import re
import secrets
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp
import structlog

from dcsync import __version__
from dcsync.api.client import DataConnector
from dcsync.api.limiter import Limiter
from dcsync.api.storage import open_storage
from dcsync.api.transport import ApiTransport
from dcsync.api.window import CallWindow, FileWindow
from dcsync.auth.endpoint import Client, TokenEndpoint
from dcsync.auth.source import FixedToken, RefreshingToken, ServiceAccountToken
from dcsync.auth.store import ChainStore, TokenPair, TokenStore, fingerprint
from dcsync.clock import Clock, SystemClock
from dcsync.config import Auth, Config, ManifestRef, SecretRef, find, load
from dcsync.core.model import AccountId, AccountName
from dcsync.core.notices import EventKind
from dcsync.core.plan import Selection
from dcsync.core.ports import TokenSource
from dcsync.core.retention import KeepPolicy
from dcsync.core.signin import REFRESH_LIFE
from dcsync.core.transfer import Throttle
from dcsync.core.urls import StoragePolicy, is_loopback_url
from dcsync.core.wire import parse_time
from dcsync.database import Database, parse_database
from dcsync.errors import (
    ConfigError,
    DcsyncError,
    ExitStatus,
    ManifestCorrupt,
    ManifestError,
    ManifestMissing,
    MirrorForeign,
    MirrorLocked,
    MirrorNotMounted,
)
from dcsync.manifest import SqlManifest, open_manifest
from dcsync.manifest.aside import set_aside
from dcsync.manifest.copy import copy_rows, move_out
from dcsync.manifest.hosts import Host, Hosts
from dcsync.mirror.latest import LatestKind
from dcsync.mirror.root import FileLock, MirrorRoot, claim, is_new, locked, open_root, write_durably
from dcsync.ops.context import (
    AccountSettings,
    MirrorContext,
    MirrorSettings,
    Observer,
    ReadContext,
    Silence,
    Strategy,
    SyncContext,
)
from dcsync.ops.doctor import Check, Secret, Subject, examine, unconfigured
from dcsync.ops.hooks import Hook
from dcsync.ops.login import TokenChain
from dcsync.ops.metrics import write_textfile
from dcsync.ops.notify import check_installed
from dcsync.ops.rebuild import RebuildReport, rebuild
from dcsync.ops.recover import recover
from dcsync.ops.report import write_report
from dcsync.ops.status import Attention, Holder, Status, TokenState, account_statuses, token_attention
from dcsync.ops.sync import AccountOutcome
from dcsync.ops.tell import Teller, TellSettings
from dcsync.tasks import DiskThreads

log = structlog.get_logger(__name__)

MANIFEST_NAME = "manifest.sqlite"
_INSTANCE_NAME = "instance"
_LOCK_NAME = "lock"
_QUOTA_NAME = "quota"
#: The role under which several hosts work side by side.
_DAEMON = "run"
_CALLBACK_NAME = "callback.secret"
_DAEMON_NAME = "daemon.json"
_HOST_NAME = "host"
#: How often a host that comes up looks whether the one before it is done.
_TURN_S = 1.0


def manifest_place(config: Config, *, environ: Mapping[str, str] | None = None) -> Path | Database:
    """Return where the manifest is: a file of the state folder, or the database that several hosts share.

    Raises `ConfigError`s for an address that cannot be had or read, or without the extra `cluster`.
    """
    reference = config.state.manifest
    if not reference.is_shared:
        return Path(config.state.dir) / MANIFEST_NAME
    return parse_database(reference.resolve(os.environ if environ is None else environ).get_secret_value())


def account_settings(config: Config, names: Sequence[str] = ()) -> list[AccountSettings]:
    """Return the accounts of the configuration, or those of them that are named; `ConfigError` for an unknown name."""
    known = [account.name for account in config.accounts]
    unknown = [name for name in names if name not in known]
    if unknown:
        message = f"there is no account {unknown[0]!r} in the configuration"
        raise ConfigError(message, hint=f"the accounts are: {', '.join(known)}")
    return [
        AccountSettings(
            name=AccountName(account.name),
            id=AccountId(account.account_id),
            projects=tuple(account.projects),
            requests=tuple(account.requests),
            selection=Selection(
                include=tuple(account.include),
                exclude=tuple(account.exclude),
                keep_archive=config.mirror.keep_archive,
            ),
            start=config.start_of(account),
        )
        for account in config.accounts
        if not names or account.name in names
    ]


@asynccontextmanager
async def open_api(
    config: Config, *, environ: Mapping[str, str], clock: Clock | None = None, disk: DiskThreads | None = None
) -> AsyncIterator[tuple[DataConnector, Limiter]]:
    """Open the API alone: no mirror, no lock; the quota is shared with whatever else runs on the state folder."""
    clock = clock or SystemClock()
    async with AsyncExitStack() as stack:
        disk = disk or stack.enter_context(DiskThreads())
        await disk.run(_state_folder, config)
        place = manifest_place(config, environ=environ)
        limiter = Limiter(
            requests_per_minute=config.api.requests_per_minute,
            clock=clock,
            window=await _open_window(stack, config, place, disk),
        )
        store, threads = await _open_store(stack, config, place, disk)
        session = await stack.enter_async_context(
            aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                headers={"User-Agent": f"dcsync/{__version__}"},
            )
        )
        # aiohttp would repeat a GET after a disconnect by itself, past the limiter: a call that nobody counted.
        session._retry_connection = False  # noqa: SLF001
        transport = ApiTransport(
            session,
            base_url=config.api.base_url,
            tokens=_token_source(config, store, environ=environ, clock=clock, disk=threads),
            limiter=limiter,
            clock=clock,
            headers=config.api.headers,
        )
        yield DataConnector(transport), limiter


async def _open_window(
    stack: AsyncExitStack, config: Config, place: Path | Database, disk: DiskThreads, *, makes: bool = True
) -> CallWindow:
    """Open where the calls of the last minute are counted: for this machine, or for all hosts.

    With `makes` the tables that it needs are made: signing in may come before the first run of all.
    """
    if isinstance(place, Path):
        return FileWindow(place.with_name(_QUOTA_NAME), disk)
    from dcsync.api.shared import DatabaseWindow

    if makes:
        await _make_tables(place)
    engine = place.engine(label=f"quota {_host_name()}")  # noqa: ASYNC240 - a database, no path
    stack.push_async_callback(engine.dispose)
    return DatabaseWindow(engine, place, config.auth.client_id or "")


async def _make_tables(place: Database) -> None:
    async with open_manifest(place, label=_host_name()):
        pass


async def _open_store(
    stack: AsyncExitStack, config: Config, place: Path | Database, disk: DiskThreads, *, makes: bool = True
) -> tuple[ChainStore, DiskThreads]:
    """Open where the chain of tokens is kept, and the threads to use it from: a database's lock may be waited for."""
    if isinstance(place, Path):
        return TokenStore(place.parent), disk
    from dcsync.auth.shared import DatabaseTokenStore

    if makes:
        await _make_tables(place)
    store = DatabaseTokenStore(place, config.auth.client_id or "")
    stack.callback(store.close)
    return store, stack.enter_context(DiskThreads(2))


@asynccontextmanager
async def open_mirror(
    config: Config,
    *,
    clock: Clock | None = None,
    role: str,
    writes: bool = True,
    anew: str | None = None,
    notices_missing: bool = True,
    environ: Mapping[str, str] | None = None,
) -> AsyncIterator[MirrorContext]:
    """Open the mirror without the network: locks first, then the manifest, the root, recovery.

    A damaged manifest is set aside and made anew from the tree; with `anew`, a label, so is a sound one, and the
    caller rebuilds and recovers. Without `writes` nothing is locked, recovered or made, and `ManifestCorrupt` is raised
    for a damaged manifest. Where several hosts share a manifest, their daemons (`role` run) work side by side, and
    whatever else writes waits for none of them: `MirrorLocked`. Raises that, `MirrorError`s, `ManifestError`s,
    `DiskError`s, and the `ConfigError`s of the manifest's address.
    """
    clock = clock or SystemClock()
    async with AsyncExitStack() as stack:
        disk = stack.enter_context(DiskThreads())
        state = await disk.run(_state_folder, config)
        if writes:
            stack.enter_context(FileLock(state / _LOCK_NAME, f"the state folder {state}", role=role))
        root = stack.enter_context(open_root(Path(config.mirror.root)))
        place = manifest_place(config, environ=environ)
        if writes:
            if anew is not None:
                await _put_aside(place, root, state, anew, disk)
            manifest = await _open_or_renew(stack, place, root, clock, disk)
        else:
            manifest = await _open_to_look(stack, place, disk)
        # Before anything is written, and also where nothing will be: a bare mount point knows no snapshot.
        await disk.run(is_new, root, knows_snapshots=await manifest.knows_snapshots())
        async with _turn_to_open(manifest, clock, writes=writes):
            others = [host for host in await _hosts(manifest, writes=writes) if host.is_alive]
            new_mirror, number = False, None
            if writes:
                shared = manifest.is_shared and role == _DAEMON
                if others and not shared:
                    raise _at_work(others)
                stack.enter_context(locked(root, role=role, shared=shared))
                new_mirror = await _bind(manifest, root, state, disk)
                number = await _arrive(stack, manifest, root, state, role, disk)
            context = MirrorContext(
                manifest=manifest,
                root=root,
                clock=clock,
                disk=disk,
                settings=MirrorSettings(
                    layout=config.mirror.parsed_layout,
                    zone=config.mirror.zone,
                    latest=LatestKind(config.mirror.latest),
                    min_free=config.mirror.min_free,
                    concurrency=config.transfer.concurrency,
                    strategy=Strategy(config.mirror.strategy),
                    trust_crc=config.mirror.trust_crc,
                ),
                host=number,
            )
            if writes and anew is None:
                await recover(
                    context,
                    account_settings(config),
                    new_mirror=new_mirror,
                    notices_missing=notices_missing,
                    alone=not others,
                )
        yield context


async def _open_to_look(stack: AsyncExitStack, place: Path | Database, disk: DiskThreads) -> SqlManifest:
    if isinstance(place, Database) or await disk.run(_is_file, place):
        with suppress(ManifestMissing):
            manifest = await stack.enter_async_context(open_manifest(place, read_only=True))
            await _refuse_older(manifest)
            return manifest
    # A dry run before the first run: an empty manifest that goes away with it.
    place = Path(stack.enter_context(TemporaryDirectory(prefix="dcsync-"))) / MANIFEST_NAME
    return await stack.enter_async_context(open_manifest(place))


@asynccontextmanager
async def _turn_to_open(manifest: SqlManifest, clock: Clock, *, writes: bool) -> AsyncIterator[None]:
    """Let hosts come up one after another: what one finds and mends, another must not be mending."""
    if not writes or not manifest.is_shared:
        yield
        return
    from dcsync.manifest.postgres import PostgresBackend

    assert isinstance(manifest.backend, PostgresBackend)  # noqa: S101 - there is no other that is shared
    told = False
    while True:
        async with manifest.backend.opening() as ours:
            if ours:
                yield
                return
        if not told:
            log.info("another host is opening the mirror; this one comes after it")
            told = True
        await clock.sleep(_TURN_S)


async def _hosts(manifest: SqlManifest, *, writes: bool = True) -> Sequence[Host]:
    """Return the hosts that share the manifest; none where it is a file."""
    return await Hosts(manifest).known() if writes and manifest.is_shared else ()


def _at_work(others: Sequence[Host]) -> MirrorLocked:
    names = ", ".join(sorted({host.name for host in others}))
    message = f"daemons on the same manifest are at work: {names}"
    hint = "they do what is due by themselves; dcsync status shows them. For this command, stop them"
    error = MirrorLocked(message, pid=None, role=_DAEMON)
    error.advice = hint
    return error


async def _arrive(
    stack: AsyncExitStack, manifest: SqlManifest, root: MirrorRoot, state: Path, role: str, disk: DiskThreads
) -> int | None:
    """Note this start among the hosts; it is taken back at the end."""
    if not manifest.is_shared:
        return None
    identifier = await disk.run(_host_id, state)
    hosts, name = Hosts(manifest), _host_name()
    number = await hosts.arrive(state=identifier, name=name, pid=os.getpid(), version=__version__, role=role)

    async def leave() -> None:
        # When the database is away, those who look see soon enough that nothing is heard.
        with suppress(ManifestError):
            await hosts.leave(number)

    stack.push_async_callback(leave)
    # As in the staging: %7E is in no name that comes from elsewhere.
    root.mark = f"%7Eh{number}"
    return number


def _host_id(state: Path) -> str:
    """Return the id of the state folder, which is locked: whoever had it before is gone."""
    kept = _read_text(state / _HOST_NAME)
    if kept is None:
        kept = str(uuid.uuid4())
        _write_text(state, _HOST_NAME, kept)
    return kept


def _host_name() -> str:
    return socket.gethostname()


async def _open_or_renew(
    stack: AsyncExitStack, place: Path | Database, root: MirrorRoot, clock: Clock, disk: DiskThreads
) -> SqlManifest:
    """Open the manifest; a damaged file is set aside for a new, empty one, which recovery fills from the tree.

    A damaged database is for its operator: it holds what other hosts are at, and cannot be moved out of the way.
    """
    if isinstance(place, Database):
        return await stack.enter_async_context(open_manifest(place, label=_host_name()))
    try:
        return await stack.enter_async_context(open_manifest(place))
    except ManifestCorrupt as error:
        aside = await disk.run(_set_aside, place, root, f"damaged-{clock.now():%Y%m%dT%H%M%SZ}")
        log.error(  # noqa: TRY400 - handled; where it was found says nothing
            "the manifest is damaged; it is set aside and made anew from the tree",
            code=error.code,
            error=error.message,
            set_aside=str(aside),
        )
    return await stack.enter_async_context(open_manifest(place))


def _set_aside(place: Path, root: MirrorRoot, label: str) -> Path | None:
    """Put the manifest out of the way, if the tree is there from which it can be made anew."""
    _may_be_made_anew(place, root)
    return set_aside(place, label)


def _may_be_made_anew(place: Path, root: MirrorRoot) -> None:
    marker, stored = root.marker(), _read_text(place.with_name(_INSTANCE_NAME))
    if marker is None:
        message = f"the manifest {place} can only be made anew from the tree, and {root.path} has no marker of a mirror"
        raise MirrorNotMounted(message)
    if stored is not None and stored != marker:
        message = f"{root.path} belongs to the instance {marker}, this state folder to {stored}"
        raise MirrorForeign(message, hint="mount the mirror's own disk: the manifest is made anew from its tree")


async def _put_aside(place: Path | Database, root: MirrorRoot, state: Path, label: str, disk: DiskThreads) -> None:
    """Put the manifest out of the way: a file under another name, a database's rows into such a file."""
    file = state / MANIFEST_NAME
    if isinstance(place, Path):
        await disk.run(_set_aside, place, root, label)
        return
    await disk.run(_may_be_made_anew, file, root)

    async with open_manifest(place, label=_host_name()) as manifest:
        others = [host for host in await _hosts(manifest) if host.is_alive]
        if others:
            raise _at_work(others)
        await move_out(manifest, file.with_name(f"{file.name}.{label}"))


def keep_policy(config: Config) -> KeepPolicy:
    """Return `[keep]`."""
    keep = config.keep
    return KeepPolicy(last=keep.last, daily=keep.daily, weekly=keep.weekly, monthly=keep.monthly, yearly=keep.yearly)


async def rebuild_manifest(config: Config, *, clock: Clock | None = None) -> RebuildReport:
    """Set the manifest aside, sound or not, and make it anew from the tree."""
    clock = clock or SystemClock()
    accounts, label = account_settings(config), f"replaced-{clock.now():%Y%m%dT%H%M%SZ}"
    async with open_mirror(config, clock=clock, role="rebuild", anew=label) as context:
        report = await rebuild(context, [account.name for account in accounts])
        await recover(context, accounts, new_mirror=False)
    aside = Path(config.state.dir) / f"{MANIFEST_NAME}.{label}"
    report.set_aside = str(aside) if aside.exists() else None
    return report


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """What was copied, and where to. `to` shows no password."""

    jobs: int
    tokens: bool
    to: str
    instance: str


async def copy_manifest(
    config: Config, target: str, *, replace: bool = False, environ: Mapping[str, str], clock: Clock | None = None
) -> Copied:
    """Copy the manifest and the tokens to `target`, a place as `state.manifest` names one, and bind the mirror to it.

    The mirror's marker gets another id with it, so that the manifest before is refused. A crash before that leaves the
    mirror with the old one, and after it with the new one. Raises `ConfigError` for a target that is none or is the
    source, `ManifestError` for one that holds a manifest unless it is to be replaced, and as `open_mirror` does.
    """
    try:
        reference = ManifestRef(target)
    except ValueError as problem:
        message = f"--to: {problem}"
        raise ConfigError(message) from None
    updated = config.model_copy(update={"state": config.state.model_copy(update={"manifest": reference})})
    source_place, place = manifest_place(config, environ=environ), manifest_place(updated, environ=environ)
    if source_place == place:
        message = "the manifest is there already"
        raise ConfigError(message, hint="name another place with --to")
    clock, identifier = clock or SystemClock(), str(uuid.uuid4())
    async with AsyncExitStack() as stack:
        context = await stack.enter_async_context(open_mirror(config, clock=clock, role="copy", environ=environ))
        there = await stack.enter_async_context(open_manifest(place, label=_host_name()))
        others = [host for host in await _hosts(there) if host.is_alive]
        if others:
            raise _at_work(others)
        if not replace and await there.instance() is not None:
            message = "there is a manifest already where the copy would go"
            raise ManifestError(message, hint="name another place, or replace it: --replace")
        jobs = await copy_rows(context.manifest, there, instance=identifier)
        tokens = await _copy_tokens(stack, updated, source_place, place, context.disk)
        await context.disk.run(context.root.write_marker, identifier)
        await context.disk.run(_write_text, Path(config.state.dir), _INSTANCE_NAME, identifier)
        if tokens:
            store, threads = await _open_store(stack, config, source_place, context.disk)
            await threads.run(_forget, store)
    if isinstance(source_place, Path):
        set_aside(source_place, f"moved-{clock.now():%Y%m%dT%H%M%SZ}")
    shown = place.shown if isinstance(place, Database) else str(place)
    return Copied(jobs=jobs, tokens=tokens, to=shown, instance=identifier)


async def _copy_tokens(
    stack: AsyncExitStack, config: Config, source: Path | Database, target: Path | Database, disk: DiskThreads
) -> bool:
    """Copy the chain of tokens, if there is one; the lock is held, so that nobody spends one meanwhile."""
    before, _ = await _open_store(stack, config, source, disk)
    after, _ = await _open_store(stack, config, target, disk)

    def copy() -> bool:
        with before.locked(), after.locked():
            before.settle()
            pair, seed, intent = before.read(), before.last_seed(), before.intent()
            if seed is not None:
                after.note_seed(seed)
            if pair is None:
                return False
            after.save(pair)
            after.clear_intent()
            if intent is not None:
                after.note_intent(intent)
            return True

    return await disk.run(copy)


def _forget(store: ChainStore) -> None:
    with store.locked():
        store.forget()


@asynccontextmanager
async def open_sync(
    config: Config,
    *,
    environ: Mapping[str, str],
    observer: Observer | None = None,
    clock: Clock | None = None,
    role: str = "sync",
    writes: bool = True,
    notices_missing: bool = True,
) -> AsyncIterator[SyncContext]:
    """Open everything a run needs: the mirror as `open_mirror` does, and the network. Raises `ConfigError`s besides."""
    async with AsyncExitStack() as stack:
        mirror = await stack.enter_async_context(
            open_mirror(config, clock=clock, role=role, writes=writes, notices_missing=notices_missing, environ=environ)
        )
        api, limiter = await stack.enter_async_context(
            open_api(config, environ=environ, clock=mirror.clock, disk=mirror.disk)
        )
        storage = await stack.enter_async_context(
            open_storage(storage_policy(config), connections=config.transfer.concurrency)
        )
        yield SyncContext(
            api=api,
            limiter=limiter,
            storage=storage,
            manifest=mirror.manifest,
            root=mirror.root,
            clock=mirror.clock,
            disk=mirror.disk,
            settings=mirror.settings,
            host=mirror.host,
            slots=asyncio.Semaphore(config.transfer.concurrency),
            throttle=Throttle(config.transfer.bandwidth),
            observer=observer or Silence(),
        )


@asynccontextmanager
async def open_reading(config: Config) -> AsyncIterator[ReadContext]:
    """Open the manifest and the mirror to look at them, beside whatever else runs. Raises as `open_sync` does."""
    async with AsyncExitStack() as stack:
        disk = stack.enter_context(DiskThreads())
        root = stack.enter_context(open_root(Path(config.mirror.root)))
        manifest = await stack.enter_async_context(open_manifest(manifest_place(config), read_only=True))
        await _refuse_older(manifest)
        yield ReadContext(manifest=manifest, root=root, disk=disk, zone=config.mirror.zone)


async def open_teller(
    config: Config, context: SyncContext, *, environ: Mapping[str, str], runs_hooks: bool = True
) -> Teller:
    """Return what tells of the runs of `context`; snapshots from now on are news."""
    settings = tell_settings(config, environ=environ)
    teller = Teller(manifest=context.manifest, clock=context.clock, settings=settings, runs_hooks=runs_hooks)
    await teller.begin(account_settings(config))
    return teller


@asynccontextmanager
async def open_hooks(
    config: Config, *, environ: Mapping[str, str], clock: Clock | None = None, runs: bool
) -> AsyncIterator[Teller]:
    """Open what hooks need: the manifest, and with `runs` the state folder's lock, since one process runs them."""
    clock = clock or SystemClock()
    async with AsyncExitStack() as stack:
        disk = stack.enter_context(DiskThreads())
        state = await disk.run(_state_folder, config)
        if runs:
            stack.enter_context(FileLock(state / _LOCK_NAME, f"the state folder {state}", role="hooks"))
        place = manifest_place(config, environ=environ)
        manifest = await stack.enter_async_context(open_manifest(place, label=_host_name()))
        others = [host for host in await _hosts(manifest) if host.is_alive]
        if runs and others:
            raise _at_work(others)
        yield Teller(manifest=manifest, clock=clock, settings=tell_settings(config, environ=environ))


async def follow_up(
    config: Config, context: SyncContext, teller: Teller, outcomes: Sequence[AccountOutcome]
) -> Status | None:
    """Do what follows a run: tell what is new and amiss, write report and figures, tell a watchdog that all is fresh.

    Never fails for what it could not do; returns the status after the run, if it can be read.
    """
    token = await token_trouble(config, context)
    for outcome in outcomes:
        if outcome.error is None:
            await teller.look_at_requests(context.api, outcome.account)
        await teller.after_run(outcome, token=token)
    try:
        status = await read_status(config, clock=context.clock)
    except DcsyncError as error:
        log.warning("the status after the run cannot be read", code=error.code, error=error.message)
        return None
    await write_report(context, status.accounts)
    if status.check is ExitStatus.DONE:
        await teller.beat()
    textfile = config.metrics.textfile
    if textfile is not None:
        try:
            await context.disk.run(write_textfile, textfile, status)
        except OSError as error:
            log.warning("the metrics file cannot be written", path=str(textfile), error=error.strerror)
    return status


async def token_trouble(config: Config, context: SyncContext) -> Attention | None:
    """Return what a person should know of the stored tokens; None for nothing. Never fails."""
    try:
        async with AsyncExitStack() as stack:
            store, threads = await _open_store(stack, config, _place_of(context, config), context.disk, makes=False)
            return (await threads.run(_look_at_token, config, store, context.clock.now()))[1]
    except DcsyncError:
        # A store that cannot be read is what the run met, and says.
        return None


async def read_status(
    config: Config, *, clock: Clock | None = None, environ: Mapping[str, str] | None = None
) -> Status:
    """Read how the mirror stands. Nothing is locked, written or asked of the network."""
    clock = clock or SystemClock()
    state = Path(config.state.dir)
    names = [AccountName(account.name) for account in config.accounts]
    place = manifest_place(config, environ=environ)
    with DiskThreads() as disk:
        async with AsyncExitStack() as stack:
            manifest, used, pair, trouble = None, 0, None, None
            if isinstance(place, Database) or await disk.run(_is_file, place):
                with suppress(ManifestMissing):
                    manifest = await stack.enter_async_context(open_manifest(place, read_only=True))
            if manifest is not None or isinstance(place, Path):
                window = await _open_window(stack, config, place, disk, makes=False)
                used = await window.used(now=clock.monotonic())
                store, threads = await _open_store(stack, config, place, disk, makes=False)
                pair, trouble = await threads.run(_look_at_token, config, store, clock.now())
            hosts = () if manifest is None else await _hosts(manifest)
            common = () if trouble is None else (trouble,)
            accounts = await account_statuses(
                manifest, names, clock.now(), common=common, stale_after=config.poll.stale_after
            )
        issued_at = None if pair is None else pair.issued_at
        return Status(
            accounts=accounts,
            quota_limit=config.api.requests_per_minute,
            quota_used=used,
            token_method=config.auth.method,
            token_expires_at=None if pair is None else pair.expires_at,
            token_refresh_by=None if issued_at is None else issued_at + REFRESH_LIFE,
            free_bytes=await disk.run(_free_bytes, Path(config.mirror.root)),
            holder=await disk.run(_holder, state / _LOCK_NAME),
            next_poll=await disk.run(_next_poll, state / _DAEMON_NAME),
            hosts=tuple(hosts),
        )


def shared_database(context: MirrorContext) -> Database:
    """Return the database of a context whose manifest several hosts share."""
    from dcsync.manifest.postgres import PostgresBackend

    assert isinstance(context.manifest.backend, PostgresBackend)  # noqa: S101 - there is no other that is shared
    return context.manifest.backend.database


def _place_of(context: MirrorContext, config: Config) -> Path | Database:
    """Return where the open manifest of a context is."""
    if not context.manifest.is_shared:
        return Path(config.state.dir) / MANIFEST_NAME
    return shared_database(context)


def _look_at_token(config: Config, store: ChainStore, now: datetime) -> tuple[TokenPair | None, Attention | None]:
    """Return the stored tokens, and what a person should know of them. Nothing is spent, locked or asked."""
    if config.auth.method != "login" and config.auth.refresh_token is None:
        return None, None
    pair, token = _token_state(store)
    # Before the first run with method "token" there is nothing stored, and nothing amiss.
    if not token.is_stored and config.auth.method == "token":
        return None, None
    return pair, token_attention(token, now)


def _token_state(store: ChainStore) -> tuple[TokenPair | None, TokenState]:
    """Read the store without its lock: it is replaced in one step."""
    pair, intent = store.read(), store.intent()
    if pair is None:
        return None, TokenState(is_stored=False, is_refused=False, issued_at=None)
    refused = intent is not None and intent.refused and intent.spending == fingerprint(pair.refresh_token)
    return pair, TokenState(is_stored=True, is_refused=refused, issued_at=pair.issued_at)


def tell_settings(config: Config, *, environ: Mapping[str, str]) -> TellSettings:
    """Return who hears of what, secrets resolved. Raises `ConfigError`s: better now than when there is news."""
    urls = tuple(url.resolve(environ).get_secret_value() for url in config.notify.urls)
    if urls:
        check_installed()
    heartbeat = config.heartbeat.url
    return TellSettings(
        root=Path(config.mirror.root),
        hooks=tuple(
            Hook(on=frozenset(EventKind(kind) for kind in hook.on), argv=tuple(hook.run), timeout=hook.timeout)
            for hook in config.hooks
        ),
        urls=urls,
        on=frozenset(EventKind(kind) for kind in config.notify.on),
        heartbeat=None if heartbeat is None else heartbeat.resolve(environ).get_secret_value(),
        environ={name: value for name, value in environ.items() if name not in hidden_names(config)},
    )


def callback_secret(config: Config, *, environ: Mapping[str, str]) -> str:
    """Return the last part of the callback's path: the configured one, else one that is made once and kept.

    Raises `ConfigError` for one that could be guessed: fewer than 128 bits.
    """
    if config.http.callback_secret is not None:
        secret = config.http.callback_secret.resolve(environ).get_secret_value()
        if not re.fullmatch(r"[A-Za-z0-9_-]{22,200}", secret):
            message = "http.callback_secret needs at least 22 letters, digits, hyphens and underscores (128 bits)"
            hint = "make one: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
            raise ConfigError(message, hint=hint)
        return secret
    state = _state_folder(config)
    kept = _read_text(state / _CALLBACK_NAME)
    if kept is None:
        kept = secrets.token_urlsafe(32)
        _write_text(state, _CALLBACK_NAME, kept)
    return kept


def hidden_names(config: Config) -> frozenset[str]:
    """Return the environment variables that a hook must not inherit: our secrets, and systemd's business with us."""
    auth = config.auth
    refs = [auth.client_secret, auth.private_key, auth.access_token, auth.refresh_token]
    refs += [config.http.callback_secret, config.heartbeat.url, *config.notify.urls, config.state.manifest]
    ours = {ref.variable for ref in refs if ref is not None and ref.variable is not None}
    ours |= {"PGPASSWORD", "PGPASSFILE"} if config.state.manifest.is_shared else set()
    return frozenset({*ours, "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "CREDENTIALS_DIRECTORY"})


def storage_policy(config: Config) -> StoragePolicy:
    """Return where signed URLs may lead: a loopback API is a sandbox, whose file store is on loopback too."""
    return StoragePolicy(
        hosts=tuple(config.api.allow_storage_hosts), allow_loopback=is_loopback_url(config.api.base_url)
    )


def _token_source(
    config: Config, store: ChainStore, *, environ: Mapping[str, str], clock: Clock, disk: DiskThreads
) -> TokenSource:
    auth = config.auth
    if auth.method == "service-account":
        if auth.private_key is None or auth.account_id is None or auth.key_id is None:
            raise AssertionError  # the configuration was checked for this
        return ServiceAccountToken(
            endpoint=token_endpoint(config, environ=environ),
            account_id=auth.account_id,
            key_id=auth.key_id,
            private_key=auth.private_key.resolve(environ).get_secret_value(),
            clock=clock,
        )
    if auth.method == "token" and auth.refresh_token is None:
        if auth.access_token is None:
            raise AssertionError  # the same
        return FixedToken(auth.access_token.resolve(environ).get_secret_value())
    seed, problem = _seed(config, environ)
    return RefreshingToken(
        store=store,
        endpoint=token_endpoint(config, environ=environ),
        clock=clock,
        disk=disk,
        seed=seed,
        seed_problem=problem,
    )


def token_endpoint(config: Config, *, environ: Mapping[str, str]) -> TokenEndpoint:
    """Return the token endpoint as the configured client sees it. Raises `SecretUnavailable`, `SecretExposed`."""
    auth = config.auth
    secret = None if auth.client_secret is None else auth.client_secret.resolve(environ).get_secret_value()
    return TokenEndpoint(base_url=config.api.base_url, client=Client(id=auth.client_id or "", secret=secret))


@asynccontextmanager
async def open_chain(
    config: Config, *, environ: Mapping[str, str], clock: Clock | None = None
) -> AsyncIterator[TokenChain]:
    """Open what signing in and out works on; it takes no lock, so that it works while a daemon runs.

    Raises `ConfigError` for a method that nobody signs in with.
    """
    if config.auth.method == "service-account":
        message = "a service account signs in by itself, with its key: there is nothing to log in to or out of"
        raise ConfigError(message, hint="dcsync doctor shows whether its key works")
    if config.auth.method == "token" and config.auth.refresh_token is None:
        message = "auth.access_token is used as it is: there is nothing to log in to or out of"
        raise ConfigError(message, hint='set auth.method = "login"')
    async with AsyncExitStack() as stack:
        disk = stack.enter_context(DiskThreads())
        await disk.run(_state_folder, config)
        store, threads = await _open_store(stack, config, manifest_place(config, environ=environ), disk)
        yield TokenChain(
            endpoint=token_endpoint(config, environ=environ), store=store, clock=clock or SystemClock(), disk=threads
        )


def _seed(config: Config, environ: Mapping[str, str]) -> tuple[str | None, ConfigError | None]:
    """Return the seed, or why it cannot be had: once the store has taken it over, the variable or file may be gone."""
    if config.auth.refresh_token is None:
        return None, None
    try:
        return config.auth.refresh_token.resolve(environ).get_secret_value(), None
    except ConfigError as problem:
        return None, problem


async def _bind(manifest: SqlManifest, root: MirrorRoot, state: Path, disk: DiskThreads) -> bool:
    """Bring state folder, manifest and root under one instance id; return whether the mirror is new.

    The state folder has the id before the root has it: a crash between the two must not leave a root that belongs to
    nobody.
    """
    stored = await disk.run(_read_text, state / _INSTANCE_NAME)
    in_manifest = await manifest.instance()
    identifier = in_manifest or stored
    knows = await manifest.knows_snapshots()
    if identifier is None and await disk.run(root.marker) is None:
        identifier = str(uuid.uuid4())
    if identifier is not None and stored != identifier:
        await disk.run(_write_text, state, _INSTANCE_NAME, identifier)
    bound, new = await disk.run(lambda: claim(root, state_id=identifier, knows_snapshots=knows))
    if in_manifest != bound:
        await manifest.set_instance(bound)
    return new


async def _refuse_older(manifest: SqlManifest) -> None:
    """What only looks does not migrate, and finds columns missing that it asks for."""
    if not await manifest.is_current():
        message = "the manifest was written by an older dcsync, and looking at it does not change it"
        raise ManifestError(message, hint="run dcsync sync, or start the daemon: that brings it up to date")


def _state_folder(config: Config) -> Path:
    path = Path(config.state.dir)
    _refuse_to_be_root(path)
    try:
        if not path.is_dir():
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            # One that cannot be listed cannot be fsynced either: it is durable when the file system gets to it.
            with suppress(PermissionError):
                _sync_folder(path.parent)
    except OSError as error:
        message = f"state.dir {path} cannot be made: {error.strerror} (as uid {os.geteuid()})"
        raise ManifestError(message, hint="create it for the user that runs dcsync, or correct state.dir") from None
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        message = f"state.dir {path} cannot be written (as uid {os.geteuid()})"
        raise ManifestError(message, hint="give it to the user that runs dcsync, or correct state.dir")
    return path


def _refuse_to_be_root(path: Path) -> None:
    """Refuse to work as root in another user's state folder: its owner could not read what is made there."""
    try:
        owner = path.stat().st_uid
    except OSError:
        return
    if os.geteuid() == 0 and owner != 0 and os.access(path, os.W_OK):
        try:
            name = pwd.getpwuid(owner).pw_name
        except KeyError:
            name = f"#{owner}"
        message = f"state.dir {path} belongs to the user {name}, who could not read what root makes there"
        raise ConfigError(message, hint=f"run it as that user: runuser -u {name} -- dcsync …")


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_text(state: Path, name: str, text: str) -> None:
    try:
        with _folder(state) as descriptor:
            write_durably(descriptor, name, f"{text}\n".encode(), mode=0o600)
    except OSError as error:
        message = f"{state / name} cannot be written: {error.strerror} (as uid {os.geteuid()})"
        raise ManifestError(message) from None


@contextmanager
def _folder(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror} (as uid {os.geteuid()})"
        raise ManifestError(message) from None


def _is_file(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False
    except OSError as error:
        message = f"the manifest {path} cannot be read: {error.strerror} (as uid {os.geteuid()})"
        raise ManifestError(message) from None


def _free_bytes(path: Path) -> int | None:
    try:
        with open_root(path) as root:
            return root.free_bytes()
    except DcsyncError:
        return None


def _next_poll(path: Path) -> datetime | None:
    """Return when the daemon said that it would poll next."""
    try:
        entry = json.loads(path.read_bytes())
        return parse_time(entry["next_poll"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _holder(path: Path) -> Holder | None:
    """Return who holds the lock, by trying it: the file stays when its holder is gone."""
    if not path.is_file():
        return None
    try:
        with FileLock(path, "the state folder", role=None):
            return None
    except MirrorLocked as error:
        return Holder(pid=error.pid, is_daemon=error.role == "run")
    except DcsyncError:
        return None


async def diagnose(
    place: Path | None,
    *,
    environ: Mapping[str, str],
    clock: Clock | None = None,
    tell: Callable[[Check], None] = lambda _: None,
) -> list[Check]:
    """Examine a configuration and all that it names; a failure is a check like another. Nothing that it writes lasts.

    `tell` hears of each check at once.
    """
    try:
        found = find(place, environ=environ)
        config = load(found, environ=environ, accounts_needed=False)
    except ConfigError as error:
        return unconfigured(error, tell)
    try:
        manifest_place(config, environ=environ)
    except ConfigError as error:
        return unconfigured(error, tell)
    clock = clock or SystemClock()
    auth, state = config.auth, Path(config.state.dir)
    chained = auth.method != "service-account" and (auth.method == "login" or auth.refresh_token is not None)
    needed = {
        "login": ("client_secret",),
        "service-account": ("client_secret", "private_key"),
        "token": ("client_secret",) if chained else ("access_token",),
    }[auth.method]
    with DiskThreads() as disk:

        @asynccontextmanager
        async def ask() -> AsyncIterator[tuple[DataConnector, Limiter]]:
            with ExitStack() as stack:
                used = config
                if not await disk.run(state.is_dir):
                    # The state folder is for the first run to make, as the user that it runs as.
                    folder = Path(stack.enter_context(TemporaryDirectory(prefix="dcsync-")))
                    used = config.model_copy(update={"state": config.state.model_copy(update={"dir": folder})})
                async with open_api(used, environ=environ, clock=clock, disk=disk) as opened:
                    yield opened

        subject = Subject(
            place=found,
            version=__version__,
            root=Path(config.mirror.root),
            min_free=config.mirror.min_free,
            latest=LatestKind(config.mirror.latest),
            state=state,
            manifest=manifest_place(config, environ=environ),
            open_store=lambda: _store_to_look(config, environ, disk),
            instance=state / _INSTANCE_NAME,
            base_url=config.api.base_url,
            accounts=account_settings(config),
            method=auth.method,
            secrets=[secret for name in needed if (secret := _secret(auth, name, environ)) is not None],
            seed=_secret(auth, "refresh_token", environ) if chained else None,
            chained=chained,
            holder=lambda: _holder(state / _LOCK_NAME),
            open_api=ask,
        )
        return await examine(subject, clock=clock, disk=disk, tell=tell)


@asynccontextmanager
async def _store_to_look(
    config: Config, environ: Mapping[str, str], disk: DiskThreads
) -> AsyncIterator[tuple[ChainStore, DiskThreads]]:
    async with AsyncExitStack() as stack:
        place = manifest_place(config, environ=environ)
        yield await _open_store(stack, config, place, disk, makes=False)


def _secret(auth: Auth, key: str, environ: Mapping[str, str]) -> Secret | None:
    reference: SecretRef | None = getattr(auth, key)
    if reference is None:
        return None
    where = "in the configuration" if reference.kind == "literal" else reference.describe()
    return Secret(key=key, where=where, resolve=lambda: reference.resolve(environ).get_secret_value())
