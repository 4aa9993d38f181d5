"""Data requests are read with as few calls as possible, and those that cannot be read now are read later."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from dcsync.core.model import AccountId, AccountName, RequestId
from dcsync.core.ports import KnownRequest
from dcsync.errors import AccessRefused, ApiError, ApiFault, ApiUnreachable, BadAnswer, NotFound, RateLimited
from dcsync.ops.context import AccountSettings
from dcsync.ops.mirroring.descriptions import Descriptions, known_request
from tests.fakes import REQUEST_ID, make_delta_request, make_request
from tests.rigs.canned import CannedApi

DOWN = ApiFault("no answer")
REFUSED = AccessRefused("no access")


def calls(*identifiers: str) -> list[str]:
    return [f"request {identifier}" for identifier in identifiers]


def make_api(*described: str, **failing: ApiError) -> CannedApi:
    """Return an API that describes these data requests. `failing` are the errors of single ones, or of the list."""
    return CannedApi(
        requests=[make_request(id=RequestId(identifier)) for identifier in described],
        failing={name if name == "requests" else f"request {name}": error for name, error in failing.items()},
    )


async def read(api: CannedApi, *unknown: str, needed: tuple[str, ...] | None = None) -> Descriptions:
    descriptions = Descriptions()
    account = AccountSettings(name=AccountName("acme"), id=AccountId("a1"))
    identifiers = [RequestId(identifier) for identifier in unknown]
    await descriptions.read(
        api, account, identifiers, identifiers if needed is None else [RequestId(n) for n in needed]
    )
    return descriptions


@pytest.mark.parametrize(
    ("unknown", "needed", "asked"),
    [
        ((), None, []),
        (("A",), None, ["request A"]),
        (("A", "B"), None, ["requests"]),
        (("A",), (), ["requests"]),  # it has only jobs that are too old, and may be in the list
    ],
)
async def test_one_takes_its_own_call_and_several_take_that_of_the_list(
    unknown: tuple[str, ...], needed: tuple[str, ...] | None, asked: list[str]
) -> None:
    api = make_api("A", "B")

    descriptions = await read(api, *unknown, needed=needed)

    assert api.asked == asked
    assert set(unknown) <= descriptions.found.keys()
    assert descriptions.unread == {}


async def test_those_that_the_list_lacks_take_a_call_of_their_own_if_they_are_needed() -> None:
    api = make_api(A=REFUSED, B=REFUSED)

    descriptions = await read(api, "A", "B", needed=("B",))

    assert api.asked == ["requests", "request B"]
    assert (descriptions.found, descriptions.unread) == ({}, {})


@pytest.mark.parametrize("error", [DOWN, ApiUnreachable("no route"), BadAnswer("html", status=200)])
async def test_one_that_cannot_be_read_now_is_in_the_list_or_is_read_later(error: ApiError) -> None:
    listed, unlisted = make_api("A", A=error), make_api(A=error)

    found, unread = await read(listed, "A"), await read(unlisted, "A")

    assert (set(found.found), found.unread) == ({"A"}, {})
    assert (unread.found, unread.unread) == ({}, {"A": error})
    assert listed.asked == unlisted.asked == ["request A", "requests"]


async def test_the_list_is_asked_for_once() -> None:
    api = make_api(A=DOWN, B=DOWN, requests=REFUSED)

    descriptions = await read(api, "A", "B")

    assert api.asked == ["requests", "request A", "request B"]
    assert descriptions.unread == {"A": DOWN, "B": DOWN}


@pytest.mark.parametrize("error", [REFUSED, NotFound("gone")])
async def test_one_that_is_refused_is_not_read_later_and_not_looked_for_in_the_list(error: ApiError) -> None:
    api = make_api(A=error)

    with capture_logs() as lines:
        descriptions = await read(api, "A")

    assert api.asked == ["request A"]
    assert (descriptions.found, descriptions.unread) == ({}, {})
    assert [(line["log_level"], line["request"], line["code"]) for line in lines] == [("warning", "A", error.code)]


async def test_after_three_calls_without_an_answer_no_other_is_asked_for() -> None:
    api = make_api("C", requests=DOWN, A=DOWN, B=ApiUnreachable("no route"))

    descriptions = await read(api, "A", "B", "C", "D")

    assert api.asked == ["requests", "request A", "request B"]
    assert descriptions.unread.keys() == {"A", "B", "C", "D"}
    assert isinstance(descriptions.unread[RequestId("C")], ApiFault)


@pytest.mark.parametrize("error", [None, REFUSED, BadAnswer("html", status=200)])
async def test_only_calls_without_an_answer_count_and_only_in_a_row(error: ApiError | None) -> None:
    between = {} if error is None else {"C": error}
    api = make_api("C", "F", requests=DOWN, A=DOWN, B=REFUSED, D=DOWN, E=DOWN, **between)

    descriptions = await read(api, "A", "B", "C", "D", "E", "F")

    assert api.asked == ["requests", *calls("A", "B", "C", "D", "E", "F")]
    assert "F" in descriptions.found


@pytest.mark.parametrize("first", ["read", "refused"])
async def test_three_calls_without_an_answer_count_from_the_first(first: str) -> None:
    failing = dict.fromkeys("BCDE", DOWN) | ({} if first == "read" else {"A": REFUSED})
    api = make_api("A", **{"requests": REFUSED, **failing})

    await read(api, "A", "B", "C", "D", "E")

    assert api.asked == ["requests", *calls("A", "B", "C", "D")]


async def test_a_description_that_was_read_begins_the_row_anew() -> None:
    api = make_api("B", "E", requests=DOWN, A=DOWN, C=DOWN, D=DOWN)

    descriptions = await read(api, "A", "B", "C", "D", "E")

    assert "E" in descriptions.found


@pytest.mark.parametrize("of", ["requests", "A"])
async def test_a_rate_limit_ends_the_poll_at_once(of: str) -> None:
    api = make_api("A", "B", **{"requests": REFUSED, of: RateLimited("wait")})

    with pytest.raises(RateLimited):
        await read(api, "A", "B")

    assert api.asked[-1] == ("requests" if of == "requests" else "request A")


# --- what is recorded -------------------------------------------------------------------------------------------------


def make_seen(**changes: Any) -> KnownRequest:
    values = {"id": REQUEST_ID, "description": "Old", "slug": "old-ce9bc188", "is_delta": False, "is_described": True}
    return KnownRequest(**{**values, **changes})


def test_a_data_request_gets_its_slug_from_its_description() -> None:
    known = known_request(REQUEST_ID, make_request(description="My Extract"), None)

    assert (known.description, known.slug) == ("My Extract", "my-extract-ce9bc188")
    assert (known.is_described, known.is_delta) == (True, False)
    assert known.document == make_request(description="My Extract")


def test_one_that_cannot_be_read_is_no_delta_and_has_a_slug_of_its_id() -> None:
    known = known_request(REQUEST_ID, None, None)

    assert (known.description, known.is_described, known.is_delta, known.document) == ("", False, False, None)
    assert known.slug.endswith("ce9bc188")


def test_a_delta_is_recorded_as_one() -> None:
    assert known_request(REQUEST_ID, make_delta_request(), None).is_delta


@pytest.mark.parametrize(
    ("is_described", "has_folder", "slug"),
    [
        (True, True, "old-ce9bc188"),
        (True, False, "old-ce9bc188"),
        (False, True, "old-ce9bc188"),
        (False, False, "new-ce9bc188"),
    ],
)
def test_a_slug_changes_only_before_a_folder_has_it_and_before_a_description_gave_it(
    *, is_described: bool, has_folder: bool, slug: str
) -> None:
    seen, request = make_seen(is_described=is_described), make_request(description="New")

    assert known_request(REQUEST_ID, request, seen, has_folder=has_folder).slug == slug
