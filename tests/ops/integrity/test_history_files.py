"""`verify` reads the files of row histories, each in its part, and never while a build replaces them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dcsync.app.from_config import account_settings
from dcsync.manifest.damage import known_damage
from dcsync.ops.integrity.history_files import building_lock
from dcsync.ops.integrity.report import Kind
from dcsync.ops.integrity.verify import verify
from tests.rigs.histories import add_day, build, folder_of, state_of
from tests.rigs.mirror import Mirror, status_of

NAMES = ("admin_users", "activities_admin")


@pytest.fixture
async def histories(mirror: Mirror) -> None:
    await add_day(mirror, {f"{name}.csv": f"id\n{name}\n".encode() for name in NAMES})
    await build(mirror)


def file_of(mirror: Mirror, name: str = NAMES[0]) -> Path:
    return folder_of(mirror) / f"{name}.parquet"


async def found(
    mirror: Mirror, part: tuple[int, int] | None = None, *, records: bool = False
) -> list[tuple[Kind, str]]:
    async with mirror.opened() as context:
        report = await verify(context, account_settings(mirror.configuration()), part=part, records=records)
    return [(damage.kind, damage.path.rpartition("/")[2]) for damage in report.damage]


def replaced(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def linked(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (lambda path: path.unlink(), Kind.MISSING),
        (lambda path: path.write_bytes(b"PAR1"), Kind.TRUNCATED),
        (replaced, Kind.CHANGED),
        (linked, Kind.CHANGED),
        (lambda path: (path.unlink(), path.mkdir()), Kind.MISSING),
    ],
)
async def test_each_kind_of_damage_is_named(mirror: Mirror, histories: None, damage: object, kind: Kind) -> None:
    assert await found(mirror) == []
    assert callable(damage)
    damage(file_of(mirror))

    assert await found(mirror) == [(kind, "admin_users.parquet")]


async def test_damage_stands_until_a_later_verify_finds_none(mirror: Mirror, histories: None) -> None:
    body = file_of(mirror).read_bytes()
    file_of(mirror).write_bytes(b"x")
    await found(mirror, records=True)
    async with mirror.opened() as context:
        (known,) = await known_damage(context.manifest, mirror.acme)
    assert known.path.endswith("history/admin_users.parquet")
    (account,) = (await status_of(mirror)).accounts
    (alert,) = [item.alert for item in account.alerts if item.alert.code == "V-DAMAGED"]
    assert "1 file of a row history does not match what was recorded (first: acme/" in alert.message
    assert "dcsync history --rebuild" in alert.hint

    file_of(mirror).write_bytes(body)
    assert await found(mirror, records=True) == []
    async with mirror.opened() as context:
        assert await known_damage(context.manifest, mirror.acme) == ()


async def test_each_file_belongs_to_one_part(mirror: Mirror, histories: None) -> None:
    for name in NAMES:
        file_of(mirror, name).write_bytes(b"x")
    parts = [await found(mirror, (number, 4)) for number in range(1, 5)]

    assert sorted(name for part in parts for _, name in part) == sorted(f"{name}.parquet" for name in NAMES)


async def test_a_file_that_a_build_has_just_replaced_is_no_damage(mirror: Mirror, histories: None) -> None:
    (identifier,) = mirror.world.requests
    replaced(file_of(mirror))
    async with mirror.opened() as context:
        slug = (await context.manifest.requests(mirror.acme))[identifier].slug  # type: ignore[index]
        with building_lock(context.root, slug):
            report = await verify(context, account_settings(mirror.configuration()))
    assert report.damage == []
    assert await found(mirror) != []


async def test_without_a_record_nothing_can_be_compared(mirror: Mirror, histories: None) -> None:
    wanted = state_of(mirror)
    (folder_of(mirror) / "history.json").write_bytes(b"{")
    assert await found(mirror) == []
    await build(mirror)
    assert state_of(mirror) == wanted


async def test_the_files_of_a_history_count_as_read(mirror: Mirror, histories: None) -> None:
    async with mirror.opened() as context:
        report = await verify(context, account_settings(mirror.configuration()))
    assert report.read_bytes > sum(file_of(mirror, name).stat().st_size for name in NAMES)
