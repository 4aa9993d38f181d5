"""Which tables a load brings up to date, and under which names."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from dcsync.core.load_plan import Action, Candidate, Planned, plan, target_names
from dcsync.core.load_settings import LoadSettings
from dcsync.core.loads import LoadMode, Shown
from dcsync.core.model import AccountName, JobId, RequestId
from dcsync.core.table import TableKind

DAY = datetime(2026, 11, 22, tzinfo=UTC)
LATEST = LoadSettings(name="x", dataset="d")
HISTORY = LoadSettings(name="x", dataset="d", mode=LoadMode.HISTORY)
FIRST, SECOND = RequestId("11111111-a"), RequestId("22222222-b")


def candidate(
    name: str = "admin_users",
    *,
    request: RequestId = FIRST,
    account: str = "acme",
    day: int = 1,
    sha256: str = "sha",
    kind: TableKind | None = TableKind.FULL,
    earlier: tuple[str, ...] = (),
) -> Candidate:
    return Candidate(
        account=AccountName(account),
        request=request,
        name=name,
        path=f"{request}/{name}.csv",
        job=JobId(f"job-{day}"),
        completed=DAY + timedelta(days=day),
        sha256=sha256,
        rows=7,
        kind=kind,
        earlier=frozenset(earlier),
    )


def shown(of: Candidate, table: str = "", mode: LoadMode = LoadMode.LATEST) -> Shown:
    planned = Planned(table=table or of.name, candidate=of, action=Action.LOAD)
    return replace(planned.shows(mode), rows=5)


def actions(
    settings: LoadSettings, candidates: list[Candidate], there: list[Shown], *, is_full: bool = False
) -> dict[str, Action]:
    found = plan(settings, candidates, {each.table: each for each in there}, is_full=is_full)
    return {each.table: each.action for each in found.tables}


def test_a_table_that_the_target_lacks_is_loaded() -> None:
    assert actions(LATEST, [candidate()], []) == {"admin_users": Action.LOAD}


def test_a_table_that_shows_the_newest_snapshot_stays() -> None:
    assert actions(LATEST, [candidate()], [shown(candidate())]) == {"admin_users": Action.KEEP}


def test_the_same_rows_in_a_newer_snapshot_are_only_marked() -> None:
    found = plan(LATEST, [candidate(day=2)], {"admin_users": shown(candidate())}).tables[0]

    assert found.action is Action.MARK
    assert found.writes
    marked = found.shows(LoadMode.LATEST)
    assert (marked.job, marked.rows, marked.completed) == ("job-2", 5, DAY + timedelta(days=2))


def test_other_rows_are_loaded_and_their_number_is_known_in_the_mode_latest() -> None:
    new = candidate(day=2, sha256="new")
    found = plan(LATEST, [new], {"admin_users": shown(candidate())}).tables[0]

    assert found.action is Action.LOAD
    assert found.shows(LoadMode.LATEST).rows == 7
    assert found.shows(LoadMode.HISTORY).rows is None


def test_a_table_never_goes_back_unless_everything_is_loaded_again() -> None:
    newer = shown(candidate(day=3, sha256="newer"))

    assert actions(LATEST, [candidate(day=2)], [newer]) == {"admin_users": Action.KEEP}
    assert actions(LATEST, [candidate(day=2)], [newer], is_full=True) == {"admin_users": Action.LOAD}


def test_a_table_of_the_other_mode_is_loaded_again() -> None:
    there = shown(candidate(), mode=LoadMode.HISTORY)

    assert actions(LATEST, [candidate()], [there]) == {"admin_users": Action.LOAD}


def test_of_a_history_only_the_changes_are_loaded_if_the_target_shows_one_of_its_states() -> None:
    now = candidate(day=3, sha256="c", earlier=("a", "b"))
    old = [shown(candidate(day=1, sha256=sha), mode=LoadMode.HISTORY) for sha in ("a", "x", "c")]

    assert actions(HISTORY, [now], old[:1]) == {"admin_users": Action.CHANGES}
    assert actions(HISTORY, [now], old[1:2]) == {"admin_users": Action.LOAD}
    assert actions(HISTORY, [now], old[2:]) == {"admin_users": Action.MARK}


@pytest.mark.parametrize("kind", [TableKind.WINDOW, TableKind.DELTA])
def test_tables_of_which_a_snapshot_has_a_part_need_the_history(kind: TableKind) -> None:
    part = candidate(kind=kind)
    (left_out,) = plan(LATEST, [part], {}).tables

    assert (left_out.action, left_out.writes) == (Action.SKIP, False)
    assert f"it is a {kind} table" in left_out.reason
    assert actions(HISTORY, [part], []) == {"admin_users": Action.LOAD}


def test_a_table_of_unknown_kind_is_loaded() -> None:
    assert actions(LATEST, [candidate(kind=None)], []) == {"admin_users": Action.LOAD}


def test_tables_of_older_snapshots_come_first() -> None:
    found = plan(LATEST, [candidate("b", day=2), candidate("c"), candidate("a", day=2)], {})

    assert [each.table for each in found.tables] == ["c", "a", "b"]


# --- names ------------------------------------------------------------------------------------------------------------


def names(candidates: list[Candidate], there: list[Shown]) -> dict[str, str]:
    found = target_names(candidates, {each.table: each for each in there})
    return {name: each.request for name, each in found.items()}


def test_the_first_data_request_has_the_plain_name_and_the_others_add_their_id() -> None:
    both = [candidate(), candidate(request=SECOND)]

    assert names(both, []) == {"admin_users": FIRST, "admin_users__22222222": SECOND}


def test_a_table_keeps_the_name_under_which_the_target_shows_it() -> None:
    both = [candidate(), candidate(request=SECOND)]

    assert names(both, [shown(both[1])]) == {"admin_users": SECOND, "admin_users__11111111": FIRST}
    assert names(both, [shown(both[0], "admin_users__11111111")]) == {
        "admin_users__11111111": FIRST,
        "admin_users": SECOND,
    }


def test_a_name_in_the_target_belongs_to_its_table_while_the_mirror_lacks_it() -> None:
    assert names([candidate(request=SECOND)], [shown(candidate())]) == {"admin_users__22222222": SECOND}


def test_two_accounts_with_the_same_data_request_differ_by_their_names() -> None:
    several = [candidate(account=account) for account in ("acme", "b-2", "c")]
    several.append(replace(several[0], name="Admin_Users"))

    assert list(target_names(several, {})) == [
        "admin_users",
        "admin_users__11111111",
        "admin_users__c_11111111",
        "Admin_Users__acme_11111111",
    ]


def test_two_accounts_keep_their_names() -> None:
    both = [candidate(account=account) for account in ("acme", "beta")]
    there = {name: shown(each, name) for name, each in target_names(both, {}).items()}

    for order in (both, both[::-1]):
        assert {name: each.account for name, each in target_names(order, there).items()} == {
            "admin_users": "acme",
            "admin_users__11111111": "beta",
        }


def test_an_account_with_another_name_keeps_its_tables() -> None:
    assert names([candidate(account="renamed")], [shown(candidate())]) == {"admin_users": FIRST}


def test_names_that_are_all_taken_are_numbered() -> None:
    same = [candidate() for _ in range(5)]

    assert list(target_names(same, {}))[3:] == ["admin_users__2", "admin_users__3"]


def test_the_table_of_loads_is_never_replaced() -> None:
    assert list(target_names([candidate("_dcsync_loads")], {})) == ["_dcsync_loads__11111111"]


def test_a_table_that_the_newest_snapshot_lacks_is_named() -> None:
    old, other = shown(candidate("admin_old")), shown(candidate("admin_other", request=SECOND))
    settings = LoadSettings(name="x", dataset="d", tables=("admin_*",))
    foreign = shown(candidate("issues_old"))

    found = plan(settings, [candidate()], {each.table: each for each in (old, other, foreign)})

    assert found.gone == (old,)
