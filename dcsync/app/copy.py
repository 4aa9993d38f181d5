"""The manifest and the tokens, moved to another place."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dcsync.app.from_config import account_settings
from dcsync.app.hosts import at_work, known_hosts
from dcsync.app.mirror import open_mirror
from dcsync.app.renew import renewing
from dcsync.app.state_dir import INSTANCE_NAME, host_name, manifest_place, write_text
from dcsync.app.stores import open_store
from dcsync.auth.token_store import ChainStore
from dcsync.clock import Clock, SystemClock
from dcsync.config import Config, ManifestRef
from dcsync.database import Database
from dcsync.errors import ConfigError, ManifestError
from dcsync.manifest import open_manifest
from dcsync.manifest.copy import copy_rows
from dcsync.manifest.sqlite import set_aside
from dcsync.ops.recovery import recover
from dcsync.tasks import DiskThreads


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
        opening = partial(open_mirror, config, clock=clock, role="copy", environ=environ)
        context = await stack.enter_async_context(renewing(opening, config, role="copy", clock=clock, environ=environ))
        await recover(context, account_settings(config))
        there = await stack.enter_async_context(open_manifest(place, label=host_name()))
        others = [host for host in await known_hosts(there) if host.is_alive]
        if others:
            raise at_work(others)
        if not replace and await there.instance() is not None:
            message = "there is a manifest already where the copy would go"
            raise ManifestError(message, hint="name another place, or replace it: --replace")
        jobs = await copy_rows(context.manifest, there, instance=identifier)
        tokens = await _copy_tokens(stack, updated, source_place, place, context.disk)
        await context.disk.run(context.root.write_marker, identifier)
        await context.disk.run(write_text, Path(config.state.dir), INSTANCE_NAME, identifier)
        if tokens:
            store, threads = await open_store(stack, config, source_place, context.disk)
            await threads.run(_forget, store)
    if isinstance(source_place, Path):
        set_aside(source_place, f"moved-{clock.now():%Y%m%dT%H%M%SZ}")
    shown = place.shown if isinstance(place, Database) else str(place)
    return Copied(jobs=jobs, tokens=tokens, to=shown, instance=identifier)


async def _copy_tokens(
    stack: AsyncExitStack, config: Config, source: Path | Database, target: Path | Database, disk: DiskThreads
) -> bool:
    """Copy the chain of tokens, if there is one; the lock is held, so that nobody spends one meanwhile."""
    before, _ = await open_store(stack, config, source, disk)
    after, _ = await open_store(stack, config, target, disk)

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
