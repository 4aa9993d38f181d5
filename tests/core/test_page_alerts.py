"""The alerts of the page: at most five lines, the worst first, those of one kind in one line."""

from __future__ import annotations

from collections.abc import Iterable

from dcsync.core.alerts import Alert, AlertCode
from dcsync.core.anomaly import TableWarning
from dcsync.core.page_alerts import AlertList, Item, Line, alert_item, alert_list, table_items


def item(code: AlertCode, message: str = "m", *, account: str = "acme") -> Item:
    return alert_item(Alert.of(code, account=account, message=message, hint="do it"), account=account)


def tables(code: str, count: int, *, anchor: str = "r0-0") -> Iterable[Item]:
    warnings = [
        TableWarning(code=code, table=f"t{number}.csv", message=f"has {number} rows") for number in range(count)
    ]
    return table_items(warnings, account="acme", request="Nightly", anchor=anchor)


def test_no_alerts_are_an_empty_list() -> None:
    assert alert_list([]) == AlertList()


def test_what_is_critical_comes_first_and_what_leaves_monitors_green_last() -> None:
    found = alert_list(
        [
            *tables("L-COLUMNS", 1),
            *tables("L-TABLE", 1),
            item(AlertCode.L_LOST),
            item(AlertCode.L_LATE),
            item(AlertCode.V_DAMAGED),
            *tables("L-ROWS", 1),
        ]
    )

    assert [line.code for line in (*found.lines, *found.more)] == [
        "V-DAMAGED",
        "L-LATE",
        "L-LOST",
        "L-TABLE",
        "L-ROWS",
        "L-COLUMNS",
    ]
    assert [line.is_critical for line in found.lines] == [True, False, False, False, False]
    assert [found.items[0].code, found.items[0].hint] == ["V-DAMAGED", "do it"]


def test_tables_of_one_kind_in_one_snapshot_are_one_line() -> None:
    found = alert_list([*tables("L-ROWS", 12), *tables("L-ROWS", 1, anchor="r0-1"), *tables("L-NEW", 2)])

    assert found.count == 15
    assert [line.text for line in found.lines] == [
        "12 tables shrank (first: t0.csv has 0 rows)",
        "t0.csv has 0 rows",
        "2 tables look wrong (first: t0.csv has 0 rows)",
    ]
    assert (found.lines[0].request, found.lines[0].anchor) == ("Nightly", "r0-0")
    assert len(found.items) == 15


def test_each_kind_of_table_has_its_words() -> None:
    found = alert_list([*tables("L-TABLE", 2), *tables("L-ROWS", 2), *tables("L-COLUMNS", 2)])

    assert [line.text.partition(" (")[0] for line in found.lines] == [
        "2 tables are missing",
        "2 tables shrank",
        "2 tables lost columns",
    ]


def test_a_long_text_is_cut() -> None:
    long = alert_item(Alert.of(AlertCode.L_LATE, account="acme", message="m" * 320, hint="h" * 321), account="acme")

    assert (long.text, long.hint) == ("m" * 320, "h" * 320 + "…")


def test_alerts_of_one_kind_and_account_are_one_line() -> None:
    found = alert_list(
        [item(AlertCode.L_LOST, "a"), item(AlertCode.L_LOST, "b"), item(AlertCode.L_LOST, "c", account="beta")]
    )

    assert found.lines == (
        Line(code="L-LOST", text="a (and 1 more of this kind)", account="acme", is_critical=False),
        Line(code="L-LOST", text="c", account="beta", is_critical=False),
    )


def test_five_lines_are_shown_and_the_rest_is_folded() -> None:
    found = alert_list([item(AlertCode.L_LATE, account=f"account {number}") for number in range(70)])

    assert (len(found.lines), len(found.more), len(found.items), found.left) == (5, 55, 60, 10)
    assert [line.account for line in found.more[:2]] == ["account 5", "account 6"]
