"""Fakes that meet the ports, and builders of values. `make_*` gives a valid value; name what the test is about."""

from __future__ import annotations

import asyncio
import hashlib
import zlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from dcsync.core.events import Event, EventKind
from dcsync.core.model import DataRequest, How, Job, JobId, ListedFile, RequestId, Snapshot, StoredFile
from dcsync.core.ports import KnownRequest
from dcsync.core.quota import wait_before_next, within_window
from dcsync.core.snapshot import Record, Transfer
from dcsync.core.summary import Summary
from dcsync.errors import AuthError, LoginRequired

NOON = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
ACCOUNT_ID = "872264f8-2433-498d-8d36-16649ecb13fe"
REQUEST_ID = RequestId("ce9bc188-1e18-11eb-adc1-0242ac120002")
JOB_ID = JobId("9bd7c8a0-5b0c-4b8e-8d0e-0c1e9a5d1f11")


class MemoryWindow:
    """Meets the port `CallWindow` for one process."""

    def __init__(self) -> None:
        self._calls: list[float] = []
        self._paused_until = 0.0

    async def reserve(self, *, limit: int, now: float) -> float:
        """Record a call at `now` and return 0.0, or return the seconds to wait."""
        wait = wait_before_next(self._calls, limit=limit, now=now, paused_until=self._paused_until)
        if wait <= 0:
            self._calls = [*within_window(self._calls, now), now]
        return wait

    async def pause(self, *, until: float, now: float) -> None:
        """Let no call begin before `until`."""
        self._paused_until = max(self._paused_until, until)

    async def used(self, *, now: float) -> int:
        """Return the number of calls in the minute before `now`."""
        return len(within_window(self._calls, now))


class FakeClock:
    """Meets the port `Clock`. Sleeping moves both clocks on at once; `slept` tells what was asked for."""

    def __init__(self, now: datetime = NOON, monotonic: float = 1000.0) -> None:
        self.slept: list[float] = []
        self._now = now
        self._monotonic = monotonic
        self._plan: list[tuple[datetime, Callable[[], object]]] = []

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.advance(seconds)
        # Others get their turn, as they would while time passes.
        await asyncio.sleep(0)  # noqa: TID251

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds
        due = [item for item in self._plan if item[0] <= self._now]
        self._plan = [item for item in self._plan if item not in due]
        for _, do in due:
            do()

    def at(self, moment: datetime, do: Callable[[], object]) -> None:
        """Do something when this time has come."""
        self._plan.append((moment, do))

    def set_wall(self, now: datetime) -> None:
        """Let somebody set the wall clock; the monotonic one does not notice."""
        self._now = now


class FakeTokens:
    """Meets the port `TokenSource`: `token-1`, and the next one after each rejection."""

    def __init__(self, *, renewable: bool = True) -> None:
        self.rejected: list[str] = []
        self._number = 1
        self._renewable = renewable

    async def access_token(self, *, rejected: str | None = None) -> str:
        if rejected is not None:
            self.rejected.append(rejected)
            if self._renewable:
                self._number += 1
        return f"token-{self._number}"

    def refused(self, message: str) -> AuthError:
        return LoginRequired(message)

    async def keep_alive(self) -> bool:
        return False


def make_job(**changes: Any) -> Job:
    values: dict[str, Any] = {
        "id": JOB_ID,
        "request_id": REQUEST_ID,
        "status": "complete",
        "completion_status": "success",
        "created_at": NOON - timedelta(hours=1),
        "completed_at": NOON,
    }
    return Job(**{**values, **changes})


def make_request(**changes: Any) -> DataRequest:
    values: dict[str, Any] = {"id": REQUEST_ID, "description": "My Company Data Extract", "is_active": True}
    return DataRequest(**{**values, **changes})


def make_delta_request(**changes: Any) -> DataRequest:
    """Return a data request whose extracts have the changed rows of a day."""
    return make_request(**{"service_groups": ("cdcissues",), "date_range": "YESTERDAY", **changes})


def make_listed(name: str = "admin_users.csv", size: int = 120) -> ListedFile:
    return ListedFile(name=name, size=size, created_at=NOON)


def make_stored(name: str = "admin_users.csv", body: bytes = b"id,name\n", **changes: Any) -> StoredFile:
    md5 = hashlib.md5(body, usedforsecurity=False).hexdigest()
    values: dict[str, Any] = {
        "name": name,
        "original": name,
        "size": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
        "crc32": zlib.crc32(body),
        "md5": md5,
        "etag": f'"{md5}"',
        "how": How.FETCHED,
    }
    return StoredFile(**{**values, **changes})


def make_snapshot(files: Mapping[str, bytes] | None = None, **changes: Any) -> Snapshot:
    bodies = {"admin_users.csv": b"id,name\n"} if files is None else files
    values: dict[str, Any] = {
        "job": JobId("0a000000-0000-4000-8000-000000000001"),
        "request": REQUEST_ID,
        "folder": "acme/my-company-data-extract-ce9bc188/2026/11/21/120000Z-0a000000",
        "completed_at": NOON - timedelta(days=1),
        "files": tuple(make_stored(name, body) for name, body in bodies.items()),
    }
    return Snapshot(**{**values, **changes})


def make_record(**changes: Any) -> Record:
    known = KnownRequest(
        id=REQUEST_ID,
        description="My Company Data Extract",
        slug="my-company-data-extract-ce9bc188",
        is_delta=False,
        first_seen_at=NOON - timedelta(days=9),
    )
    values: dict[str, Any] = {
        "job": make_job(),
        "request": known,
        "folder": "acme/my-company-data-extract-ce9bc188/2026/11/22/120000Z-9bd7c8a0",
        "first_seen_at": NOON + timedelta(minutes=1),
        "published_at": NOON + timedelta(minutes=5, microseconds=7),
        "transfer": make_transfer(),
        "summary": Summary(files=2, size=13),
    }
    return Record(**{**values, **changes})


def make_transfer(**changes: Any) -> Transfer:
    values: dict[str, Any] = {
        "strategy": "archive",
        "calls": 2,
        "fetched_bytes": 8,
        "linked_bytes": 5,
        "seconds": 1.25,
    }
    return Transfer(**{**values, **changes})


def make_published(job: str = JOB_ID, *, folder: str, at: datetime = NOON, **changes: Any) -> Record:
    """Return the record of a job whose row is `make_job(id=job)` with these changes, first seen at noon."""
    values: dict[str, Any] = {key: changes.pop(key) for key in ("transfer", "summary") if key in changes}
    described = make_job(id=JobId(job), **changes)
    request = KnownRequest(id=described.request_id, description="", slug="x", is_delta=False)
    return make_record(job=described, request=request, folder=folder, first_seen_at=NOON, published_at=at, **values)


def make_event(kind: EventKind = EventKind.SNAPSHOT, *, job: str | None = "job", **changes: Any) -> Event:
    """Return an event of account acme, with a message that has to be escaped."""
    return Event(**{"kind": kind, "account": "acme", "at": NOON, "message": "ü\n\x1b[31m", "job": job, **changes})
