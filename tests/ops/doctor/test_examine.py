"""Every check of `doctor`: what it says when all is well, and what when it is not."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dcsync.app.doctor import diagnose
from dcsync.auth.token_store import Intent, TokenPair, TokenStore, fingerprint
from dcsync.cluster import stores_for
from dcsync.core.model import AccountId, AccountName, DataRequest, Hub, RequestId
from dcsync.errors import ApiUnreachable, DiskError, DiskReadOnly, ExitStatus, SecretUnavailable
from dcsync.mirror.latest import LatestKind
from dcsync.mirror.probe import Abilities
from dcsync.ops.context import AccountSettings
from dcsync.ops.doctor import api as check_api
from dcsync.ops.doctor import machine as check_machine
from dcsync.ops.doctor.checks import ok, skipped, warned
from dcsync.ops.doctor.examine import NAMES, Check, Level, exit_status, worst
from dcsync.sandbox import Fault, World
from tests.auth.test_assertion import pem, public
from tests.fakes import make_request
from tests.rigs.mirror import TODAY, Mirror, add_extract, mirroring, tables

ACCOUNT_CHECKS = ["account.acme", "permission.acme", "requests.acme"]
EVERYTHING = [*NAMES[:-1], *ACCOUNT_CHECKS, NAMES[-1]]
FOREIGN = "00000000-0000-4000-8000-000000000000"


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value)


def write_config(mirror: Mirror) -> Path:
    lines = [f"{section} = {toml(value)}" for section, value in mirror.document().items() if section != "account"]
    lines += [f"account = [{', '.join(toml(account) for account in mirror.document()['account'])}]"]
    place = mirror.folder / "config.toml"
    place.write_text("\n".join(lines))
    place.chmod(0o600)
    return place


async def examine(mirror: Mirror) -> dict[str, Check]:
    """Return the checks by name."""
    checks = await diagnose(write_config(mirror), stores_for, environ=mirror.environ, clock=mirror.clock)
    assert len({check.name for check in checks}) == len(checks)
    return {check.name: check for check in checks}


def levels(checks: dict[str, Check]) -> dict[str, str]:
    """Return what is not ok."""
    return {name: check.level.value for name, check in checks.items() if check.level is not Level.OK}


def status(checks: dict[str, Check]) -> ExitStatus:
    return exit_status(list(checks.values()))


def chain(mirror: Mirror) -> None:
    """Let the configuration have a refresh token."""
    mirror.environ["SEED"] = mirror.sandbox.tokens.issue_refresh_token("tester")
    mirror.config["auth"] = {
        "method": "token",
        "client_id": "sandbox",
        "client_secret": "sandbox-secret",
        "refresh_token": "env:SEED",
    }


def make_state(mirror: Mirror) -> None:
    mirror.state.mkdir(mode=0o700)


def tree(path: Path) -> dict[str, tuple[int, int]]:
    """Return what is below a folder. The call window grows by design; SQLite's side files are its own."""
    own = {"quota", "manifest.sqlite-shm", "manifest.sqlite-wal"}
    found = {path, *path.rglob("*")}
    return {
        str(entry.relative_to(path)): (entry.lstat().st_ino, 0 if entry.is_dir() else entry.lstat().st_mtime_ns)
        for entry in found
        if entry.name not in own
    }


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
        write_config(mirror), stores_for, environ=mirror.environ, clock=mirror.clock, tell=told.append
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
    assert "auth.private_key: cannot read the secret file /not/there" in checks["secrets"].message
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
    of_the_root = ("mount", "staging", "space", "inodes", "write", "hardlinks", "symlinks", "rename")
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
        (["hardlinks"], "hardlinks", {"hardlinks": "fail"}),
        (["symlinks"], "symlink", {"symlinks": "fail"}),
        (["symlinks"], "hardlinks", {}),
        (["symlinks"], "none", {}),
        (["keeps_names"], "symlink", {"rename": "warn"}),
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
    assert list(checks) == ["hardlinks", "symlinks", "rename"]
    assert all(check.advice for check in checks.values() if check.level is not Level.OK)


def test_without_links_of_any_kind_only_none_is_advised() -> None:
    able = Abilities(hardlinks=False, clones=False, symlinks=False, keeps_names=True, exchanges=True)

    advice = {check.name: check.advice for check in check_machine.abilities(able, LatestKind.SYMLINK)}

    assert advice["symlinks"] == 'set mirror.latest to "none"'


# --- tokens -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age", "level", "said"),
    [
        (timedelta(days=9, hours=23), "ok", "valid until 2026-12-07 12:00"),
        (timedelta(days=10), "warn", "valid until 2026-12-07 12:00"),
        (timedelta(days=14, hours=23), "warn", "valid until 2026-12-07 12:00"),
        (timedelta(days=15), "fail", "expired on 2026-12-07"),
    ],
)
async def test_a_refresh_token_s_age_is_judged(mirror: Mirror, age: timedelta, level: str, said: str) -> None:
    chain(mirror)
    await mirror.sync()
    mirror.clock.advance(age.total_seconds())

    checks = await examine(mirror)

    assert checks["token"].level.value == level
    assert said in checks["token"].message
    assert status(checks) == (12 if level == "fail" else 0)
    if level == "fail":
        assert checks["api"].message == "needs token"
        assert mirror.sandbox.tokens.refresh_count == 1


async def test_a_fresh_access_token_spends_no_refresh_token(mirror: Mirror) -> None:
    chain(mirror)
    await mirror.sync()

    checks = await examine(mirror)

    assert checks["api"].level is Level.OK
    assert mirror.sandbox.tokens.refresh_count == 1


async def test_a_first_refresh_token_is_not_spent_where_the_next_one_could_not_be_kept(mirror: Mirror) -> None:
    chain(mirror)

    checks = await examine(mirror)

    assert "was not used yet" in checks["token"].message
    assert checks["api"].level is Level.SKIP
    assert "state.dir does not exist yet to store the next token" in checks["api"].message
    assert mirror.sandbox.tokens.refresh_count == 0
    assert not mirror.state.exists()


async def test_a_first_refresh_token_that_is_not_there_fails_and_is_not_missed_later(mirror: Mirror) -> None:
    chain(mirror)
    make_state(mirror)
    seed = mirror.environ.pop("SEED")

    checks = await examine(mirror)
    assert "SEED is not set" in checks["token"].message
    assert status(checks) == 2

    mirror.environ["SEED"] = seed
    await mirror.sync()
    del mirror.environ["SEED"]
    assert (await examine(mirror))["token"].level is Level.OK


async def test_a_login_without_a_stored_token_needs_one(mirror: Mirror) -> None:
    mirror.config["auth"] = {"method": "login", "client_id": "sandbox"}

    checks = await examine(mirror)

    assert checks["token"].message == "no token is stored in state.dir"
    assert checks["secrets"].message == "none needed"
    assert checks["api"].message == "needs token"
    assert status(checks) == 12


async def test_a_first_refresh_token_whose_chain_is_gone_is_not_offered_again(mirror: Mirror) -> None:
    chain(mirror)
    await mirror.sync()
    for path in (mirror.state / "token.json", mirror.state / "token.previous.json"):
        path.unlink()

    checks = await examine(mirror)

    assert "was already used" in checks["token"].message
    assert status(checks) == 12
    assert mirror.sandbox.tokens.refresh_count == 1


def service_account(mirror: Mirror) -> None:
    mirror.sandbox.tokens.service_accounts["robot"] = {"key-1": public()}
    mirror.environ["KEY"] = pem()
    mirror.config["auth"] = {
        "method": "service-account",
        "client_id": "sandbox",
        "client_secret": "sandbox-secret",
        "service_account_id": "robot",
        "key_id": "key-1",
        "private_key": "env:KEY",
    }


async def test_a_service_account_is_tried_before_there_is_a_state_folder(mirror: Mirror) -> None:
    service_account(mirror)

    checks = await examine(mirror)

    assert "without a deadline" in checks["token"].message
    assert checks["permission.acme"].level is Level.OK
    assert not mirror.state.exists()


@pytest.mark.parametrize(("key", "expected"), [(None, 12), ("no key", 2)])
async def test_a_service_account_that_is_not_accepted_fails_where_it_asks(
    mirror: Mirror, key: str | None, expected: int
) -> None:
    service_account(mirror)
    mirror.sandbox.tokens.service_accounts.clear()
    mirror.environ["KEY"] = key or mirror.environ["KEY"]

    checks = await examine(mirror)

    assert checks["api"].level is Level.FAIL
    assert "auth" in checks["api"].advice
    assert {checks[name].level for name in ACCOUNT_CHECKS} == {Level.SKIP}
    assert status(checks) == expected


def make_store(folder: Path, **intent: Any) -> TokenStore:
    store = TokenStore(folder)
    store.save(TokenPair(refresh_token="r", issued_at=TODAY))
    if intent:
        store.note_intent(Intent(spending=fingerprint("r"), attempt=1, at=TODAY, **intent))
    return store


def test_a_refresh_without_an_answer_is_warned_of(tmp_path: Path) -> None:
    check = check_machine.stored_token(make_store(tmp_path, refused=False), seed=None, now=TODAY)

    assert check.level is Level.WARN
    assert "the token refresh at 2026-11-22 12:00 UTC is unconfirmed" in check.message


def test_a_refused_refresh_token_needs_a_login_unless_a_new_one_is_given(tmp_path: Path) -> None:
    store = make_store(tmp_path, refused=True)
    new = check_machine.Secret(key="refresh_token", where="env:X", resolve=lambda: "another")

    with pytest.raises(Exception, match="at 2026-11-22 12:00 UTC \\(invalid_grant\\)"):
        check_machine.stored_token(store, seed=None, now=TODAY)

    store.save(TokenPair(refresh_token="r", issued_at=TODAY, seed=fingerprint("first")))
    assert "was not used yet" in check_machine.stored_token(store, seed=new, now=TODAY).message


def test_a_token_of_unknown_age_is_taken_as_it_is(tmp_path: Path) -> None:
    store = TokenStore(tmp_path)
    store.save(TokenPair(refresh_token="r"))

    assert check_machine.stored_token(store, seed=None, now=TODAY).level is Level.OK


def test_a_seed_that_is_gone_is_missed_only_while_no_token_is_stored(tmp_path: Path) -> None:
    def gone() -> str:
        message = "the environment variable X is not set"
        raise SecretUnavailable(message)

    seed = check_machine.Secret(key="refresh_token", where="env:X", resolve=gone)

    with pytest.raises(SecretUnavailable):
        check_machine.stored_token(TokenStore(tmp_path), seed=seed, now=TODAY)
    assert check_machine.stored_token(make_store(tmp_path), seed=seed, now=TODAY).level is Level.OK


# --- the API ----------------------------------------------------------------------------------------------------------


async def test_an_api_that_cannot_be_reached_fails_at_once_and_is_not_asked(mirror: Mirror) -> None:
    mirror.config["api"] = {"base_url": "http://127.0.0.1:9"}

    checks = await examine(mirror)

    assert "no connection to 127.0.0.1:9 (Connection refused)" in checks["network"].message
    assert [checks[name].level for name in ("api", "clock", *ACCOUNT_CHECKS, "quota")] == [Level.SKIP] * 6
    assert mirror.clock.slept == []
    assert status(checks) == 3


async def test_an_api_that_fails_leaves_the_rest_out(mirror: Mirror) -> None:
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=503, times=None))

    checks = await examine(mirror)

    assert checks["api"].level is Level.FAIL
    assert "returned 503" in checks["api"].message
    assert {checks[name].level for name in ACCOUNT_CHECKS} == {Level.SKIP}
    assert checks["clock"].level is Level.OK


async def test_a_token_that_is_not_accepted_needs_a_login(mirror: Mirror) -> None:
    mirror.environ["TOKEN"] = "wrong"

    checks = await examine(mirror)

    assert checks["api"].level is Level.FAIL
    assert checks["clock"].level is Level.OK
    assert {checks[name].level for name in ACCOUNT_CHECKS} == {Level.SKIP}
    assert status(checks) == 12


async def test_an_account_without_permission_says_which_role_is_missing(mirror: Mirror) -> None:
    mirror.config["account"] = [{"name": "acme", "id": FOREIGN}]

    checks = await examine(mirror)

    assert checks["account.acme"].level is Level.FAIL
    assert f"{FOREIGN} is not among the 1 hub" in checks["account.acme"].message
    assert checks["permission.acme"].level is Level.FAIL
    for name in ("account.acme", "permission.acme"):
        assert "Executive or Project Administrator role" in checks[name].advice
    assert checks["requests.acme"].message == "needs permission.acme"
    assert status(checks) == 13


async def test_an_account_that_fails_does_not_hide_the_next(mirror: Mirror) -> None:
    mirror.config["account"] = [{"name": "foreign", "id": FOREIGN}, {"name": "acme", "id": mirror.world.hub_id}]

    checks = await examine(mirror)

    assert checks["permission.foreign"].level is Level.FAIL
    assert checks["permission.acme"].level is Level.OK


async def test_hubs_that_may_not_be_seen_do_not_hide_the_accounts(mirror: Mirror) -> None:
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=403, match="/hubs"))

    checks = await examine(mirror)

    assert checks["api"].level is Level.FAIL
    assert checks["account.acme"].level is Level.SKIP
    assert checks["permission.acme"].level is Level.OK
    assert status(checks) == 13


def test_a_hub_that_is_not_seen_is_no_failure_where_its_jobs_are() -> None:
    account = AccountSettings(name=AccountName("acme"), id=AccountId("abcdef00-0000-4000-8000-000000000000"))
    hub = Hub(id="b.ABCDEF00-0000-4000-8000-000000000000", name="ACME\nInc", region="EMEA")

    assert check_api.visible(account, [hub], allowed=True).message == "ACME\\nInc (EMEA) is visible"
    assert check_api.visible(account, [], allowed=True).level is Level.WARN
    assert check_api.visible(account, [], allowed=False).exit_status is ExitStatus.PERMISSION_DENIED
    assert check_api.visible(account, None, allowed=True).level is Level.SKIP


async def test_a_project_administrator_s_projects_are_named_to_the_api(mirror: Mirror) -> None:
    mirror.config["account"] = [{"name": "acme", "id": mirror.world.hub_id, "projects": ["one", "two"]}]

    checks = await examine(mirror)

    calls = [call for call in mirror.sandbox.calls if call.path.endswith("/jobs")]
    assert [call.query["projectId"] for call in calls] == ["one", "two"]
    assert checks["permission.acme"].message == "jobs of 2 projects can be read"


async def test_no_requests_to_be_seen_is_warned_of_with_the_reason(mirror: Mirror) -> None:
    check = (await examine(mirror))["requests.acme"]

    assert check.level is Level.WARN
    assert "only data requests that the user itself created" in check.advice


async def test_requests_that_may_not_be_read_are_no_failure(mirror: Mirror) -> None:
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=403, match="/requests", body=b"no"))

    checks = await examine(mirror)

    assert checks["requests.acme"].level is Level.WARN
    assert "cannot be read" in checks["requests.acme"].message
    assert status(checks) == 0


def requests(*active: bool | None) -> list[DataRequest]:
    return [
        make_request(id=RequestId(f"request-{index}"), description=f"Request {index}", is_active=is_active)
        for index, is_active in enumerate(active)
    ]


@pytest.mark.parametrize(
    ("found", "wanted", "level", "said"),
    [
        (requests(True), (), "ok", "1 data request visible"),
        (requests(True, None), (), "ok", "2 data requests visible"),
        (requests(True, False), (), "warn", "2 data requests visible; 1 inactive: Request 1"),
        (requests(True, False), ("Request 0",), "ok", "2 data requests visible, 1 of them mirrored"),
        (requests(True, False), ("request-1",), "warn", "1 of them mirrored; 1 inactive: Request 1"),
        (requests(True), ("Nightly*",), "warn", "none of them in requests = [Nightly*]"),
        (requests(*[False] * 7), (), "warn", "7 inactive: Request 0, Request 1, Request 2, Request 3, Request 4, …"),
    ],
)
def test_requests_are_judged_by_what_comes_of_them(
    found: list[DataRequest], wanted: tuple[str, ...], level: str, said: str
) -> None:
    account = AccountSettings(name=AccountName("acme"), id=AccountId(FOREIGN), requests=wanted)

    check = check_api.requests_of(account, found)

    assert check.level.value == level
    assert said in check.message


@pytest.mark.parametrize(
    ("skew", "level", "said"),
    [
        (0.4, "ok", "within 1 s"),
        (-20.0, "ok", "within 20 s"),
        (21.0, "warn", "21 s ahead of"),
        (-120.0, "warn", "120 s behind"),
        (121.0, "fail", "121 s ahead of"),
        (None, "skip", "no answer"),
    ],
)
def test_the_clock_is_judged(skew: float | None, level: str, said: str) -> None:
    check = check_api.clock(skew)

    assert check.level.value == level
    assert said in check.message


async def test_a_clock_that_is_wrong_is_told_from_the_answer_s_date(tmp_path: Path) -> None:
    world = World(now=(TODAY - timedelta(minutes=5)).timestamp)
    async with mirroring(tmp_path, world) as mirror:
        checks = await examine(mirror)

    assert checks["clock"].level is Level.FAIL
    assert "300 s ahead of the API's" in checks["clock"].message
    assert "NTP" in checks["clock"].advice
    assert status(checks) == 3


async def test_a_quota_that_is_used_up_is_warned_of(mirror: Mirror) -> None:
    mirror.config["api"] = {"requests_per_minute": 1}

    check = (await examine(mirror))["quota"]

    assert check.level is Level.WARN
    assert check.message == "0 of 1 calls left in this minute"


async def test_its_calls_count(mirror: Mirror) -> None:
    check = (await examine(mirror))["quota"]

    assert check.message == "54 of 57 calls left in this minute"
    assert mirror.sandbox.count("api") == 3


async def test_an_answer_that_does_not_come_is_not_waited_for_for_ever() -> None:
    waiting: Callable[[], asyncio.Future[None]] = asyncio.get_running_loop().create_future

    with pytest.raises(ApiUnreachable, match="no answer from the API within"):
        await check_api.patient(waiting(), patience_s=0.01)


async def test_the_access_token_and_secrets_are_in_no_finding(mirror: Mirror) -> None:
    chain(mirror)
    make_state(mirror)
    mirror.config["auth"] = {**mirror.config["auth"], "refresh_token": mirror.environ["SEED"]}

    checks = await examine(mirror)

    said = " ".join(f"{check.message} {check.advice}" for check in checks.values())
    assert checks["api"].level is Level.OK
    assert "client_secret (in the configuration)" in said
    for secret in ("sandbox-secret", mirror.environ["SEED"]):
        assert secret not in said
