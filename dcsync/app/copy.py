"""The copy of the manifest and the tokens to another place."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from dcsync.app.from_config import account_settings
from dcsync.app.mirror import open_mirror
from dcsync.app.renew import renewing
from dcsync.app.state_dir import INSTANCE_NAME, write_text
from dcsync.app.stores import Stores, StoresFor
from dcsync.auth.token_store import ChainStore
from dcsync.clock import Clock, SystemClock
from dcsync.config import Config, ManifestRef
from dcsync.errors import ConfigError, ManifestError
from dcsync.manifest.copy import copy_rows
from dcsync.ops.recovery import recover
from dcsync.tasks import DiskThreads


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """The result of a copy. `to` is its place without a password."""

    jobs: int
    tokens: bool
    to: str
    instance: str


async def copy_manifest(
    config: Config,
    target: str,
    stores_for: StoresFor,
    *,
    replace: bool = False,
    environ: Mapping[str, str],
    clock: Clock | None = None,
) -> Copied:
    """Copy the manifest and the tokens to `target`, a value for `state.manifest`, and bind the mirror to the copy.

    The mirror's marker gets a new id, so that the old manifest is refused. A crash before that step leaves the mirror
    with the old manifest, a later one with the new. Raises `ConfigError` for a target that is not valid or is the
    source, `ManifestError` for one that has a manifest already, unless `replace` is set, and as `open_mirror` does.
    """
    try:
        reference = ManifestRef(target)
    except ValueError as problem:
        message = f"--to: {problem}"
        raise ConfigError(message) from None
    updated = config.model_copy(update={"state": config.state.model_copy(update={"manifest": reference})})
    here, there = stores_for(config, environ), stores_for(updated, environ)
    if here.place == there.place:
        message = "the manifest is in this place already"
        raise ConfigError(message, hint="name another place with --to")
    clock, identifier = clock or SystemClock(), str(uuid.uuid4())
    async with AsyncExitStack() as stack:
        context = await stack.enter_async_context(renewing(open_mirror, config, here, role="copy", clock=clock))
        await recover(context, account_settings(config))
        copy = await stack.enter_async_context(there.open_target())
        await there.refuse_others(copy)
        if not replace and await copy.instance() is not None:
            message = f"{there.shown} has a manifest already"
            raise ManifestError(message, hint="name another place with --to, or replace that manifest: --replace")
        jobs = await copy_rows(context.manifest, copy, instance=identifier)
        tokens = await _copy_tokens(stack, here, there, context.disk)
        # Before the marker has the new ID: a manifest with another ID is refused as well.
        await context.disk.run(there.reinstate)
        await context.disk.run(context.root.write_marker, identifier)
        await context.disk.run(write_text, Path(config.state.dir), INSTANCE_NAME, identifier)
        if tokens:
            store, threads = await here.open_token_store(stack, context.disk)
            await threads.run(_forget, store)
    here.retire(f"moved-{clock.now():%Y%m%dT%H%M%SZ}", successor=there.shown)
    return Copied(jobs=jobs, tokens=tokens, to=there.shown, instance=identifier)


async def _copy_tokens(stack: AsyncExitStack, source: Stores, target: Stores, disk: DiskThreads) -> bool:
    """Copy the chain of tokens, if there is one. Both stores are locked, so that no process uses a token."""
    before, _ = await source.open_token_store(stack, disk)
    after, _ = await target.open_token_store(stack, disk)

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
