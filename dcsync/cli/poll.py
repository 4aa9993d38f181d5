"""`dcsync poll`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from dcsync.cli.group import exit_statuses
from dcsync.errors import DaemonGone

if TYPE_CHECKING:
    from pydantic import JsonValue

    from dcsync.daemon.open_order import OpenOrder
    from dcsync.orders import Answer


@click.command("poll", epilog=exit_statuses(3, 11, incomplete="no daemon is running, or it ended first"))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def poll_command(ctx: click.Context, as_json: bool) -> int:
    """Let the daemon poll every account for new extracts now. Does not wait for the poll."""
    from dcsync.cli.orders import Shown, carry_out, print_answer
    from dcsync.cli.startup import load_config

    config = load_config(ctx, as_owner=False)  # only the daemon has something to do

    async def alone() -> Answer:
        message = f"no daemon is working in {config.state.dir}"
        hint = "start it: systemctl start dcsync. Its first poll is at the start. Without a daemon, run dcsync sync"
        raise DaemonGone(message, hint=hint)

    options = PollOptions(as_json=as_json)
    return print_answer(carry_out(config, "poll", asdict(options), alone=alone, shown=Shown.NOTHING))


@dataclass(frozen=True, kw_only=True)
class PollOptions:
    """The options of an order to poll."""

    as_json: bool


async def order_work(order: OpenOrder, options: Mapping[str, JsonValue]) -> Answer:
    """Poll in the daemon."""
    from dcsync.cli.orders import read_options
    from dcsync.cli.output import json_text
    from dcsync.orders import Answer

    chosen, answer, names = read_options(PollOptions, options), Answer(), order.poll()
    if chosen.as_json:
        answer.echo(json_text({"accounts": list(names)}))
    else:
        answer.echo(f"the daemon polls now: {', '.join(names)}")
    return answer
