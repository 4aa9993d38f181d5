"""`dcsync demo` and `dcsync sandbox`."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from tests.cli.conftest import Dcsync, Result
from tests.rigs.mirror import assert_proved_by_sums, sidecar

ROOT = Path(__file__).parents[2]


def snapshots(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("acme/*/[0-9]*/**/_dcsync.json"))


def test_the_demo_mirrors_three_days_of_two_requests_and_shows_the_tree(dcsync: Dcsync, tmp_path: Path) -> None:
    result = dcsync("demo", str(tmp_path / "demo"))

    assert result.status == 0
    assert len(snapshots(tmp_path / "demo")) == 6
    for snapshot in snapshots(tmp_path / "demo"):
        assert_proved_by_sums(snapshot)
    assert "my-company-data-extract-" in result.out
    assert "latest -> " in result.out
    assert "sha256sum -c" in result.out


def test_running_the_demo_again_picks_up_a_new_day_and_links_what_did_not_change(
    dcsync: Dcsync, tmp_path: Path
) -> None:
    folder = tmp_path / "demo"
    dcsync("demo", str(folder))
    before = snapshots(folder)

    result = dcsync("demo", str(folder))

    assert result.status == 0
    new = [snapshot for snapshot in snapshots(folder) if snapshot not in before]
    assert len(new) == 2
    for snapshot in new:
        how = [entry["how"] for entry in sidecar(snapshot)["files"]]
        assert how.count("linked") > how.count("fetched")
        assert_proved_by_sums(snapshot)
    assert "linked" in result.out


def test_a_demo_continues_after_months(dcsync: Dcsync, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    dcsync("demo", str(folder))
    notes = folder / ".state/demo.json"
    for months in (3, 9):
        # Moving the recorded day back has the same effect as waiting.
        entry = json.loads(notes.read_text())
        entry["first_day"] = (date.fromisoformat(entry["first_day"]) - timedelta(days=30 * months)).isoformat()
        notes.write_text(json.dumps(entry))
        before = snapshots(folder)

        result = dcsync("demo", str(folder))

        assert result.status == 0, result.err
        assert "The last run of the demo was long ago" in result.out
        new = [snapshot for snapshot in snapshots(folder) if snapshot not in before]
        assert len(new) == 2
        assert all(
            datetime.fromisoformat(sidecar(snapshot)["job"]["completed_at"]) < datetime.now(UTC) for snapshot in new
        )
        for latest in folder.glob("acme/*/latest"):
            assert latest.resolve() in new
    result = dcsync("demo", str(folder))
    assert result.status == 0
    assert "was long ago" not in result.out


def test_the_demo_counts_the_files_of_a_snapshot_the_same_everywhere(dcsync: Dcsync, tmp_path: Path) -> None:
    result = dcsync("demo", str(tmp_path / "demo"))

    published = dict(re.findall(r"published acme/(\S+): (\d+) files", result.out))
    listed = dict(re.findall(r"      (\d\S+)/  (\d+) files", result.out))
    assert len(published) == len(listed) == 6
    for folder, count in published.items():
        assert listed[folder.partition("/")[2]] == count
        assert f"… ({count} files)" in result.out
        recorded = sidecar(tmp_path / "demo/acme" / folder)["files"]
        assert len(recorded) == int(count)


def last_command(result: Result) -> str:
    return result.out.strip().splitlines()[-1].partition("   #")[0].strip()


def test_the_demo_ends_with_a_command_that_works(
    dcsync: Dcsync, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    folder = tmp_path / "a folder"

    command = last_command(dcsync("demo", str(folder)))

    again = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)  # noqa: S602 - as typed
    assert again.returncode == 0, again.stderr
    assert len(snapshots(folder)) == 8


def test_the_demo_ends_with_the_command_given_to_it(
    dcsync: Dcsync, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCSYNC_DEMO_AGAIN", "make demo")

    assert last_command(dcsync("demo", str(tmp_path / "demo"))) == "make demo"


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


def test_the_sandbox_prints_a_configuration_that_works(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "dcsync", "sandbox", "--quota", "0", "--tables", "5", "--days", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
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
        finally:
            sandbox.send_signal(signal.SIGINT)
            _, errors = sandbox.communicate(timeout=120)
    assert "Traceback" not in errors
    assert "sandbox stopped" in errors
