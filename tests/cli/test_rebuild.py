"""`dcsync rebuild`, and other commands with a damaged manifest."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Dcsync
from tests.cli.test_verify import mirrored, spoil
from tests.rigs.served import Served


def test_it_rebuilds_the_manifest_and_keeps_the_old_one(
    side: Served, dcsync: Dcsync, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirrored(side, dcsync, days=2)
    before = dcsync("status", "--json").json["accounts"][0]["jobs"]
    token = side.token
    monkeypatch.delenv("DCSYNC_TEST_TOKEN")

    result = dcsync("rebuild")

    assert result.status == 0
    assert result.out.splitlines()[0].startswith("2 snapshots; ")
    (aside,) = side.state.glob("manifest.sqlite.replaced-*Z")
    assert result.out.splitlines()[1] == f"Previous manifest saved as: {aside}"
    monkeypatch.setenv("DCSYNC_TEST_TOKEN", token)
    assert dcsync("status", "--json").json["accounts"][0]["jobs"] == before
    assert dcsync("sync").out.startswith("acme: nothing new")


def test_damage_is_reported_and_exit_3(side: Served, dcsync: Dcsync) -> None:
    (folder,) = mirrored(side, dcsync)
    spoil(folder / "admin_table_001.csv")

    result = dcsync("rebuild", "--json")

    assert result.status == 3
    (snapshot,) = result.json["snapshots"]
    assert snapshot["damaged"] == ["admin_table_001.csv: content differs from the recorded SHA-256"]
    assert "admin_table_001.csv" in dcsync("rebuild").out


def test_a_sync_rebuilds_a_damaged_manifest_and_logs_one_line(side: Served, dcsync: Dcsync) -> None:
    mirrored(side, dcsync, days=2)
    path = side.state / "manifest.sqlite"
    path.write_bytes(path.read_bytes()[:6000])

    result = dcsync("sync")

    assert result.status == 0
    assert "the manifest is damaged; it is renamed and rebuilt from the mirror" in result.err
    assert result.out.startswith("acme: nothing new")
    assert dcsync("sync").err == ""


def test_read_only_commands_report_a_damaged_manifest_and_the_fix(side: Served, dcsync: Dcsync) -> None:
    mirrored(side, dcsync)
    path = side.state / "manifest.sqlite"
    path.write_bytes(b"no database" * 1000)

    result = dcsync("verify")

    assert result.status == 14
    assert "dcsync rebuild" in result.err


def test_an_empty_root_is_not_taken_for_the_mirror(side: Served, dcsync: Dcsync) -> None:
    mirrored(side, dcsync)
    side.root.rename(side.folder / "the disk")
    side.root.mkdir()

    result = dcsync("rebuild")

    assert result.status == 14
    assert (side.state / "manifest.sqlite").is_file()
    assert list(side.root.iterdir()) == []
