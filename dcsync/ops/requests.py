"""Create a data request exactly once, also when the answer of the API is lost."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from dcsync.clock import Clock
from dcsync.core import new_request
from dcsync.core.model import DataRequest, RequestId
from dcsync.core.names import printable
from dcsync.core.new_request import JOBS_A_DAY, NewRequest, find_created, problems_of
from dcsync.errors import AccessRefused, ApiError, BadRequest, ConfigError, NotFound, RateLimited, Unconfirmed
from dcsync.ops.context import AccountSettings
from dcsync.ops.project_lists import data_requests, newest_jobs, read_first

if TYPE_CHECKING:
    from dcsync.api.client import DataConnector

#: The seconds before each look for a data request whose answer was lost. Autodesk may need a while to list it, and a
#: gateway may give up long before Autodesk does. A call that Autodesk carries out later than all of them would create
#: a second data request: it looks like a call that was never carried out.
_LOOKS_S = (2.0, 8.0, 20.0, 30.0, 60.0, 60.0, 120.0)
#: How often POST is sent in all. Before it is sent again, all looks have found nothing.
_SENDS = 3
#: The difference that the clocks may have after it was measured with a Date header.
_TOLERANCE = timedelta(minutes=2)
#: How many of the newest data requests are compared.
_NEWEST = 50
#: Fewer characters of an ID are ambiguous.
_LEAST_PREFIX = 4
_SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """A data request that exists now."""

    request: DataRequest
    #: Whether an attempt before `create` had created it. Only with `since`.
    was_there: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class JobsLeft:
    """How many jobs the user can still have in these 24 hours. If none is left, `next_at` is set."""

    count: int
    next_at: datetime | None


async def create(
    api: DataConnector, account: AccountSettings, wanted: NewRequest, *, clock: Clock, since: datetime | None = None
) -> Created:
    """Create a data request, and return it. It is never created twice, also if answers are lost.

    `since` is when an earlier attempt began, by this machine's clock, whose end is not known: its process was killed,
    or it ended with `Unconfirmed`. If that attempt did create the data request, it is returned. Store that time before
    you call this for the first time.

    Raises `ConfigError` for fields that Autodesk would refuse, before any call. Raises `RateLimited` before the call if
    no job is left for a one-time data request. Raises `Unconfirmed` if it may have been created: call this again later,
    with `since`.
    """
    problems = problems_of(wanted)
    if problems:
        message = f"the data request cannot be created: {'; '.join(problems)}"
        raise ConfigError(message, hint="change these options")
    began = clock.now()
    known = await _find(api, account, wanted, since or began)
    if since is not None:
        found = known[0] if known else await _wait_for_earlier(api, account, wanted, since, clock)
        if found is not None:
            return Created(request=found, was_there=True)
    await _check_daily_limit(api, account, wanted, clock)
    # Those that were there before are not ours, whatever the clocks say.
    before = {entry.id for entry in known}
    for sends_left in reversed(range(_SENDS)):
        try:
            return Created(request=await api.create_request(account.id, wanted), was_there=False)
        except (AccessRefused, BadRequest, NotFound) as error:
            raise await _naming_projects(api, account, wanted, error) from None
        except Unconfirmed as error:
            found = await _look(api, account, wanted, began, clock, before, error)
            if found is not None:
                return Created(request=found, was_there=False)
            if not sends_left:
                raise
    raise AssertionError  # the loop returns or raises


async def find_request(api: DataConnector, account: AccountSettings, word: str) -> DataRequest:
    """Return the data request with this ID, a beginning of it of at least 4 characters, or this description.

    Raises `ConfigError`, which lists the choices, unless exactly one matches.
    """
    lists = await data_requests(api, account)
    entries = lists.entries
    exact = [entry for entry in entries if word in {entry.id, entry.description}]
    begun = [entry for entry in entries if len(word) >= _LEAST_PREFIX and entry.id.startswith(word.lower())]
    found = exact or begun
    if len(found) == 1:
        return found[0]
    if not found and lists.unread:
        raise lists.errors[0]
    choices = "".join(f"\n{entry.id}  {printable(entry.description, 60)}" for entry in (found or entries)[:_SHOWN])
    what = "several data requests match" if found else "no data request that this user created is called"
    raise ConfigError(f"{what} {printable(word)!r}", hint=f"give the ID of one of these:{choices}" if choices else "")


async def jobs_left(api: DataConnector, account: AccountSettings, *, clock: Clock) -> JobsLeft:
    """Return how many jobs the user can still have now. Jobs of other users of the account are not visible."""
    jobs = (await newest_jobs(api, account, JOBS_A_DAY + 1)).entries
    count, next_at = new_request.jobs_left(jobs, _autodesk_time(api, clock.now()))
    return JobsLeft(count=count, next_at=next_at)


async def _check_daily_limit(api: DataConnector, account: AccountSettings, wanted: NewRequest, clock: Clock) -> None:
    if not wanted.is_active or wanted.starts_at > _autodesk_time(api, clock.now()):
        return
    left = await jobs_left(api, account, clock=clock)
    if left.next_at is None:
        return
    message = f"Autodesk runs at most {JOBS_A_DAY} jobs in 24 hours for each user, and all of them are used"
    wait = (left.next_at - _autodesk_time(api, clock.now())).total_seconds()
    hint = f"run the command again after {left.next_at:%Y-%m-%d %H:%M} UTC"
    raise RateLimited(message, hint=hint, retry_after_s=max(1.0, wait))


async def _wait_for_earlier(
    api: DataConnector, account: AccountSettings, wanted: NewRequest, since: datetime, clock: Clock
) -> DataRequest | None:
    """Look for what an attempt that was just killed may have created, as long as after a lost answer."""
    for wait_s in _LOOKS_S:
        if not timedelta(0) <= clock.now() - since < timedelta(seconds=sum(_LOOKS_S)):
            return None
        await clock.sleep(wait_s)
        found = await _find(api, account, wanted, since)
        if found:
            return found[0]
    return None


async def _look(
    api: DataConnector,
    account: AccountSettings,
    wanted: NewRequest,
    began: datetime,
    clock: Clock,
    before: set[RequestId],
    lost: Unconfirmed,
) -> DataRequest | None:
    """Look for the data request until Autodesk should show it. Raises `Unconfirmed` if the list cannot be read."""
    for wait_s in _LOOKS_S:
        await clock.sleep(wait_s)
        try:
            found = await _find(api, account, wanted, began)
        except ApiError as error:
            message = f"{lost.message}. The list of data requests, which would show it, cannot be read: {error.message}"
            raise lost.with_message(message) from None
        new = [entry for entry in found if entry.id not in before]
        if new:
            return new[0]
    return None


async def _find(
    api: DataConnector, account: AccountSettings, wanted: NewRequest, after: datetime
) -> tuple[DataRequest, ...]:
    from dcsync.api.client import ListOptions

    async def read(project: str | None) -> list[DataRequest]:
        return await api.requests(account.id, ListOptions(limit=_NEWEST, project_id=project))

    projects = (wanted.project_ids or account.projects) if account.projects else ()
    newest = await read_first(projects, read)
    if len(projects) > 1:
        # Autodesk does not say whether the list of one project has the data requests of several. The list of the
        # account has them, and a project administrator may be refused it.
        with suppress(AccessRefused, BadRequest):
            newest = [*newest, *await read(None)]
    # The list has told the difference of the clocks.
    return find_created(newest, wanted, after=_autodesk_time(api, after) - _TOLERANCE)


async def _naming_projects(
    api: DataConnector, account: AccountSettings, wanted: NewRequest, refused: ApiError
) -> ApiError:
    """Return the refusal of a new data request, with the projects that Autodesk does not let this user read."""
    from dcsync.api.client import ListOptions

    unread = []
    for project in wanted.project_ids:
        try:
            await api.jobs(account.id, ListOptions(limit=1, project_id=project))
        except (AccessRefused, BadRequest, NotFound):
            unread.append(printable(project, 80))
        except ApiError:
            return refused
    if not unread:
        return refused
    return refused.with_message(f"{refused.message}. Autodesk also refuses to list the jobs of {', '.join(unread)}")


def _autodesk_time(api: DataConnector, moment: datetime) -> datetime:
    """Return a time of this machine's clock by Autodesk's clock."""
    return moment - timedelta(seconds=api.skew_s or 0.0)
