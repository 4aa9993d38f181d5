"""The sandbox's data: an account, data requests, jobs that progress over time, and their extracts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from dcsync.sandbox import data
from dcsync.sandbox.blobs import Archive, Blob, Stored, as_blob
from dcsync.sandbox.schedules import due_at

_EXTRACT_LIFE = timedelta(days=30)
#: Jobs in any 24 hours, for each account and for each user (APS, Data Connector API Rate Limit and Quota).
JOBS_A_DAY = 24
#: The longest period of a table. Any longer one gives the default period (APS, POST requests, startDate).
_MAX_WINDOW = 31
#: How much later than the first one the second data request of the demo is complete.
DEMO_APART = timedelta(minutes=11, seconds=1)


@dataclass(slots=True, kw_only=True)
class RequestEntry:
    """A data request."""

    id: str
    description: str
    service_groups: tuple[str, ...]
    schedule: str
    project_id: str | None
    created_at: datetime
    is_active: bool = True
    ends_at: datetime | None = None
    tables: tuple[str, ...] = ()
    date_range: str | None = None
    start_date: datetime | None = None
    end_date: datetime | None = None
    #: Whether its activities tables hold only the rows of a period, as at Autodesk.
    has_windows: bool = False
    account_id: str
    #: The user who created it. None belongs to every person, and to no service account.
    owner: str | None = None
    #: The interval counts units of `schedule`.
    every: int | None = 1
    starts_at: datetime | None = None
    updated_at: datetime | None = None
    project_ids: tuple[str, ...] = ()
    project_status: str = "all"
    callback_url: str | None = None
    sends_email: bool = False
    #: When its first job is due. Only data requests that were created through the API have jobs of their own accord.
    first_at: datetime | None = None
    #: How many times it was due.
    runs: int = 0

    @property
    def next_at(self) -> datetime | None:
        """When its next job is due, whether or not its schedule has ended."""
        if self.first_at is None:
            return None
        return due_at(self.first_at, self.schedule, self.every or 1, self.runs)


@dataclass(slots=True, kw_only=True)
class JobEntry:
    """A job. It is queued for the first half of `takes_s`, then running, and complete after `takes_s`."""

    id: str
    request: RequestEntry
    created_at: datetime
    completed_at: datetime | None
    status: str
    completion: str | None
    day: int
    files: Mapping[str, Blob] | None
    with_archive: bool
    takes_s: float
    #: Replaces the normal data listing in tests of unusual listings.
    listing: object | None = None
    #: Whether the extract exists although the status says otherwise.
    keeps_extract: bool = False


@dataclass(slots=True, kw_only=True)
class _View:
    """The state of a job at one moment."""

    status: str
    completion: str | None
    completed_at: datetime | None


def demo_time(day: date) -> datetime:
    """Return when the first data request of the demo has its extract on a day."""
    return datetime(day.year, day.month, day.day, 2, 34, 5, tzinfo=UTC)


class World:
    """Accounts with their data requests and jobs, at first one. `now` is the clock, in seconds since 1970."""

    def __init__(self, *, seed: int = 1, now: Callable[[], float] = time.time) -> None:
        self.seed = seed
        self.now = now
        self.account_id = data.identifier(seed, "account")
        self.hub_id = f"b.{self.account_id}"
        #: The names of the accounts, by ID.
        self.accounts = {self.account_id: "Sandbox Construction"}
        self.user_id = "SANDBOXUSER1"
        #: The projects of the users who are no more than their administrators, by user.
        self.project_administrators: dict[str, frozenset[str]] = {}
        #: The names of hubs that have no Data Connector, by ID.
        self.other_hubs: dict[str, str] = {}
        #: The accounts to which each service account was invited.
        self.service_accounts: dict[str, set[str]] = {}
        #: Whether new service accounts are invited to all accounts at once, for experiments.
        self.invites_all = False
        #: The e-mail addresses of the service accounts.
        self.emails: dict[str, str] = {}
        self.requests: dict[str, RequestEntry] = {}
        self.jobs: dict[str, JobEntry] = {}
        #: How long the jobs of created data requests take. None leaves them queued until `complete_jobs`.
        self.jobs_take_s: float | None = None
        self._extracts: dict[str, dict[str, Blob]] = {}
        self._shared: dict[bytes, Stored] = {}

    def clock(self) -> datetime:
        """Return the world's time in UTC."""
        return datetime.fromtimestamp(self.now(), UTC)

    def add_account(self, name: str) -> str:
        """Add an account and return the ID of its hub."""
        account = data.identifier(self.seed, "account", len(self.accounts))
        self.accounts[account] = name
        return f"b.{account}"

    def invite(self, email: str, *, hub_id: str | None = None) -> None:
        """Invite a service account to an account, by default the first one, as its administrator does."""
        (user,) = (user for user, own in self.emails.items() if own == email)
        self.service_accounts[user].add((hub_id or self.hub_id).removeprefix("b."))

    def admits(self, user: str, account: str) -> bool:
        """Return whether a user has access to an account: every person, and the service accounts that were invited."""
        return account in self.accounts and account in self.service_accounts.get(user, self.accounts)

    def is_visible(self, entry: RequestEntry, user: str) -> bool:
        """Return whether a user sees a data request and its jobs."""
        return entry.owner == user if entry.owner is not None else user not in self.service_accounts

    def hubs_of(self, user: str) -> list[dict[str, object]]:
        """Return the hubs that a user sees, as the Data Management API sends them."""
        own = {f"b.{account}": name for account, name in self.accounts.items() if self.admits(user, account)}
        others = {} if user in self.service_accounts else self.other_hubs
        return [
            {"type": "hubs", "id": hub, "attributes": {"name": name, "region": "EMEA", "extension": {"type": kind}}}
            for hubs, kind in ((own, "hubs:autodesk.bim360:Account"), (others, "hubs:autodesk.a360:PersonalHub"))
            for hub, name in hubs.items()
        ]

    def add_request(
        self,
        description: str,
        *,
        tables: int | tuple[str, ...] = 12,
        service_groups: tuple[str, ...] = ("admin", "issues"),
        schedule: str = "DAY",
        project_id: str | None = None,
        created_at: datetime | None = None,
        date_range: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
        has_windows: bool = False,
        hub_id: str | None = None,
        owner: str | None = None,
    ) -> str:
        """Add a data request and return its ID. It belongs to the first account unless another hub is named.

        Only its `owner` sees it. Without one, every person does.

        With `has_windows`, the tables `activities_…` have the rows of the days that the dates name, by default of the
        day before the job, and other rows each day.
        """
        names = tuple(data.table_names(tables)) if isinstance(tables, int) else tables
        entry = RequestEntry(
            id=data.identifier(self.seed, "request", len(self.requests)),
            description=description,
            service_groups=service_groups,
            schedule=schedule,
            project_id=project_id,
            project_ids=(project_id,) if project_id else (),
            created_at=created_at or self.clock() - timedelta(days=60),
            tables=names,
            date_range=date_range,
            start_date=start_date,
            end_date=end_date,
            has_windows=has_windows,
            account_id=(hub_id or self.hub_id).removeprefix("b."),
            owner=owner,
        )
        self.requests[entry.id] = entry
        return entry.id

    def add_job(
        self,
        request_id: str,
        *,
        completed_at: datetime | None = None,
        created_at: datetime | None = None,
        status: str = "complete",
        completion: str | None = "success",
        day: int = 0,
        files: Mapping[str, bytes | Blob] | None = None,
        with_archive: bool = True,
        takes_s: float = 0.0,
        job_id: str | None = None,
    ) -> str:
        """Add a job and return its ID. With `takes_s` it is queued first, then running, then in the given state."""
        if completed_at is None and takes_s == 0 and status == "complete":
            completed_at = self.clock()
        began = created_at or (completed_at - timedelta(minutes=20) if completed_at else self.clock())
        blobs = None if files is None else {name: as_blob(body) for name, body in files.items()}
        entry = JobEntry(
            id=job_id or data.identifier(self.seed, "job", request_id, len(self.jobs)),
            request=self.requests[request_id],
            created_at=began,
            completed_at=completed_at,
            status=status,
            completion=completion if status == "complete" else None,
            day=day,
            files=blobs,
            with_archive=with_archive,
            takes_s=takes_s,
        )
        self.jobs[entry.id] = entry
        return entry.id

    def run_schedules(self, now: datetime | None = None) -> list[str]:
        """Add the jobs that are due at this time, by default the world's, and return their IDs.

        No job is added for an inactive data request, after the end of a schedule, or beyond the daily limit.
        """
        now, added = now or self.clock(), []
        for entry in self.requests.values():
            while (due := entry.next_at) is not None and due <= now:
                entry.runs += 1
                has_ended = entry.ends_at is not None and due > entry.ends_at
                user = entry.owner or self.user_id
                if entry.is_active and not has_ended and self.jobs_left(entry.account_id, user, due):
                    added.append(self._spawn(entry, due))
        return added

    def complete_jobs(self, completion: str = "success") -> list[str]:
        """Complete all queued jobs now, and return their IDs. Their extracts follow from their data requests."""
        queued = [job for job in self.jobs.values() if job.status == "queued"]
        for job in queued:
            job.status, job.completion, job.completed_at = "complete", completion, self.clock()
        return [job.id for job in queued]

    def jobs_left(self, account: str, user: str, now: datetime) -> int:
        """Return how many jobs an account and a user can still have in the 24 hours before this time."""
        recent = [job for job in self.jobs.values() if now - timedelta(days=1) < job.created_at <= now]
        of_account = sum(job.request.account_id == account for job in recent)
        of_user = sum((job.request.owner or self.user_id) == user for job in recent)
        return max(0, JOBS_A_DAY - max(of_account, of_user))

    def active_requests(self, account: str, user: str, now: datetime) -> int:
        """Return how many data requests of a user in an account still have jobs to come."""
        own = [entry for entry in self.requests.values() if (entry.account_id, entry.owner) == (account, user)]
        return sum(
            entry.is_active and entry.next_at is not None and (entry.ends_at is None or entry.ends_at >= now)
            for entry in own
        )

    def _spawn(self, entry: RequestEntry, due: datetime) -> str:
        if not entry.tables:
            entry.tables = data.tables_of(entry.service_groups)
        if self.jobs_take_s is None:
            return self.add_job(entry.id, created_at=due, status="queued", day=entry.runs)
        done = due + timedelta(seconds=self.jobs_take_s)
        return self.add_job(entry.id, created_at=due, completed_at=done, takes_s=self.jobs_take_s, day=entry.runs)

    def view(self, job: JobEntry) -> _View:
        """Return the current state of a job."""
        if job.takes_s:
            age = self.now() - job.created_at.timestamp()
            if age < job.takes_s:
                return _View(
                    status="queued" if age < job.takes_s / 2 else "running", completion=None, completed_at=None
                )
            done = job.completed_at or job.created_at + timedelta(seconds=job.takes_s)
            return _View(status="complete", completion=job.completion or "success", completed_at=done)
        return _View(status=job.status, completion=job.completion, completed_at=job.completed_at)

    def has_extract(self, job: JobEntry) -> bool:
        """Return whether the extract exists: the job succeeded less than 30 days ago."""
        view = self.view(job)
        if not job.keeps_extract and (view.status != "complete" or view.completion != "success"):
            return False
        return view.completed_at is None or self.clock() - view.completed_at < _EXTRACT_LIFE

    def extract(self, job_id: str) -> Mapping[str, Blob]:
        """Return the files of a job's extract by their listed names. They are built at the first call."""
        if job_id not in self._extracts:
            self._extracts[job_id] = self._build(self.jobs[job_id])
        return self._extracts[job_id]

    def replace_file(self, job_id: str, name: str, body: bytes) -> None:
        """Change a file of a complete extract, which Autodesk should never do."""
        extract = dict(self.extract(job_id))
        extract[name] = Stored(body)
        self._extracts[job_id] = extract

    @classmethod
    def demo(
        cls,
        *,
        seed: int = 1,
        days: int = 3,
        first_day: date,
        requests: int = 2,
        tables: int = 40,
        now: Callable[[], float] = time.time,
    ) -> World:
        """Create several days of two data requests: a full one for the account and a narrow one for a project.

        More days do not change the IDs and bytes of earlier days.
        """
        days_at = [demo_time(first_day + timedelta(days=day)) for day in range(days)]
        return cls.demo_at(days_at, seed=seed, requests=requests, tables=tables, now=now)

    @classmethod
    def demo_at(
        cls,
        completed: Sequence[datetime],
        *,
        seed: int = 1,
        requests: int = 2,
        tables: int = 40,
        now: Callable[[], float] = time.time,
    ) -> World:
        """Create the same data requests with an extract of each at these times. The second one takes longer."""
        world = cls(seed=seed, now=now)
        created = completed[0].replace(hour=0, minute=0, second=0) - timedelta(days=30)
        ids = [
            world.add_request("My Company Data Extract", tables=tables, service_groups=("all",), created_at=created),
            world.add_request(
                "Tower B - issues and RFIs",
                tables=tuple(name for name in data.table_names(data.MAX_TABLES) if name.startswith(("issues", "rfis")))[
                    :12
                ],
                service_groups=("issues", "rfis"),
                project_id=data.identifier(seed, "project"),
                created_at=created,
            ),
        ][:requests]
        for day, at in enumerate(completed):
            for index, request_id in enumerate(ids):
                world.add_job(
                    request_id,
                    completed_at=at + index * DEMO_APART,
                    day=day,
                    job_id=data.identifier(seed, "demo", request_id, day),
                )
        return world

    def _build(self, job: JobEntry) -> dict[str, Blob]:
        if job.files is not None:
            files: dict[str, Blob] = dict(job.files)
        else:
            files = {data.README_NAME: self._share(data.readme(job.request.description, 0))}
            for name in job.request.tables:
                files[name] = self._share(self._table(job, name))
        if job.with_archive:
            files[data.ARCHIVE_NAME] = Archive(dict(files), job.request.has_windows)
        return files

    def _table(self, job: JobEntry, name: str) -> bytes:
        if job.request.has_windows and data.is_window(name):
            days, (begin, end) = window_of(job), _bounds_of(job)
            return data.window(self.seed, name, days, begin, end)
        return data.table(self.seed, name, data.versions_on(self.seed, name, job.day))

    def _share(self, body: bytes) -> Stored:
        return self._shared.setdefault(body, Stored(body))


def _bounds_of(job: JobEntry) -> tuple[str, str]:
    """Return the times between which the rows of a job are, in ISO 8601. Only two dates limit the hours of a day."""
    start, end = job.request.start_date, job.request.end_date
    is_short = start is not None and end is not None and (end.date() - start.date()).days < _MAX_WINDOW
    if start is None or end is None or not is_short or job.request.date_range not in {None, "CUSTOM"}:
        return "", "~"
    return _stamp(start), _stamp(end)


def _stamp(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"


def window_of(job: JobEntry) -> list[date]:
    """Return the days, in UTC, whose rows the tables of a job have if they are limited to a period."""
    request, today = job.request, (job.completed_at or job.created_at).date()
    yesterday = today - timedelta(days=1)
    first = last = yesterday
    given = request.start_date or request.end_date
    match request.date_range:
        case "TODAY":
            first = last = today
        case "PAST_7_DAYS":
            first = today - timedelta(days=7)
        case "MONTH_TO_DATE":
            first, last = today.replace(day=1), today
        case "LAST_MONTH":
            last = today.replace(day=1) - timedelta(days=1)
            first = last.replace(day=1)
        case None | "CUSTOM" if given is not None:
            # One date alone counts for both.
            first, last = (request.start_date or given).date(), (request.end_date or given).date()
    if (last - first).days >= _MAX_WINDOW:
        first = last = yesterday
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]
