"""Extend the schedules of data requests before they end (`[requests] extend`). What fails is the alert `L-ENDS`."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import structlog

from dcsync.clock import Clock
from dcsync.core.alerts import AlertCode
from dcsync.core.freshness import ENDS_SOON, ends_soon
from dcsync.core.model import DataRequest
from dcsync.core.new_request import RequestChanges
from dcsync.core.ports import KnownRequest
from dcsync.core.wire import parse_time, time_json
from dcsync.manifest import SqlManifest, StoredValues
from dcsync.manifest.broken import BrokenParts
from dcsync.ops.alerts.boundary import Part, contain
from dcsync.ops.context import AccountSettings
from dcsync.ops.freshness import FollowedRequest, follow_requests, known_account

if TYPE_CHECKING:
    from dcsync.api.client import DataConnector

log = structlog.get_logger(__name__)

#: The shortest time between two attempts to extend a schedule.
_PAUSE: Final = timedelta(days=1)
#: When the first attempt is made: a day before the alert, so that a success raises none.
_BEFORE_END: Final = ENDS_SOON + _PAUSE


async def extend_schedules(
    manifest: SqlManifest,
    account: AccountSettings,
    by: timedelta | None,
    *,
    clock: Clock,
    opening: Callable[[], AbstractAsyncContextManager[DataConnector]],
) -> bool:
    """Extend the schedules that end within 15 days, each at most once a day. Returns whether any was tried.

    These are data requests of the signed-in user, because Autodesk shows no others, that the account mirrors and that
    are not in `retired`. `opening` opens the API to change something. Without `by`, nothing is extended.
    """
    now, parts = clock.now(), BrokenParts(manifest, account.name)
    ending = [] if by is None else await _ending(manifest, account, now)
    subjects = {item.freshness.request for item in ending}
    standing = [part for part in await parts.load() if part.code is AlertCode.L_ENDS]
    await parts.replace([AlertCode.L_ENDS], [part for part in standing if part.subject in subjects])
    due = [item for item in ending if await _is_due(manifest, account, item, now)]
    for item in due:
        assert by is not None  # noqa: S101 - otherwise nothing is due
        # Before the call: a daemon that is killed again and again makes one attempt a day, too.
        await _note_attempt(manifest, account, item, now)
        await contain(parts, _part(item), _Extension(manifest, account, item, by, clock, opening).work)
    return bool(due)


class _Extension:
    """The extension of one schedule."""

    def __init__(
        self,
        manifest: SqlManifest,
        account: AccountSettings,
        item: FollowedRequest,
        by: timedelta,
        clock: Clock,
        opening: Callable[[], AbstractAsyncContextManager[DataConnector]],
    ) -> None:
        self._manifest, self._account, self._known = manifest, account, item.sighting.request
        self._by, self._clock, self._opening = by, clock, opening

    async def work(self) -> None:
        """Extend it, unless the user has."""
        async with self._opening() as api:
            found = await api.request(self._account.id, self._known.id)
            now = self._clock.now()
            if found.effective_to is not None and found.effective_to - now <= _BEFORE_END:
                ends_at = max(now, found.effective_to) + self._by
                found = await api.update_request(self._account.id, found, RequestChanges(ends_at=ends_at))
                log.info(
                    "schedule extended",
                    account=self._account.name,
                    request=self._known.id,
                    ends_at=time_json(found.effective_to),
                )
        await self._manifest.describe_request(self._account.name, _described(self._known, found), found, at=now)


async def _ending(manifest: SqlManifest, account: AccountSettings, now: datetime) -> list[FollowedRequest]:
    followed = await follow_requests(manifest, account, await known_account(manifest, account.name), now)
    return [item for item in followed if ends_soon(item.freshness, now + _BEFORE_END - ENDS_SOON)]


def _part(item: FollowedRequest) -> Part:
    found = item.freshness
    return Part(
        code=AlertCode.L_ENDS,
        subject=found.request,
        name=f"the schedule of {found.name} ends on {found.ends_at:%Y-%m-%d %H:%M}Z, and its automatic extension",
        next_try=f"to extend it yourself, run dcsync requests extend {found.request}. The daemon tries once a day",
    )


async def _is_due(manifest: SqlManifest, account: AccountSettings, item: FollowedRequest, now: datetime) -> bool:
    tried_at = parse_time((await _attempts(manifest, account)).get(item.freshness.request))
    return tried_at is None or not timedelta(0) <= now - tried_at < _PAUSE


async def _note_attempt(manifest: SqlManifest, account: AccountSettings, item: FollowedRequest, now: datetime) -> None:
    found = {
        request: at
        for request, at in (await _attempts(manifest, account)).items()
        if (tried_at := parse_time(at)) is not None and now - tried_at < _PAUSE
    }
    found[item.freshness.request] = time_json(now) or ""
    await StoredValues(manifest).save(f"extended:{account.name}", json.dumps(found))


async def _attempts(manifest: SqlManifest, account: AccountSettings) -> dict[str, str]:
    found: dict[str, str] = json.loads(await StoredValues(manifest).load(f"extended:{account.name}") or "{}")
    return found


def _described(known: KnownRequest, found: DataRequest) -> KnownRequest:
    return KnownRequest(
        id=known.id,
        description=found.description or known.description,
        slug=known.slug,
        is_delta=found.is_delta,
        first_seen_at=known.first_seen_at,
        document=found,
    )
