"""The checks of `doctor` that need no network: secrets, state folder, the mirror's disk, tokens.

Each returns a `Check`, or raises the same `DcsyncError` as a run. They block, and leave nothing behind.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from dcsync.auth.token_store import ChainStore, TokenPair, fingerprint
from dcsync.core.alerts import ALERT_KINDS, AlertCode
from dcsync.core.oauth import REFRESH_LIFE
from dcsync.errors import (
    ConfigError,
    DiskDenied,
    DiskError,
    DiskReadOnly,
    LoginRequired,
    ManifestError,
    TokenUndecided,
)
from dcsync.mirror import probe
from dcsync.mirror.binding import bound_to
from dcsync.mirror.latest import LatestKind
from dcsync.mirror.limits import LimitKind, find_limits
from dcsync.mirror.root import OWN_FOLDER, open_root
from dcsync.opening import read_regular
from dcsync.ops.doctor.checks import Check, Level, ok, warned
from dcsync.ops.limits import LIMIT_CODES, message_of
from dcsync.ops.status import Holder

#: From this age on a refresh token is warned about (design.md, Token protocol T7). At `REFRESH_LIFE` it expires.
WARN_AGE = timedelta(days=10)
#: Enough for a few full extracts of about 260 files (docs/project/api.md §3).
MIN_INODES = 1000
#: The tokens, the manifest and its log of one run take far less.
MIN_STATE_BYTES = 64 << 20
_GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """A secret of the configuration: its key, its location, and how to read it."""

    key: str
    where: str
    resolve: Callable[[], str]


def secrets(needed: Sequence[Secret]) -> Check:
    """Check that every secret can be read. The failure names all that cannot, and has the class of the first."""
    errors: list[ConfigError] = []
    for secret in needed:
        try:
            secret.resolve()
        except ConfigError as error:
            errors.append(type(error)(f"auth.{secret.key}: {error.message}", hint=error.advice))
    if errors:
        raise type(errors[0])("\n".join(error.message for error in errors), hint=errors[0].advice)
    named = ", ".join(f"{secret.key} ({secret.where})" for secret in needed)
    return ok("secrets", f"all found: {named}" if named else "none needed")


def state_folder(path: Path) -> Check:
    """Check that the state folder is there, private, local, and writable."""
    try:
        facts = path.stat()
    except FileNotFoundError:
        return _state_to_be_made(path)
    except OSError as error:
        message = f"state.dir {path} cannot be read: {error.strerror} (as uid {os.geteuid()})"
        raise ManifestError(message) from None
    if not stat.S_ISDIR(facts.st_mode):
        message = f"state.dir {path} is not a folder"
        raise ManifestError(message, hint="correct state.dir")
    if not _may_write(path):
        message = f"state.dir {path} cannot be written (as uid {os.geteuid()})"
        raise ManifestError(message, hint="make the user that runs dcsync its owner, or correct state.dir")
    kind, free, mode = _facts_of(path)
    doubts = state_doubts(path, kind=kind, owner=facts.st_uid, me=os.geteuid(), mode=mode, free_bytes=free)
    if doubts:
        messages, advices = zip(*doubts, strict=True)
        return warned("state.dir", f"{path} {'; '.join(messages)}", "; ".join(advices))
    return ok("state.dir", f"{path} is private to uid {facts.st_uid}, on {kind}")


def state_doubts(
    path: Path, *, kind: str | None, owner: int, me: int, mode: int, free_bytes: int
) -> list[tuple[str, str]]:
    """Return the problems of a usable state folder, each with its hint."""
    doubts = []
    if probe.is_network(kind):
        advice = "put state.dir on a local disk: the manifest's write-ahead log does not work over a network"
        doubts.append((f"is on {kind}, a network file system", advice))
    if owner != me:
        advice = f"always run dcsync as uid {owner}: files of another user would stop it later"
        doubts.append((f"belongs to uid {owner}, but this is uid {me}", advice))
    if mode & 0o077:
        doubts.append((f"is open to others (mode {mode:04o})", f"chmod 700 {path}"))
    if free_bytes < MIN_STATE_BYTES:
        advice = "free space there: without space dcsync can neither renew tokens nor record anything"
        doubts.append((f"has {free_bytes >> 20} MiB left", advice))
    return doubts


def instance(path: Path) -> str | None:
    """Return the mirror's id from the state folder, or None before the first run."""
    try:
        return read_regular(path).decode("utf-8").strip() or None
    except FileNotFoundError:
        return None


def root(path: Path) -> Check:
    """Check that the mirror's root exists and is writable. Writes nothing: it may be an empty mount point."""
    with open_root(path) as opened:
        kind = probe.file_system(opened.descriptor)
        if os.fstatvfs(opened.descriptor).f_flag & os.ST_RDONLY:
            message = f"the mirror's root {path} is on a read-only file system"
            raise DiskReadOnly(message)
    if not _may_write(path):
        message = f"the mirror's root {path} cannot be written (as uid {os.geteuid()})"
        raise DiskDenied(message)
    return ok("mirror.root", f"{path} exists, on {kind}")


def mount(path: Path, *, state_id: str | None, knows_snapshots: bool) -> Check:
    """Check by `.dcsync/instance` that the mirror's own disk is mounted at the root. Writes nothing."""
    with open_root(path) as opened:
        found = bound_to(opened, state_id=state_id, knows_snapshots=knows_snapshots)
    if found is None:
        return ok("mount", "no mirror ID yet; the first run binds this folder to this state.dir")
    return ok("mount", f"the mirror ID matches the state folder ({found})")


def staging(path: Path) -> Check:
    """Check that `.dcsync` is on the root's file system, because snapshots are renamed out of it."""
    with open_root(path) as opened:
        try:
            with opened.folder(OWN_FOLDER) as own:
                apart = os.fstat(own).st_dev != os.fstat(opened.descriptor).st_dev
        except FileNotFoundError:
            return ok("staging", f"{OWN_FOLDER} does not exist yet; the first run creates it")
    if apart:
        message = (
            f"{path / OWN_FOLDER} is on a different file system than the mirror: snapshots cannot be renamed into place"
        )
        raise DiskError(message, hint="unmount the file system that is mounted there")
    return ok("staging", f"{OWN_FOLDER} is on the mirror's file system")


def space(path: Path, *, min_free: int) -> Check:
    """Check the free space. A run never goes below `min_free` bytes."""
    with open_root(path) as opened:
        free = opened.free_bytes()
    described = f"{free / _GIB:.1f} GiB free"
    if free < min_free:
        message = f"{described}, less than mirror.min_free ({min_free / _GIB:.1f} GiB): dcsync starts no download"
        return warned("space", message, "free space on the mirror's disk, or lower mirror.min_free")
    return ok("space", described)


def inodes(path: Path) -> Check:
    """Check the free inodes. Every new file of a snapshot takes one, and hard links take none."""
    with open_root(path) as opened:
        facts = os.fstatvfs(opened.descriptor)
    if not facts.f_files:
        # btrfs has no fixed number.
        return ok("inodes", "the file system has no fixed number of inodes")
    if facts.f_favail < MIN_INODES:
        message = f"{facts.f_favail} inodes free; a full extract takes about 300"
        return warned("inodes", message, "delete small files, or use a file system with more inodes")
    return ok("inodes", f"{facts.f_favail} inodes free")


def try_out(path: Path) -> probe.Abilities:
    """Test the abilities of the mirror's file system."""
    with open_root(path) as opened:
        return probe.try_out(opened)


def abilities(able: probe.Abilities, latest: LatestKind) -> list[Check]:
    """Compare the abilities of the mirror's file system with those that the configuration needs."""
    return [_hardlinks(able, latest), _symlinks(able, latest), _renames(able, latest), _modes(able)]


def folders(path: Path, depth: int) -> Check:
    """Check that all folders of the mirror are on one file system, and that no overlay is in between."""
    with open_root(path) as opened:
        found = [limit for limit in find_limits(opened, depth=depth) if limit.kind is not LimitKind.MODES]
    if not found:
        return ok("folders", "all on one file system")
    hints = {ALERT_KINDS[LIMIT_CODES[limit.kind]].hint: None for limit in found}
    return warned("folders", "\n".join(map(message_of, found)), "; ".join(hints))


def lock(holder: Holder | None) -> Check:
    """Return the holder of the state folder. A held lock is not a failure."""
    if holder is None:
        return ok("lock", "free: dcsync is not running")
    return ok("lock", f"held by a {'daemon' if holder.is_daemon else 'sync'}, pid {holder.pid}")


def stored_token(store: ChainStore, *, seed: Secret | None, now: datetime) -> Check:
    """Check the stored refresh token: whether there is one, whether it is valid, and until when. No token is used.

    `seed` is the configured first refresh token. After its first use, its variable or file may be removed.
    """
    pair = store.read()
    begins = None
    if seed is not None:
        try:
            begins = fingerprint(seed.resolve())
        except ConfigError:
            if pair is None:
                raise
    if pair is None and begins is not None and store.last_seed() == begins:
        message = "the configured refresh_token was already used, and the tokens that replaced it are no longer stored"
        raise LoginRequired(message)
    if begins is not None and (pair is None or pair.seed not in {None, begins}):
        return ok("token", "auth.refresh_token was not used yet; the first API call uses it")
    if pair is None:
        message = "no token is stored in state.dir"
        raise LoginRequired(message)
    intent = store.intent()
    if intent is not None and intent.spending == fingerprint(pair.refresh_token):
        if intent.refused:
            message = f"Autodesk refused the stored refresh token at {intent.at:%Y-%m-%d %H:%M} UTC (invalid_grant)"
            raise LoginRequired(message)
        message = f"the token refresh at {intent.at:%Y-%m-%d %H:%M} UTC is unconfirmed"
        return warned("token", message, TokenUndecided.hint)
    return _age(pair, now)


def _age(pair: TokenPair, now: datetime) -> Check:
    if pair.issued_at is None:
        return ok("token", "a refresh token is stored; its issue date is unknown")
    age, end = now - pair.issued_at, pair.issued_at + REFRESH_LIFE
    described = f"refresh token of {pair.issued_at:%Y-%m-%d %H:%M} UTC"
    if age >= REFRESH_LIFE:
        message = f"{described} expired on {end:%Y-%m-%d}: it is valid for {REFRESH_LIFE.days} days"
        raise LoginRequired(message)
    described = f"{described}, valid until {end:%Y-%m-%d %H:%M}"
    if age >= WARN_AGE:
        return warned(
            "token", described, "run `dcsync sync`, which renews it; check that the timer or the daemon is running"
        )
    return ok("token", described)


def _hardlinks(able: probe.Abilities, latest: LatestKind) -> Check:
    if able.hardlinks:
        return ok("hardlinks", "hard links work: unchanged files take no extra space")
    if latest is LatestKind.HARDLINKS:
        message = 'the file system has no hard links: mirror.latest = "hardlinks" copies each newest snapshot'
        advice = 'set mirror.latest to "symlink" or "none" to save the space, or use another file system'
        return warned("hardlinks", message, advice)
    if able.clones:
        return ok("hardlinks", "no hard links; unchanged files share their blocks instead")
    message = "the file system has no hard links: every snapshot takes the space of a whole extract"
    return warned("hardlinks", message, "use a file system with hard links (ext4, XFS, btrfs, ZFS) to save space")


def _symlinks(able: probe.Abilities, latest: LatestKind) -> Check:
    if able.symlinks:
        return ok("symlinks", "symlinks work" if latest is LatestKind.SYMLINK else "symlinks work, but are not needed")
    if latest is not LatestKind.SYMLINK:
        return ok("symlinks", f'no symlinks; mirror.latest = "{latest.value}" needs none')
    message = 'the file system has no symlinks, which mirror.latest = "symlink" needs'
    advice = 'set mirror.latest to "hardlinks" or "none"' if able.hardlinks else 'set mirror.latest to "none"'
    return Check(name="symlinks", level=Level.FAIL, message=message, advice=advice)


def _renames(able: probe.Abilities, latest: LatestKind) -> Check:
    if not able.keeps_names:
        message = "the file system cannot rename without replacing; dcsync reserves each name with mkdir first"
        return warned("rename", message, "make sure that only dcsync writes into the mirror")
    if latest is LatestKind.HARDLINKS and not able.exchanges:
        message = "the file system cannot swap two names: `latest` is absent for a moment at each new snapshot"
        return warned("rename", message, 'nothing if readers retry; otherwise set mirror.latest to "symlink"')
    return ok("rename", "snapshots appear in one step and replace nothing")


def _modes(able: probe.Abilities) -> Check:
    if able.sets_modes:
        return ok("modes", "published files are read-only")
    message = "the file system does not keep the mode of a file: published files have the modes that it gives them"
    return warned("modes", message, ALERT_KINDS[AlertCode.F_MODE].hint)


def _state_to_be_made(path: Path) -> Check:
    """Return the check of a missing state folder, which the first run creates if this user may."""
    above = next(parent for parent in path.parents if parent.exists())
    if not _may_write(above):
        message = f"state.dir {path} does not exist and cannot be created in {above} (as uid {os.geteuid()})"
        raise ManifestError(message, hint=f"create it for the user that runs dcsync: install -d -m 700 -o USER {path}")
    message = f"{path} does not exist yet"
    return warned("state.dir", message, "let the first run create it, as the user that runs dcsync")


def _may_write(path: Path) -> bool:
    return os.access(path, os.R_OK | os.W_OK | os.X_OK, effective_ids=True)


def _facts_of(path: Path) -> tuple[str | None, int, int]:
    """Return the type of a folder's file system, the free bytes, and the folder's mode."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        facts = os.fstatvfs(descriptor)
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        return probe.file_system(descriptor), facts.f_bavail * facts.f_frsize, mode
    finally:
        os.close(descriptor)
