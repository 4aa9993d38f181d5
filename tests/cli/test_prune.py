"""`dcsync prune`."""

from __future__ import annotations

from tests.cli.conftest import Dcsync
from tests.cli.test_verify import mirrored
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
