"""The API's JSON: what comes odd is read, what cannot be used is refused, and nothing else is raised."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.core import wire
from dcsync.core.model import DataRequest, Hub, Job, Json
from dcsync.core.wire import WireError
from tests.fakes import ACCOUNT_ID, JOB_ID, NOON, REQUEST_ID, make_job, make_request

FIELDS = st.sampled_from(
    [
        *("id", "requestId", "accountId", "projectIdList", "serviceGroups", "createdAt", "completedAt", "status"),
        *("progress", "isActive", "reoccuringInterval", "name", "size", "signedUrl", "results", "pagination", "limit"),
        *("totalResults", "data", "attributes", "region", "developerMessage", "title"),
    ]
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(st.characters(codec=None), max_size=8),
    st.sampled_from(["a", "1", "9" * 21, "true", "[1, null]", "2026-11-22T12:00:00Z", "NaN", "[", "."]),
)
ANY_JSON: st.SearchStrategy[Json] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(FIELDS | st.text(max_size=3), inner, max_size=6),
    max_leaves=12,
)
PARSERS: list[Callable[[Json], object]] = [
    wire.parse_page,
    wire.parse_hubs,
    wire.parse_request,
    wire.parse_job,
    wire.parse_listing,
    lambda value: wire.parse_signed(value, "a.csv"),
]


class TestDecoding:
    def test_a_body_is_decoded_as_utf8_with_or_without_a_byte_order_mark(self) -> None:
        assert wire.decode_json('{"é": [1, 2.5, null]}'.encode()) == {"é": [1, 2.5, None]}
        assert wire.decode_json(b"\xef\xbb\xbf[]") == []

    @pytest.mark.parametrize("body", [b"", b" \r\n"])
    def test_an_empty_body_is_called_so(self, body: bytes) -> None:
        with pytest.raises(WireError, match=r"^an empty body$"):
            wire.decode_json(body)

    @pytest.mark.parametrize(
        ("body", "begins"),
        [
            (b"<html>", "'<html>'"),
            (b'{"a": NaN}', "'{\"a\": NaN}'"),
            (b"-Infinity", "'-Infinity'"),
            (b"{} {}", "'{} {}'"),
            (b"\xff\xfe", "'\ufffd\ufffd'"),
            (b"x\x1b[2J", r"'x\\x1b[2J'"),
            (b"z" * 300, "'" + "z" * 80 + "…'"),
            (b"1" * 5000, "'" + "1" * 80 + "…'"),
        ],
    )
    def test_what_is_no_json_is_refused_and_shown(self, body: bytes, begins: str) -> None:
        with pytest.raises(WireError) as caught:
            wire.decode_json(body)

        assert str(caught.value) == f"a body that is not valid JSON and begins with {begins}"

    def test_json_that_is_nested_without_end_is_refused(self) -> None:
        with pytest.raises(WireError, match="not valid JSON"):
            wire.decode_json(b"[" * 100_000)

    @given(st.binary() | st.text().map(str.encode) | st.text(st.sampled_from('[]{}":,1eNa\\u ')).map(str.encode))
    def test_any_bytes_raise_nothing_but_wire_error(self, body: bytes) -> None:
        try:
            value = wire.decode_json(body)
        except WireError as error:
            assert str(error).isprintable()  # noqa: PT017 - either way is right
        else:
            assert json.loads(body.decode("utf-8-sig")) == value


class TestAnyJson:
    @given(ANY_JSON)
    @pytest.mark.parametrize("parse", PARSERS)
    def test_raises_nothing_but_wire_error(self, parse: Callable[[Json], object], value: Json) -> None:
        try:
            parse(value)
        except WireError as error:
            assert str(error).isprintable()  # noqa: PT017 - either way is right

    @given(st.dictionaries(FIELDS, ANY_JSON))
    def test_in_the_fields_of_a_request_or_a_job_is_no_reason_to_refuse_it(self, entry: dict[str, Json]) -> None:
        entry |= {"id": "r1", "requestId": "r2"}

        request, job = wire.parse_request(entry), wire.parse_job(entry)

        assert request.id == "r1"
        assert (job.id, job.request_id) == ("r1", "r2")

    @given(st.lists(ANY_JSON, max_size=6))
    def test_in_a_list_stops_no_other_entry(self, values: list[Json]) -> None:
        good = {"id": "j1", "requestId": "r1"}

        parsed, problems = wire.parse_each([*values, good], wire.parse_job)

        assert parsed[-1].id == "j1"
        assert len(parsed) + len(problems) == len(values) + 1


class TestPage:
    def test_a_page_has_its_results_and_what_the_server_says_of_the_whole(self) -> None:
        page = wire.parse_page({"pagination": {"limit": 20, "offset": "40", "totalResults": 61.0}, "results": [1, {}]})

        assert page == wire.Page(results=(1, {}), limit=20, offset=40, total=61)

    @pytest.mark.parametrize("pagination", [None, [], "x", {}, {"limit": "", "offset": True, "totalResults": 1.5}])
    def test_odd_pagination_is_none(self, pagination: Json) -> None:
        page = wire.parse_page({"pagination": pagination, "results": []})

        assert page == wire.Page(results=(), limit=None, offset=None, total=None)

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ([], "the list is not an object but an array"),
            (None, "the list is not an object but nothing"),
            ({}, "the list has nothing instead of a `results` array"),
            ({"results": "abc"}, "the list has a text instead of a `results` array"),
            ({"results": {}}, "the list has an object instead of a `results` array"),
        ],
    )
    def test_a_page_without_results_is_refused(self, value: Json, message: str) -> None:
        with pytest.raises(WireError) as caught:
            wire.parse_page(value)

        assert str(caught.value) == message

    def test_a_bad_entry_is_named_and_the_others_are_parsed(self) -> None:
        parsed, problems = wire.parse_each([{"id": "a/b"}, {"id": "r1"}, 5], wire.parse_request)

        assert [request.id for request in parsed] == ["r1"]
        assert problems == (
            wire.BadEntry(problem="a data request has the unusable `id` 'a/b'"),
            wire.BadEntry(problem="a data request is not an object but a number"),
        )

    def test_a_bad_job_keeps_what_can_be_read_of_it(self) -> None:
        created, completed = "2026-11-22T10:00:00.000Z", "2026-11-22T10:30:00.000Z"
        jobs: list[Json] = [
            {"id": "", "requestId": "r1", "createdAt": created, "completedAt": completed},
            {"id": "j1", "requestId": "..", "createdAt": created},
            {"id": 7, "requestId": "r2"},
        ]

        parsed, bad = wire.parse_each(jobs, wire.parse_job)

        assert parsed == ()
        assert [(entry.request, wire.time_json(entry.dated_at)) for entry in bad] == [
            ("r1", completed),
            (None, created),
            ("r2", None),
        ]


class TestHubs:
    def test_hubs_have_their_id_name_and_region(self) -> None:
        hubs = wire.parse_hubs(
            {"data": [{"id": f"b.{ACCOUNT_ID}", "attributes": {"name": "Acme", "region": "EMEA"}}, {"id": "b.1"}]}
        )

        assert hubs == (Hub(id=f"b.{ACCOUNT_ID}", name="Acme", region="EMEA"), Hub(id="b.1", name="", region=None))

    @pytest.mark.parametrize("value", [{}, {"data": "x"}, {"data": [1]}, {"data": [{"id": ""}]}, 1])
    def test_what_are_no_hubs_is_refused(self, value: Json) -> None:
        with pytest.raises(WireError, match="hub"):
            wire.parse_hubs(value)


class TestIdentifiers:
    @pytest.mark.parametrize("good", ["r1", REQUEST_ID, "a.b_c~d-e", "x" * 128, "b.1", "..a"])
    def test_an_id_of_url_safe_characters_is_taken(self, good: str) -> None:
        assert wire.parse_request({"id": good}).id == good

    @pytest.mark.parametrize(
        ("bad", "shown"),
        [
            (None, "'None'"),
            ("", "''"),
            (5, "'5'"),
            (".", "'.'"),
            ("...", "'...'"),
            ("a/b", "'a/b'"),
            ("../x", "'../x'"),
            ("a?b=c", "'a?b=c'"),
            ("a%2Fb", "'a%2Fb'"),
            ("a b", "'a b'"),
            ("a\n", r"'a\\n'"),
            ("é", "'é'"),
            ("x" * 129, f"'{'x' * 40}…'"),
            (["r1"], "'an array'"),
        ],
    )
    def test_an_id_that_could_lead_elsewhere_is_refused(self, bad: Json, shown: str) -> None:
        with pytest.raises(WireError) as caught:
            wire.parse_request({"id": bad})

        assert str(caught.value) == f"a data request has the unusable `id` {shown}"

    def test_a_job_needs_the_id_of_its_request(self) -> None:
        with pytest.raises(WireError, match="a job has the unusable `requestId` 'None'"):
            wire.parse_job({"id": "j1"})


REQUEST_JSON: dict[str, Json] = {
    "id": REQUEST_ID,
    "description": "My Company Data Extract",
    "isActive": True,
    "accountId": ACCOUNT_ID,
    "projectId": "p1",
    "projectIdList": ["p1", "p2"],
    "createdBy": "U1",
    "createdByEmail": "a@example.com",
    "createdAt": "2026-11-06T19:09:40.106Z",
    "updatedBy": "U2",
    "updatedByEmail": "b@example.com",
    "updatedAt": "2026-11-07T19:09:40.000Z",
    "scheduleInterval": "WEEK",
    "reoccuringInterval": 1,
    "effectiveFrom": "2026-11-08T00:00:00.000Z",
    "effectiveTo": "2027-11-08T00:00:00.000Z",
    "lastQueuedAt": "2026-11-22T01:00:00.000Z",
    "serviceGroups": ["admin", "cdcissues"],
    "callbackUrl": "https://example.com/hook",
    "sendEmail": False,
    "startDate": "2026-01-01T00:00:00.000Z",
    "endDate": "2026-02-01T00:00:00.000Z",
    "dateRange": "LAST_7_DAYS",
    "projectStatus": "all",
    "somethingNew": {"a": [1]},
}
JOB_JSON: dict[str, Json] = {
    "id": JOB_ID,
    "requestId": REQUEST_ID,
    "accountId": ACCOUNT_ID,
    "projectId": "p1",
    "projectIdList": ["p1"],
    "createdBy": "U1",
    "createdByEmail": "a@example.com",
    "createdAt": "2026-11-22T11:00:00.000Z",
    "startedAt": "2026-11-22T11:01:00.000Z",
    "completedAt": "2026-11-22T11:59:59.999Z",
    "status": "complete",
    "completionStatus": "success",
    "progress": 100,
    "sendEmail": True,
    "lastDownloadedBy": "U2",
    "lastDownloadedAt": "2026-11-22T12:00:00.000Z",
    "startDate": "2026-01-01T00:00:00.000Z",
    "endDate": "2026-02-01T00:00:00.000Z",
    "somethingNew": 7,
}


class TestRequestsAndJobs:
    def test_every_field_of_a_request_is_read(self) -> None:
        request = wire.parse_request(REQUEST_JSON)

        assert request == DataRequest(
            id=REQUEST_ID,
            description="My Company Data Extract",
            is_active=True,
            account_id=ACCOUNT_ID,
            project_id="p1",
            project_ids=("p1", "p2"),
            created_by="U1",
            created_by_email="a@example.com",
            created_at=datetime(2026, 11, 6, 19, 9, 40, 106_000, tzinfo=UTC),
            updated_by="U2",
            updated_by_email="b@example.com",
            updated_at=datetime(2026, 11, 7, 19, 9, 40, tzinfo=UTC),
            schedule_interval="WEEK",
            recurring_interval=1,
            effective_from=datetime(2026, 11, 8, tzinfo=UTC),
            effective_to=datetime(2027, 11, 8, tzinfo=UTC),
            last_queued_at=datetime(2026, 11, 22, 1, tzinfo=UTC),
            service_groups=("admin", "cdcissues"),
            callback_url="https://example.com/hook",
            send_email=False,
            start_date=datetime(2026, 1, 1, tzinfo=UTC),
            end_date=datetime(2026, 2, 1, tzinfo=UTC),
            date_range="LAST_7_DAYS",
            project_status="all",
            extra={"somethingNew": {"a": [1]}},
        )

    def test_every_field_of_a_job_is_read(self) -> None:
        job = wire.parse_job(JOB_JSON)

        assert job == Job(
            id=JOB_ID,
            request_id=REQUEST_ID,
            status="complete",
            completion_status="success",
            account_id=ACCOUNT_ID,
            project_id="p1",
            project_ids=("p1",),
            created_by="U1",
            created_by_email="a@example.com",
            created_at=datetime(2026, 11, 22, 11, tzinfo=UTC),
            started_at=datetime(2026, 11, 22, 11, 1, tzinfo=UTC),
            completed_at=datetime(2026, 11, 22, 11, 59, 59, 999_000, tzinfo=UTC),
            progress=100,
            send_email=True,
            last_downloaded_by="U2",
            last_downloaded_at=NOON,
            start_date=datetime(2026, 1, 1, tzinfo=UTC),
            end_date=datetime(2026, 2, 1, tzinfo=UTC),
            extra={"somethingNew": 7},
        )

    def test_a_request_and_a_job_are_shown_under_the_api_s_own_names(self) -> None:
        assert wire.request_json(wire.parse_request(REQUEST_JSON)) == REQUEST_JSON
        assert wire.job_json(wire.parse_job(JOB_JSON)) == JOB_JSON

    def test_one_with_nothing_but_its_ids_is_read_and_shown(self) -> None:
        request, job = make_request(description="", is_active=None), make_job(status="", completion_status=None)

        assert wire.parse_request({"id": REQUEST_ID}) == request
        assert wire.parse_request(wire.request_json(request)) == request
        assert wire.parse_job(wire.job_json(job)) == job

    @given(st.dictionaries(FIELDS, ANY_JSON))
    def test_what_was_read_and_shown_is_read_as_the_same_again(self, entry: dict[str, Json]) -> None:
        job = wire.parse_job(entry | {"id": "j1", "requestId": "r1"})
        shown = wire.job_json(job)

        assert wire.job_json(wire.parse_job(shown)) == shown

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (["a", "b"], ("a", "b")),
            (["a", 1, None], ("a",)),
            ('["a", "b"]', ("a", "b")),
            ("p1", ("p1",)),
            ("null", ()),
            ('{"a": 1}', ()),
            ("", ()),
            (None, ()),
            (5, ()),
            ("[" * 100_000, ("[" * 100_000,)),
        ],
    )
    def test_a_list_of_projects_comes_in_many_shapes(self, value: Json, expected: tuple[str, ...]) -> None:
        assert wire.parse_request({"id": "r1", "projectIdList": value}).project_ids == expected

    @pytest.mark.parametrize(
        ("value", "expected"),
        [(True, True), (False, False), ("true", True), ("False", False), ("yes", None), (1, None), (None, None)],
    )
    def test_a_boolean_may_come_as_a_word(self, value: Json, expected: bool | None) -> None:
        assert wire.parse_request({"id": "r1", "isActive": value}).is_active is expected

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (7, 7),
            (7.0, 7),
            ("7", 7),
            (" -7 ", -7),
            ("+7", 7),
            ("٧", None),
            (7.5, None),
            (float("inf"), None),
            ("", None),
            ("1_0", None),
            ("1" * 21, None),
            (True, None),
            (None, None),
            ([7], None),
        ],
    )
    def test_a_number_may_come_as_a_word(self, value: Json, expected: int | None) -> None:
        progress = wire.parse_job({"id": "j1", "requestId": "r1", "progress": value}).progress

        assert progress == expected
        assert type(progress) is type(expected)


@pytest.mark.parametrize("text", [7, 1.5, True, None, [], {}, ["x"], ""])
def test_a_description_that_is_no_text_is_left_out(text: Json) -> None:
    request = wire.parse_request({"id": "a", "description": text, "accountId": text})

    assert (request.description, request.account_id) == ("", None)
