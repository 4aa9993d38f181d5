"""`dcsync verify`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dcsync.cli.verify import answer_of
from dcsync.errors import ManifestError
from dcsync.ops.integrity.report import VerifyReport
from tests.cli.conftest import Dcsync
from tests.rigs.mirror import tables
from tests.rigs.served import Served


def mirrored(side: Served, dcsync: Dcsync, *, days: int = 1) -> list[Path]:
    """Mirror some days and return their folders, oldest first."""
    world = side.sandbox.world
    request = world.add_request("Nightly")
    for day in range(days):
        completed = datetime.now(UTC) - timedelta(days=days - day)
        world.add_job(request, completed_at=completed, files=tables(3, seed=day), with_archive=False)
    assert dcsync("sync").status == 0
    return sorted(path.parent for path in side.root.glob("acme/*/[0-9]*/**/_dcsync.json"))


def spoil(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(b"x" * path.stat().st_size)


def test_an_undamaged_mirror_is_one_line_and_exit_0(side: Served, dcsync: Dcsync) -> None:
    mirrored(side, dcsync)

    result = dcsync("verify")

    assert result.status == 0
    assert result.out.startswith("1 snapshot checked: 5 unique files, ")
    assert result.out.endswith("read, no problems found\n")


def test_each_finding_is_a_line_and_exit_3(side: Served, dcsync: Dcsync) -> None:
    (folder,) = mirrored(side, dcsync)
    spoil(folder / "admin_table_001.csv")
    (folder / "admin_table_002.csv").unlink()

    result = dcsync("verify")

    assert result.status == 3
    lines = result.out.splitlines()
    relative = folder.relative_to(side.root)
    assert lines[0].startswith(f"acme: changed {relative}/admin_table_001.csv: its SHA-256 is ")
    assert lines[1] == f"acme: missing {relative}/admin_table_002.csv: the file does not exist"
    assert lines[2].endswith("2 problems found")
    assert lines[3:] == ["  do:   run dcsync verify --repair"]


def test_what_it_finds_is_an_alert_until_it_finds_it_intact(side: Served, dcsync: Dcsync) -> None:
    (folder,) = mirrored(side, dcsync)
    path = folder / "admin_table_001.csv"
    body = path.read_bytes()
    spoil(path)

    assert dcsync("verify").status == 3
    status = dcsync("status")
    assert (
        f"1 file in the mirror does not match what was published (first: {path.relative_to(side.root)})" in status.out
    )
    assert "[V-DAMAGED]" in status.out

    path.write_bytes(body)
    assert dcsync("verify", "--account", "acme").status == 0
    assert "V-DAMAGED" not in dcsync("status").out


def test_findings_that_cannot_be_recorded_are_printed_with_the_reason() -> None:
    report = VerifyReport(not_recorded=ManifestError("the manifest is read-only", hint="make it writable"))

    lines = [line.text for line in answer_of(report, as_json=False).lines if line.is_error]

    assert lines == [
        "the alerts of this mirror are as before: the manifest is read-only\n",
        "  do:   make it writable\n",
    ]


def test_json_has_every_finding(side: Served, dcsync: Dcsync) -> None:
    (folder,) = mirrored(side, dcsync)
    spoil(folder / "admin_table_001.csv")

    document = dcsync("verify", "--json").json

    assert document.keys() == {
        "part",
        "snapshots",
        "files_read",
        "bytes_read",
        "ignored_files",
        "not_configured",
        "findings",
    }
    (finding,) = document["findings"]
    assert finding.keys() == {"kind", "account", "job", "path", "detail", "outcome", "kept"}
    assert (finding["kind"], finding["outcome"]) == ("changed", "found")


def litter(folder: Path) -> None:
    """Leave in a snapshot what a NAS, a Mac and Windows leave there: four files."""
    (folder / "@eaDir" / "_dcsync.json").mkdir(parents=True)
    (folder / "@eaDir" / "_dcsync.json" / "SYNOINDEX").write_bytes(b"x")
    for name in (".DS_Store", "._admin_table_001.csv", "Thumbs.db"):
        (folder / name).write_bytes(b"x")


def test_files_of_a_nas_and_of_desktops_are_counted_and_no_problem(side: Served, dcsync: Dcsync) -> None:
    (folder,) = mirrored(side, dcsync)
    litter(folder)
    litter(folder.parent)

    result = dcsync("verify")

    assert result.status == 0
    assert result.out.endswith("read, no problems found (4 extra files of other programs ignored)\n")
    document = dcsync("verify", "--json").json
    assert (document["ignored_files"], document["findings"]) == (4, [])
    # Records what it finds, as the daemon does at night.
    assert dcsync("verify", "--repair").status == 0
    status = dcsync("status", "--check")
    assert (status.status, "V-" in status.out) == (0, False)


def test_another_extra_file_is_reported_but_does_not_turn_monitors_red(side: Served, dcsync: Dcsync) -> None:
    (folder,) = mirrored(side, dcsync)
    (folder / "by_hand.csv").write_bytes(b"id\n1\n")

    result = dcsync("verify", "--repair")

    assert result.status == 3
    assert f"acme: extra {folder.relative_to(side.root)}/by_hand.csv: not a file of the snapshot" in result.out
    assert result.out.endswith("\n  do:   move what is extra out of the mirror, or name it in [verify] ignore\n")
    assert (folder / "by_hand.csv").exists()
    status = dcsync("status", "--check")
    assert status.status == 0
    assert "V-EXTRA" in status.out
    assert "V-DAMAGED" not in status.out

    side.write_config("[verify]", 'ignore = ["*_hand.csv"]')
    result = dcsync("verify", "--repair")
    assert result.status == 0
    assert "1 extra file of other programs ignored" in result.out
    assert "V-EXTRA" not in dcsync("status", "--check").out


def test_repair_restores_the_file_and_names_the_quarantined_one(side: Served, dcsync: Dcsync) -> None:
    (folder,) = mirrored(side, dcsync)
    body = (folder / "admin_table_001.csv").read_bytes()
    spoil(folder / "admin_table_001.csv")

    result = dcsync("verify", "--repair")

    assert result.status == 0
    assert "[repaired]; the damaged file was moved to .dcsync/quarantine/" in result.out
    assert (folder / "admin_table_001.csv").read_bytes() == body
    assert dcsync("verify").status == 0


def test_lost_data_is_exit_14(side: Served, dcsync: Dcsync) -> None:
    (folder,) = mirrored(side, dcsync)
    spoil(folder / "_dcsync.json")

    result = dcsync("verify", "--repair")

    assert result.status == 14
    assert "[lost]" in result.out


def test_a_missing_snapshot_is_reported_by_repair_and_fetched_by_the_next_sync(side: Served, dcsync: Dcsync) -> None:
    folders = mirrored(side, dcsync, days=2)
    for path in folders[0].iterdir():
        path.unlink()
    folders[0].rmdir()

    result = dcsync("verify", "--repair")

    assert result.status == 3
    assert "[refetch]" in result.out
    assert dcsync("sync").status == 0
    assert folders[0].is_dir()


def test_a_part_is_a_share(side: Served, dcsync: Dcsync) -> None:
    mirrored(side, dcsync, days=3)
    whole = dcsync("verify", "--json").json

    parts = [dcsync("verify", "--part", f"{number}/3", "--json").json for number in (1, 2, 3)]

    assert [part["part"] for part in parts] == ["1/3", "2/3", "3/3"]
    assert sum(part["files_read"] for part in parts) == whole["files_read"]


@pytest.mark.parametrize(
    "options", [("--part", "0/3"), ("--part", "4/3"), ("--part", "x"), ("--rate", "fast"), ("--rate", "0")]
)
def test_an_invalid_part_or_rate_is_a_usage_error(side: Served, dcsync: Dcsync, options: tuple[str, str]) -> None:
    result = dcsync("verify", *options)

    assert result.status == 2
    assert options[0] in result.err


def test_it_needs_no_secret_without_repair(side: Served, dcsync: Dcsync, monkeypatch: pytest.MonkeyPatch) -> None:
    mirrored(side, dcsync)
    monkeypatch.delenv("DCSYNC_TEST_TOKEN")

    assert dcsync("verify", "--rate", "unlimited").status == 0
