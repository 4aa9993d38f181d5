"""The layout template, which gives the place of a snapshot below the root. Pure.

A layout is a path template over `{account} {request} {project} {date:%Y/%m/%d} {time} {job}`. The leading folders that
do not depend on the job are the data request's folder, which contains `latest`.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo

from dcsync.core import names
from dcsync.core.model import AccountName, JobId

#: The two layouts that have a name. Spark, DuckDB and Athena read Hive's `key=value` folders as columns.
NAMED_LAYOUTS = {
    "dated": "{account}/{request}/{date:%Y/%m/%d}/{time}-{job}",
    "hive": "account={account}/request={request}/date={date:%Y-%m-%d}/job={job}",
}

#: Hive readers treat every folder in a partition as a partition, unless its name starts with `_` or `.`.
_HIVE_LATEST = "_latest"
#: Every name that `latest` can have.
LATEST_NAMES = ("latest", _HIVE_LATEST)
#: Every name that the folder of row histories can have.
HISTORY_NAMES = tuple(name.replace("latest", "history") for name in LATEST_NAMES)
_FIELDS = ("account", "request", "project", "date", "time", "job")
_PER_JOB = frozenset({"date", "time", "job"})
_DATE_DIRECTIVE = re.compile(r"%[YmdjGVuHMSyb]|[A-Za-z0-9=_./-]")
#: How many characters of an ID a folder's name shows. `_dcsync.json` has the whole ID.
SHORT_ID = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A parsed template: the segments of the data request's folder, and those of the snapshot below it."""

    request_segments: tuple[str, ...]
    snapshot_segments: tuple[str, ...]
    latest_name: str

    @property
    def holds_one_request(self) -> bool:
        """Whether the request's folder belongs to one data request, so that `latest` in it is unambiguous."""
        return any("{request}" in segment for segment in self.request_segments)

    def history_folder(self, snapshot: str, slug: str) -> str:
        """Return the folder of the row history of a data request, by the folder of one of its snapshots.

        It has the name of `latest` with `history` in its place, which Spark skips where it skips `latest`.
        """
        name = self.latest_name.replace("latest", "history")
        parts = [*snapshot.split("/")[: len(self.request_segments)], name]
        return "/".join(parts if self.holds_one_request else [*parts, slug])


def parse_layout(text: str) -> Layout:
    """Parse a layout's name or template. Raises `ValueError` with the mistake."""
    template = NAMED_LAYOUTS.get(text, text)
    segments = _split(template)
    used: set[str] = set()
    request_segments: list[str] = []
    snapshot_segments: list[str] = []
    for segment in segments:
        fields = _fields_of(segment)
        used |= fields
        if snapshot_segments or fields & _PER_JOB:
            snapshot_segments.append(segment)
        else:
            request_segments.append(segment)
    if "{" not in template:
        msg = f"{text!r} is not a layout: write {', '.join(NAMED_LAYOUTS)}, or a template with {{job}}"
        raise ValueError(msg)
    if "job" not in used:
        msg = f"the layout {text!r} lacks {{job}}: two snapshots of the same day would share a folder"
        raise ValueError(msg)
    if not request_segments:
        msg = f"the layout {text!r} must begin with a folder that does not depend on the job"
        raise ValueError(msg)
    _check_sample([*request_segments, *snapshot_segments], text)
    return Layout(
        request_segments=tuple(request_segments),
        snapshot_segments=tuple(snapshot_segments),
        latest_name=LATEST_NAMES[text == "hive"],
    )


def place(
    layout: Layout,
    *,
    account: AccountName,
    request_slug: str,
    project: str | None,
    completed_at: datetime | None,
    job: JobId,
    zone: tzinfo = UTC,
    id_length: int = SHORT_ID,
) -> str:
    """Return the folder of a job's snapshot, relative to the root, with `/` between components.

    The day is the job's completion day in `zone`, never today: a wrong clock of this machine must not move a snapshot.
    A job without a time goes below `undated`. The caller raises `id_length` when two jobs would share a folder.
    """
    local = None if completed_at is None else _in_zone(completed_at, zone)
    values = {
        "account": account,
        "request": request_slug,
        "project": "account" if project is None else names.component(project),
        "time": _time_of(local, zone),
        "job": names.component(short_id(job, id_length)),
    }
    segments = (*layout.request_segments, *layout.snapshot_segments)
    return "/".join(_fill(segment, values, local) for segment in segments)


def account_folder(layout: Layout, folder: str, *, old: AccountName, new: AccountName) -> tuple[str, str] | None:
    """Return the path of the account's own folder above a snapshot, and its path if the account had another name.

    None if the layout has no such folder, or puts the snapshot elsewhere.
    """
    parts = folder.split("/")
    for depth, segment in enumerate(layout.request_segments):
        if _fields_of(segment) == {"account"} and parts[depth : depth + 1] == [_fill(segment, {"account": old}, None)]:
            above = parts[:depth]
            return "/".join(parts[: depth + 1]), "/".join([*above, _fill(segment, {"account": new}, None)])
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognised:
    """The facts in the path of a snapshot's folder. `job` is the part of the ID that the path has."""

    account: str | None
    request_slug: str | None
    completed_at: datetime | None
    job: str


def history_folders(snapshots: Iterable[str], slug: str) -> list[str]:
    """Return every folder that the row history of a data request may have in any layout, by its snapshots' folders."""
    above = {
        "/".join(parts[:depth])
        for parts in (folder.split("/") for folder in snapshots)
        for depth in range(1, len(parts))
    }
    own = [f"{folder}/{name}" for folder in above for name in HISTORY_NAMES if slug in folder]
    return sorted([*own, *(f"{folder}/{name}/{slug}" for folder in above for name in HISTORY_NAMES)])


def recognise(layout: Layout, folder: str, zone: tzinfo = UTC) -> Recognised | None:
    """Read back a folder's path below the root. None if `place` does not give such a path."""
    pattern = "/".join(_pattern(segment) for segment in (*layout.request_segments, *layout.snapshot_segments))
    # A template may have a field twice, but a pattern may not have a group twice.
    seen: set[str] = set()

    def once(match: re.Match[str]) -> str:
        name = match[1]
        if name in seen:
            return "(?:"
        seen.add(name)
        return match[0]

    found = re.fullmatch(re.sub(r"\(\?P<(\w+)>", once, pattern), folder)
    if found is None:
        return None
    parts = found.groupdict()
    return Recognised(
        account=parts.get("account"),
        request_slug=parts.get("request"),
        completed_at=_moment_of(parts, zone),
        job=parts["job"],
    )


def short_id(identifier: str, length: int = SHORT_ID) -> str:
    """Return the first `length` characters of an ID without its hyphens, made safe for a path."""
    return names.component(identifier.replace("-", "")[:length])


def request_slug(description: str, request_id: str) -> str:
    """Return a data request's folder name: its description in ASCII and 8 characters of its ID.

    The caller fixes the name when it first sees the data request.
    """
    words = re.sub(r"[^a-z0-9]+", "-", names.ascii_fold(description).lower()).strip("-")
    # 60 characters keep the name readable in `ls`. The ID makes it unique.
    stem = words[:60].strip("-") or "request"
    return f"{stem}-{short_id(request_id)}"


def _check_sample(segments: list[str], text: str) -> None:
    """Refuse a template that gives a folder with an unsafe name."""
    values = {"account": "a", "request": "r", "project": "p", "time": "120000Z", "job": "0a1b2c3d"}
    for segment in segments:
        for folder in _fill(segment, values, datetime(2026, 11, 22, 12, tzinfo=UTC)).split("/"):
            if names.component(folder) != folder or folder.startswith("."):
                msg = f"the layout {text!r} gives the folder {folder!r}, which is not a safe name"
                raise ValueError(msg)


def _split(template: str) -> list[str]:
    """Split at `/`, but not inside the braces of `{date:%Y/%m/%d}`, which gives several folders when it is filled."""
    segments: list[str] = [""]
    depth = 0
    for character in template:
        depth += (character == "{") - (character == "}")
        if character == "/" and depth == 0:
            segments.append("")
        else:
            segments[-1] += character
    if any(not segment or segment.startswith((".", "~")) for segment in segments):
        msg = f"the layout {template!r} has an empty, dotted or absolute folder"
        raise ValueError(msg)
    return segments


def _fields_of(segment: str) -> set[str]:
    fields: set[str] = set()
    try:
        parts = list(string.Formatter().parse(segment))
    except ValueError as error:
        msg = f"the layout's folder {segment!r} is malformed: {error}"
        raise ValueError(msg) from None
    for literal, name, spec, conversion in parts:
        if names.component(literal) != literal and literal.strip("."):
            msg = f"the layout's folder {segment!r} has characters that a file name cannot have"
            raise ValueError(msg)
        if name is None:
            continue
        if name not in _FIELDS or conversion:
            known = " ".join(f"{{{field}}}" for field in _FIELDS)
            msg = f"the layout's field {{{name}}} is unknown: the fields are {known}"
            raise ValueError(msg)
        if spec and (name != "date" or _DATE_DIRECTIVE.sub("", spec) or ".." in spec or spec.startswith("/")):
            msg = f"the layout's field {{{name}:{spec}}} has a format that is not one of %Y %m %d %j %G %V %u %H %M %S"
            raise ValueError(msg)
        fields.add(name)
    return fields


def _fill(segment: str, values: dict[str, str], local: datetime | None) -> str:
    filled: list[str] = []
    for literal, name, spec, _ in string.Formatter().parse(segment):
        filled.append(literal)
        if name == "date":
            filled.append("undated" if local is None else _date(local, spec or "%Y-%m-%d"))
        elif name is not None:
            filled.append(values[name])
    return "".join(filled)


#: A pattern for the content of each field of a template.
_FIELD_PATTERNS = {
    "account": "(?P<account>[^/]+)",
    "request": "(?P<request>[^/]+)",
    "project": "[^/]+",
    "time": "(?P<time>[0-9]{6}(?:Z|[+-][0-9]{4,6}))",
    "job": "(?P<job>[^/]+)",
}
_DIRECTIVES = {"Y": "[0-9]{4}", "j": "[0-9]{3}", "G": "[0-9]{4}", "u": "[1-7]", "b": "[^/]+"}


def _pattern(segment: str) -> str:
    """Return a regular expression for the folders that `_fill` makes from a segment."""
    parts: list[str] = []
    for literal, name, spec, _ in string.Formatter().parse(segment):
        parts.append(re.escape(literal))
        if name == "date":
            dated = re.sub(r"%([A-Za-z])|(.)", _date_pattern, spec or "%Y-%m-%d", flags=re.DOTALL)
            parts.append(f"(?:undated|{dated})")
        elif name is not None:
            parts.append(_FIELD_PATTERNS[name])
    return "".join(parts)


def _date_pattern(match: re.Match[str]) -> str:
    directive, literal = match[1], match[2]
    if literal is not None:
        return re.escape(literal)
    digits = _DIRECTIVES.get(directive, "[0-9]{2}")
    return f"(?P<date_{directive}>{digits})" if directive in "Ymdj" else digits


def _moment_of(parts: Mapping[str, str | None], zone: tzinfo) -> datetime | None:
    """Return the time that a folder's date and time give. None if the folder is undated or lacks a part of the date."""
    year, month, day, ordinal = (parts.get(f"date_{directive}") for directive in "Ymdj")
    clock = parts.get("time")
    text, form = (f"{year}-{ordinal}", "%Y-%j") if ordinal else (f"{year}-{month}-{day}", "%Y-%m-%d")
    try:
        if clock is not None:
            return datetime.strptime(f"{text} {clock}", f"{form} %H%M%S%z").astimezone(UTC)
        return datetime.strptime(text, form).replace(tzinfo=zone).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _in_zone(moment: datetime, zone: tzinfo) -> datetime:
    try:
        return moment.astimezone(zone)
    except OverflowError:
        # The first and the last day that Python has cannot be moved to another zone.
        return moment


def _date(local: datetime, spec: str) -> str:
    """Format a date, with years of four digits, which the C library does not guarantee."""
    return local.strftime(spec.replace("%Y", f"{local.year:04}"))


def _time_of(local: datetime | None, zone: tzinfo) -> str:
    if local is None:
        return "000000Z"
    return local.strftime("%H%M%SZ" if zone is UTC else "%H%M%S%z")
