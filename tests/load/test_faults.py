"""What can go wrong in a target. Each failure names target, table and reason, and the next load mends it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from dcsync.errors import ConfigError, LoadFailed, LoadRefused, TargetUnusable, ValueRefused
from dcsync.load import Way, opened
from tests.rigs.disks import workshop
from tests.rigs.loads import Goal, goal, latest, shows
from tests.rigs.ports import free_port
from tests.rigs.postgres import Postgres

USERS = b"id,name\n1,Ada\n2,Grace\n"
NEXT = b"id,name\n1,Ada\n3,Edsger\n"
PASSWORD = "canary-s3cr3t/pass word"
QUOTED = "canary-s3cr3t%2Fpass%20word"


@pytest.fixture
def server(postgres_server: Postgres, tmp_path: Path) -> Goal:
    return goal("postgresql", tmp_path, postgres_server)


def with_login(address: str, login: str) -> str:
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=f"{login}@{parts.netloc.rpartition('@')[2]}"))


def everything_about(error: BaseException) -> str:
    """Return all that a log could have of an error."""
    text = "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))
    chained = error.__cause__
    return text + ("" if chained is None else everything_about(chained))


def addresses(server: Goal, tmp_path: Path) -> dict[str, str]:
    """Return addresses with a password that fail in different places."""
    gone = f"postgresql://dcsync:{QUOTED}@127.0.0.1:{free_port()}/nothing"
    return {
        "away": gone,
        "refused": with_login(server.address, f"guarded:{QUOTED}"),
        "no such database": with_login(server.address, f"dcsync:{QUOTED}") + "_missing",
        "unknown option": gone + f"?nonsense={QUOTED}",
        "bad port": f"postgresql://dcsync:{QUOTED}@127.0.0.1:canary/nothing",
        "a password in the query": f"postgresql://127.0.0.1:{free_port()}/nothing?user=dcsync&password={QUOTED}",
    }


@pytest.mark.parametrize("kind", addresses(Goal("postgresql://x@127.0.0.1/x", Path()), Path()))
def test_a_target_that_is_away_is_named_without_its_password(server: Goal, tmp_path: Path, kind: str) -> None:
    address = addresses(server, tmp_path)[kind]
    with replace(server, address=address).opened() as target:
        for attempt in (target.shown, lambda: latest(target, tmp_path, USERS), lambda: target.mark([shows(USERS)])):
            with pytest.raises(LoadFailed) as caught:
                attempt()
            assert isinstance(caught.value, TargetUnusable)
            assert caught.value.target.startswith("postgresql://127.0.0.1:")
            said = everything_about(caught.value) + repr(target) + repr(vars(target).get("_options"))
            for secret in (PASSWORD, QUOTED, "canary-s3cr3t"):
                assert secret not in said


@pytest.mark.parametrize("said", ["{address}", "password={password}", "{quoted} in {address}", "sslkey {key}"])
@pytest.mark.parametrize("scheme", ["postgresql", "snowflake", "s3"])
def test_a_message_of_a_driver_loses_what_is_secret_in_the_address(tmp_path: Path, scheme: str, said: str) -> None:
    address = f"{scheme}://user:{QUOTED}@host/database?key=canary-key&mode=on"
    message = said.format(address=address, password=PASSWORD, quoted=QUOTED, key="canary-key")
    target = opened(address, dataset="acc", work=tmp_path, memory=1)
    with target, pytest.raises(LoadFailed) as caught, target.failing("users"):
        raise RuntimeError(message)
    assert "canary" not in everything_about(caught.value)
    assert "users" in str(caught.value)


def test_each_cause_has_a_hint_of_its_own(server: Goal, tmp_path: Path) -> None:
    wanted = {
        "away": "check that PostgreSQL runs",
        "refused": "check user and password",
        "no such database": "create the database",
    }
    for kind, hint in wanted.items():
        with replace(server, address=addresses(server, tmp_path)[kind]).opened() as target:
            with pytest.raises(TargetUnusable) as caught:
                target.shown()
            assert hint in caught.value.advice


def test_a_lost_connection_fails_one_load_and_not_the_next(server: Goal, tmp_path: Path) -> None:
    with server.opened() as target:
        latest(target, tmp_path, USERS)
        server.tell("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'dcsync'")
        with pytest.raises(TargetUnusable, match="users"):
            latest(target, tmp_path, NEXT, day=2)
        assert latest(target, tmp_path, NEXT, day=2).way is Way.WHOLE
    assert server.rows() == [("1", "Ada"), ("3", "Edsger")]


def test_a_user_needs_no_more_than_the_right_to_create_tables_in_the_schema(server: Goal, tmp_path: Path) -> None:
    role = f"limited_{os.getpid()}"
    database = urlsplit(server.address).path.strip("/")
    for statement in (
        f"CREATE ROLE {role} LOGIN",
        f"REVOKE ALL ON DATABASE {database} FROM PUBLIC",
        f"GRANT CONNECT ON DATABASE {database} TO {role}",
        "CREATE SCHEMA {t}",
    ):
        server.tell(statement)
    try:
        limited = replace(server, address=with_login(server.address, role))
        with limited.opened() as target:
            with pytest.raises(LoadFailed, match="permission denied") as caught:
                latest(target, tmp_path, USERS)
            assert "right to create tables" in caught.value.advice
            server.tell(f"GRANT USAGE, CREATE ON SCHEMA {{t}} TO {role}")
            assert latest(target, tmp_path, USERS).way is Way.WHOLE
            server.tell("ALTER TABLE {t}.users OWNER TO dcsync")
            with pytest.raises(LoadFailed, match=r"permission denied|must be owner"):
                latest(target, tmp_path, NEXT, day=2)
            server.tell(f"ALTER TABLE {{t}}.users OWNER TO {role}")
            assert latest(target, tmp_path, NEXT, day=2).way is Way.WHOLE
    finally:
        server.tell(f"DROP OWNED BY {role}")
        server.tell(f"DROP ROLE {role}")


@pytest.mark.parametrize("kind", ["postgresql", "duckdb", "sqlite", "file"])
def test_a_check_that_a_load_could_write_leaves_nothing(kind: str, tmp_path: Path, postgres_server: Postgres) -> None:
    folder = tmp_path / "target"
    folder.mkdir()
    place = goal(kind, folder, postgres_server)
    with place.opened() as target:
        target.check_writable()
        assert [path.name for path in folder.rglob("*") if path.name not in {"work", "lake"}] == []
        if kind == "postgresql":
            assert place.ask("SELECT 1 FROM pg_namespace WHERE nspname = 'acc'") == []
        latest(target, tmp_path, USERS)
        before = target.shown()
        target.check_writable()
        assert target.shown() == before
    assert len(place.rows()) == 2


@pytest.mark.parametrize("kind", ["duckdb", "sqlite", "file"])
def test_a_check_finds_a_folder_that_is_missing(kind: str, tmp_path: Path) -> None:
    with Goal(f"{kind}://{tmp_path}/missing/acc", tmp_path).opened() as target, pytest.raises(TargetUnusable):
        target.check_writable()


def test_a_check_finds_a_missing_right(server: Goal) -> None:
    database = urlsplit(server.address).path.strip("/")
    server.tell(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    try:
        with server.opened() as target, pytest.raises(LoadFailed, match="read-only transaction"):
            target.check_writable()
    finally:
        with psycopg.connect(
            server.address, autocommit=True, options="-c default_transaction_read_only=off"
        ) as session:
            session.execute(f"ALTER DATABASE {database} RESET default_transaction_read_only".encode())


def test_a_read_only_database_is_left_as_it_is(server: Goal, tmp_path: Path) -> None:
    database = urlsplit(server.address).path.strip("/")
    server.tell(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    with server.opened() as target, pytest.raises(LoadFailed, match="read-only transaction"):
        latest(target, tmp_path, USERS)
    with psycopg.connect(server.address, autocommit=True, options="-c default_transaction_read_only=off") as session:
        session.execute(f"ALTER DATABASE {database} RESET default_transaction_read_only".encode())
    with server.opened() as target:
        assert latest(target, tmp_path, USERS).way is Way.WHOLE


def test_a_reader_sees_one_snapshot_even_if_its_transaction_began_before(server: Goal, tmp_path: Path) -> None:
    with server.opened() as target:
        latest(target, tmp_path, USERS)
        with psycopg.connect(server.address) as early:
            early.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            early.execute("SELECT 1 FROM pg_class LIMIT 1")
            latest(target, tmp_path, NEXT, day=2)
            rows = early.execute("SELECT id FROM acc.users ORDER BY 1").fetchall()
    assert rows == [("1",), ("3",)]


def test_a_reader_that_keeps_a_table_delays_its_load_and_no_other(server: Goal, tmp_path: Path) -> None:
    with server.opened(patience_s=0.2) as target:
        latest(target, tmp_path, USERS)
        with psycopg.connect(server.address) as reader:
            reader.execute("SELECT * FROM acc.users")
            with pytest.raises(LoadFailed, match="another session used the table") as caught:
                latest(target, tmp_path, NEXT, day=2)
            assert not isinstance(caught.value, TargetUnusable)
            assert latest(target, tmp_path, USERS, table="others").way is Way.WHOLE
    with server.opened() as target:
        assert latest(target, tmp_path, NEXT, day=2).way is Way.WHOLE


@pytest.mark.parametrize(
    "bond",
    [
        "CREATE VIEW {t}.seen AS SELECT name FROM {t}.users",
        "ALTER TABLE {t}.users ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY mine ON {t}.users USING (name = current_user)",
        "ALTER TABLE {t}.users REPLICA IDENTITY FULL; CREATE PUBLICATION changes FOR TABLE {t}.users",
    ],
    ids=["view", "row security", "policy", "publication"],
)
def test_what_users_attach_to_a_table_stays(server: Goal, tmp_path: Path, bond: str) -> None:
    identity = "SELECT '{t}.users'::regclass::oid"
    with server.opened() as target:
        latest(target, tmp_path, USERS)
        server.tell(bond)
        before = server.ask(identity)
        latest(target, tmp_path, b"id,name,mail\n5,Barbara,b@example.com\n", day=2)
        assert server.ask(identity) == before
        # A table without bonds is another one after each load.
        latest(target, tmp_path, USERS, table="others")
    assert server.rows() == [("5", "Barbara", "b@example.com")]


def test_a_type_cannot_change_below_a_view(server: Goal, tmp_path: Path) -> None:
    with server.opened() as target:
        latest(target, tmp_path, USERS)
        server.tell("CREATE VIEW {t}.seen AS SELECT id FROM {t}.users")
        with pytest.raises(LoadRefused, match="cannot alter type of a column used by a view"):
            latest(target, tmp_path, NEXT, day=2, types={"id": "BIGINT"})
        server.tell("DROP VIEW {t}.seen")
        latest(target, tmp_path, NEXT, day=2, types={"id": "BIGINT"})
    assert server.rows() == [(1, "Ada"), (3, "Edsger")]


def test_rights_and_indexes_of_a_table_stay(server: Goal, tmp_path: Path) -> None:
    with server.opened() as target:
        latest(target, tmp_path, USERS)
        server.tell("GRANT SELECT ON {t}.users TO PUBLIC")
        server.tell("CREATE INDEX by_name ON {t}.users (lower(name)) WHERE id > '1'")
        server.tell("CREATE UNIQUE INDEX by_id ON {t}.users USING btree (id)")
        before = server.ask("SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'acc' ORDER BY 1")
        latest(target, tmp_path, NEXT, day=2)
        latest(target, tmp_path, USERS, day=3)
    rights = server.ask(
        "SELECT privilege_type FROM information_schema.table_privileges "
        "WHERE grantee = 'PUBLIC' AND table_name = 'users'"
    )
    assert rights == [("SELECT",)]
    assert server.ask("SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'acc' ORDER BY 1") == before
    assert [name for name, _ in before] == ["_dcsync_loads_pkey", "by_id", "by_name"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [(b"id,ctid\n1,2\n", 'column name "ctid" conflicts'), (b"id,name\n1,a\x00b\n", "line 2")],
    ids=["a name", "a zero byte"],
)
def test_what_the_database_refuses_is_named(server: Goal, tmp_path: Path, body: bytes, reason: str) -> None:
    with server.opened() as target:
        with pytest.raises(LoadRefused, match=reason) as caught:
            latest(target, tmp_path, body)
        assert caught.value.table == "users"
        assert isinstance(caught.value, ValueRefused) == (b"\x00" in body)
        assert latest(target, tmp_path, USERS).way is Way.WHOLE


@pytest.mark.parametrize("kind", ["postgresql", "sqlite", "file"])
def test_two_loaders_at_once_double_nothing(kind: str, tmp_path: Path, postgres_server: Postgres) -> None:
    place = goal(kind, tmp_path, postgres_server)
    with place.opened() as target:
        latest(target, tmp_path, USERS)
        seen = target.shown()["users"]
    together = threading.Barrier(2, timeout=60)

    def run(number: int) -> Way:
        folder = tmp_path / str(number)
        folder.mkdir()
        with replace(place, folder=folder).opened() as target:
            target.shown()
            together.wait()
            return latest(target, folder, NEXT, day=2, seen=seen).way

    with ThreadPoolExecutor(2) as pool:
        ways = sorted(pool.map(run, range(2)))
    assert ways == [Way.ALREADY, Way.WHOLE]
    assert place.rows() == [("1", "Ada"), ("3", "Edsger")]


@pytest.mark.needs_root
@pytest.mark.machine
@pytest.mark.parametrize("kind", ["duckdb", "sqlite", "file"])
def test_a_full_disk_leaves_the_rows_before(kind: str, tmp_path: Path) -> None:
    body = b"id,name\n" + b"".join(b"%d,%s\n" % (number, os.urandom(60).hex().encode()) for number in range(60_000))
    with workshop() as made:
        small = made.memory("load", "size=3M")
        place = goal(kind, small)
        with place.opened() as target:
            latest(target, small, USERS)
        roomy = tmp_path / "rows"
        roomy.mkdir()
        with place.opened() as target, pytest.raises(LoadFailed, match=r"(?i)full|space"):
            latest(target, roomy, body, day=2)
        assert place.rows() == [("1", "Ada"), ("2", "Grace")]
        with place.opened() as target:
            assert target.shown()["users"].job == "job-1"
            assert latest(target, roomy, NEXT, day=3).way is Way.WHOLE
        assert place.rows() == [("1", "Ada"), ("3", "Edsger")]


@pytest.mark.needs_root
@pytest.mark.machine
def test_a_full_database_server_leaves_the_rows_before(tmp_path: Path, postgres_server: Postgres) -> None:
    place = Goal(postgres_server.fresh(), tmp_path)
    database = urlsplit(place.address).path.strip("/")
    body = b"id,name\n" + b"".join(b"%d,%s\n" % (number, b"x" * 100) for number in range(60_000))
    owner = (postgres_server.folder / "data").stat()
    with workshop() as made:
        # The server runs as another user, who has to reach the place.
        made.folder.chmod(0o711)
        small = made.memory("tablespace", "size=5M,mode=0700")
        os.chown(small, owner.st_uid, owner.st_gid)
        place.tell(f"CREATE TABLESPACE small_{os.getpid()} LOCATION '{small}'")
        try:
            with place.opened() as target:
                latest(target, tmp_path, USERS)
                place.tell(f"ALTER DATABASE {database} SET default_tablespace = small_{os.getpid()}")
            with place.opened() as target:
                with pytest.raises(LoadFailed, match="No space left on device") as caught:
                    latest(target, tmp_path, body, day=2)
                assert not isinstance(caught.value, TargetUnusable)
                assert target.shown()["users"].job == "job-1"
                assert latest(target, tmp_path, NEXT, day=3).way is Way.WHOLE
            assert place.rows() == [("1", "Ada"), ("3", "Edsger")]
        finally:
            postgres_server.execute(f"DROP DATABASE {database} WITH (FORCE)")
            postgres_server.execute(f"DROP TABLESPACE small_{os.getpid()}")


@pytest.mark.parametrize("kind", ["duckdb", "sqlite"])
def test_a_file_of_something_else_is_not_touched(kind: str, tmp_path: Path) -> None:
    place = goal(kind, tmp_path)
    Path(place.path).write_bytes(b"something else " * 100)
    with place.opened() as target:
        for attempt in (target.shown, lambda: latest(target, tmp_path, USERS)):
            with pytest.raises(TargetUnusable):
                attempt()
    assert Path(place.path).read_bytes() == b"something else " * 100


@pytest.mark.parametrize("kind", ["duckdb", "sqlite", "file"])
def test_a_missing_folder_is_not_created(kind: str, tmp_path: Path) -> None:
    place = Goal(f"{kind}://{tmp_path}/missing/acc", tmp_path)
    with place.opened() as target:
        assert target.shown() == {}
        with pytest.raises(TargetUnusable, match=f"the folder {tmp_path}/missing.* does not exist") as caught:
            latest(target, tmp_path, USERS)
    assert "create it, mount its disk" in caught.value.advice
    assert not (tmp_path / "missing").exists()


def test_a_duckdb_file_that_another_process_has_open_is_named(tmp_path: Path) -> None:
    place = goal("duckdb", tmp_path)
    program = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program, place.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == b"open\n"
        with place.opened() as target, pytest.raises(TargetUnusable, match=r"(?i)lock") as caught:
            latest(target, tmp_path, USERS)
        assert "close the programs" in caught.value.advice
        other.stdin.close()
    with place.opened() as target:
        assert latest(target, tmp_path, USERS).way is Way.WHOLE


@pytest.mark.parametrize(
    "address", ["duckdb://acc.db", "sqlite://host/acc.db", "file:relative", "ftp://x/y", "s3://?x=y", "duckdb://"]
)
def test_an_address_that_cannot_be_used_is_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, ValueError)), ExitStack() as stack:  # noqa: PT012 - the first or the second line
        target = stack.enter_context(opened(address, dataset="acc", work=tmp_path, memory=1))
        target.shown()


def test_dlt_reads_no_settings_and_leaves_no_files(tmp_path: Path) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for folder in (home, elsewhere / ".dlt", home / ".dlt"):
        folder.mkdir(parents=True)
    for folder in (elsewhere, home):
        (folder / ".dlt/secrets.toml").write_text("[destination.duckdb]\ncredentials = 'duckdb:////nonsense'\n")
    program = """
import os, sys
from pathlib import Path
import dcsync.load
assert "dlt" not in sys.modules
from tests.rigs.loads import goal, latest
folder = Path(sys.argv[1])
with goal("duckdb", folder).opened() as target:
    latest(target, folder, b"id\\n1\\n")
assert "dlt" in sys.modules
"""
    files = sorted(path for path in tmp_path.rglob("*"))
    environ = {
        **os.environ,
        "HOME": str(home),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "DESTINATION__DUCKDB__CREDENTIALS": "duckdb:////nonsense",
        "CREDENTIALS": "duckdb:////nonsense",
    }
    place = tmp_path / "place"
    place.mkdir()
    subprocess.run([sys.executable, "-c", program, str(place)], cwd=elsewhere, env=environ, check=True)
    assert sorted(path for path in tmp_path.rglob("*") if not path.is_relative_to(place)) == files
