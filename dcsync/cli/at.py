"""`dcsync at`."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import TYPE_CHECKING

import click

from dcsync.cli.completion import account_names, request_ids, table_names
from dcsync.cli.group import exit_statuses
from dcsync.cli.without_rich import let_rich_in
from dcsync.core.formatting import count_text
from dcsync.core.names import printable
from dcsync.core.table_names import stem
from dcsync.errors import ConfigError

if TYPE_CHECKING:
    from dcsync.config import Config
    from dcsync.mirror.root import MirrorRoot
    from dcsync.ops.at import Past, Source
    from dcsync.rows import Engine

_PIECE = 1 << 20
_SHOWN = 20
_NARROWEST, _WIDEST = 6, 30
_FORMS = ("csv", "json", "parquet")


@click.command("at", epilog=exit_statuses(3, 14))
@click.argument("moment", metavar="DAY")
@click.argument("table", shell_complete=table_names)
@click.option("--account", metavar="NAME", shell_complete=account_names, help="Look only at this account.")
@click.option(
    "--request", metavar="ID|SLUG|GLOB", shell_complete=request_ids, help="Look only at snapshots of this data request."
)
@click.option(
    "--format", "form", type=click.Choice(_FORMS), help="Format of the output. [default: that of FILE's name, or csv]"
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="Write this file instead of standard output.",
)
@click.pass_context
def at_command(
    ctx: click.Context,
    moment: str,
    table: str,
    account: str | None,
    request: str | None,
    form: str | None,
    output: Path | None,
) -> int:
    """Print a table as it was on a day.

    DAY is a date such as 2026-11-22 (the last snapshot of that day, or else the newest one before it), a time such as
    2026-11-22T08:00, a job ID or the first characters of one, "latest", or "previous". TABLE is the name of a table,
    with or without .csv.

    The rows come from the snapshot, or from the row history if the retention policy removed the table. On a terminal,
    some rows are shown, as many columns as fit. In a pipe and with -o, all rows are written.
    """
    from dcsync.cli.startup import load_config, run_async

    if output is not None and str(output) == "-":
        output = None
    form = form or _form_of(output)
    is_shown = output is None and form is None and sys.stdout.isatty()
    if output is None and form == "parquet" and sys.stdout.isatty():
        raise click.UsageError("Parquet is binary: name a file with -o, or pipe it into a program.", ctx)
    # Nothing is written into the state folder, and root expects FILE in this folder.
    config = load_config(ctx, as_owner=False)
    target = None if output is None else _target(output, Path(config.mirror.root))
    run_async(_at(config, moment, table, account, request, None if is_shown else form or "csv", target))
    return 0


def _form_of(output: Path | None) -> str | None:
    ending = "" if output is None else output.suffix.lower().lstrip(".")
    return ending if ending in _FORMS else None


def _target(output: Path, root: Path) -> Path:
    """Return the file to write, of which a symlink is followed. Refuses what must not be replaced."""
    target = Path(os.path.realpath(output))
    if target.is_relative_to(os.path.realpath(root)):
        raise ConfigError(f"{output} is inside the mirror", hint="name a file in another folder")
    if target.exists() and not target.is_file():
        raise ConfigError(f"{output} is not a regular file", hint="leave out -o, and redirect the output")
    if not target.parent.is_dir():
        raise ConfigError(f"the folder {target.parent} does not exist", hint="create it, or name another file")
    return target


async def _at(
    config: Config,
    moment: str,
    table: str,
    account: str | None,
    request: str | None,
    form: str | None,
    target: Path | None,
) -> None:
    from dcsync.app.from_config import account_settings, mirror_settings
    from dcsync.app.mirror import read_mirror
    from dcsync.cluster import stores_for
    from dcsync.ops.at import find_table

    accounts = [settings.name for settings in account_settings(config, [] if account is None else [account])]
    async with read_mirror(config, stores_for(config, os.environ)) as context:
        layout = mirror_settings(config).layout
        past = await find_table(context, layout, accounts, moment, table, request=request)
        _remark(past, moment, config)
        if form == "csv" and past.stored is not None:
            # The file itself is the exact text, also of a table that no reader can be sure about.
            await context.disk.run(_copy, context.root, past, target)
            return
        from dcsync.cli.row_diff import MEMORY
        from dcsync.rows import in_thread, opened

        with TemporaryDirectory(prefix="dcsync-") as spill, opened(memory=MEMORY, spill=Path(spill)) as engine:
            work = partial(_write, context.root, engine, past, form, target)
            await in_thread(context.disk, engine, work)


def _remark(past: Past, moment: str, config: Config) -> None:
    """Say on stderr what a reader of the rows must know."""
    from dcsync.core.table import TableKind

    at = past.candidate.completed_at
    remarks = []
    day = None if at is None else at.astimezone(config.mirror.zone)
    if day is not None and moment[:4].isdigit() and moment[4:5] == "-" and f"{day:%Y-%m-%d}" != moment[:10]:
        remarks.append(f"no snapshot of {moment}: the newest one before it is of {day:%Y-%m-%d %H:%M}")
    if past.kind is TableKind.WINDOW:
        rows = "every row that extracts had until then" if past.stored is None else "the rows of one extract's period"
        remarks.append(f"{stem(past.name)} has {rows}")
    elif past.kind is TableKind.DELTA and past.stored is not None:
        remarks.append(f"{stem(past.name)} has only the rows that changed in one extract's period")
    for remark in remarks:
        with suppress(OSError):
            click.echo(f"dcsync: {printable(remark)}", err=True)


def _copy(root: MirrorRoot, past: Past, target: Path | None) -> None:
    from dcsync.mirror import disk

    assert past.stored is not None  # noqa: S101 - the caller checks it
    path = f"{past.candidate.folder}/{past.stored.name}"
    with disk.disk_errors(f"reading {disk.shown(path)}"):
        source = disk.open_file(path, below=root.descriptor)
    try:
        with _sink(target) as (write, _):
            offset = 0
            while piece := os.pread(source, _PIECE, offset):
                write(piece)
                offset += len(piece)
    finally:
        os.close(source)


def _write(root: MirrorRoot, engine: Engine, past: Past, form: str | None, target: Path | None) -> None:
    from dcsync.ops.at import opened_table
    from dcsync.rows.export import write_csv, write_json, write_parquet

    with opened_table(root, past) as source, source.reading():
        if form is None:
            _show(engine, past, source)
            return
        with _sink(target) as (write, descriptor):
            if form == "csv":
                write_csv(engine, source.query, source.columns, write)
            elif form == "json":
                write_json(engine, source.query, source.columns, write)
            elif descriptor is not None:
                write_parquet(engine, source.query, descriptor)
            else:
                _pipe_parquet(partial(write_parquet, engine, source.query), write)


def _pipe_parquet(fill: Callable[[int], None], write: Callable[[bytes], object]) -> None:
    with TemporaryFile(prefix="dcsync-") as file:
        fill(file.fileno())
        offset = 0
        while piece := os.pread(file.fileno(), _PIECE, offset):
            write(piece)
            offset += len(piece)


@contextmanager
def _sink(target: Path | None) -> Iterator[tuple[Callable[[bytes], object], int | None]]:
    """Yield a function that writes, and the descriptor of a file. A file gets its name when it is whole and durable."""
    from dcsync.mirror import disk
    from dcsync.opening import open_regular

    if target is None:
        yield sys.stdout.buffer.write, None
        sys.stdout.buffer.flush()
        return
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.part")
    with disk.disk_errors(f"writing {target}"):
        descriptor = open_regular(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            yield partial(disk.write_all, descriptor), descriptor
            os.fsync(descriptor)
            unfinished.replace(target)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)


def _show(engine: Engine, past: Past, source: Source) -> None:
    """Show some rows on a terminal, with the columns that fit."""
    let_rich_in()
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    total = int(str(engine.one(f"SELECT count(*) FROM ({source.query})")[0]))
    rows = engine.all(f"SELECT * FROM ({source.query}) LIMIT {_SHOWN}")
    cells = [["" if value is None else printable(str(value), 200) for value in row] for row in rows]
    widths = _widths([printable(name, 60) for name in source.columns], cells)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, width in zip(source.columns, widths, strict=False):
        table.add_column(Text(printable(name, 60)), no_wrap=True, overflow="ellipsis", max_width=width)
    for row in cells:
        table.add_row(*[Text(cell) for cell in row[: len(widths)]])
    Console().print(table)
    hidden = len(source.columns) - len(widths)
    columns = f", {len(widths)} of {len(source.columns)} columns" if hidden else ""
    click.echo(f"\n{len(rows)} of {count_text(total)} rows{columns}: {stem(past.name)} in {past.candidate.folder}")
    if hidden or total > len(rows):
        click.echo("-o FILE writes all of it, and a pipe gets all of it")


def _widths(names: Sequence[str], cells: Sequence[Sequence[str]]) -> list[int]:
    """Return the widths of the columns that fit on the terminal, at least of one."""
    room = shutil.get_terminal_size((80, 24)).columns
    found: list[int] = []
    for place, name in enumerate(names):
        width = min(_WIDEST, max(_NARROWEST, len(name), *(len(row[place]) for row in cells), 0))
        if found and sum(found) + len(found) + width > room:
            break
        found.append(width)
    return found
