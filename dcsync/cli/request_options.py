"""The options that the commands below `dcsync requests` share."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import click

from dcsync.cli.completion import account_names

if TYPE_CHECKING:
    from dcsync.config import Config
    from dcsync.ops.context import AccountSettings

P = ParamSpec("P")
T = TypeVar("T")


class Moment(click.ParamType[datetime]):
    """A date or a time in UTC, such as 2026-12-01 or 2026-12-01T02:00."""

    name = "time"

    def __init__(self, *, ends_day: bool = False) -> None:
        self._ends_day = ends_day

    def convert(self, value: str | datetime, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return the time. A date alone is its begin, or its last millisecond."""
        from dcsync.core.wire import parse_time

        moment = value if isinstance(value, datetime) else parse_time(value)
        if moment is None:
            self.fail(f"{value!r} is not a time such as 2026-12-01 or 2026-12-01T02:00 (UTC)", param, ctx)
        is_day = isinstance(value, str) and len(value.strip()) == 10
        return moment + timedelta(days=1, milliseconds=-1) if is_day and self._ends_day else moment


class Month(click.ParamType[date]):
    """A month such as 2026-11, as its first day."""

    name = "month"

    def convert(self, value: str | date, param: click.Parameter | None, ctx: click.Context | None) -> date:
        """Return the first day of the month."""
        try:
            return value if isinstance(value, date) else datetime.strptime(value, "%Y-%m").date()  # noqa: DTZ007 - a month
        except ValueError:
            self.fail(f"{value!r} is not a month such as 2026-11", param, ctx)


class Days(click.ParamType[timedelta]):
    """A duration such as 365d."""

    name = "duration"

    def convert(self, value: str | timedelta, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Return the duration."""
        from dcsync.config.units import parse_duration

        try:
            return value if isinstance(value, timedelta) else parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def account_option(command: Callable[P, T]) -> Callable[P, T]:
    """Add the option that names an account."""
    return click.option(
        "--account", metavar="NAME", shell_complete=account_names, help="The account, if several are configured."
    )(command)


def change_options(command: Callable[P, T]) -> Callable[P, T]:
    """Add the options of every command that changes something."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        click.option("--dry-run", is_flag=True, help="Show the call, and change nothing."),
        click.option("--no-browser", is_flag=True, help="Print the address of the sign-in and do not open a browser."),
    ):
        command = option(command)
    return account_option(command)


def only_account(config: Config, name: str | None) -> AccountSettings:
    """Return the account with this name, or the only one that is configured."""
    from dcsync.app.from_config import account_settings

    found = account_settings(config, () if name is None else (name,))
    if len(found) != 1:
        message = f"several accounts are configured: add --account {' or '.join(each.name for each in found)}"
        raise click.UsageError(message)
    return found[0]
