"""A service account is created and its key replaced, and a kill before any step costs nothing but another run."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from dcsync.app.key_files import KeyFiles, Note
from dcsync.app.service_account import Keys, Rotation, create, prove_next, remove_replaced, rotate
from dcsync.auth.endpoint import Client, TokenEndpoint
from dcsync.auth.service_accounts import DISABLED, ServiceAccountAdmin
from dcsync.auth.source import ServiceAccountToken
from dcsync.errors import AccessRefused, ConfigError, KeyIdUnchanged, ServiceAccountRejected
from dcsync.sandbox import Sandbox, World
from dcsync.sandbox.service_accounts import MAX_KEYS
from tests.fakes import FakeClock

#: How many calls a creation and a rotation make to Autodesk and to their files. Each can be the first one not made.
CREATING, ROTATING = 11, 19


class Killed(BaseException):
    """The process ends here."""


class Watched:
    """An object whose every call may be the one before which the process is killed."""

    def __init__(self, inner: Any, side: Side) -> None:
        self._inner, self._side = inner, side

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if inspect.iscoroutinefunction(value):

            async def later(*arguments: Any, **options: Any) -> Any:
                self._side.step()
                return await value(*arguments, **options)

            return later
        if not callable(value):
            return value

        def now(*arguments: Any, **options: Any) -> Any:
            self._side.step()
            result = value(*arguments, **options)
            return Watched(result, self._side) if isinstance(result, KeyFiles) else result

        return now


@dataclass(slots=True)
class Side:
    """A sandbox, the service accounts of its app, and a folder for their files."""

    sandbox: Sandbox
    admin: ServiceAccountAdmin
    endpoint: TokenEndpoint
    clock: FakeClock
    folder: Path
    said: list[str] = field(default_factory=list)
    steps: int = 0
    kill_at: int | None = None

    def step(self) -> None:
        if self.steps == self.kill_at:
            raise Killed
        self.steps += 1

    @property
    def files(self) -> KeyFiles:
        return KeyFiles(self.folder / "service-account.pem")

    @property
    def place(self) -> Path:
        return self.folder / "config.toml"

    @property
    def keys(self) -> Keys:
        admin: Any = Watched(self.admin, self)
        return Keys(admin=admin, client_id="sandbox", clock=self.clock, say=self.said.append)

    async def create(self, name: str = "mirror") -> Note:
        files: Any = Watched(self.files, self)
        return await create(self.keys, files, name)

    def configure(self, note: Note, text: str = '[auth]\nkey_id = "{}" # ours\n') -> None:
        self.place.write_text(text.format(note.key_id))
        self.place.chmod(0o640)

    def rotation(self, note: Note) -> Rotation:
        key_id = self.place.read_text().split('"')[1]
        return Rotation(service_account_id=note.service_account_id, key_id=key_id, prove=self.proving(note))

    async def rotate(self, note: Note) -> Note:
        files: Any = Watched(self.files, self)
        return await rotate(self.keys, self.rotation(note), files, self.place)

    def proving(self, note: Note) -> Any:
        async def prove(key_id: str, private_key: str) -> None:
            self.step()
            source = ServiceAccountToken(
                endpoint=self.endpoint,
                service_account_id=note.service_account_id,
                key_id=key_id,
                private_key=private_key,
                clock=self.clock,
            )
            await source.access_token()

        return prove

    def remote_keys(self) -> list[str]:
        return [key for account in self.sandbox.service_accounts.accounts.values() for key in account.keys]


@asynccontextmanager
async def connected(folder: Path) -> AsyncIterator[Side]:
    clock = FakeClock()
    async with Sandbox(World(now=lambda: clock.now().timestamp())) as sandbox:
        endpoint = TokenEndpoint(base_url=sandbox.base_url, client=Client(id="sandbox", secret="sandbox-secret"))
        admin = ServiceAccountAdmin(endpoint=endpoint, base_url=sandbox.base_url)
        yield Side(sandbox, admin, endpoint, clock, folder)


async def test_a_service_account_and_its_key_are_created_once(tmp_path: Path) -> None:
    async with connected(tmp_path / "new" / "folder") as side:
        note = await side.create()
        assert side.steps == CREATING
        again = await side.create()

        assert again == note
        assert side.remote_keys() == [note.key_id]
        await side.proving(note)(note.key_id, side.files.key())
        assert {path.name: path.stat().st_mode & 0o777 for path in side.folder.iterdir()} == {
            "service-account.pem": 0o600,
            "service-account.json": 0o600,
        }
        written = json.loads(side.files.json.read_text())
        assert (written["email"], written["name"]) == (note.email, "mirror")
        assert "PRIVATE" not in side.files.json.read_text()


@pytest.mark.parametrize("step", range(CREATING))
async def test_a_creation_that_was_killed_before_any_step_is_completed(tmp_path: Path, step: int) -> None:
    async with connected(tmp_path) as side:
        side.kill_at = step
        with pytest.raises(Killed):
            await side.create()
        side.kill_at = None

        note = await side.create()

        assert len(side.sandbox.service_accounts.accounts) == 1
        assert side.remote_keys() == [note.key_id]
        await side.proving(note)(note.key_id, side.files.key())
        assert names_in(tmp_path) == ["service-account.json", "service-account.pem"]


async def test_a_rotation_replaces_the_key_and_its_id(tmp_path: Path) -> None:
    async with connected(tmp_path) as side:
        old = await side.create()
        side.configure(old)
        side.steps = 0

        note = await side.rotate(old)

        assert side.steps == ROTATING
        assert_rotated(side, old, note)
        assert side.place.stat().st_mode & 0o777 == 0o640


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_rotated(side: Side, old: Note, note: Note) -> None:
    assert note.key_id != old.key_id
    assert side.remote_keys() == [note.key_id]
    assert side.place.read_text() == f'[auth]\nkey_id = "{note.key_id}" # ours\n'
    assert names_in(side.folder) == ["config.toml", "service-account.json", "service-account.pem"]
    assert side.files.pem.stat().st_mode & 0o777 == 0o600
    assert json.loads(side.files.json.read_text())["key_id"] == note.key_id


@pytest.mark.parametrize("step", range(ROTATING))
async def test_a_rotation_that_was_killed_before_any_step_is_completed(tmp_path: Path, step: int) -> None:
    async with connected(tmp_path) as side:
        old = await side.create()
        side.configure(old)
        side.steps, side.kill_at = 0, step
        with pytest.raises(Killed):
            await side.rotate(old)
        side.kill_at = None

        note = await side.rotate(old)

        assert_rotated(side, old, note)
        await side.proving(note)(note.key_id, side.files.key())


@pytest.mark.parametrize("text", ['auth = {{ key_id = "{}" }}\n', '[auth]\n"key_id" = "{}"\n'])
async def test_a_line_that_cannot_be_changed_is_named_and_nothing_is_removed(tmp_path: Path, text: str) -> None:
    async with connected(tmp_path) as side:
        old = await side.create()
        side.configure(old, text)
        rotation = replace(side.rotation(old), key_id=old.key_id)

        with pytest.raises(KeyIdUnchanged) as caught:
            await rotate(side.keys, rotation, side.files, side.place)

        new = next(key for key in side.remote_keys() if key != old.key_id)
        assert f'key_id = "{new}"' in caught.value.advice
        assert side.remote_keys() == [old.key_id, new]
        await rotate(side.keys, replace(rotation, key_id=new), side.files, side.place)
        assert side.remote_keys() == [new]


async def test_a_configuration_that_cannot_be_written_is_left(tmp_path: Path) -> None:
    async with connected(tmp_path) as side:
        old = await side.create()
        place = tmp_path / f"{'x' * 250}.toml"  # so long that no temporary file fits beside it
        place.write_text(f'[auth]\nkey_id = "{old.key_id}"\n')
        rotation = Rotation(service_account_id=old.service_account_id, key_id=old.key_id, prove=side.proving(old))

        with pytest.raises(KeyIdUnchanged, match="cannot be written") as caught:
            await rotate(side.keys, rotation, side.files, place)

        assert "run the command again" in caught.value.advice
        assert len(side.remote_keys()) == 2


async def test_a_rotation_of_an_account_of_another_app_is_refused(tmp_path: Path) -> None:
    async with connected(tmp_path) as side:
        note = Note(service_account_id="UNKNOWN", email="", name="", client_id="sandbox", key_id="k")
        side.configure(note)

        with pytest.raises(ConfigError, match="has no service account UNKNOWN"):
            await side.rotate(note)


async def test_the_files_keep_their_owner(tmp_path: Path) -> None:
    """Only root can give a file to another user, so that anyone else proves less here."""
    async with connected(tmp_path) as side:
        old = await side.create()
        side.configure(old)
        user = 12345 if os.geteuid() == 0 else os.geteuid()
        for path in (side.files.pem, side.place):
            os.chown(path, user, -1)

        await side.rotate(old)

        assert [path.stat().st_uid for path in (side.files.pem, side.place)] == [user, user]


async def test_a_key_that_does_not_work_replaces_nothing(tmp_path: Path) -> None:
    async with connected(tmp_path) as side:
        old = await side.create()
        side.configure(old)
        pem = side.files.key()
        rotation = side.rotation(old)

        async def refuse(_: str, __: str) -> None:
            message = "the key is not known"
            raise ServiceAccountRejected(message)

        with pytest.raises(ServiceAccountRejected, match="does not work yet: the key is not known") as caught:
            await rotate(side.keys, replace(rotation, prove=refuse), side.files, side.place)

        assert str(side.files.following().pem) in caught.value.advice
        assert side.files.key() == pem
        assert old.key_id in side.place.read_text()
        refused = side.files.following().note()
        side.files.following().pem.unlink()
        note = await side.rotate(old)
        assert refused is not None
        assert note.key_id != refused.key_id
        assert_rotated(side, old, note)


async def test_a_rotation_for_another_configured_key_is_refused(tmp_path: Path) -> None:
    async with connected(tmp_path) as side:
        old = await side.create()
        side.configure(old)
        side.steps, side.kill_at = 0, ROTATING - 8
        with pytest.raises(Killed):
            await side.rotate(old)
        side.kill_at = None
        side.configure(replace(old, key_id="third"))

        with pytest.raises(ConfigError, match="is third, but the rotation"):
            await side.rotate(old)


async def test_a_key_of_another_program_is_left(tmp_path: Path) -> None:
    async with connected(tmp_path) as side:
        side.kill_at = CREATING - 3
        with pytest.raises(Killed):
            await side.create()
        side.kill_at = None
        (account,) = side.sandbox.service_accounts.accounts
        side.clock.advance(3600)
        other = await side.admin.create_key(account)

        note = await side.create()

        assert side.remote_keys() == [other.id, note.key_id]
        assert other.id in side.said[0]


async def test_of_two_new_keys_none_is_deleted(tmp_path: Path) -> None:
    async with connected(tmp_path) as side:
        side.kill_at = CREATING - 2
        with pytest.raises(Killed):
            await side.create()
        side.kill_at = None
        (account,) = side.sandbox.service_accounts.accounts
        await side.admin.create_key(account)
        two = side.remote_keys()

        note = await side.create()

        assert side.remote_keys() == [*two, note.key_id]
        assert [words.split()[0] for words in side.said] == ["leaving", "leaving"]


async def test_a_private_key_that_dcsync_did_not_create_is_never_replaced(tmp_path: Path) -> None:
    async with connected(tmp_path) as side:
        side.files.pem.write_text("of another program")

        with pytest.raises(ConfigError, match="never overwrites a private key") as caught:
            await side.create()

        assert "--key-file" in caught.value.advice
        assert side.files.pem.read_text() == "of another program"
        assert side.sandbox.calls == []


async def test_a_note_of_another_account_is_not_overwritten(tmp_path: Path) -> None:
    async with connected(tmp_path) as side:
        await side.create()

        with pytest.raises(ConfigError, match="belongs to the service account mirror"):
            await side.create("another")
        side.files.json.write_text("[]")
        with pytest.raises(ConfigError, match="is not a note"):
            await side.create()


async def test_an_existing_account_gets_another_key_and_a_disabled_one_is_refused(tmp_path: Path) -> None:
    async with connected(tmp_path) as side:
        account = await side.admin.create("mirror", first_name="dcsync", last_name="mirror")
        await side.admin.set_status(account.id, DISABLED)

        with pytest.raises(ConfigError, match="not enabled") as caught:
            await side.create()
        assert "service-account enable mirror" in caught.value.advice
        await side.admin.set_status(account.id, "ENABLED")

        assert (await side.create()).service_account_id == account.id
        assert "exists already" in side.said[0]


async def test_without_room_for_a_third_key_nothing_changes(tmp_path: Path) -> None:
    async with connected(tmp_path) as side:
        old = await side.create()
        side.configure(old)
        for _ in range(MAX_KEYS - 1):
            await side.admin.create_key(old.service_account_id)

        with pytest.raises(AccessRefused, match="has exceeded the limit"):
            await side.rotate(old)

        assert old.key_id in side.place.read_text()
        await side.proving(old)(old.key_id, side.files.key())


async def test_a_key_is_replaced_in_another_file_in_two_runs(tmp_path: Path) -> None:
    async with connected(tmp_path) as side:
        old = await side.create()
        side.configure(old)
        other = KeyFiles(tmp_path / "other.pem")
        note = await prove_next(side.keys, side.rotation(old), other)
        assert await prove_next(side.keys, side.rotation(old), other) == note
        side.configure(note)

        await remove_replaced(side.keys, side.rotation(old), other, note, other.key())

        assert side.remote_keys() == [note.key_id]
        with pytest.raises(ConfigError, match="belongs to the key"):
            await prove_next(side.keys, side.rotation(old), other)
        with pytest.raises(ConfigError, match="belongs to the key"):
            await prove_next(side.keys, side.rotation(old), side.files)


async def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    async with connected(tmp_path / "file" / "below") as side:
        (tmp_path / "file").write_text("")

        with pytest.raises(ConfigError, match="cannot be written"):
            await side.create()
