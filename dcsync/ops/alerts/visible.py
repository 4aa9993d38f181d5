"""Lists the data requests of an account once a day, and once more when the configuration names an unknown one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial

import structlog

from dcsync.api.client import DataConnector, ListOptions
from dcsync.clock import Clock
from dcsync.core.alerts import AlertCode
from dcsync.core.freshness import MissedSlot, still_owed, will_run
from dcsync.core.model import DataRequest, RequestId
from dcsync.core.wire import BadEntry, parse_time
from dcsync.errors import ApiError, DcsyncError, RateLimited
from dcsync.manifest import SqlManifest, StoredValues
from dcsync.manifest.broken import BrokenPart, BrokenParts
from dcsync.ops.alerts.list_alerts import unmatched_names, visible_requests
from dcsync.ops.context import AccountSettings
from dcsync.ops.freshness import follow_requests, known_account
from dcsync.ops.mirroring.descriptions import known_request
from dcsync.ops.mirroring.unread import REQUESTS_LIST
from dcsync.ops.observed import Observations, VisibleRequests
from dcsync.ops.project_lists import read_projects

log = structlog.get_logger(__name__)

#: How often the data requests of an account are listed. One call finds a data request that was set inactive.
#: A little less than a day, so that `dcsync sync` on a daily timer lists them each time.
_CHECK_EVERY = timedelta(hours=23)
#: How soon the list is read again after an error that may pass.
_RETRY_AFTER = timedelta(hours=1)
_ENDLESS = BrokenPart(
    code=AlertCode.L_LIST,
    subject=REQUESTS_LIST,
    message="Autodesk's list of data requests does not end, and dcsync left it before its end",
    hint="dcsync lists the data requests again within a day. If the alert persists, report it to Autodesk",
)


async def check_requests(
    api: DataConnector, manifest: SqlManifest, clock: Clock, account: AccountSettings
) -> Sequence[str]:
    """Record which data requests are visible, changed or gone, if that is due. Return the names that match none.

    The list takes one call, or one call for each configured project. A refused list is repeated on the next day, and
    one that failed for another reason after an hour. Without names in `[[account]] requests`, the first list follows a
    day after the first poll. A data request that has no job yet, and should get one, is recorded too: if it never gets
    one, it is late.
    """
    observed, values = Observations(manifest, account.name), StoredValues(manifest)
    now, key = clock.now(), f"requests:{account.name}"
    known = await manifest.requests(account.name)
    listed = await observed.visible_requests()
    asked_for = account.unmatched_requests({request.id: request.description for request in known.values()})
    last = parse_time(await values.load(key))
    is_due = last is None or not timedelta(0) <= now - last < _CHECK_EVERY
    tried_key = f"requests-tried:{account.name}"
    tried = json.loads(await values.load(tried_key) or "[]")
    is_described = all(request.document is not None or not request.is_described for request in known.values())
    if last is None and is_described and not asked_for:
        # The first poll has just recorded the data requests, or a rebuild has restored them. A snapshot of version 0.2
        # does not say how its data request was.
        await values.save(key, now.isoformat())
        return ()
    if is_due or not set(asked_for) <= {*tried, *(() if listed is None else listed.asked_for)}:
        # Saved before the call, so that a call that Autodesk refuses is not repeated at each poll.
        await values.save(key, now.isoformat())
        try:
            found, unusable, is_whole = await _list_requests(api, manifest, account)
        except DcsyncError as error:
            if error.transient:
                # It says nothing about the names. What the last list has shown still counts.
                await values.save(key, (now - _CHECK_EVERY + _RETRY_AFTER).isoformat())
                await values.save(tried_key, json.dumps(asked_for))
                await _note_failure(manifest, account, error, now)
            else:
                await observed.save_visible_requests(VisibleRequests(is_refused=True, asked_for=tuple(asked_for)))
            raise
        await values.save(tried_key, None if is_whole else json.dumps(asked_for))
        if await values.load(_failed_key(account)) is not None:
            await values.save(_failed_key(account), None)
        by_id = {request.id: request.description for request in found.values()}
        gone = known.keys() - found.keys()
        if not is_whole:
            # A project that cannot be read says nothing about its data requests.
            by_id = {**({} if listed is None else listed.by_id), **by_id}
            gone &= set(json.loads(await values.load(f"gone:{account.name}") or "[]"))
        listed = VisibleRequests(by_id=by_id, asked_for=tuple(asked_for) if is_whole else ())
        await observed.save_visible_requests(listed)
        await observed.save_unusable_requests([entry.problem for entry in unusable])
        changed = [(request, found[request.id]) for request in known.values() if request.id in found]
        new = [request for request in found.values() if request.id not in known and will_run(request, now)]
        changed += [(known_request(request.id, request, None), request) for request in new]
        await observed.save_owed_slots(await _owed_slots(manifest, account, found, now))
        await manifest.record_poll(account.name, jobs=(), requests=changed, at=now)
        await values.save(f"gone:{account.name}", json.dumps(sorted(gone)))
    if listed is None:
        return ()
    visible = visible_requests(listed, known.values())
    return unmatched_names(account, listed, visible) if visible else ()


async def _note_failure(manifest: SqlManifest, account: AccountSettings, error: DcsyncError, now: datetime) -> None:
    """Record an alert if the list failed twice in a row. One failure is made up for within an hour."""
    values = StoredValues(manifest)
    if not isinstance(error, ApiError) or isinstance(error, RateLimited):
        # These have alerts of their own.
        return
    if await values.load(_failed_key(account)) is None:
        await values.save(_failed_key(account), now.isoformat())
        return
    message = f"the list of data requests cannot be read: {error.message}"
    hint = "changed schedules and new data requests are noticed late. dcsync tries again within an hour"
    part = BrokenPart(code=AlertCode.L_LIST, subject=REQUESTS_LIST, message=message, hint=hint)
    await BrokenParts(manifest, account.name).record(part)


def _failed_key(account: AccountSettings) -> str:
    return f"requests-failed:{account.name}"


async def _owed_slots(
    manifest: SqlManifest, account: AccountSettings, found: Mapping[RequestId, DataRequest], now: datetime
) -> dict[RequestId, MissedSlot]:
    """Return the missed slots that the schedules in this list no longer have. No extract satisfied them."""
    followed = await follow_requests(manifest, account, await known_account(manifest, account.name), now)
    owed = {
        item.freshness.request: (
            still_owed(item.freshness, item.sighting, item.history, found[item.freshness.request])
            if item.freshness.request in found
            else item.history.owed
        )
        for item in followed
    }
    return {request: slot for request, slot in owed.items() if slot is not None}


async def _list_requests(
    api: DataConnector, manifest: SqlManifest, account: AccountSettings
) -> tuple[dict[RequestId, DataRequest], list[BadEntry], bool]:
    """Return the data requests, the entries that cannot be used, and whether every project could be read.

    Raises the first error if no project could be read.
    """
    unusable: list[BadEntry] = []
    endless: list[BrokenPart] = []

    async def read(project: str | None) -> list[DataRequest]:
        options, on_endless = ListOptions(project_id=project), partial(endless.append, _ENDLESS)
        return await api.requests(account.id, options, on_bad=unusable.append, on_endless=on_endless)

    lists = await read_projects(account, read)
    for project, error in lists.unread.items():
        log.warning("data requests not listed", account=account.name, project=project, code=error.code)
    broken = BrokenParts(manifest, account.name)
    if endless:
        await broken.record(_ENDLESS)
    else:
        await broken.resolve(_ENDLESS.code, _ENDLESS.subject)
    return {request.id: request for request in lists.entries}, unusable, not lists.unread
