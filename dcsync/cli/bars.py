"""The lines of a terminal that show the progress of a run, at any width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from dcsync.core.formatting import left_text, share_text, size_text
from dcsync.core.names import printable
from dcsync.core.waits import waits_text
from dcsync.ops.progress import ReadingProgress, RunProgress, Transfer

_BAR_WIDTH = 12
#: The least widths of columns: with these, they move rarely.
_LEAST = {"size": 11, "rate": 11, "left": 4}
#: A narrow terminal loses columns until this is left for the name.
_NAME_WIDTH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line. Without a share, the name has all of it."""

    name: str
    is_path: bool = False
    share: float | None = None
    style: str = "yellow"
    size: str = ""
    rate: str = ""
    left: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """The characters of a bar and of a cut name."""

    done: str
    half: str
    left: str
    cut: str


LINE = Signs(done="━", half="╸", left="─", cut="…")
#: For a terminal that is not set to UTF-8.
ASCII = Signs(done="#", half="", left="-", cut="~")


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The columns and lines of a terminal."""

    width: int
    height: int


def run_lines(progress: RunProgress, *, size: Size, signs: Signs = LINE) -> list[Text]:
    """Return the lines for a run: its snapshots, its waits, each job with its files. What does not fit is counted."""
    lines = _lines(_rows(progress), size.width, signs)
    if len(lines) > size.height:
        lines[size.height - 1 :] = [Text(f"  and {len(lines) - size.height + 1} more")]
    return lines


def reading_lines(progress: ReadingProgress, *, size: Size, signs: Signs = LINE) -> list[Text]:
    """Return the lines for reading: how many snapshots, and which one."""
    if not progress.number:
        return []
    total = Row(
        name=f"snapshot {progress.number} of {progress.of}",
        share=(progress.number - 1) / progress.of,
        size=size_text(progress.size),
        rate=_rate_text(progress.rate.per_s(progress.clock.monotonic())),
        left=left_text(progress.seconds_left()),
    )
    folder = Row(name=printable(progress.folder, 1000), is_path=True, style="")
    return _lines([total, folder], size.width, signs)


def _lines(rows: Sequence[Row], width: int, signs: Signs) -> list[Text]:
    columns = _fitting(rows, width)
    return [_line(row, columns, width, signs) for row in rows]


def _rows(progress: RunProgress) -> list[Row]:
    now, place = progress.clock.monotonic(), progress.place()
    jobs, files, rows = list(progress.jobs.items()), list(progress.files.items()), []
    if place is not None:
        number, of = place
        share = sum(_share(job) for _, job in jobs) / max(1, len(jobs))
        count = "".join(f", {job.files_done}/{job.files} files" for _, job in jobs[:1] if len(jobs) == 1)
        name, rate = f"snapshot {number} of {of}{count}", _rate_text(progress.rate.per_s(now))
        rows.append(Row(name=name, share=(number - 1 + share) / of, size=size_text(progress.received), rate=rate))
    waits = waits_text(progress.waits())
    rows += [Row(name=waits)] if waits else []
    for identifier, job in jobs:
        rows.append(_transfer_row(job, printable(job.name, 1000), now))
        rows += [
            _transfer_row(file, f"  {printable(file.name, 1000)}", now)
            for (owner, _), file in files
            if owner == identifier
        ]
    return rows


def _transfer_row(transfer: Transfer, name: str, now: float) -> Row:
    received = min(transfer.received, transfer.size)
    return Row(
        name=name,
        is_path=True,
        share=_share(transfer),
        size=share_text(received, transfer.size),
        rate=_rate_text(transfer.rate.per_s(now)),
        left=left_text(transfer.seconds_left(now)),
    )


def _share(transfer: Transfer) -> float:
    return min(1.0, transfer.received / transfer.size) if transfer.size else 1.0


def _rate_text(rate: float | None) -> str:
    return f"{size_text(rate)}/s" if rate else ""


def _fitting(rows: Sequence[Row], width: int) -> dict[str, int]:
    """Return the width of each column that is shown. The rate goes first, then the bar, then the time."""
    widths = {"share": _BAR_WIDTH, **_LEAST}
    for row in rows:
        widths |= {name: max(widths[name], len(getattr(row, name))) for name in _LEAST}
    for name in ("rate", "share", "left"):
        if width - sum(widths.values()) - len(widths) < _NAME_WIDTH:
            del widths[name]
    return widths


def _line(row: Row, widths: dict[str, int], width: int, signs: Signs) -> Text:
    if row.share is None:
        return Text(_cut(row, width, signs), style=row.style)
    name = max(1, width - sum(widths.values()) - len(widths))
    line = Text(_cut(row, name, signs).ljust(name))
    if "share" in widths:
        line.append(" ").append(_bar(row.share, signs))
    for column, style in (("size", "green"), ("rate", "red"), ("left", "cyan")):
        if column in widths:
            line.append(" ").append(getattr(row, column).rjust(widths[column]), style=style)
    return line


def _bar(share: float, signs: Signs) -> Text:
    halves = round(share * _BAR_WIDTH * 2)
    done = signs.done * (halves // 2) + signs.half * (halves % 2)
    return Text(done, style="magenta").append(signs.left * (_BAR_WIDTH - len(done)), style="bright_black")


def _cut(row: Row, width: int, signs: Signs) -> str:
    """Cut a name. A path loses its middle: a folder's account is at its beginning, its day at its end."""
    if len(row.name) <= width:
        return row.name
    tail = (width - 1) // 2 if row.is_path else 0
    return f"{row.name[: width - 1 - tail]}{signs.cut}{row.name[len(row.name) - tail :]}"
