"""The plain settings that `ops` takes, made from the configuration."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from dcsync.app.state_dir import CALLBACK_NAME, read_text, state_folder, write_text
from dcsync.config import Config, secret_refs
from dcsync.core.model import AccountId, AccountName
from dcsync.core.plan import Selection
from dcsync.core.retention import KeepPolicy
from dcsync.core.system_files import Ignored
from dcsync.core.urls import StoragePolicy, is_loopback_url
from dcsync.errors import ConfigError
from dcsync.mirror.latest import LatestKind
from dcsync.ops.context import AccountSettings, HistorySettings, MirrorSettings, Strategy
from dcsync.rows import check_installed


def account_settings(config: Config, names: Sequence[str] = ()) -> list[AccountSettings]:
    """Return the configured accounts, or only those in `names`. Raises `ConfigError` for an unknown name."""
    known = [account.name for account in config.accounts]
    unknown = [name for name in names if name not in known]
    if unknown:
        message = f"the configuration has no account {unknown[0]!r}"
        raise ConfigError(message, hint=f"the accounts are: {', '.join(known)}")
    ids = [account.account_id for account in config.accounts]
    return [
        AccountSettings(
            name=AccountName(account.name),
            id=AccountId(account.account_id),
            # Other APIs of Autodesk put a prefix before the ID of a project.
            projects=tuple(project.removeprefix("b.") for project in account.projects),
            requests=tuple(account.requests),
            retired=tuple(account.retired),
            selection=Selection(
                include=tuple(account.include),
                exclude=tuple(account.exclude),
                keep_archive=config.mirror.keep_archive,
            ),
            start=config.start_of(account),
            is_another=account.account_id in ids[:position],
        )
        for position, account in enumerate(config.accounts)
        if not names or account.name in names
    ]


def mirror_settings(config: Config) -> MirrorSettings:
    """Return `[mirror]`, `[transfer]` and `[verify]`."""
    mirror = config.mirror
    return MirrorSettings(
        layout=mirror.parsed_layout,
        zone=mirror.zone,
        latest=LatestKind(mirror.latest),
        min_free=mirror.min_free,
        concurrency=config.transfer.concurrency,
        strategy=Strategy(mirror.strategy),
        trust_crc=mirror.trust_crc,
        ignored=Ignored(tuple(config.verify.ignore)),
    )


def history_settings(config: Config) -> HistorySettings:
    """Return `[history]`. Raises `ConfigError` now if it names tables and DuckDB is not installed."""
    if config.history.tables:
        check_installed()
    return HistorySettings(tables=tuple(config.history.tables), memory=config.history.memory)


def keep_policy(config: Config) -> KeepPolicy:
    """Return `[keep]`."""
    keep = config.keep
    return KeepPolicy(last=keep.last, daily=keep.daily, weekly=keep.weekly, monthly=keep.monthly, yearly=keep.yearly)


def storage_policy(config: Config) -> StoragePolicy:
    """Return the hosts that signed URLs may point to. The storage of a sandbox is on loopback, like its API."""
    return StoragePolicy(
        hosts=tuple(config.api.allow_storage_hosts), allow_loopback=is_loopback_url(config.api.base_url)
    )


def hidden_names(config: Config) -> frozenset[str]:
    """Return the environment variables that hooks must not inherit: secrets, and systemd's variables for dcsync."""
    ours = {ref.variable for _, ref in secret_refs(config) if ref.variable is not None}
    return frozenset({*ours, "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "CREDENTIALS_DIRECTORY"})


def known_callback_secret(config: Config, *, environ: Mapping[str, str]) -> str | None:
    """Return the last part of the callback's path, if the daemon listens and the secret exists. Writes nothing."""
    if config.http.address is None:
        return None
    if config.http.callback_secret is not None:
        return callback_secret(config, environ=environ)
    return read_text(Path(config.state.dir) / CALLBACK_NAME)


def callback_secret(config: Config, *, environ: Mapping[str, str]) -> str:
    """Return the last part of the callback's path: the configured one, or one that was generated once and stored.

    Raises `ConfigError` for a configured secret with fewer than 128 bits.
    """
    if config.http.callback_secret is not None:
        secret = config.http.callback_secret.resolve(environ).get_secret_value()
        if not re.fullmatch(r"[A-Za-z0-9_-]{22,200}", secret):
            message = "http.callback_secret needs at least 22 letters, digits, hyphens and underscores (128 bits)"
            hint = "generate one: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
            raise ConfigError(message, hint=hint)
        return secret
    state = state_folder(config)
    kept = read_text(state / CALLBACK_NAME)
    if kept is None:
        kept = secrets.token_urlsafe(32)
        write_text(state, CALLBACK_NAME, kept)
    return kept
