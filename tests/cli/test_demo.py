"""`dcsync demo` and `dcsync sandbox`."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

from tests.cli.conftest import Dcsync
from tests.rigs.mirror import assert_proved_by_sums, sidecar


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


def test_the_demo_does_not_touch_a_folder_with_other_things(dcsync: Dcsync, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")

    result = dcsync("demo", str(tmp_path))

    assert result.status == 2
    assert "has other files in it" in result.err
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
            _, errors = sandbox.communicate(timeout=10)
    assert "Traceback" not in errors
    assert "sandbox stopped" in errors
