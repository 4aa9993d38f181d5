"""Every check of `doctor`: what it says when all is well, and what when it is not."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dcsync.app.doctor import diagnose
from dcsync.cluster import stores_for
from dcsync.errors import DiskError, DiskReadOnly, ExitStatus
from dcsync.mirror.latest import LatestKind
from dcsync.mirror.probe import Abilities
from dcsync.ops.doctor import machine as check_machine
from dcsync.ops.doctor.checks import ok, skipped, warned
from dcsync.ops.doctor.examine import NAMES, Check, Level, exit_status, worst
from tests.rigs.examined import (
    EVERYTHING,
    chain,
    examine,
    levels,
    make_state,
    status,
    tree,
    write_config,
)
from tests.rigs.mirror import Mirror, add_extract, tables


@contextmanager
def small_disk(path: Path, options: str) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True)


# --- all of it --------------------------------------------------------------------------------------------------------


async def test_all_is_well_after_a_run_and_every_check_is_made_in_its_order(mirror: Mirror) -> None:
    chain(mirror)
    add_extract(mirror, tables(2))
    await mirror.sync()

    checks = await examine(mirror)

    assert list(checks) == EVERYTHING
    assert levels(checks) == {}
    assert status(checks) == 0
    assert not any(check.advice for check in checks.values())


async def test_each_check_is_told_as_it_comes(mirror: Mirror) -> None:
    told: list[Check] = []

    checks = await diagnose(
        write_config(mirror), stores_for, environ=mirror.environ, clock=mirror.clock, report=told.append
    )

    assert told == checks


async def test_before_the_first_run_nothing_is_made(mirror: Mirror) -> None:
    checks = await examine(mirror)

    # The rig's token is a fixed one.
    assert levels(checks) == {"state.dir": "warn", "token": "warn", "requests.acme": "warn"}
    assert "the first run binds this folder" in checks["mount"].message
    assert not mirror.state.exists()
    assert list(mirror.root.iterdir()) == []


async def test_nothing_that_it_writes_lasts(mirror: Mirror) -> None:
    chain(mirror)
    add_extract(mirror, tables(2))
    await mirror.sync()
    before = tree(mirror.folder)

    await examine(mirror)

    after = tree(mirror.folder)
    after.pop("config.toml")
    assert after == before


async def test_it_works_beside_a_dcsync_at_work_and_says_who_it_is(mirror: Mirror) -> None:
    add_extract(mirror, tables(2))
    async with mirror.opened():
        checks = await examine(mirror)

        assert f"held by a sync, pid {os.getpid()}" in checks["lock"].message
        assert worst(list(checks.values())) is Level.WARN
    assert (await mirror.sync_one()).calls > 0


def test_the_worst_and_the_exit_status_are_those_of_what_was_looked_at() -> None:
    good, doubt, left_out = ok("a", ""), warned("b", "", ""), skipped("c", "")
    bad = Check(name="d", level=Level.FAIL, message="", exit_status=ExitStatus.LOGIN_REQUIRED)
    plain = Check(name="e", level=Level.FAIL, message="")

    assert (worst([good, left_out]), exit_status([good, left_out])) == (Level.OK, 0)
    assert (worst([good, doubt]), exit_status([good, doubt])) == (Level.WARN, 0)
    assert (worst([doubt, bad, plain]), exit_status([doubt, bad, plain])) == (Level.FAIL, 12)
    assert exit_status([plain, bad]) == 3


# --- configuration and secrets ----------------------------------------------------------------------------------------


async def test_without_a_configuration_all_else_is_skipped(tmp_path: Path) -> None:
    checks = await diagnose(tmp_path / "none.toml", stores_for, environ={})

    assert [check.name for check in checks] == list(NAMES)
    assert [check.level for check in checks] == [Level.FAIL, *[Level.SKIP] * (len(NAMES) - 1)]
    assert "dcsync init" in checks[0].advice
    assert exit_status(checks) == 2


async def test_a_broken_configuration_has_each_problem_named(tmp_path: Path) -> None:
    place = tmp_path / "config.toml"
    place.write_text('[mirror]\nroot = "x"\n[auth]\nmethod = "token"\n')

    (first, *_) = await diagnose(place, stores_for, environ={})

    assert [line.partition(".toml")[2] for line in first.message.split("\n")] == [
        ":2: mirror.root: 'x' is not an absolute path",
        ':3: auth: method = "token" needs refresh_token, or access_token (valid for one hour)',
    ]


async def test_no_account_yet_is_no_failure(mirror: Mirror) -> None:
    mirror.config["account"] = []

    checks = await examine(mirror)

    assert "it has no [[account]]" in checks["configuration"].message
    assert checks["configuration"].level is Level.WARN
    assert checks["api"].level is Level.OK
    assert list(checks) == list(NAMES)


async def test_every_secret_that_is_missing_is_named_and_the_api_is_not_asked(mirror: Mirror) -> None:
    chain(mirror)
    make_state(mirror)
    mirror.config["auth"] = {
        **mirror.config["auth"],
        "method": "service-account",
        "client_secret": "env:NOT_SET",
        "private_key": "file:/not/there",
        "service_account_id": "a",
        "key_id": "k",
    }

    checks = await examine(mirror)

    assert "auth.client_secret: the environment variable NOT_SET is not set" in checks["secrets"].message
    assert "auth.private_key: the secret file /not/there does not exist" in checks["secrets"].message
    assert checks["api"].message == "needs secrets"
    assert status(checks) == 2
    assert mirror.sandbox.count() == 0


# --- the state folder -------------------------------------------------------------------------------------------------


async def test_a_state_folder_that_others_can_enter_is_doubtful(mirror: Mirror) -> None:
    mirror.state.mkdir()
    mirror.state.chmod(0o750)

    check = (await examine(mirror))["state.dir"]

    assert check.level is Level.WARN
    assert "is open to others (mode 0750)" in check.message
    assert check.advice == f"chmod 700 {mirror.state}"


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"kind": "nfs4"}, "is on nfs4, a network file system"),
        ({"kind": "9p"}, "is on 9p"),
        ({"owner": 997}, "belongs to uid 997, but this is uid 0"),
        ({"mode": 0o701}, "mode 0701"),
        ({"free_bytes": 5 << 20}, "has 5 MiB left"),
    ],
)
def test_each_doubt_about_a_state_folder_says_what_to_do(facts: dict[str, Any], said: str) -> None:
    usual: dict[str, Any] = {"kind": "ext4", "owner": 0, "me": 0, "mode": 0o700, "free_bytes": 1 << 30}

    assert check_machine.state_doubts(Path("/state"), **usual) == []
    ((message, advice),) = check_machine.state_doubts(Path("/state"), **{**usual, **facts})
    assert said in message
    assert advice


async def test_a_state_folder_that_is_a_file_fails_and_what_needs_it_is_skipped(mirror: Mirror) -> None:
    mirror.state.write_text("")

    checks = await examine(mirror)

    assert checks["state.dir"].level is Level.FAIL
    assert "is not a folder" in checks["state.dir"].message
    assert checks["manifest"].message == checks["api"].message == "needs state.dir"
    assert checks["space"].level is Level.SKIP


async def test_a_state_folder_below_a_file_fails(mirror: Mirror) -> None:
    mirror.state.write_text("")
    mirror.config["state"] = {"dir": str(mirror.state / "below")}

    assert "cannot be read: Not a directory" in (await examine(mirror))["state.dir"].message


async def test_a_damaged_manifest_fails_with_its_own_status(mirror: Mirror) -> None:
    make_state(mirror)
    (mirror.state / "manifest.sqlite").write_bytes(b"no database" * 1000)

    checks = await examine(mirror)

    assert checks["manifest"].level is Level.FAIL
    assert checks["mount"].message == "needs manifest"
    assert status(checks) == 14
    assert list(mirror.root.iterdir()) == []


# --- the mirror's disk ------------------------------------------------------------------------------------------------


async def test_a_missing_root_is_said_and_what_needs_it_is_skipped(mirror: Mirror) -> None:
    mirror.root.rmdir()

    checks = await examine(mirror)

    assert checks["mirror.root"].level is Level.FAIL
    assert f"mkdir -p {mirror.root}" in checks["mirror.root"].advice
    of_the_root = (
        *("mount", "staging", "folders", "space", "inodes"),
        *("write", "hardlinks", "symlinks", "rename", "modes", "latest"),
    )
    assert {(checks[name].level, checks[name].message) for name in of_the_root} == {(Level.SKIP, "needs mirror.root")}
    assert checks["api"].level is Level.OK
    assert status(checks) == 14


async def test_an_unmounted_root_is_unsafe_and_not_written_to(mirror: Mirror) -> None:
    add_extract(mirror, tables(1))
    await mirror.sync()
    mirror.root.rename(mirror.folder / "elsewhere")
    mirror.root.mkdir()
    before = mirror.root.stat().st_mtime_ns

    checks = await examine(mirror)

    assert "has snapshots, but" in checks["mount"].message
    assert checks["mount"].advice == "mount the mirror's disk, or correct mirror.root"
    assert checks["write"].message == checks["space"].message == "needs mount"
    assert status(checks) == 14
    assert mirror.root.stat().st_mtime_ns == before


async def test_somebody_else_s_mirror_is_not_written_to(mirror: Mirror) -> None:
    (mirror.root / ".dcsync").mkdir()
    (mirror.root / ".dcsync/instance").write_text('{"id": "theirs"}')
    before = (mirror.root / ".dcsync").stat().st_mtime_ns

    checks = await examine(mirror)

    assert "belongs to the instance theirs" in checks["mount"].message
    assert checks["write"].level is Level.SKIP
    assert status(checks) == 14
    assert (mirror.root / ".dcsync").stat().st_mtime_ns == before


@pytest.mark.needs_root
def test_a_read_only_root_fails(tmp_path: Path) -> None:
    with small_disk(tmp_path, "ro"), pytest.raises(DiskReadOnly, match="read-only file system"):
        check_machine.root(tmp_path)


@pytest.mark.needs_root
def test_an_own_folder_on_another_file_system_fails(tmp_path: Path) -> None:
    assert "does not exist yet" in check_machine.staging(tmp_path).message
    (tmp_path / ".dcsync").mkdir()
    assert "on the mirror's file system" in check_machine.staging(tmp_path).message

    with small_disk(tmp_path / ".dcsync", "size=1m"), pytest.raises(DiskError, match="different file system") as caught:
        check_machine.staging(tmp_path)

    assert caught.value.advice == "unmount the file system that is mounted there"


@pytest.mark.needs_root
def test_folders_on_other_file_systems_are_warned_of(tmp_path: Path) -> None:
    assert check_machine.folders(tmp_path, 3).level is Level.OK
    for name in ("acme", "globex"):
        (tmp_path / name).mkdir()

    with small_disk(tmp_path / "acme", "size=1m"), small_disk(tmp_path / "globex", "size=1m"):
        check = check_machine.folders(tmp_path, 3)

    assert check.level is Level.WARN
    assert [line.split(" is ")[0] for line in check.message.splitlines()] == [
        str(tmp_path / name) for name in ("acme", "globex")
    ]
    assert check.advice.startswith("move the content of that folder to the file system of mirror.root")
    assert "; " not in check.advice


async def test_less_space_than_is_to_stay_free_is_warned_of(mirror: Mirror) -> None:
    mirror.config["mirror"] = {"min_free": "1000 TiB"}

    check = (await examine(mirror))["space"]

    assert check.level is Level.WARN
    assert "less than mirror.min_free (1024000.0 GiB)" in check.message


@pytest.mark.needs_root
def test_few_inodes_are_warned_of(tmp_path: Path) -> None:
    with small_disk(tmp_path, "nr_inodes=500"):
        check = check_machine.inodes(tmp_path)

    assert check.level is Level.WARN
    assert "499 inodes free" in check.message


@pytest.mark.needs_root
async def test_a_full_disk_fails_where_it_is_written_to(mirror: Mirror) -> None:
    with small_disk(mirror.root, "nr_inodes=1"):
        checks = await examine(mirror)

    assert checks["write"].level is Level.FAIL
    assert "No space left" in checks["write"].message
    assert checks["rename"].message == "needs write"


@pytest.mark.parametrize(
    ("lacks", "latest", "expected"),
    [
        ([], "symlink", {}),
        (["hardlinks"], "symlink", {}),
        (["hardlinks", "clones"], "symlink", {"hardlinks": "warn"}),
        (["hardlinks"], "hardlinks", {"hardlinks": "warn"}),
        (["symlinks"], "symlink", {"symlinks": "fail"}),
        (["symlinks"], "hardlinks", {}),
        (["symlinks"], "none", {}),
        (["keeps_names"], "symlink", {"rename": "warn"}),
        (["sets_modes"], "symlink", {"modes": "warn"}),
        (["exchanges"], "symlink", {}),
        (["exchanges"], "hardlinks", {"rename": "warn"}),
    ],
)
def test_what_a_disk_cannot_do_counts_by_what_is_asked_of_it(
    lacks: Sequence[str], latest: str, expected: dict[str, str]
) -> None:
    able = Abilities(**{name: name not in lacks for name in Abilities.__dataclass_fields__})

    checks = {check.name: check for check in check_machine.abilities(able, LatestKind(latest))}

    assert levels(checks) == expected
    assert list(checks) == ["hardlinks", "symlinks", "rename", "modes"]
    assert all(check.advice for check in checks.values() if check.level is not Level.OK)


async def test_latest_of_each_data_request_is_checked(mirror: Mirror) -> None:
    assert (await examine(mirror))["latest"].message == "the next run makes it"
    add_extract(mirror, tables(1))
    other = mirror.world.add_request("Other")
    add_extract(mirror, tables(1), request=other)
    await mirror.sync()
    latest = next(mirror.root.glob("acme/other-*/latest"))
    assert (await examine(mirror))["latest"].message == "shows the newest snapshot of 2 data requests"

    latest.unlink()
    check = (await examine(mirror))["latest"]
    assert (check.level, check.advice) == (Level.WARN, "run dcsync sync, or restart the daemon: both move it")
    assert "/latest does not show the newest snapshot, acme/other-" in check.message

    latest.mkdir()
    (latest / "notes.txt").write_text("theirs")
    check = (await examine(mirror))["latest"]
    assert check.level is Level.WARN
    assert f"{latest.relative_to(mirror.root)} has notes.txt, which dcsync did not write" in check.message
    await mirror.sync()
    assert "latest of 'Other' is not up to date" in (await examine(mirror))["latest"].message
    assert (latest / "notes.txt").read_text() == "theirs"


@pytest.mark.parametrize("kind", ["symlink", "hardlinks", "none"])
async def test_latest_is_checked_in_the_way_that_the_configuration_wants(mirror: Mirror, kind: str) -> None:
    add_extract(mirror, tables(1))
    mirror.config["mirror"] = {"latest": "symlink"}
    await mirror.sync()
    mirror.config["mirror"] = {"latest": kind}

    expected = {"symlink": Level.OK, "hardlinks": Level.WARN, "none": Level.OK}
    assert (await examine(mirror))["latest"].level is expected[kind]
    await mirror.sync()
    assert (await examine(mirror))["latest"].level is Level.OK


def test_without_links_of_any_kind_only_none_is_advised() -> None:
    able = Abilities(hardlinks=False, clones=False, symlinks=False, keeps_names=True, exchanges=True, sets_modes=True)

    advice = {check.name: check.advice for check in check_machine.abilities(able, LatestKind.SYMLINK)}

    assert advice["symlinks"] == 'set mirror.latest to "none"'
