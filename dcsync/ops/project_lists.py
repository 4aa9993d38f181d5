"""Lists of an account. With `[[account]] projects`, each project is asked for, because Autodesk may insist on it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from dcsync.core.model import DataRequest, Job
from dcsync.core.names import printable
from dcsync.errors import AccessRefused, ApiError, BadRequest, NotFound, RateLimited
from dcsync.ops.context import AccountSettings

if TYPE_CHECKING:
    from dcsync.api.client import DataConnector

T = TypeVar("T", Job, DataRequest)
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectLists(Generic[T]):
    """The entries of the lists, without duplicates, and the projects whose list cannot be read."""

    entries: list[T]
    unread: Mapping[str, ApiError]

    @property
    def errors(self) -> list[ApiError]:
        """The errors of the projects, whose messages name them."""
        return [of_projects(error, project) for project, error in self.unread.items()]


async def read_projects(
    account: AccountSettings, read: Callable[[str | None], Awaitable[Iterable[T]]]
) -> ProjectLists[T]:
    """Read the list of each configured project, or that of the whole account. A project stops no other one.

    Raises the first error, which names the projects, if no list can be read.
    """
    entries: dict[str, T] = {}
    unread: dict[str, ApiError] = {}
    projects = tuple(dict.fromkeys(account.projects))
    for project in projects or (None,):
        try:
            entries.update({entry.id: entry for entry in await read(project)})
        except RateLimited:
            raise
        except ApiError as error:
            if project is None:
                raise
            unread[project] = error
    if unread and len(unread) == len(projects):
        raise of_projects(next(iter(unread.values())), *unread)
    return ProjectLists(entries=list(entries.values()), unread=unread)


async def read_first(projects: Sequence[str], read: Callable[[str | None], Awaitable[list[T]]]) -> list[T]:
    """Read the list of the first project that has one, or that of the whole account without projects.

    Raises the first error, which names the projects, if no list can be read.
    """
    refused: list[ApiError] = []
    for project in projects:
        try:
            return await read(project)
        except (AccessRefused, BadRequest, NotFound) as error:
            refused.append(error)
    if refused:
        raise of_projects(refused[0], *projects)
    return await read(None)


def of_projects(error: ApiError, *projects: str) -> ApiError:
    """Return the error of these projects, which its message names."""
    named = ", ".join(printable(project, 80) for project in projects[:_SHOWN])
    more = ", …" if len(projects) > _SHOWN else ""
    return error.with_message(f"project{'s' if len(projects) > 1 else ''} {named}{more}: {error.message}")


async def data_requests(api: DataConnector, account: AccountSettings) -> ProjectLists[DataRequest]:
    """Return the data requests of an account."""
    from dcsync.api.client import ListOptions

    return await read_projects(account, lambda project: api.requests(account.id, ListOptions(project_id=project)))


async def newest_jobs(api: DataConnector, account: AccountSettings, limit: int) -> ProjectLists[Job]:
    """Return the newest jobs of an account, at most `limit` of each project."""
    from dcsync.api.client import ListOptions

    return await read_projects(
        account, lambda project: api.jobs(account.id, ListOptions(limit=limit, project_id=project))
    )
