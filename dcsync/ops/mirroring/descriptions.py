"""Read the data requests that the jobs of a poll belong to."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import structlog

from dcsync.api.client import DataConnector
from dcsync.core.layout import request_slug
from dcsync.core.model import DataRequest, RequestId
from dcsync.core.ports import KnownRequest
from dcsync.errors import ApiError, ApiFault, ApiUnreachable, RateLimited
from dcsync.ops.context import AccountSettings
from dcsync.ops.project_lists import data_requests

log = structlog.get_logger(__name__)

#: After this many calls in a row without an answer, no other data request is asked for. Each would wait for a minute.
_MOST_SILENT = 3


@dataclass(slots=True, kw_only=True)
class Descriptions:
    """The data requests that Autodesk returned, and those that it did not return now but may return later."""

    found: dict[RequestId, DataRequest] = field(default_factory=dict)
    unread: dict[RequestId, ApiError] = field(default_factory=dict)
    is_listed: bool = False
    _silent: int = 0

    async def read(
        self, api: DataConnector, account: AccountSettings, unknown: Sequence[RequestId], needed: Collection[RequestId]
    ) -> None:
        """Read the data requests with these IDs. One request takes one call, and so do several, as a list.

        A request that is not `needed` has only jobs that are too old. It takes no call of its own.
        """
        if len(unknown) > 1 or set(unknown) - set(needed):
            await self._read_list(api, account)
        for identifier in unknown:
            if identifier in self.found or identifier not in needed:
                continue
            if self._silent >= _MOST_SILENT:
                self.unread[identifier] = ApiFault("Autodesk's API did not answer for others, so it was not asked for")
                continue
            try:
                self.found[identifier] = await api.request(account.id, identifier)
                self._silent = 0
            except RateLimited:
                raise
            except ApiError as error:
                self._count(error)
                await self._read_otherwise(api, account, identifier, error)

    async def _read_otherwise(
        self, api: DataConnector, account: AccountSettings, identifier: RequestId, error: ApiError
    ) -> None:
        if error.transient and not self.is_listed:
            await self._read_list(api, account)
        if identifier in self.found:
            return
        if error.transient:
            self.unread[identifier] = error
        log.warning(
            "a data request cannot be read; it gets no latest, because it may be a delta",
            account=account.name,
            request=identifier,
            code=error.code,
            in_result="sync demo" if error.transient else "",
        )

    async def _read_list(self, api: DataConnector, account: AccountSettings) -> None:
        """Read the list. A user who may not list all requests may still read some of them."""
        self.is_listed = True
        try:
            self.found.update({request.id: request for request in (await data_requests(api, account)).entries})
        except RateLimited:
            raise
        except ApiError as error:
            self._count(error)

    def _count(self, error: ApiError) -> None:
        self._silent = self._silent + 1 if isinstance(error, ApiFault | ApiUnreachable) else 0


def known_request(
    identifier: RequestId, request: DataRequest | None, seen: KnownRequest | None, *, has_folder: bool = True
) -> KnownRequest:
    """Return the data request to record. `seen` is what the manifest has.

    Its slug is fixed at first sight, even if only the ID was known then, unless no folder of it exists yet.
    """
    description = "" if request is None else request.description
    is_renamed = seen is not None and not (seen.is_described or has_folder)
    return KnownRequest(
        id=identifier,
        description=description,
        slug=request_slug(description, identifier) if seen is None or is_renamed else seen.slug,
        is_delta=request is not None and request.is_delta,
        is_described=request is not None,
        first_seen_at=None if seen is None else seen.first_seen_at,
        document=request,
    )
