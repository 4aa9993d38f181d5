"""The alerts of the report page: the worst first, those of one kind in one line. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dcsync.core import anomaly
from dcsync.core.alerts import Alert, Severity
from dcsync.core.names import printable
from dcsync.errors import ExitStatus

#: The lines above the data requests. The rest can be unfolded.
MOST_LINES = 5
#: The alerts in the unfolded list.
MOST_ITEMS = 60
_NAME = 320

#: Tables that look wrong, the worst kind first, with the words for several of them.
_TABLES = {
    anomaly.TABLE_LOST: "are missing",
    anomaly.ROWS_LOST: "shrank",
    anomaly.COLUMNS_LOST: "lost columns",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """An alert of the account, or of a table in the latest snapshot of a data request. The lowest rank is the worst."""

    code: str
    text: str
    account: str
    rank: int
    hint: str = ""
    table: str = ""
    request: str = ""
    anchor: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Alerts of one kind: of an account, or of the tables of a data request."""

    code: str
    text: str
    account: str
    is_critical: bool
    request: str = ""
    anchor: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertList:
    """`lines` are at most five, `more` are the others. `items` has the alerts one by one, `left` counts the rest."""

    count: int = 0
    lines: tuple[Line, ...] = ()
    more: tuple[Line, ...] = ()
    items: tuple[Item, ...] = ()
    left: int = 0


_CRITICAL, _RED, _GREEN = 0, 1, 2


def alert_item(alert: Alert, *, account: str) -> Item:
    """Return the item of an account's alert."""
    is_green = alert.kind.exit_status is ExitStatus.DONE
    return Item(
        code=alert.code,
        text=printable(alert.message, _NAME),
        account=account,
        rank=_CRITICAL if alert.kind.severity is Severity.CRITICAL else _GREEN if is_green else _RED,
        hint=printable(alert.hint, _NAME),
    )


def table_items(warnings: Iterable[anomaly.TableWarning], *, account: str, request: str, anchor: str) -> Iterable[Item]:
    """Return the items of the tables that look wrong in the latest snapshot of a data request."""
    order = list(_TABLES)
    for warning in warnings:
        place = order.index(warning.code) if warning.code in order else len(order)
        yield Item(
            code=warning.code,
            text=printable(warning.message, _NAME),
            account=account,
            rank=_GREEN + 1 + place,
            table=printable(warning.table, _NAME),
            request=request,
            anchor=anchor,
        )


def alert_list(items: Sequence[Item]) -> AlertList:
    """Group the alerts. The order within a kind is that of `items`."""
    ordered = sorted(items, key=lambda item: item.rank)
    groups: dict[tuple[str, str, str | None], list[Item]] = {}
    for item in ordered:
        groups.setdefault((item.account, item.code, item.anchor), []).append(item)
    lines = tuple(_line(group) for group in groups.values())
    shown = tuple(ordered[:MOST_ITEMS])
    return AlertList(
        count=len(items),
        lines=lines[:MOST_LINES],
        more=lines[MOST_LINES:MOST_ITEMS],
        items=shown,
        left=len(items) - len(shown),
    )


def _line(group: Sequence[Item]) -> Line:
    first, more = group[0], len(group) - 1
    if first.table:
        one = f"{first.table} {first.text}"
        text = one if not more else f"{len(group)} tables {_TABLES.get(first.code, 'look wrong')} (first: {one})"
    else:
        text = first.text if not more else f"{first.text} (and {more} more of this kind)"
    return Line(
        code=first.code,
        text=text,
        account=first.account,
        is_critical=first.rank == _CRITICAL,
        request=first.request,
        anchor=first.anchor,
    )
