"""Create a service account with its key, and replace its key. Each step can be the last one before a kill.

A key whose private half was lost is useless and counts among the three keys of an account. The note of the key
(`KeyFiles`) therefore says durably what was about to happen, and the next run continues from it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from dcsync.app.key_files import KeyFiles, Note, replace_text
from dcsync.auth.service_accounts import ENABLED, Key, ServiceAccount, ServiceAccountAdmin
from dcsync.clock import Clock
from dcsync.config.change import change_value, read_text
from dcsync.core.wire import parse_time, time_json
from dcsync.errors import AuthError, ConfigError, DcsyncError, KeyIdUnchanged

#: A key that appeared this long before or after the begin of an attempt can be the key of that attempt. The clocks of
#: Autodesk and this machine may differ, and an attempt sends at most three calls of two minutes.
_BEFORE, _AFTER = timedelta(minutes=5), timedelta(minutes=10)

Prove = Callable[[str, str], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The service accounts of an app, as creation and rotation use them. `say` tells the user of an odd step."""

    admin: ServiceAccountAdmin
    client_id: str
    clock: Clock
    say: Callable[[str], None]


async def create(keys: Keys, files: KeyFiles, name: str) -> Note:
    """Create a service account and its key, or continue where an earlier run stopped. Raises `DcsyncError`s."""
    note = files.note()
    if note is None:
        _refuse_key(files)
        account = await _account(keys, name)
        note = Note(service_account_id=account.id, email=account.email, name=name, client_id=keys.client_id)
        files.save(note)
    elif (note.name, note.client_id) != (name, keys.client_id):
        message = f"{files.json} belongs to the service account {note.name} of the app {note.client_id}"
        raise ConfigError(message, hint=f"name another file with --key-file, or run: … create {note.name}")
    return await _with_key(keys, files, note)


async def _account(keys: Keys, name: str) -> ServiceAccount:
    found = await find_named(keys.admin, name)
    if found is None:
        return await keys.admin.create(name, first_name="dcsync", last_name="mirror")
    keys.say(f"the service account {name} exists already and gets a new key")
    if found.status not in {"", ENABLED}:
        message = f"the service account {name} is not enabled, but {found.status.lower()}"
        raise ConfigError(message, hint=f"run dcsync service-account enable {name}, or choose another name")
    return found


async def find_named(admin: ServiceAccountAdmin, name: str) -> ServiceAccount | None:
    """Return the service account with this name, ID or e-mail address."""
    for each in await admin.list():
        if name in {each.id, each.email, each.email.partition("@")[0]}:
            return each
    return None


async def _with_key(keys: Keys, files: KeyFiles, note: Note) -> Note:
    """Make sure that the account's key is in its file."""
    if note.key_id and files.has_key():
        return note
    _refuse_key(files)
    account = note.service_account_id
    if note.key_id:
        keys.say(f"deleting the key {note.key_id}, whose private half was never written")
        await keys.admin.delete_key(account, note.key_id)
        note = note.with_key("")
        files.save(note)
    known = await keys.admin.keys(account)
    if note.began_at:
        await _remove_lost(keys, note, known)
        known = await keys.admin.keys(account)
    note = note.begun(time_json(keys.clock.now()) or "", tuple(key.id for key in known))
    files.save(note)
    made = await keys.admin.create_key(account)
    note = note.with_key(made.id)
    files.save(note)
    files.write_key(made.private_key)
    return note


def _refuse_key(files: KeyFiles) -> None:
    if files.has_key():
        message = f"{files.pem} already exists, and dcsync never overwrites a private key that it did not create"
        raise ConfigError(message, hint="name another file with --key-file, or rename this one")


async def _remove_lost(keys: Keys, note: Note, found: Sequence[Key]) -> None:
    """Delete the key of an attempt that was killed before its ID was noted. Other new keys are named and left."""
    unknown = [key for key in found if key.id not in note.known_keys]
    ours = [key for key in unknown if _is_of_attempt(key, note)]
    for key in unknown:
        if ours == [key]:
            keys.say(f"deleting the key {key.id}, which an earlier run created and whose private half was lost")
            await keys.admin.delete_key(note.service_account_id, key.id)
        else:
            keys.say(f"leaving the key {key.id}, which appeared since an earlier run and may belong to another program")


def _is_of_attempt(key: Key, note: Note) -> bool:
    # "2026-11-22 12:00:00.000000000 +0000 UTC": Autodesk's format for these times, which is not ISO 8601.
    created, began = parse_time(key.created_at[:19]), parse_time(note.began_at)
    return created is not None and began is not None and began - _BEFORE <= created <= began + _AFTER


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """The key that the configuration names now, and how a key is proved: by its ID and its private half."""

    service_account_id: str
    key_id: str
    prove: Prove


async def rotate(keys: Keys, rotation: Rotation, files: KeyFiles, place: Path) -> Note:
    """Replace the key in `files`, and its ID in the configuration `place`. Continues where an earlier run stopped.

    Raises `KeyIdUnchanged` if the line cannot be changed. Nothing is removed before the configuration names the new
    key.
    """
    following = files.following()
    note = await prove_next(keys, rotation, following)
    if rotation.key_id not in {note.key_id, note.replaces}:
        message = f"auth.key_id is {rotation.key_id}, but the rotation in {following.json} replaces {note.replaces}"
        raise ConfigError(message, hint=f"correct auth.key_id, or remove {following.json} and {following.pem}")
    if following.has_key():
        following.move_key(files)
    if rotation.key_id != note.key_id:
        _change_key_id(place, note)
    files.save(replace(note, replaces=""))
    await keys.admin.delete_key(note.service_account_id, note.replaces)
    following.forget()
    return note


async def prove_next(keys: Keys, rotation: Rotation, files: KeyFiles) -> Note:
    """Create the key that replaces the configured one, and let the service account sign in with it."""
    note = files.note()
    if note is None:
        _refuse_key(files)
        note = await _begin(keys, rotation)
        files.save(note)
    elif note.service_account_id != rotation.service_account_id or not note.replaces:
        message = f"{files.json} belongs to the key {note.key_id} of the service account {note.name}"
        raise ConfigError(message, hint="name another file with --key-file")
    if note.proved:
        return note
    note = await _with_key(keys, files, note)
    try:
        await rotation.prove(note.key_id, files.key())
    except AuthError as error:
        hint = f"run the command again. If it fails again, remove {files.pem}: dcsync then creates another key"
        raise _same(error, hint) from None
    note = replace(note, proved=True)
    files.save(note)
    return note


def _same(error: AuthError, hint: str) -> DcsyncError:
    return type(error)(f"the new key does not work yet: {error.message}", hint=hint)


async def _begin(keys: Keys, rotation: Rotation) -> Note:
    found = await find_named(keys.admin, rotation.service_account_id)
    if found is None:
        message = f"the app has no service account {rotation.service_account_id}"
        raise ConfigError(message, hint="compare auth.service_account_id with dcsync service-account list")
    return Note(
        service_account_id=found.id,
        email=found.email,
        name=found.email.partition("@")[0],
        client_id=keys.client_id,
        replaces=rotation.key_id,
    )


def _change_key_id(place: Path, note: Note) -> None:
    hint = f'write key_id = "{note.key_id}" below [auth] in {place}, and run the command again'
    changed = change_value(read_text(place), "auth", "key_id", old=note.replaces, new=note.key_id)
    if changed is None:
        message = f'{place} has no line key_id = "{note.replaces}" of its own below [auth]'
        raise KeyIdUnchanged(message, hint=hint)
    try:
        replace_text(place, changed)
    except ConfigError as error:
        raise KeyIdUnchanged(error.message, hint=hint) from None


async def remove_replaced(keys: Keys, rotation: Rotation, files: KeyFiles, note: Note, private_key: str) -> None:
    """Remove the replaced key after the configured one, which is the new one, was proved."""
    await rotation.prove(rotation.key_id, private_key)
    await keys.admin.delete_key(note.service_account_id, note.replaces)
    files.save(replace(note, replaces=""))
