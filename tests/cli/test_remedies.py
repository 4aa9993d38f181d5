"""Every command that a hint about data requests names is a real command with real options."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import click
import pytest

from dcsync.core import remedies
from dcsync.core.alerts import AlertCode
from dcsync.core.coverage import Days
from tests.fakes import REQUEST_ID
from tests.rigs.commands import commands, parsed
from tests.rigs.listener import add_schedule
from tests.rigs.mirror import mirroring, status_of


@pytest.mark.parametrize(
    "command",
    [
        remedies.CREATE,
        remedies.extend(REQUEST_ID),
        remedies.activate(REQUEST_ID),
        remedies.set_callback(REQUEST_ID, "mirror.example.com"),
        remedies.backfill(Days(first=date(2026, 9, 30), last=date(2026, 10, 1))),
        remedies.CONTINUE,
    ],
)
def test_each_remedy_is_a_command(command: str) -> None:
    assert commands(f"run {command}. Then wait") == [command]
    parsed(command)


@pytest.mark.parametrize(
    "command", ["dcsync requests extnd x", "dcsync requests extend", "dcsync requests extend x --too y"]
)
def test_what_is_no_command_is_noticed(command: str) -> None:
    with pytest.raises((AssertionError, click.UsageError)):
        parsed(command)


@pytest.mark.parametrize(
    ("days", "is_active", "code", "command"),
    [
        (5, True, AlertCode.L_ENDS, "dcsync requests extend {}"),
        (-1, True, AlertCode.L_ENDED, "dcsync requests extend {}"),
        (99, False, AlertCode.L_INACTIVE, "dcsync requests activate {}"),
    ],
)
async def test_the_alerts_about_a_schedule_name_the_command(
    tmp_path: Path, days: int, is_active: bool, code: AlertCode, command: str
) -> None:
    async with mirroring(tmp_path) as mirror:
        request = add_schedule(mirror)
        mirror.world.requests[request].ends_at = mirror.clock.now() + timedelta(days=days)
        mirror.world.requests[request].is_active = is_active
        await mirror.run()

        (account,) = (await status_of(mirror)).accounts

    hints = {item.alert.code: item.alert.hint for item in account.alerts}
    assert commands(hints[code]) == [command.format(request)]
    parsed(commands(hints[code])[0])
