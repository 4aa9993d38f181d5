"""What goes wrong in a command is told once: in its result if that tells it, otherwise in its log."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dcsync.sandbox import Fault
from tests.cli.conftest import Dcsync, Result
from tests.cli.test_prune import mirrored_with_windows
from tests.cli.test_verify import mirrored, spoil
from tests.rigs.beside import daemon_beside
from tests.rigs.mirror import tables
from tests.rigs.served import TOKEN, Served
from tests.rigs.terminal import on_terminal

pytestmark = pytest.mark.timeout(300)

REASON = "REASON-4711"
REFUSED = b'{"developerMessage": "REASON-4711"}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """A command that fails: how to let it, its arguments, its exit status, and a pattern for the words about it."""

    make: Callable[[Served, Dcsync], object]
    command: tuple[str, ...]
    status: int
    words: str = REASON


def add_job(side: Served, **options: object) -> str:
    world = side.sandbox.world
    request = next(iter(world.requests), None) or world.add_request("Nightly")
    files = {"files": tables(2), "completed_at": datetime.now(UTC) - timedelta(hours=1), "with_archive": False}
    return world.add_job(request, **{**files, **options})  # type: ignore[arg-type]


def with_fault(fault: Fault, **job: object) -> Callable[[Served, Dcsync], object]:
    def make(side: Served, _: Dcsync) -> None:
        add_job(side, **job)
        side.sandbox.faults.add(fault)

    return make


def configured(*lines: str) -> Callable[[Served, Dcsync], object]:
    def make(side: Served, dcsync: Dcsync) -> None:
        mirrored(side, dcsync)
        add_job(side)
        side.config.write_text("\n".join([side.config.read_text(), *lines, ""]))

    return make


def with_fewer_columns(side: Served, dcsync: Dcsync) -> None:
    add_job(side, files={"admin_a.csv": b"id,name\n1,a\n"}, completed_at=datetime.now(UTC) - timedelta(days=1))
    assert dcsync("sync").status == 0
    add_job(side, files={"admin_a.csv": b"id\n1\n"})


def spoiled(side: Served, dcsync: Dcsync) -> None:
    spoil(mirrored(side, dcsync)[0] / "admin_table_001.csv")


def with_a_missing_table(side: Served, dcsync: Dcsync) -> None:
    folders = mirrored_with_windows(side, dcsync, days=2)
    side.config.write_text(f"{side.config.read_text()}\n[keep]\nlast = 1\n")
    (folders[0] / "activities_a.csv").unlink()


def not_to_be_adopted(side: Served, dcsync: Dcsync) -> None:
    (folder,) = mirrored(side, dcsync)
    shutil.copytree(folder, side.root / "acme" / "nowhere")


def ran_hook(side: Served, dcsync: Dcsync) -> None:
    configured("[[hook]]", 'on = ["snapshot"]', f'run = ["/bin/sh", "-c", "echo {REASON}; exit 7"]')(side, dcsync)


def unmounted(side: Served, dcsync: Dcsync) -> None:
    mirrored(side, dcsync)
    shutil.rmtree(side.root)
    side.root.mkdir()


HOOK = ("[[hook]]", 'on = ["snapshot"]', 'run = ["/bin/false"]')
TROUBLE = {
    "sync: the account is refused": Trouble(
        make=with_fault(Fault(server="api", kind="status", status=403, body=REFUSED, match="/jobs", times=None)),
        command=("sync",),
        status=13,
    ),
    "sync: the token is rejected": Trouble(
        make=with_fault(Fault(server="api", kind="status", status=401, body=REFUSED, times=None)),
        command=("sync",),
        status=12,
    ),
    "sync: a job's listing is refused": Trouble(
        make=with_fault(Fault(server="api", kind="status", status=422, body=REFUSED, match="listing", times=None)),
        command=("sync",),
        status=3,
    ),
    "sync: a status that is not known": Trouble(
        make=lambda side, _: add_job(side, status="odd"),
        command=("sync",),
        status=3,
        words="undocumented status|a status that dcsync does not know",
    ),
    "sync: the extract soon expires": Trouble(
        make=with_fault(
            Fault(server="api", kind="status", status=422, match="listing", times=None),
            completed_at=datetime.now(UTC) - timedelta(days=28),
        ),
        command=("sync",),
        status=3,
        words="(?i)Autodesk (will )?deletes? (an|its) extract",
    ),
    "sync: a table looks wrong": Trouble(make=with_fewer_columns, command=("sync",), status=0, words="lost . of its"),
    "sync: a hook fails": Trouble(make=ran_hook, command=("sync",), status=0, words="hook failed"),
    "sync: the disk is not mounted": Trouble(
        make=unmounted, command=("sync",), status=14, words="the manifest has snapshots, but"
    ),
    "sync --dry-run: a job's listing is refused": Trouble(
        make=with_fault(Fault(server="api", kind="status", status=422, body=REFUSED, match="listing", times=None)),
        command=("sync", "--dry-run"),
        status=3,
    ),
    "verify: a file has changed": Trouble(make=spoiled, command=("verify",), status=3, words="admin_table_001.csv"),
    "verify --repair: a file has changed": Trouble(
        make=spoiled, command=("verify", "--repair"), status=0, words="admin_table_001.csv.*its SHA"
    ),
    "prune: a table that has to stay is missing": Trouble(
        make=with_a_missing_table, command=("prune",), status=3, words="lacks a file"
    ),
    "rebuild: a folder that is no snapshot": Trouble(
        make=not_to_be_adopted, command=("rebuild",), status=3, words="acme/nowhere"
    ),
    "hooks rerun: a hook fails": Trouble(
        make=configured(*HOOK), command=("hooks", "rerun"), status=3, words="failed: |hook failed"
    ),
    "notify --test: nobody listens": Trouble(
        make=configured("[notify]", 'urls = ["json://127.0.0.1:9/x"]'),
        command=("notify", "--test"),
        status=3,
        words="failed: |not sent",
    ),
    "poll: there is no daemon": Trouble(
        make=lambda *_: None, command=("poll",), status=3, words="no daemon is working"
    ),
    "accounts: refused": Trouble(
        make=with_fault(Fault(server="api", kind="status", status=403, body=REFUSED, match="hubs", times=None)),
        command=("accounts",),
        status=13,
    ),
    "requests: the account is refused": Trouble(
        make=with_fault(Fault(server="api", kind="status", status=403, body=REFUSED, match="/requests", times=None)),
        command=("requests",),
        status=13,
    ),
    "doctor: the account is refused": Trouble(
        make=with_fault(Fault(server="api", kind="status", status=403, body=REFUSED, match="/jobs", times=None)),
        command=("doctor",),
        status=13,
    ),
    "run: the disk is not mounted": Trouble(
        make=unmounted, command=("run",), status=14, words="the manifest has snapshots, but"
    ),
    "run: the configuration is not valid": Trouble(
        make=lambda side, _: side.config.write_text("[mirror]\nroof = 1\n"), command=("run",), status=2, words="roof"
    ),
    "diff: there is no such snapshot": Trouble(
        make=mirrored, command=("diff", "no-such-1", "latest"), status=2, words="no-such-1"
    ),
    "login: the configuration has a token": Trouble(
        make=lambda *_: None, command=("login",), status=2, words="dcsync: "
    ),
    "manifest copy: nobody listens": Trouble(
        make=mirrored,
        command=("manifest", "copy", "--to", "postgresql://dcsync@127.0.0.1:9/x"),
        status=3,
        words="(?i)connection refused|refused the connection",
    ),
    "jobs: the account is refused": Trouble(
        make=with_fault(Fault(server="api", kind="status", status=403, body=REFUSED, match="/jobs", times=None)),
        command=("jobs",),
        status=13,
    ),
}


def arguments_of(name: str, side: Served) -> tuple[str, ...]:
    command = TROUBLE[name].command
    return (*command, next(iter(side.sandbox.world.jobs))) if command == ("hooks", "rerun") else command


@pytest.mark.parametrize("form", ["console", "json"])
@pytest.mark.parametrize("name", TROUBLE)
def test_it_is_told_once(side: Served, dcsync: Dcsync, name: str, form: str) -> None:
    """Whoever reads the log of a command by a program has its result, too."""
    trouble = TROUBLE[name]
    trouble.make(side, dcsync)

    result = dcsync("--log-format", form, *arguments_of(name, side))

    assert result.status == trouble.status, result
    assert len(re.findall(trouble.words, said(result))) == 1, said(result)


def said(result: Result) -> str:
    return f"{result.out}{result.err}"


def test_on_a_terminal_and_from_a_daemon_too(side: Served, dcsync: Dcsync, tmp_path: Path) -> None:
    """The daemon logs it, and the command tells it."""
    name = "sync: a job's listing is refused"
    with daemon_beside(side) as daemon:
        TROUBLE[name].make(side, dcsync)
        with on_terminal(
            [sys.executable, "-m", "dcsync", "--config", str(side.config), "sync"], environ={TOKEN: side.token}
        ) as terminal:
            assert terminal.end() == 3
            seen = terminal.screen.text()
        assert seen.replace("\n", "").count(REASON) == 1
        assert [REASON in line["error"] for line in daemon.said("job failed")] == [True]
        assert daemon.end() == 0
    with on_terminal(
        [
            sys.executable,
            "-m",
            "dcsync",
            "--config",
            str(side.config),
            "sync",
            "--job",
            next(iter(side.sandbox.world.jobs)),
        ],
        environ={TOKEN: side.token},
    ) as terminal:
        assert terminal.end() == 3
    assert terminal.screen.text().replace("\n", "").count(REASON) == 1
