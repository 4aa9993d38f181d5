"""Commands beside a running daemon: it carries them out, as they would do it alone."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dcsync.daemon.orders import MAX_CONNECTIONS
from dcsync.orders import Hello, Order, encode
from dcsync.sandbox import Fault, Synthetic
from tests.cli.conftest import Dcsync, Result
from tests.cli.test_verify import spoil
from tests.rigs.beside import Beside, daemon_beside, started, until
from tests.rigs.ended import LIMIT_S
from tests.rigs.json_page import documented, written
from tests.rigs.mirror import assert_identical, tables
from tests.rigs.served import TOKEN, Served, served
from tests.rigs.terminal import Terminal, on_terminal

pytestmark = pytest.mark.timeout(300)


#: A slow download stays slow.
ONE_CONNECTION = "[transfer]\nconcurrency = 1\n"


@pytest.fixture
def daemon(side: Served) -> Iterator[Beside]:
    side.sandbox.world.add_request("Nightly")
    side.config.write_text(f"{side.config.read_text()}\n{ONE_CONNECTION}")
    with daemon_beside(side) as ready:
        yield ready


def add_job(side: Served, completed_at: datetime, *, files: int = 3) -> str:
    world = side.sandbox.world
    request = next(iter(world.requests))
    return world.add_job(
        request, completed_at=completed_at, files=tables(files, seed=completed_at.day), with_archive=False
    )


# --- the same as alone ------------------------------------------------------------------------------------------------

HOOK = '[[hook]]\non = ["snapshot"]\nrun = ["/bin/true"]'


def every_command(side: Served, dcsync: Dcsync) -> Iterator[tuple[str, Result]]:
    """Call each command that writes, in each way that it ends."""

    def call(*arguments: str) -> tuple[str, Result]:
        return " ".join(arguments), dcsync(*arguments)

    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    yield call("sync")
    jobs = [add_job(side, today - timedelta(days=4))]
    yield call("sync")
    jobs += [add_job(side, today - timedelta(days=3))]
    yield call("sync", "--json")
    yield call("sync", "--job", jobs[0])
    yield call("sync", "--job", "no-such-job")
    yield call("sync", "--account", "nobody")
    side.sandbox.faults.add(Fault(server="api", kind="status", status=403, match="/jobs", times=1))
    yield call("sync")
    jobs += [add_job(side, today - timedelta(days=2)), add_job(side, today - timedelta(days=1))]
    yield call("sync", "--account", "acme", "--request", "Nightly")
    folders = sorted(path.parent for path in side.root.glob("acme/*/[0-9]*/**/_dcsync.json"))
    spoil(folders[-1] / "admin_table_001.csv")
    yield call("verify", "--repair")
    (folders[-1] / "admin_table_002.csv").unlink()
    (folders[-1] / "extra.csv").write_text("x")
    yield call("verify", "--repair", "--json", "--rate", "100MB")
    (folders[-1] / "extra.csv").unlink()
    # Whether the daemon builds a step or the command depends on which begins first.
    yield call("history", "--rebuild", "--table", "admin_*")
    yield call("history", "--rebuild", "--json")
    yield call("prune")
    yield call("prune", "--force", "--json")
    yield call("prune", "--account", "acme")
    yield call("hooks", "rerun", jobs[-1])
    yield call("hooks", "rerun", "no-such-job")
    yield call("rebuild")
    yield call("rebuild", "--json")
    yield call("sync")


def as_compared(result: Result, side: Served) -> tuple[int, str, list[str]]:
    """Return what must be equal: not the folder of the test, the time of the call, the log, and the wait for a turn."""
    out, err = (text.replace(str(side.folder), "FOLDER") for text in (result.out, result.err))
    out = re.sub(r"\d{8}T\d{6}Z[^\"\\s/]*", "TIME", out)
    # `_dcsync.json` has the seconds that a download took.
    out = re.sub(r"[\d.]+ (KiB|B)\b|(?<=_bytes\": )\d+|(?<=bytes_read\": )\d+", "SIZE", out)
    return result.status, out, [line for line in err.splitlines() if not re.match(r"waiting: |\{|\d{4}-", line)]


def test_each_command_ends_beside_the_daemon_as_it_does_alone(
    tmp_path: Path, dcsync: Dcsync, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for name in ("alone", "beside"):
        (tmp_path / name).mkdir()
        with served(tmp_path / name) as side, ExitStack() as stack:
            monkeypatch.setenv(TOKEN, side.token)
            monkeypatch.setenv("DCSYNC_CONFIG", str(side.config))
            side.config.write_text(f'{side.config.read_text()}\n[keep]\nlast = 1\n[history]\ntables = ["*"]\n{HOOK}\n')
            side.sandbox.world.add_request("Nightly")
            daemon = stack.enter_context(daemon_beside(side)) if name == "beside" else None
            results.append([(words, as_compared(result, side)) for words, result in every_command(side, dcsync)])
            if daemon is not None:
                events = ("command carried out", "command failed")
                assert sum(len(daemon.said(event)) for event in events) == len(results[0])
                assert not daemon.said("a bug in dcsync; the daemon continues")
                assert daemon.end() == 0

    for alone, beside in zip(*results, strict=True):
        assert beside == alone
    assert {status for _, (status, _, _) in results[0]} == {0, 2, 3, 13, 14}


# --- the log ----------------------------------------------------------------------------------------------------------


def test_the_daemon_logs_one_line_at_its_start_and_one_for_each_run_and_each_command(
    side: Served, dcsync: Dcsync, daemon: Beside
) -> None:
    add_job(side, datetime.now(UTC))
    assert dcsync("sync").status == 0
    assert dcsync("sync").status == 0  # nothing new
    assert daemon.end() == 0

    lines = [json.loads(line) for line in daemon.log.read_text().splitlines()]
    lines = [line for line in lines if line["level"] != "debug"]
    assert [line["event"] for line in lines] == [
        "daemon started",
        "run ended",
        "command carried out",
        "command carried out",
    ]
    assert {line["level"] for line in lines} == {"info"}
    started, ran, *_ = lines
    assert (started["accounts"], started["mirror"], started["poll_seconds"]) == ("acme", str(side.root), 900)
    assert (ran["account"], ran["published"], ran["failed"], ran["files"]) == ("acme", 1, 0, 3)
    assert all(isinstance(value, str | int | float) for line in lines for value in line.values())


# --- polling ----------------------------------------------------------------------------------------------------------


def test_poll_lets_the_daemon_poll(side: Served, dcsync: Dcsync, daemon: Beside) -> None:
    job = add_job(side, datetime.now(UTC))

    result = dcsync("poll")

    assert (result.status, result.out, result.err) == (0, "the daemon polls now: acme\n", "")
    document = dcsync("poll", "--json").json
    assert document == {"accounts": ["acme"]}
    assert set(written(document)) == documented("`dcsync poll --json`")
    until(lambda: list(side.root.glob("acme/*/[0-9]*/**/_dcsync.json")), "the snapshot")
    (sidecar,) = side.root.glob("acme/*/[0-9]*/**/_dcsync.json")
    assert_identical(sidecar.parent, side.sandbox.world, job)
    # The socket is for the owner only, and goes with the daemon.
    mode = daemon.socket.lstat().st_mode
    assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o600)
    assert stat.S_IMODE(side.state.stat().st_mode) == 0o700
    assert daemon.end() == 0
    assert not list(side.state.glob("orders.sock*"))


def test_poll_without_a_daemon_says_what_to_do(side: Served, dcsync: Dcsync) -> None:
    result = dcsync("poll")

    assert result.status == 3
    assert f"no daemon is working in {side.state}" in result.err
    assert "run dcsync sync" in result.err


# --- interrupts -------------------------------------------------------------------------------------------------------


@contextmanager
def downloading(side: Served) -> Iterator[str]:
    """Add a job whose download takes longer than a test may. It is fast after the block. Yield its ID."""
    world = side.sandbox.world
    files = {"forms.csv": Synthetic(20 << 20)}
    fault = Fault(server="storage", kind="slow", amount=1 << 16, times=None)
    side.sandbox.faults.add(fault)
    yield world.add_job(next(iter(world.requests)), completed_at=datetime.now(UTC), files=files, with_archive=False)
    side.sandbox.faults.clear()


def is_staging(side: Served) -> bool:
    return any(path.stat().st_blocks for path in side.root.rglob(".dcsync/staging/**/*.part"))


def test_an_interrupted_command_leaves_the_daemon_in_order(side: Served, dcsync: Dcsync, daemon: Beside) -> None:
    with downloading(side) as job, started(side, "sync") as client:
        until(lambda: is_staging(side), "the download")
        client.send_signal(signal.SIGINT)
        _, err = client.communicate(timeout=150)

        assert client.returncode == 130
        assert "interrupted; downloaded data is kept" in err
        # The daemon has ended the order before the command ended.
        assert [line["command"] for line in daemon.said("command interrupted")] == ["sync"]
        assert is_staging(side)
        assert not list(side.root.glob("acme/*/[0-9]*"))

    assert dcsync("sync").status == 0
    (sidecar,) = side.root.glob("acme/*/[0-9]*/**/_dcsync.json")
    assert_identical(sidecar.parent, side.sandbox.world, job)
    assert dcsync("verify").status == 0
    assert daemon.process.poll() is None


@contextmanager
def every_order_under_way(side: Served, job: str) -> Iterator[list[Terminal]]:
    """Start a command of each kind that lasts: three at work, and one that waits until they have ended."""
    begun = side.folder / "hook-begun"
    begun.unlink(missing_ok=True)
    is_at_work: dict[tuple[str, ...], Callable[[Terminal], object]] = {
        ("sync",): lambda shown: shown.until(lambda frame: any("B/s" in line for line in frame), "the download"),
        ("verify", "--repair", "--rate", "100B"): lambda shown: shown.until(
            lambda frame: any("snapshot 1 of" in line for line in frame), "the reading"
        ),
        ("hooks", "rerun", job): lambda _: until(begun.exists, "the hook"),
        ("rebuild",): lambda shown: shown.until(
            lambda frame: any("waiting: the daemon is" in line for line in frame), "its turn"
        ),
    }
    with ExitStack() as stack:
        shown = []
        for words, wait in is_at_work.items():
            command = [sys.executable, "-m", "dcsync", "--config", str(side.config), *words]
            shown.append(stack.enter_context(on_terminal(command, environ={TOKEN: side.token})))
            wait(shown[-1])
        yield shown


def test_orders_of_every_kind_end_with_their_command_and_with_the_daemon(side: Served, dcsync: Dcsync) -> None:
    side.sandbox.world.add_request("Nightly")
    first, slow = add_job(side, datetime.now(UTC) - timedelta(days=1)), side.folder / "slow"
    script = f"test -e {slow} || exit 0; touch {side.folder}/hook-begun; exec sleep 600"
    hook = f'[[hook]]\non = ["snapshot"]\nrun = ["sh", "-c", "{script}"]\n'
    side.config.write_text(f"{side.config.read_text()}\n{ONE_CONNECTION}{hook}")
    with daemon_beside(side) as daemon:
        assert dcsync("sync").status == 0
        assert dcsync("hooks", "rerun", first).status == 0
        slow.touch()
        with downloading(side) as job:
            with every_order_under_way(side, first) as shown:
                # The one that waits first: after the others it would get its turn, and the daemon would poll.
                for terminal in reversed(shown):
                    terminal.process.send_signal(signal.SIGINT)
                    assert terminal.end() == 130
                assert all("interrupted" in terminal.screen.text() for terminal in shown)
            assert len(daemon.said("command interrupted")) == 4
            with every_order_under_way(side, first) as shown:
                # The second one ends what is under way at once.
                daemon.process.send_signal(signal.SIGTERM)
                assert daemon.end() == 0
                assert [terminal.end() for terminal in shown] == [3] * 4
                for terminal in shown:
                    assert terminal.screen.text().count("code: D-DAEMON") == 1
        assert not list(side.state.glob("orders.sock*"))

    slow.unlink()
    assert dcsync("sync").status == 0
    folders = [sidecar.parent for sidecar in sorted(side.root.glob("acme/*/[0-9]*/**/_dcsync.json"))]
    for folder, published in zip(folders, (first, job), strict=True):
        assert_identical(folder, side.sandbox.world, published)
    assert dcsync("verify").status == 0


def test_two_commands_wait_for_each_other_and_one_that_waits_can_be_interrupted(
    side: Served, dcsync: Dcsync, daemon: Beside
) -> None:
    with downloading(side) as job, started(side, "sync") as first:
        until(lambda: is_staging(side), "the download")
        lines = side.folder / "second.err"
        with lines.open("w") as errors, started(side, "sync", stderr=errors) as second:
            until(lambda: "waiting: the daemon is mirroring acme for a command\n" in lines.read_text(), "its turn")
            # Another kind of work does not wait.
            assert dcsync("prune").status == 0
            second.send_signal(signal.SIGINT)
            assert second.wait(timeout=150) == 130
        assert first.poll() is None
        side.sandbox.faults.clear()
        out, _ = first.communicate(timeout=150)

    assert first.returncode == 0
    assert out.startswith("acme: published ")
    (sidecar,) = side.root.glob("acme/*/[0-9]*/**/_dcsync.json")
    assert_identical(sidecar.parent, side.sandbox.world, job)


# --- who is served ----------------------------------------------------------------------------------------------------


def test_idle_clients_and_garbage_do_no_harm(side: Served, dcsync: Dcsync, daemon: Beside) -> None:
    with ExitStack() as stack:
        idle = []
        for _ in range(MAX_CONNECTIONS):
            idle.append(stack.enter_context(socket.socket(socket.AF_UNIX)))
            idle[-1].settimeout(LIMIT_S)
            idle[-1].connect(str(daemon.socket))
            assert idle[-1].recv(1000) == encode(Hello())

        refused = dcsync("poll")

        assert refused.status == 3
        assert "too many commands are waiting" in refused.err
        order = {"kind": "order", "name": "poll", "root": str(side.root), "options": {"as_json": 1, "more": 2}}
        for client, text in zip(idle, (b"\n", b"x" * 300_000, b'{"kind": "done", "status": 1}\n'), strict=False):
            client.sendall(text)
            assert client.recv(1000) == b""
        idle[3].sendall(json.dumps(order).encode() + b"\n")
        assert b'"kind":"failed"' in idle[3].recv(1000)
        idle[4].sendall(encode(Order(name="format", root=str(side.root))))
        assert b"does not know" in idle[4].recv(1000)
    assert dcsync("poll").status == 0


def test_a_command_with_another_configuration_is_refused(side: Served, dcsync: Dcsync, daemon: Beside) -> None:
    text = side.config.read_text()
    side.config.write_text(f"{text}\n[keep]\nlast = 1\n")
    changed = dcsync("prune")
    side.config.write_text(text.replace(str(side.root), str(side.folder / "other")))
    other = dcsync("poll")

    assert (changed.status, other.status) == (2, 2)
    assert "another configuration than this command: [keep] differs" in changed.err
    assert "systemctl reload dcsync" in changed.err
    assert f"mirrors into {side.root}, and this command into {side.folder / 'other'}" in other.err
    side.config.write_text(f"{text}\n[keep]\nlast = 1\n")
    os.kill(daemon.process.pid, signal.SIGHUP)
    daemon.hears("configuration reloaded")
    assert dcsync("prune").status == 0


def test_no_secret_crosses_the_socket(side: Served, dcsync: Dcsync) -> None:
    """The daemon uses its own."""
    side.state.mkdir(mode=0o700)
    received = b""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(side.state / "orders.sock"))
        listener.listen()
        listener.settimeout(LIMIT_S)
        with started(side, "sync") as client:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(LIMIT_S)
                connection.sendall(encode(Hello()))
                received = connection.recv(1 << 18)
            client.wait(timeout=150)

    assert b'"name":"sync"' in received
    assert side.token.encode() not in received
    assert b"auth" not in received
