"""Parses the API's JSON leniently into dcsync's values, because real answers differ from the documented types.

api.md §2 has examples. A function here raises `WireError` when the value is unusable. An odd field that dcsync
does not need becomes None. Unknown fields are kept in `extra`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeGuard, TypeVar

from dcsync.core.model import DataRequest, Hub, Job, JobId, Json, ListedFile, RequestId, SignedFile
from dcsync.core.names import printable

T = TypeVar("T")

#: A data listing with more entries than this is not an extract. A full extract has about 260 files.
MAX_LISTING_ENTRIES = 100_000
#: No extract has a file of one exbibyte. A larger number is nonsense and would overflow file offsets.
MAX_FILE_SIZE = 1 << 60
_ID = re.compile(r"[A-Za-z0-9._~-]{1,128}")


class WireError(ValueError):
    """An answer that dcsync cannot use. The message says where it differs from the API's documentation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page of a list: its raw results, and the numbers that Autodesk gives for the whole list, if any."""

    results: tuple[Json, ...]
    limit: int | None
    offset: int | None
    total: int | None


def decode_json(body: bytes) -> Json:
    """Decode a body strictly as JSON in UTF-8, without NaN and endless nesting. `WireError` quotes its beginning."""
    try:
        text = body.decode("utf-8-sig")
        value: Json = _STRICT.decode(text)
    except (ValueError, RecursionError):
        start = printable(body[:240].decode("utf-8", "replace").strip(), 80)
        msg = f"a body that is not valid JSON and begins with {start!r}" if start else "an empty body"
        raise WireError(msg) from None
    return value


def parse_page(value: Json) -> Page:
    """Parse a list's envelope `{pagination: {…}, results: [...]}`."""
    envelope = _mapping(value, "the list")
    results = envelope.get("results")
    if not _is_sequence(results):
        msg = f"the list has {_kind(results)} instead of a `results` array"
        raise WireError(msg)
    pagination = envelope.get("pagination")
    numbers = pagination if isinstance(pagination, Mapping) else {}
    return Page(
        results=tuple(results),
        limit=_integer(numbers.get("limit")),
        offset=_integer(numbers.get("offset")),
        total=_integer(numbers.get("totalResults")),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BadEntry:
    """An entry of a list that dcsync cannot use, with everything that can be read of it."""

    problem: str
    #: The data request of a job, if its ID can be used.
    request: RequestId | None = None
    #: When the job was completed or created, or the data request was created.
    dated_at: datetime | None = None


def parse_each(values: Sequence[Json], parse: Callable[[Json], T]) -> tuple[tuple[T, ...], tuple[BadEntry, ...]]:
    """Parse each entry. Return the parsed ones, and the bad ones, which must not stop the others."""
    parsed: list[T] = []
    bad: list[BadEntry] = []
    for value in values:
        try:
            parsed.append(parse(value))
        except WireError as error:
            bad.append(_bad_entry(value, str(error)))
    return tuple(parsed), tuple(bad)


def _bad_entry(value: Json, problem: str) -> BadEntry:
    if not isinstance(value, Mapping):
        return BadEntry(problem=problem)
    request = value.get("requestId")
    return BadEntry(
        problem=problem,
        request=RequestId(request) if _is_identifier(request) else None,
        dated_at=parse_time(value.get("completedAt")) or parse_time(value.get("createdAt")),
    )


def parse_hubs(value: Json) -> tuple[Hub, ...]:
    """Parse `GET /project/v1/hubs` (JSON:API)."""
    data = _mapping(value, "the hubs").get("data")
    if not _is_sequence(data):
        msg = "the hubs have no `data` array"
        raise WireError(msg)
    hubs = []
    for item in data:
        entry = _mapping(item, "a hub")
        attributes = entry.get("attributes")
        facts = attributes if isinstance(attributes, Mapping) else {}
        hubs.append(
            Hub(
                id=_identifier(entry, "id", "a hub"),
                name=_text(facts.get("name")) or "",
                region=_text(facts.get("region")),
            )
        )
    return tuple(hubs)


_REQUEST_FIELDS = frozenset(
    str.split(
        "id description isActive accountId projectId projectIdList createdBy createdByEmail createdAt "
        "updatedBy updatedByEmail updatedAt scheduleInterval reoccuringInterval effectiveFrom effectiveTo "
        "lastQueuedAt serviceGroups callbackUrl sendEmail startDate endDate dateRange projectStatus "
    )
)
_JOB_FIELDS = frozenset(
    str.split(
        "id requestId accountId projectId projectIdList createdBy createdByEmail createdAt startedAt "
        "completedAt status completionStatus progress sendEmail lastDownloadedBy lastDownloadedAt startDate "
        "endDate "
    )
)


def parse_request(value: Json) -> DataRequest:
    """Parse a data request."""
    entry = _mapping(value, "a data request")
    return DataRequest(
        id=RequestId(_identifier(entry, "id", "a data request")),
        description=_text(entry.get("description")) or "",
        is_active=_boolean(entry.get("isActive")),
        account_id=_text(entry.get("accountId")),
        project_id=_text(entry.get("projectId")),
        project_ids=_texts(entry.get("projectIdList")),
        created_by=_text(entry.get("createdBy")),
        created_by_email=_text(entry.get("createdByEmail")),
        created_at=parse_time(entry.get("createdAt")),
        updated_by=_text(entry.get("updatedBy")),
        updated_by_email=_text(entry.get("updatedByEmail")),
        updated_at=parse_time(entry.get("updatedAt")),
        schedule_interval=_text(entry.get("scheduleInterval")),
        recurring_interval=_integer(entry.get("reoccuringInterval")),  # the API's own spelling
        effective_from=parse_time(entry.get("effectiveFrom")),
        effective_to=parse_time(entry.get("effectiveTo")),
        last_queued_at=parse_time(entry.get("lastQueuedAt")),
        service_groups=_texts(entry.get("serviceGroups")),
        callback_url=_text(entry.get("callbackUrl")),
        send_email=_boolean(entry.get("sendEmail")),
        start_date=parse_time(entry.get("startDate")),
        end_date=parse_time(entry.get("endDate")),
        date_range=_text(entry.get("dateRange")),
        project_status=_text(entry.get("projectStatus")),
        extra={key: item for key, item in entry.items() if key not in _REQUEST_FIELDS},
    )


def parse_job(value: Json) -> Job:
    """Parse a job."""
    entry = _mapping(value, "a job")
    return Job(
        id=JobId(_identifier(entry, "id", "a job")),
        request_id=RequestId(_identifier(entry, "requestId", "a job")),
        status=_text(entry.get("status")) or "",
        completion_status=_text(entry.get("completionStatus")),
        account_id=_text(entry.get("accountId")),
        project_id=_text(entry.get("projectId")),
        project_ids=_texts(entry.get("projectIdList")),
        created_by=_text(entry.get("createdBy")),
        created_by_email=_text(entry.get("createdByEmail")),
        created_at=parse_time(entry.get("createdAt")),
        started_at=parse_time(entry.get("startedAt")),
        completed_at=parse_time(entry.get("completedAt")),
        progress=_integer(entry.get("progress")),
        send_email=_boolean(entry.get("sendEmail")),
        last_downloaded_by=_text(entry.get("lastDownloadedBy")),
        last_downloaded_at=parse_time(entry.get("lastDownloadedAt")),
        start_date=parse_time(entry.get("startDate")),
        end_date=parse_time(entry.get("endDate")),
        extra={key: item for key, item in entry.items() if key not in _JOB_FIELDS},
    )


def parse_listing(value: Json) -> tuple[ListedFile, ...]:
    """Parse a data listing: a bare array. An entry without a usable name and size makes the data listing unusable.

    A name that appears twice with the same size is one file. With two sizes it is ambiguous, and an error.
    """
    if not _is_sequence(value):
        msg = f"the data listing is not an array but {_kind(value)}"
        raise WireError(msg)
    if len(value) > MAX_LISTING_ENTRIES:
        msg = f"the data listing has {len(value)} entries, more than {MAX_LISTING_ENTRIES}"
        raise WireError(msg)
    files: dict[str, ListedFile] = {}
    for item in value:
        entry = _mapping(item, "an entry of the data listing")
        name = entry.get("name")
        if not isinstance(name, str) or not name:
            msg = "an entry of the data listing has no name"
            raise WireError(msg)
        size = _integer(entry.get("size"))
        if size is None or not 0 <= size <= MAX_FILE_SIZE:
            msg = f"the data listing gives {printable(name)!r} the size {_shown(entry.get('size'), 30)!r}"
            raise WireError(msg)
        if name in files and files[name].size != size:
            msg = f"the data listing has {printable(name)!r} twice, with {files[name].size} and {size} bytes"
            raise WireError(msg)
        files[name] = ListedFile(name=name, size=size, created_at=parse_time(entry.get("createdAt")))
    return tuple(files.values())


def parse_signed(value: Json, name: str) -> SignedFile:
    """Parse `{name, size, signedUrl}` for the file `name`."""
    entry = _mapping(value, "the signed URL's answer")
    url = entry.get("signedUrl")
    if not isinstance(url, str) or not url:
        msg = f"the answer for {printable(name)!r} has {_kind(url)} instead of a signedUrl"
        raise WireError(msg)
    return SignedFile(name=name, size=_integer(entry.get("size")), url=url)


def parse_time(value: Json) -> datetime | None:
    """Parse ISO 8601 with any fraction, and `Z` or an offset. No zone means UTC. An unusable value gives None."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value.strip())
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def request_json(request: DataRequest) -> dict[str, Json]:
    """Return a data request with the API's field names and the parsed values."""
    return {
        "id": request.id,
        "description": request.description,
        "isActive": request.is_active,
        "accountId": request.account_id,
        "projectId": request.project_id,
        "projectIdList": list(request.project_ids),
        "createdBy": request.created_by,
        "createdByEmail": request.created_by_email,
        "createdAt": time_json(request.created_at),
        "updatedBy": request.updated_by,
        "updatedByEmail": request.updated_by_email,
        "updatedAt": time_json(request.updated_at),
        "scheduleInterval": request.schedule_interval,
        "reoccuringInterval": request.recurring_interval,
        "effectiveFrom": time_json(request.effective_from),
        "effectiveTo": time_json(request.effective_to),
        "lastQueuedAt": time_json(request.last_queued_at),
        "serviceGroups": list(request.service_groups),
        "callbackUrl": request.callback_url,
        "sendEmail": request.send_email,
        "startDate": time_json(request.start_date),
        "endDate": time_json(request.end_date),
        "dateRange": request.date_range,
        "projectStatus": request.project_status,
        **request.extra,
    }


def job_json(job: Job) -> dict[str, Json]:
    """Return a job with the API's field names and the parsed values."""
    return {
        "id": job.id,
        "requestId": job.request_id,
        "accountId": job.account_id,
        "projectId": job.project_id,
        "projectIdList": list(job.project_ids),
        "createdBy": job.created_by,
        "createdByEmail": job.created_by_email,
        "createdAt": time_json(job.created_at),
        "startedAt": time_json(job.started_at),
        "completedAt": time_json(job.completed_at),
        "status": job.status,
        "completionStatus": job.completion_status,
        "progress": job.progress,
        "sendEmail": job.send_email,
        "lastDownloadedBy": job.last_downloaded_by,
        "lastDownloadedAt": time_json(job.last_downloaded_at),
        "startDate": time_json(job.start_date),
        "endDate": time_json(job.end_date),
        **job.extra,
    }


def time_json(moment: datetime | None) -> str | None:
    """Return a time as the API writes it: UTC, milliseconds, `Z`."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _refuse_constant(name: str) -> Json:
    msg = f"{name} is not valid JSON"
    raise ValueError(msg)


#: Made once: `json.loads` makes a decoder for each text, which takes as long as the text of a job.
_STRICT = json.JSONDecoder(parse_constant=_refuse_constant)


def _is_sequence(value: Json) -> TypeGuard[Sequence[Json]]:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _mapping(value: Json, what: str) -> Mapping[str, Json]:
    if not isinstance(value, Mapping):
        msg = f"{what} is not an object but {_kind(value)}"
        raise WireError(msg)
    return value


def _identifier(entry: Mapping[str, Json], key: str, what: str) -> str:
    """Return an ID. IDs go into URL paths and folder names, so a value that cannot be an ID is refused here."""
    value = entry.get(key)
    if not _is_identifier(value):
        msg = f"{what} has the unusable `{key}` {_shown(value, 40)!r}"
        raise WireError(msg)
    return value


def _is_identifier(value: Json) -> TypeGuard[str]:
    return isinstance(value, str) and _ID.fullmatch(value) is not None and set(value) != {"."}


def _shown(value: Json, limit: int) -> str:
    """Return a value for a message. An array or an object is only named, because it may be nested without end."""
    return _kind(value) if isinstance(value, Mapping) or _is_sequence(value) else printable(str(value), limit)


def _kind(value: Json) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return "a truth value"
        case str():
            return "a text"
        case int() | float():
            return "a number"
        case Mapping():
            return "an object"
        case _:
            return "an array"


def _text(value: Json) -> str | None:
    """Return text that can be stored: a lone surrogate has no UTF-8 and is replaced."""
    if not isinstance(value, str) or not value:
        return None
    return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _texts(value: Json) -> tuple[str, ...]:
    """Read an array, null, or an array as a JSON-encoded string (seen for `projectIdList`)."""
    decoded = value
    if isinstance(value, str):
        try:
            decoded = json.loads(value)
        except (ValueError, RecursionError):
            return (value,) if value else ()
    if not _is_sequence(decoded):
        return ()
    return tuple(item for item in decoded if isinstance(item, str))


def _integer(value: Json) -> int | None:
    """Read an integer, a whole float, or a string of digits (sizes come as strings). Other values give None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,20}", value.strip()):
        return int(value.strip())
    return None


def _boolean(value: Json) -> bool | None:
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.lower())
    return value if isinstance(value, bool) else None
