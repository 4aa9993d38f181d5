"""`dcsync demo` and `dcsync sandbox`."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

import pytest

from dcsync.app.api import open_api
from dcsync.app.from_config import account_settings
from dcsync.app.stores import FileStores
from dcsync.cli.demo import _next_extracts
from dcsync.cli.group import run
from dcsync.clock import SystemClock
from dcsync.config.load import load
from dcsync.core.model import DataRequest
from dcsync.core.new_request import NewRequest
from dcsync.ops.requests import create
from tests.cli.conftest import Dcsync, log_as_before
from tests.rigs.ended import ending
from tests.rigs.mirror import assert_proved_by_sums, sidecar

ROOT = Path(__file__).parents[2]


def snapshots(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("acme/*/[0-9]*/**/_dcsync.json"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """What a first demo left in a folder, and printed."""

    folder: Path
    out: str


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """A first demo, which takes longer than most tests. Tests that change its folder use `again`."""
    folder = tmp_path_factory.mktemp("kept") / "a folder"
    with log_as_before(), pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as out:
        patch.setenv("PATH", "/usr/bin:/bin")
        assert run(["demo", str(folder)]) == 0
    return Demo(folder=folder, out=out.getvalue())


@pytest.fixture
def again(kept: Demo) -> Iterator[Path]:
    """The folder of a demo that ran once. Its configuration names the folder, so the copy takes its place."""
    folder, original = kept.folder, kept.folder.with_name("original")
    folder.rename(original)
    # With hard links and times, as it was.
    subprocess.run(["cp", "--archive", str(original), str(folder)], check=True)
    yield folder
    shutil.rmtree(folder)
    original.rename(folder)


def test_the_demo_mirrors_three_days_of_two_requests_and_shows_the_tree(kept: Demo) -> None:
    assert len(snapshots(kept.folder)) == 6
    for snapshot in snapshots(kept.folder):
        assert_proved_by_sums(snapshot)
    assert "my-company-data-extract-" in kept.out
    assert "latest -> " in kept.out
    assert "sha256sum -c" in kept.out


def test_running_the_demo_again_picks_up_a_new_day_and_links_what_did_not_change(dcsync: Dcsync, again: Path) -> None:
    before = snapshots(again)

    result = dcsync("demo", str(again))

    assert result.status == 0
    new = [snapshot for snapshot in snapshots(again) if snapshot not in before]
    assert len(new) == 2
    for snapshot in new:
        how = [entry["how"] for entry in sidecar(snapshot)["files"]]
        assert how.count("linked") > how.count("fetched")
        assert_proved_by_sums(snapshot)
    assert "linked" in result.out


def test_its_days_end_today_and_its_mirror_is_on_time(dcsync: Dcsync, again: Path) -> None:
    config = again / ".state/config.toml"
    for runs_again in (False, True):
        if runs_again:
            dcsync("demo", str(again))

        status = dcsync("--config", str(config), "status", "--check", "--json")

        assert status.status == 0
        (account,) = status.json["accounts"]
        assert {request["state"] for request in account["requests"]} <= {"ok", "due"}
        newest = datetime.fromisoformat(account["newest_completed_at"])
        # Today's extract is there from 02:46 UTC on.
        assert newest.date() >= (datetime.now(UTC) - timedelta(hours=3)).date()


@pytest.mark.parametrize("days", [1, 40, 300])
def test_a_demo_continues_after_days_and_months(dcsync: Dcsync, again: Path, days: int) -> None:
    notes = again / ".state/demo.json"
    # Moving the recorded times back has the same effect as waiting.
    entry = json.loads(notes.read_text())
    entry["completed"] = [(datetime.fromisoformat(at) - timedelta(days=days)).isoformat() for at in entry["completed"]]
    notes.write_text(json.dumps(entry))
    before = snapshots(again)

    result = dcsync("demo", str(again))

    assert result.status == 0, result.err
    new = [snapshot for snapshot in snapshots(again) if snapshot not in before]
    assert len(new) == 2
    assert all(datetime.fromisoformat(sidecar(each)["job"]["completed_at"]) < datetime.now(UTC) for each in new)


def test_a_demo_of_version_0_2_continues(dcsync: Dcsync, again: Path) -> None:
    first = (datetime.now(UTC) - timedelta(days=12)).date()
    (again / ".state/demo.json").write_text(json.dumps({"first_day": first.isoformat(), "days": 3}))
    before = snapshots(again)

    result = dcsync("demo", str(again))

    assert result.status == 0, result.err
    assert len([snapshot for snapshot in snapshots(again) if snapshot not in before]) == 2


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ([], "2026-03-01T02:45:06", ["2026-02-27T02:34:05", "2026-02-28T02:34:05", "2026-03-01T02:34:05"]),
        ([], "2026-03-01T02:45:05", ["2026-02-26T02:34:05", "2026-02-27T02:34:05", "2026-02-28T02:34:05"]),
        (["2026-02-28T02:34:05"], "2026-03-01T09:00:00", ["2026-03-01T02:34:05"]),
        (["2026-03-01T02:34:05"], "2026-03-01T09:00:00", ["2026-03-01T08:48:59"]),
        (["2026-03-01T08:48:59"], "2026-03-01T09:00:00", ["2026-03-01T08:49:00"]),
        (["2026-03-01T02:34:05"], "2026-03-02T00:10:00", ["2026-03-01T23:58:59"]),
    ],
)
def test_each_run_adds_the_newest_extract_there_can_be(before: list[str], now: str, expected: list[str]) -> None:
    def times(texts: list[str]) -> list[datetime]:
        return [datetime.fromisoformat(f"{text}+00:00") for text in texts]

    assert _next_extracts(times(before), times([now])[0]) == times([*before, *expected])


def test_the_demo_counts_the_files_of_a_snapshot_the_same_everywhere(kept: Demo) -> None:
    published = dict(re.findall(r"published acme/(\S+): (\d+) files", kept.out))
    listed = dict(re.findall(r"      (\d\S+)/  (\d+) files", kept.out))
    assert len(published) == len(listed) == 6
    for folder, count in published.items():
        assert listed[folder.partition("/")[2]] == count
        assert f"… ({count} files)" in kept.out
        recorded = sidecar(kept.folder / "acme" / folder)["files"]
        assert len(recorded) == int(count)


def last_command(out: str) -> str:
    return out.strip().splitlines()[-1].partition("   #")[0].strip()


def test_the_demo_ends_with_a_command_that_works_and_repairs_what_verify_found(
    kept: Demo, again: Path, monkeypatch: pytest.MonkeyPatch, dcsync: Dcsync
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    (path,) = again.glob("acme/my-company-*/latest/admin_companies.csv")
    path.chmod(0o644)
    path.write_bytes(path.read_bytes() + b"oops\n")
    found = dcsync("--config", again / ".state/config.toml", "verify")
    assert "run dcsync verify --repair" in found.out
    # Without the simulator, and without a token in the environment.
    tried = dcsync("--config", again / ".state/config.toml", "verify", "--repair")
    assert (tried.status, tried.err) == (3, "")
    assert "not repaired: " in tried.out

    command = last_command(kept.out)

    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)  # noqa: S602 - as typed
    assert done.returncode == 0, done.stderr
    assert "[repaired]" in done.stdout
    assert len(snapshots(again)) == 8
    assert dcsync("--config", again / ".state/config.toml", "verify").status == 0


@pytest.mark.usefixtures("again")
def test_the_commands_that_it_shows_work(kept: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    shown = kept.out.partition("Next:\n")[2].splitlines()
    commands = [line.partition("   #")[0].strip() for line in shown]

    for word in ("status", "diff previous latest", "diff --rows", " at 2", "verify", "sha256sum"):
        (command,) = [command for command in commands if word in command]
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)  # noqa: S602 - as typed
        assert done.returncode == 0, (command, done.stderr)


def test_the_demo_ends_with_the_command_given_to_it(
    dcsync: Dcsync, again: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCSYNC_DEMO_AGAIN", "make demo")

    assert last_command(dcsync("demo", str(again)).out) == "make demo"


@pytest.mark.needs_tool("make")
def test_make_demo_says_make_demo() -> None:
    recipe = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "demo"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()[-1]

    assert recipe.startswith("DCSYNC_DEMO_AGAIN='make demo' ")


def test_the_demo_does_not_touch_a_folder_with_other_files(dcsync: Dcsync, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")

    result = dcsync("demo", str(tmp_path))

    assert result.status == 2
    assert "contains other files" in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


async def _create_request(path: Path) -> DataRequest:
    """Create a data request at the sandbox, which its configuration allows."""
    config, clock = load(path, environ={}), SystemClock()
    wanted = NewRequest(service_groups=("admin",), starts_at=clock.now(), description="Mine")
    async with open_api(config, FileStores(Path(config.state.dir)), environ={}) as opened:
        (account,) = account_settings(config)
        return (await create(opened.client, account, wanted, clock=clock)).request


@pytest.mark.parametrize("option", ["--port", "--storage-port"])
def test_a_port_that_is_taken_is_a_mistake_and_no_bug(dcsync: Dcsync, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        result = dcsync("sandbox", "--port", "0", option, str(port), "--days", "1", "--tables", "1")

    assert result.status == 2
    assert f"cannot listen on port {port} of 127.0.0.1: Address already in use" in result.err


def test_the_sandbox_prints_a_configuration_that_works(tmp_path: Path) -> None:
    with ending(
        subprocess.Popen(
            [sys.executable, "-m", "dcsync", "sandbox", "--port", "0", "--quota", "0", "--tables", "5", "--days", "1"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    ) as sandbox:
        try:
            assert sandbox.stdout is not None
            lines: list[str] = []
            while not lines or not lines[-1].startswith("id = "):
                lines.append(sandbox.stdout.readline())
                assert lines[-1], "it ended before it had said all"
            text = re.sub(r'"[^"]*/dcsync-sandbox/', f'"{tmp_path}/', "".join(lines))
            config = tmp_path / "sandbox.toml"
            config.write_text(text)
            config.chmod(0o600)
            (tmp_path / "mirror").mkdir()

            result = subprocess.run(
                [sys.executable, "-m", "dcsync", "--config", str(config), "sync"],
                capture_output=True,
                text=True,
                check=False,
            )

            assert result.returncode == 0, result.stderr
            assert len(list((tmp_path / "mirror").glob("sandbox/*/latest/SHA256SUMS"))) == 2
            made = asyncio.run(_create_request(config))
            assert made.description == "Mine"
        finally:
            sandbox.send_signal(signal.SIGINT)
            _, errors = sandbox.communicate(timeout=120)
    assert "Traceback" not in errors
    assert "sandbox stopped" in errors
