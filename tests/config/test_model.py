"""What the sections require of each other."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from tests.rigs.configs import ACCOUNT_ID, make_config, refusal


@pytest.mark.parametrize(
    ("root", "state", "said"),
    [
        ("/srv/a", "/srv/a", "mirror.root: must not be state.dir or a folder in it"),
        ("/srv/a/b", "/srv/a", "mirror.root: must not be state.dir or a folder in it"),
        ("/srv/a", "/srv/a/state", "state.dir: inside mirror.root, the folder's name must begin with a dot"),
        ("/srv/a", "/srv/a/x/.state", "state.dir: inside mirror.root, the folder's name must begin with a dot"),
    ],
)
def test_the_state_stays_out_of_the_readers_sight(root: str, state: str, said: str) -> None:
    assert refusal(mirror={"root": root}, state={"dir": state}).startswith(said)


@pytest.mark.parametrize(
    ("root", "state"), [("/srv/a", "/srv/ab"), ("/srv/a", "/srv/a/.state/x"), ("/srv/a", "/var/b")]
)
def test_the_state_may_stand_beside_the_mirror_or_hidden_in_it(root: str, state: str) -> None:
    config = make_config(mirror={"root": root}, state={"dir": state})

    assert (config.mirror.root, config.state.dir) == (Path(root), Path(state))


def test_root_and_state_are_compared_as_the_folders_they_are() -> None:
    words = refusal(mirror={"root": "/srv/dcsync/a"}, state={"dir": "/srv/dcsync/b/../a"})

    assert "must not be state.dir" in words


def test_two_accounts_cannot_share_a_folder_even_where_case_does_not_count() -> None:
    accounts = [{"name": name, "id": ACCOUNT_ID} for name in ("acme", "beta", "ACME")]

    assert refusal(account=accounts) == "account: two accounts have the name 'acme'; each needs its own folder"


@pytest.mark.parametrize("start", ["2026-01-31", date(2026, 1, 31)])
def test_a_start_is_a_day_in_both_spellings_at_midnight_of_the_mirror(start: object) -> None:
    account = [{"name": "acme", "id": ACCOUNT_ID, "start": start}]
    utc, berlin = make_config(account=account), make_config(account=account, mirror={"timezone": "Europe/Berlin"})

    assert utc.start_of(utc.accounts[0]) == datetime(2026, 1, 31, tzinfo=UTC)
    assert berlin.start_of(berlin.accounts[0]) == datetime(2026, 1, 30, 23, tzinfo=UTC)


@pytest.mark.parametrize("glob", ["*", "**", "*/*", ""])
def test_no_glob_ignores_every_extra_file(glob: str) -> None:
    words = refusal(verify={"ignore": ["*.txt", glob]})

    assert words == f"{glob!r} would ignore every extra file; name the files, such as '*.txt'"


# --- [[load]] ---------------------------------------------------------------------------------------------------------

TO = "duckdb:///srv/acc.duckdb"


def test_several_loads_need_names_in_whatever_case() -> None:
    assert refusal(load=[{"to": "env:A"}, {"to": "env:B"}]) == (
        "load: two loads have the name 'main'; give each [[load]] a name of its own"
    )
    assert "two loads have the name" in refusal(load=[{"to": "env:A", "name": "a"}, {"to": "env:B", "name": "A"}])
    assert len(make_config(load=[{"to": "env:A"}, {"to": "env:B", "name": "b"}]).loads) == 2


@pytest.mark.parametrize(
    ("other", "clashes"),
    [
        ({}, True),
        ({"schema": "DCSYNC"}, True),
        ({"schema": "other"}, False),
        ({"to": "env:OTHER"}, False),
        ({"tables": ["admin_*"]}, True),
        ({"tables": ["cost_x", "admin_?"]}, False),
    ],
)
def test_two_loads_never_write_the_same_table(other: dict[str, object], clashes: bool) -> None:
    loads = [{"to": TO, "tables": ["issues_*", "*_users"]}, {"to": TO, "name": "b", "tables": ["*"], **other}]

    if clashes:
        assert "'main' and 'b' may write the same tables of" in refusal(load=loads)
    else:
        assert len(make_config(load=loads).loads) == 2


def test_a_load_names_accounts_that_exist() -> None:
    assert make_config(load=[{"to": TO, "accounts": ["acme"]}]).loads[0].accounts == ["acme"]
    assert "names the account 'beta', which is not in the configuration" in refusal(
        load=[{"to": TO, "accounts": ["beta"]}]
    )


def test_the_mode_history_needs_a_row_history() -> None:
    load = [{"to": TO, "mode": "history"}]

    assert 'set [history] tables, for example tables = ["*"]' in refusal(load=load)
    assert make_config(load=load, history={"tables": ["admin_*"]}).loads[0].mode == "history"
