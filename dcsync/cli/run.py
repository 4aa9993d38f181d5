"""`dcsync run`."""

from __future__ import annotations

import asyncio
import os
import signal

import click

from dcsync.cli.group import EXIT_STATUSES
from dcsync.errors import ConfigError, ExitStatus, NotStateOwner


@click.command("run", epilog=EXIT_STATUSES)
@click.pass_context
def run_command(ctx: click.Context) -> int:
    """Run the daemon. It polls, mirrors new extracts, keeps the sign-in valid, and alerts you to problems.

    SIGTERM or Ctrl-C stops it. SIGHUP reloads the configuration. SIGUSR1 polls immediately. Under systemd it reports
    when it is ready and what it is doing. While it is running, it carries out the commands that write: sync, poll,
    prune, verify --repair, rebuild, hooks rerun.
    """
    import structlog

    from dcsync.cli.ending import end_despite_disk
    from dcsync.cli.orders import works
    from dcsync.cli.startup import load_config, run_loop
    from dcsync.cluster import make_session, stores_for
    from dcsync.config import OldName
    from dcsync.daemon.service import Service
    from dcsync.ops.alerts import orphans

    log = structlog.get_logger(__name__)

    def warn(old: OldName) -> None:
        log.warning("old name in the configuration", file=old.file, line=old.line, key=old.key, message=old.message)

    def note_stuck(seconds: float) -> None:
        log.error("stopped without waiting for the disk; downloads resume at the next start", seconds=int(seconds))

    async def serve() -> int:
        orphans.adopt()
        service = Service(
            lambda: load_config(ctx, as_owner=False, warn=warn),
            stores_for,
            environ=os.environ,
            make_session=make_session,
            works=works(),
        )
        loop = asyncio.get_running_loop()
        is_watched = False

        def stop() -> None:
            nonlocal is_watched
            if not is_watched:
                end_despite_disk(ExitStatus.DONE, note_stuck)
            is_watched = True
            service.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        loop.add_signal_handler(signal.SIGHUP, service.reload)
        loop.add_signal_handler(signal.SIGUSR1, service.poll_now)
        return int(await service.run())

    try:
        return run_loop(serve())
    except NotStateOwner as error:
        # A second daemon as that user would only meet the first one's lock.
        raise ConfigError(error.message, hint="start the service: systemctl start dcsync") from None
