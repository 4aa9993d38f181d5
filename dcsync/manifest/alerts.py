"""The alerts that are standing, with their history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from dcsync.core.alerts import Alert, AlertCode
from dcsync.core.events import Event
from dcsync.core.standing import StandingAlert
from dcsync.manifest.hook_runs import insert_hook_runs
from dcsync.manifest.schema import alert as alert_table
from dcsync.manifest.sql import SqlManifest
from dcsync.manifest.state import read_value, write_value


class StandingAlerts:
    """The alert table. It keeps its old name `attention` in the database, so that older manifests open unchanged."""

    def __init__(self, manifest: SqlManifest) -> None:
        self._manifest = manifest

    async def load(self, accounts: Sequence[str]) -> tuple[StandingAlert, ...]:
        """Return the recorded alerts of these accounts ("" is the whole mirror), oldest first."""
        async with self._manifest.reading() as connection:
            rows = await connection.execute(
                sa.select(alert_table)
                .where(alert_table.c.account.in_(accounts))
                .order_by(alert_table.c.since, alert_table.c.code, alert_table.c.subject)
            )
            return tuple(
                StandingAlert(
                    alert=Alert.of(
                        AlertCode.parse(row.code),
                        account=row.account,
                        subject=row.subject,
                        message=row.message,
                        hint=row.hint,
                    ),
                    since=row.since,
                    notified_at=row.told_at,
                )
                for row in rows
            )

    async def settle(
        self,
        accounts: Sequence[str],
        *,
        standing: Sequence[StandingAlert],
        hooks: Sequence[tuple[Sequence[str], Event]],
        values: Mapping[str, str],
        unless: tuple[str, str | None] | None = None,
    ) -> bool:
        """Replace the alerts of these accounts, add the hook runs that follow, and save `values` of the state.

        One transaction does all of it or nothing, so each event is sent once. `unless` is a key of the state with the
        value that the caller read. If another host has changed the value since, nothing is written and the result is
        False.
        """
        async with self._manifest.writing() as connection:
            if unless is not None and await read_value(connection, unless[0]) != unless[1]:
                return False
            for key, value in values.items():
                await write_value(connection, key, value)
            await connection.execute(sa.delete(alert_table).where(alert_table.c.account.in_(accounts)))
            if standing:
                await connection.execute(sa.insert(alert_table), list(map(_row, standing)))
            await insert_hook_runs(connection, hooks)
        return True


def has_same_rows(standing: Sequence[StandingAlert], others: Sequence[StandingAlert]) -> bool:
    """Say whether the same is recorded for both."""
    return {tuple(_row(item).values()) for item in standing} == {tuple(_row(item).values()) for item in others}


def _row(item: StandingAlert) -> dict[str, object]:
    alert = item.alert
    return {
        "account": alert.account,
        "code": alert.code,
        "subject": alert.subject,
        "message": alert.message,
        "hint": alert.hint,
        "since": item.since,
        "told_at": item.notified_at,
    }
