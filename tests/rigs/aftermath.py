"""What must hold of a mirror after a power cut, a broken disk, or a kill: told as what is wrong, so that it can be.

The manifest is read with SQLite alone and the tree with the standard library: dcsync does not vouch for itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from dcsync.auth.token_store import TokenPair, TokenStore, fingerprint
from dcsync.errors import AuthError
from dcsync.sandbox import Sandbox, World
from tests.rigs.mirror import assert_identical
from tests.rigs.sqlite import FILE_VIEW


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A published snapshot as the manifest has it."""

    job: str
    folder: str
    #: Size and SHA-256 by name.
    files: dict[str, tuple[int, str]]


def published(state: Path) -> dict[str, Row]:
    """Return the rows of published snapshots; none without a manifest."""
    place = state / "manifest.sqlite"
    if not _is_there(place) or place.stat().st_size == 0:
        return {}
    with closing(sqlite3.connect(place)) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'content'").fetchall():
            return {}
        database.execute(FILE_VIEW)
        rows = {
            job: Row(job=job, folder=folder, files={})
            for job, folder in database.execute("SELECT id, folder FROM job WHERE state = 'published'")
        }
        for job, name, size, sha256 in database.execute("SELECT job, name, size, sha256 FROM file"):
            if job in rows:
                rows[job].files[name] = (size, sha256)
    return rows


def snapshots(root: Path) -> list[Path]:
    """Return every folder that a reader takes for a snapshot: the outermost that holds a file."""
    found: list[Path] = []
    for account in _folders(root):
        for request in _folders(account):
            # `latest` is a symlink; everything else is on the way to a snapshot.
            found += [holding for below in _folders(request) for holding in _outermost(below)]
    return found


def look(root: Path, state: Path, world: World, *, acked: Collection[str] = ()) -> list[str]:
    """Return what is wrong: rows without their files, acks that are gone, folders that are not whole."""
    try:
        return [*_look(root, state, world, acked)]
    except (OSError, sqlite3.Error) as error:
        return [f"the mirror cannot be looked at: {error}"]


def _look(root: Path, state: Path, world: World, acked: Collection[str]) -> Iterator[str]:
    rows = published(state)
    for job in acked:
        if job not in rows:
            yield f"job {job} was acknowledged, and its row is gone"
    for row in rows.values():
        yield from _wrong_with(root, row)
    for folder in snapshots(root):
        yield from _torn(folder, world)
    for latest in root.glob("[!.]*/*/latest"):
        if not latest.resolve().is_dir():
            yield f"{latest.relative_to(root)} leads nowhere"
    for place in root.iterdir():
        if place.is_file() and place.name not in {"index.html", "views.sql"}:
            yield f"{place.name} does not belong into the root"


def _wrong_with(root: Path, row: Row) -> Iterator[str]:
    folder = root / row.folder
    if row.folder.startswith("."):
        yield f"the row of job {row.job} takes {row.folder} for a snapshot"
    if not _is_there(folder):
        yield f"job {row.job} has a row and no folder {row.folder}"
        return
    for name, (size, sha256) in row.files.items():
        if not _is_there(folder / name):
            yield f"{row.folder}/{name} is missing"
            continue
        body = (folder / name).read_bytes()
        if len(body) != size or hashlib.sha256(body).hexdigest() != sha256:
            yield f"{row.folder}/{name} is torn: {len(body)} bytes, {size} recorded"


def _torn(folder: Path, world: World) -> Iterator[str]:
    """A folder that can be seen is whole, with a row or without one."""
    try:
        job = str(json.loads((folder / "_dcsync.json").read_bytes())["job"]["id"])
        assert_identical(folder, world, job)
        for line in (folder / "SHA256SUMS").read_text().splitlines():
            digest, _, name = line.partition("  ")
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
                yield f"{folder.name}/{name} is not what SHA256SUMS says"
    except (AssertionError, ValueError, KeyError, OSError) as error:
        yield f"{folder.name} is not whole: {type(error).__name__} {str(error)[:300]}"


def incomplete(root: Path, state: Path, world: World) -> list[str]:
    """Return what is left to be wished for when all should be mirrored, byte for byte."""
    wrong = look(root, state, world, acked=world.jobs)
    if len(snapshots(root)) != len(world.jobs):
        wrong.append(f"{len(snapshots(root))} snapshots of {len(world.jobs)} jobs")
    staging = root / ".dcsync/staging"
    if left := [place.name for place in staging.iterdir()]:
        wrong.append(f"left in the staging: {left}")
    return wrong


def wrong_with_tokens(state: Path, sandbox: Sandbox, *, since: int) -> list[str]:
    """Return what is wrong with the store: a token was used that is not saved, or spent and nobody noted that.

    `since` is the number of calls before the run.
    """
    chain = [pair for _, pair in sandbox.tokens._used.values()]
    generation = {pair.access_token: number for number, pair in enumerate(chain, 1)}
    used = max(
        (
            generation.get(call.headers.get("authorization", "").removeprefix("Bearer "), 0)
            for call in sandbox.calls[since:]
            if call.server == "api"
        ),
        default=0,
    )
    store = TokenStore(state)
    try:
        stored, intent = store.read(), store.intent()
    except AuthError as error:
        return [f"the token store cannot be read: {error.message}"]
    there = 0 if stored is None else generation.get(stored.access_token or "", 0)
    if used > there:
        return [f"an access token of generation {used} was used, the store has generation {there}"]
    # The window that no client can close: the server rotated, and the answer was never saved.
    is_spent = stored is not None and stored.refresh_token not in sandbox.tokens.live_refresh_tokens
    if stored is not None and is_spent and (intent is None or intent.spending != fingerprint(stored.refresh_token)):
        return ["the stored refresh token is spent, and no intent says so"]
    return []


def heal_tokens(state: Path, sandbox: Sandbox) -> None:
    """Do what a person or an hour would: sign in again where the chain is lost, and let a doubt pass."""
    store = TokenStore(state)
    stored = store.read()
    if stored is not None and stored.refresh_token not in sandbox.tokens.live_refresh_tokens:
        store.save(TokenPair(refresh_token=sandbox.tokens.issue_refresh_token("tester"), seed=stored.seed))
    store.clear_intent()


def _folders(place: Path) -> list[Path]:
    with os.scandir(place) as entries:
        return sorted(
            Path(entry.path)
            for entry in entries
            if entry.is_dir(follow_symlinks=False) and entry.name not in {".dcsync", "lost+found"}
        )


def _outermost(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        if any(not entry.is_dir(follow_symlinks=False) for entry in entries):
            return [folder]
    return [found for below in _folders(folder) for found in _outermost(below)]


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True
