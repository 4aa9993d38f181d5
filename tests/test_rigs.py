"""The rigs hold what the other tests trust them for."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa
from aiohttp import ClientSession
from aioresponses import aioresponses
from sqlalchemy.sql.elements import ClauseElement

from dcsync.manifest import open_manifest
from tests.rigs import nspawn
from tests.rigs.ended import end
from tests.rigs.postgres import Postgres
from tests.rigs.syscalls import Call, Watch, watching

REPOSITORY: Final = Path(__file__).parent.parent


# --- the mock ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size_bytes", [0, 100, 128 * 1024 + 1, 1024 * 1024])
async def test_the_mock_serves_a_body_of_any_size(size_bytes: int) -> None:
    with aioresponses() as mock:
        mock.get("https://api.invalid/x", body=b"x" * size_bytes)
        async with ClientSession() as session, session.get("https://api.invalid/x") as response:
            assert await response.read() == b"x" * size_bytes


async def test_the_mock_serves_json_with_a_status_and_headers() -> None:
    with aioresponses() as mock:
        mock.get("https://api.invalid/x", status=429, payload={"detail": "slow"}, headers={"Retry-After": "7"})
        async with ClientSession() as session, session.get("https://api.invalid/x") as response:
            assert response.status == 429
            assert response.headers["Retry-After"] == "7"
            assert await response.json() == {"detail": "slow"}


# --- lost exceptions --------------------------------------------------------------------------------------------------


async def test_a_lost_exception_is_heard(lost_exceptions: list[dict[str, Any]]) -> None:
    async def fails() -> None:
        raise ValueError("lost")

    task = asyncio.ensure_future(fails())  # noqa: TID251 - the fault under test
    await asyncio.wait([task])
    del task

    assert [repr(context["exception"]) for context in lost_exceptions] == ["ValueError('lost')"]
    lost_exceptions.clear()


INNER: Final = """
    import asyncio
    import pytest

    async def test_loses_a_task():
        async def fails():
            raise ValueError("nobody waits")
        asyncio.get_running_loop().create_task(fails())
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def test_loses_a_task_in_a_cycle():
        async def fails():
            raise ValueError("in a circle")
        class Owner: pass
        owner = Owner()
        owner.me, owner.task = owner, asyncio.get_running_loop().create_task(fails())
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def test_loses_a_callback():
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await asyncio.sleep(0)

    async def test_is_clean(): pass

    @pytest.mark.needs_tool("no-such-program")
    def test_needs_a_tool(): pass

    @pytest.mark.needs_root
    def test_needs_root(): pass

    def test_gives_up():
        pytest.skip("not today")

    @pytest.mark.xfail(reason="known")
    def test_is_known_to_fail():
        assert False
"""
BESIDE: Final = ("-n", "2", "--dist", "loadgroup")
GIVES_UP: Final = 'import pytest\npytest.skip("all of it", allow_module_level=True)\n'


def inner_session(folder: Path, *options: str, ci: bool, **modules: str) -> str:
    """Run pytest over modules with our configuration and plugin, and return what it says."""
    for name, text in modules.items():
        (folder / f"test_{name}.py").write_text(textwrap.dedent(text))
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-c", str(REPOSITORY / "pyproject.toml")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "CI": "true" if ci else ""}
    answer = subprocess.run(
        [
            *command,
            *options,
            "-p",
            "no:cacheprovider",
            "--continue-on-collection-errors",
            "--rootdir",
            str(folder),
            "-v",
            str(folder),
        ],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout + answer.stderr


#: Two tests that no signal ends, one of them after it has failed, and nine that pass.
HANGS: Final = """
    import ctypes
    import pytest

    def hang():
        libc, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(64)
        while True:
            libc.pthread_mutex_lock(mutex)

    @pytest.fixture
    def cleans_up_for_ever():
        yield
        hang()

    @pytest.mark.timeout(1)
    def test_hangs():
        hang()

    @pytest.mark.timeout(1)
    def test_fails_and_hangs(cleans_up_for_ever):
        assert False

    @pytest.mark.parametrize("number", range(9))
    def test_passes(number): pass
"""


def test_a_test_that_no_signal_ends_fails_with_its_calls_and_all_others_run(tmp_path: Path) -> None:
    (tmp_path / "short.py").write_text("import tests.conftest\ntests.conftest.GRACE_S = 1.0\n")
    options = ("-p", "short", "-p", "tests.rigs.again", *BESIDE, "--max-worker-restart", "2")

    said = inner_session(tmp_path, *options, ci=True, hangs=HANGS)

    assert "9 passed" in said, said
    failed = (tmp_path / ".pytest_cache/again").read_text().split()
    assert sorted(failed) == ["test_hangs.py::test_fails_and_hangs", "test_hangs.py::test_hangs"]
    assert re.search(r"crashed while running '.*test_hangs'", said), said
    assert re.search(r"crashed while running '.*test_fails_and_hangs'", said), said
    assert len(re.findall(r"in hang$", said, re.MULTILINE)) >= 2, said


def test_a_process_ends_although_what_it_has_started_holds_its_output() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 600 & echo $!; wait"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        left = int(process.stdout.readline())
        try:
            end(process)
            assert process.returncode == -signal.SIGKILL
        finally:
            os.kill(left, signal.SIGKILL)


def test_what_failed_runs_again_among_the_imports_of_all_tests(tmp_path: Path) -> None:
    modules = {
        "a": "import builtins\nbuiltins.was_imported = True\ndef test_a(): pass\n",
        "b": "import builtins\ndef test_b(): assert not hasattr(builtins, 'was_imported')\n",
    }
    plugin = ("-p", "tests.rigs.again")

    assert "1 failed, 1 passed" in inner_session(tmp_path, *plugin, ci=True, **modules)
    assert "= 1 failed in" in inner_session(tmp_path, *plugin, "--again", ci=True, **modules)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What pytest said of the same modules outside of CI and in CI."""

    outside: str
    in_ci: str


@pytest.fixture(scope="module", params=[(), BESIDE], ids=["one process", "two workers"])
def said(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Said:
    """Run pytest in both ways, each only once."""
    outside, in_ci = (
        inner_session(tmp_path_factory.mktemp("inner"), *request.param, ci=ci, inner=INNER, gives_up=GIVES_UP)
        for ci in (False, True)
    )
    return Said(outside=outside, in_ci=in_ci)


# --- the plugin, in a session of its own ------------------------------------------------------------------------------


def test_a_lost_exception_fails_its_test(said: Said) -> None:
    assert "ERROR test_inner.py::test_loses_a_task -" in said.outside
    assert "ERROR test_inner.py::test_loses_a_task_in_a_cycle -" in said.outside
    assert "ERROR test_inner.py::test_loses_a_callback -" in said.outside
    assert "ERROR test_inner.py::test_is_clean" not in said.outside


def test_what_is_left_out_is_named_at_the_end(said: Said) -> None:
    summary = said.outside.partition(" left out ===")[2].partition("short test summary")[0]

    assert "test_inner.py::test_needs_a_tool: needs the program `no-such-program`" in summary
    assert "test_inner.py::test_gives_up: not today" in summary
    assert "test_gives_up.py: all of it" in summary
    assert ("test_inner.py::test_needs_root: needs root" in summary) == (os.geteuid() != 0)
    assert "test_is_known_to_fail" not in summary
    assert "FAILED" not in said.outside


def test_ci_allows_no_test_to_be_left_out(said: Said) -> None:
    assert "FAILED test_inner.py::test_gives_up" in said.in_ci
    assert "ERROR test_inner.py::test_needs_a_tool" in said.in_ci
    assert "1 xfailed" in said.in_ci


def test_ci_allows_no_module_to_leave_itself_out(said: Said) -> None:
    assert "ERROR test_gives_up.py" in said.in_ci


TORTURE: Final = """
    import pytest
    from tests.torture.conftest import SEED

    @pytest.mark.last
    def test_everything_is_over(left_by_all, figure):
        figure("left by all", str(len(list(left_by_all.rglob("left")))))

    @pytest.mark.parametrize("number", range(4))
    def test_some_work(number, tmp_path, chance, figure):
        (tmp_path / "left").touch()
        figure(f"work {number}", f"{SEED} {chance.random()}")
"""


def test_the_torture_gives_the_same_side_by_side_and_looks_last_at_what_all_have_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCSYNC_TORTURE_FIGURES", str(tmp_path / "table.md"))
    for name in ("PYTEST_XDIST_WORKER", "DCSYNC_TORTURE_SEED"):
        monkeypatch.delenv(name, raising=False)
    tables, seed = [], ""
    for ways in (BESIDE, ()):
        said = inner_session(tmp_path, "-p", "tests.torture.conftest", *ways, ci=True, torture=TORTURE)
        assert "5 passed" in said, said
        tables.append((tmp_path / "table.md").read_text())
        # The second run repeats the first one.
        (seed,) = re.findall(r"SEED=(\d+)\)", said)
        monkeypatch.setenv("DCSYNC_TORTURE_SEED", seed)

    assert "| left by all | 4 |" in tables[0]
    assert tables[0].count(f"| {seed} 0.") == 4
    assert tables[0] == tables[1]


GROUPS: Final = """
    import os
    import pytest
    from pathlib import Path

    def note(name):
        with Path("workers").open("a") as file:
            file.write(f"{name} {os.environ['PYTEST_XDIST_WORKER']}\\n")

    @pytest.fixture(scope="module")
    def costly():
        note("fixture")

    @pytest.mark.parametrize("number", range(8))
    def test_shares(costly, number): note("shares")

    @pytest.mark.machine
    @pytest.mark.parametrize("number", range(8))
    def test_alone(number): note("alone")

    @pytest.fixture(params=["sqlite", "memory", "postgresql"])
    def place(request):
        return request.param

    @pytest.mark.parametrize("number", range(8))
    def test_of_a_database(place, number): note(place)

    @pytest.mark.parametrize("number", range(16))
    def test_any(number): note("any")
"""


def test_tests_that_share_something_run_in_one_worker(tmp_path: Path) -> None:
    said = inner_session(tmp_path, *BESIDE, ci=True, groups=GROUPS)

    assert "56 passed" in said
    ran = [line.split() for line in (tmp_path / "workers").read_text().splitlines()]
    # How many workers run the tests of no group is a matter of the machine's load.
    workers = {kind: {worker for name, worker in ran if name == kind} for kind in ("shares", "alone", "postgresql")}
    assert {kind: len(found) for kind, found in workers.items()} == {"shares": 1, "alone": 1, "postgresql": 1}
    assert [name for name, _ in ran].count("fixture") == 1


async def test_a_statement_is_compiled_for_the_first_manifest_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[object] = []
    compile_statement: Any = ClauseElement._compiler

    def counted(self: object, *arguments: Any, **options: Any) -> Any:
        compiled.append(self)
        return compile_statement(self, *arguments, **options)

    monkeypatch.setattr(ClauseElement, "_compiler", counted)
    statement: sa.Select[Any] = sa.select(sa.literal_column("'of this test alone'"))
    for name in ("first", "second"):
        async with open_manifest(tmp_path / name) as manifest, manifest.reading() as connection:
            assert await connection.scalar(statement) == "of this test alone"

    assert [each for each in compiled if each is statement] == [statement]


def test_the_tests_zone_is_not_utc_in_child_processes_either() -> None:
    program = "import time; print(time.localtime(0).tm_gmtoff)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)

    assert int(done.stdout) == time.localtime(0).tm_gmtoff == (5 * 60 + 30) * 60  # as it was in 1970


# --- systemd ----------------------------------------------------------------------------------------------------------


@pytest.mark.machine
@pytest.mark.needs_root
@pytest.mark.needs_tool("systemd-nspawn")
def test_a_system_that_does_not_end_is_ended_and_leaves_nothing(tmp_path: Path) -> None:
    endless = "[Service]\nType=oneshot\nExecStart=touch /out/began\nExecStart=sleep infinity\n"
    files = {"/etc/systemd/system/endless.service": endless}

    folder = tmp_path
    # A busy machine takes longer until the unit begins.
    for timeout_s in (5, 30, 120):
        folder = tmp_path / f"boot-{timeout_s}"
        folder.mkdir()
        with pytest.raises(AssertionError, match=f"had not ended after {timeout_s} s"):
            nspawn.boot(folder, files=files, unit="endless.service", timeout_s=timeout_s)
        if (folder / "results/began").exists():
            break

    assert (folder / "results/began").exists()
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
    assert list((folder / "overlay").iterdir()) == []
    # Other cgroups come and go meanwhile, which os.walk does not mind.
    assert [path for path, _, _ in os.walk("/sys/fs/cgroup") if f"/dcsync-{folder.name}-{os.getpid()}" in path] == []
    assert (
        str(tmp_path)
        not in subprocess.run(["ps", "ax", "-o", "args"], check=True, capture_output=True, text=True).stdout
    )


#: Two threads, one after the other, make four folders each; what else a program does changes no file there.
EIGHT_FOLDERS: Final = """
import os, socket, sys, threading
from tests.rigs.syscalls import announce
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(sys.argv[1])
    announce(connection)
def work(name):
    for number in range(4):
        os.mkdir(f"{sys.argv[2]}/{name}{number}")
        os.stat(sys.argv[2])
thread = threading.Thread(target=work, args="a")
thread.start()
thread.join()
work("b")
print("done")
"""


# --- kills before a call ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kill_at", "made"), [(1, 0), (4, 3), (5, 4), (8, 7), (9, 8), (None, 8)])
def test_a_process_is_killed_before_its_nth_call_whichever_thread_makes_it(
    tmp_path: Path, kill_at: int | None, made: int
) -> None:
    folder = tmp_path / "watched"
    folder.mkdir()
    watch = Watch(folder=folder, kill_at=kill_at)

    with watching(tmp_path / "socket", watch):
        done = subprocess.run(
            [sys.executable, "-c", EIGHT_FOLDERS, tmp_path / "socket", folder],
            check=False,
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
        )

    names = [f"{thread}{number}" for thread in "ab" for number in range(4)]
    assert sorted(path.name for path in folder.iterdir()) == names[:made]
    if made < len(names):
        assert done.returncode == -signal.SIGKILL
        assert watch.killed_before == Call(name="mkdir", path=names[made])
    else:
        assert (done.returncode, done.stdout, watch.killed_before) == (0, "done\n", None)
    assert [call.path for call in watch.calls] == names[: made + 1]


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


def test_the_database_server_is_on_loopback_alone_and_not_root_s(postgres_server: Postgres) -> None:
    listening = [
        line.split()[1]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if line.split()[1].endswith(f":{postgres_server.port:04X}") and line.split()[3] == "0A"
    ]
    owner = (postgres_server.folder / "data/PG_VERSION").stat().st_uid

    assert listening == [f"0100007F:{postgres_server.port:04X}"]
    assert owner != 0


def test_each_database_is_a_new_one_and_what_was_committed_survives_the_server(postgres_server: Postgres) -> None:
    one, other = (postgres_server.fresh().rsplit("/", 1)[1] for _ in range(2))
    postgres_server.execute("CREATE TABLE kept AS SELECT 1 AS number", database=one)

    postgres_server.restart()

    assert postgres_server.execute("SELECT number FROM kept", database=one) == [(1,)]
    assert postgres_server.execute("SELECT to_regclass('kept')", database=other) == [(None,)]


def test_the_database_sorts_by_a_language_and_one_role_must_give_its_password(postgres_server: Postgres) -> None:
    import psycopg

    rows = postgres_server.execute("SELECT name FROM (VALUES ('b'), ('B-a'), ('a')) AS names (name) ORDER BY name")
    assert [row[0] for row in rows] == ["a", "b", "B-a"]
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        psycopg.connect(postgres_server.url().replace("dcsync@", "guarded@"), passfile="/nonexistent")
