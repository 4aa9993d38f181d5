"""The alerts of Autodesk's lists: entries that cannot be used, no data request, and names that match none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from dcsync.core.alerts import Alert, AlertCode
from dcsync.core.model import AccountName, RequestId
from dcsync.core.names import printable
from dcsync.core.ports import KnownRequest
from dcsync.ops.context import AccountSettings
from dcsync.ops.observed import Observations, VisibleRequests

#: The most data requests that a hint lists.
_MOST_LISTED = 5


async def list_alerts(observed: Observations, account: AccountSettings, known: Iterable[KnownRequest]) -> list[Alert]:
    """Return the alerts of an account's lists. `known` are the data requests in the manifest."""
    texts = [*await observed.unusable_jobs(), *await observed.unusable_requests()]
    alerts = [_unusable(account.name, texts)] if texts else []
    listed = await observed.visible_requests()
    if listed is None:
        return alerts
    visible = visible_requests(listed, known)
    if visible:
        unmatched = unmatched_names(account, listed, visible)
        alerts += [_no_match(account.name, unmatched, visible)] if unmatched else []
    elif not listed.is_refused:
        message = "no data request is visible to the signed-in user"
        message += ", although [[account]] requests names some" if account.requests else ""
        alerts.append(Alert.of(AlertCode.L_NONE, account=account.name, message=message))
    return alerts


def visible_requests(listed: VisibleRequests, known: Iterable[KnownRequest]) -> Mapping[RequestId, str]:
    """Return the descriptions of the data requests in the last list and in the manifest, by ID."""
    return {**{request.id: request.description for request in known}, **listed.by_id}


def unmatched_names(
    account: AccountSettings, listed: VisibleRequests, visible: Mapping[RequestId, str]
) -> Sequence[str]:
    """Return the names of `[[account]] requests` that match no visible data request.

    A name counts only after a list was read for it: its data request may be newer than the list before.
    """
    return [name for name in account.unmatched_requests(visible) if name in listed.asked_for]


def _unusable(account: AccountName, texts: Sequence[str]) -> Alert:
    count = "1 entry" if len(texts) == 1 else f"{len(texts)} entries"
    first = "" if len(texts) == 1 else "the first: "
    message = f"{count} of Autodesk's lists cannot be used: {first}{printable(texts[0], 300)}"
    return Alert.of(AlertCode.L_ENTRY, account=account, message=message)


def _no_match(account: AccountName, unmatched: Sequence[str], visible: Mapping[RequestId, str]) -> Alert:
    names = ", ".join(repr(printable(name, 100)) for name in unmatched)
    message = f"no visible data request matches {names} in [[account]] requests"
    shown = sorted(repr(printable(text, 60)) if text else request for request, text in visible.items())
    more = len(shown) - _MOST_LISTED
    listed = ", ".join(shown[:_MOST_LISTED]) + (f" and {more} more (dcsync requests)" if more > 0 else "")
    hint = f"correct [[account]] requests of {account}: an ID, or a pattern of a description. Visible are {listed}"
    return Alert.of(AlertCode.C_NOMATCH, account=account, message=message, hint=hint)
