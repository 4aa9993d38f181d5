"""`dcsync prune`."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dcsync.core.formatting import size_text
from tests.cli.conftest import Dcsync
from tests.cli.test_verify import mirrored
from tests.rigs.mirror import tables
from tests.rigs.served import Served


def keep(side: Served, line: str) -> None:
    side.config.write_text(side.config.read_text() + f"\n[keep]\n{line}\n")


def test_a_dry_run_shows_removed_snapshots_and_why_the_others_are_kept(side: Served, dcsync: Dcsync) -> None:
    folders = mirrored(side, dcsync, days=3)
    keep(side, "last = 2")

    result = dcsync("prune", "--dry-run")

    assert result.status == 0
    shown = [str(folder.relative_to(side.root)) for folder in folders]
    assert result.out.splitlines() == [
        f"acme: keep {shown[2]} (latest, last)",
        f"acme: keep {shown[1]} (last)",
        f"acme: would remove {shown[0]}",
        "1 would be removed, 2 kept",
    ]
    assert folders[0].is_dir()


def test_prune_lists_the_removed_snapshots(side: Served, dcsync: Dcsync) -> None:
    folders = mirrored(side, dcsync, days=3)
    keep(side, "last = 2")

    result = dcsync("prune")

    assert result.status == 0
    first, last = result.out.splitlines()
    assert first == f"acme: removed {folders[0].relative_to(side.root)}"
    assert last.startswith("1 removed (")
    assert [folder.exists() for folder in folders] == [False, True, True]
    assert dcsync("verify").status == 0
    assert dcsync("sync").out.startswith("acme: nothing new")


def test_a_mass_change_is_exit_14_and_needs_force(side: Served, dcsync: Dcsync) -> None:
    folders = mirrored(side, dcsync, days=4)
    keep(side, "last = 1")

    refused = dcsync("prune")
    dry = dcsync("prune", "--dry-run")

    assert refused.status == 14
    assert "M-MASS" in refused.err
    assert "dcsync prune --force" in refused.err
    assert dry.status == 0
    assert "--force" in dry.err
    assert all(folder.exists() for folder in folders)
    assert dcsync("prune", "--force").status == 0
    assert [folder.exists() for folder in folders] == [False, False, False, True]


def mirrored_with_windows(side: Served, dcsync: Dcsync, *, days: int) -> list[Path]:
    """Mirror some days of all service groups, each with its own rows of activities. Return their folders."""
    world = side.sandbox.world
    request = world.add_request("Everything", service_groups=("all",))
    for day in range(days):
        completed = datetime.now(UTC) - timedelta(days=days - day)
        rows = b"id,day\n" + b"".join(b"%d,%d\n" % (row, day) for row in range(602))
        files = {**tables(2, size=40_000, seed=day), "activities_a.csv": rows, "activities_b.csv": rows}
        world.add_job(request, completed_at=completed, files=files, with_archive=False)
    assert dcsync("sync").status == 0
    return sorted(path.parent for path in side.root.glob("acme/*/[0-9]*/**/_dcsync.json"))


def test_rows_that_exist_nowhere_else_are_kept_and_prune_says_so(side: Served, dcsync: Dcsync) -> None:
    folders = mirrored_with_windows(side, dcsync, days=4)
    keep(side, "last = 3")
    oldest = folders[0].relative_to(side.root)

    dry, document = dcsync("prune", "--dry-run"), dcsync("prune", "--dry-run", "--json").json
    freed = size_text(document["freed_bytes"])
    assert 80_000 < document["freed_bytes"] < 90_000
    assert dry.out.splitlines()[3:] == [
        f"acme: would reduce {oldest}: keep 2 window tables (1,204 rows), free {freed}",
        "0 would be removed, 1 reduced, 3 kept",
    ]
    assert (document["removed"], document["reduced"], document["kept"]) == (0, 1, 3)
    assert document["requests"][0]["snapshots"][3] == {
        **document["requests"][0]["snapshots"][3],
        "action": "reduce",
        "keep": False,
        "kept_tables": ["activities_a.csv", "activities_b.csv"],
        "kept_rows": 1204,
        "error": None,
        "hint": None,
    }
    done = dcsync("prune")
    assert done.status == 0
    assert done.out.splitlines() == [
        f"acme: reduced {oldest}: kept 2 window tables (1,204 rows), freed {freed}",
        f"0 removed, 1 reduced ({freed} freed), 3 kept",
    ]
    assert sorted(path.name for path in folders[0].glob("*.csv")) == ["activities_a.csv", "activities_b.csv"]
    assert dcsync("verify").status == 0
    assert dcsync("status", "--json").json["accounts"][0]["jobs"]["reduced"] == 1
    assert dcsync("prune").out == "0 removed (0 B freed), 3 kept\n"
    job = json.loads((folders[0] / "_dcsync.json").read_text())["job"]["id"]
    compared = dcsync("diff", job, "latest")
    assert compared.status == 0
    assert compared.out.splitlines()[2] == "A lost its full tables to the retention policy: 2 files not compared"


def test_a_snapshot_that_cannot_be_reduced_is_named_and_exit_3(side: Served, dcsync: Dcsync) -> None:
    folders = mirrored_with_windows(side, dcsync, days=2)
    keep(side, "last = 1")
    (folders[0] / "activities_a.csv").unlink()

    result = dcsync("prune")

    oldest = folders[0].relative_to(side.root)
    assert result.status == 3
    assert result.out.splitlines() == [
        f"acme: kept {oldest} whole: {oldest} lacks a file that has to stay: activities_a.csv",
        "  do:   run dcsync verify --repair. The snapshot stays whole until it is repaired",
        "0 removed (0 B freed), 2 kept",
    ]


def test_without_a_policy_nothing_is_removed(side: Served, dcsync: Dcsync) -> None:
    mirrored(side, dcsync, days=3)

    result = dcsync("prune", "--json")

    assert result.status == 0
    document = result.json
    assert (document["removed"], document["kept"]) == (0, 3)
    (request,) = document["requests"]
    assert {reason for snapshot in request["snapshots"] for reason in snapshot["reasons"]} == {
        "no retention policy",
        "latest",
    }


def test_an_unknown_account_is_a_usage_error(side: Served, dcsync: Dcsync) -> None:
    assert dcsync("prune", "--account", "nobody").status == 2
