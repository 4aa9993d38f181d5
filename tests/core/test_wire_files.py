"""What the API answers about files: the data listing and signed URLs. Also times and the texts of errors."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.core import wire
from dcsync.core.model import Json, ListedFile
from dcsync.core.wire import WireError
from tests.fakes import NOON


class TestListing:
    def test_a_listing_is_read_in_its_order_with_sizes_that_come_as_words(self) -> None:
        files = wire.parse_listing(
            [{"name": "b.csv", "size": "5", "createdAt": "2026-11-22T12:00:00Z"}, {"name": "a.csv", "size": 0}]
        )

        assert files == (ListedFile(name="b.csv", size=5, created_at=NOON), ListedFile(name="a.csv", size=0))

    def test_the_same_name_twice_with_the_same_size_is_one_file(self) -> None:
        files = wire.parse_listing([{"name": "a", "size": 1}, {"name": "a", "size": "1"}, {"name": "b", "size": 1}])

        assert [file.name for file in files] == ["a", "b"]

    @pytest.mark.parametrize("size", [1 << 60, str(1 << 60)])
    def test_the_largest_size_is_an_exbibyte(self, size: Json) -> None:
        assert wire.parse_listing([{"name": "a", "size": size}])[0].size == 1 << 60

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ({}, "the data listing is not an array but an object"),
            ("[]", "the data listing is not an array but a text"),
            ([1], "an entry of the data listing is not an object but a number"),
            ([{"size": 1}], "an entry of the data listing has no name"),
            ([{"name": "", "size": 1}], "an entry of the data listing has no name"),
            ([{"name": "a"}], "the data listing gives 'a' the size 'None'"),
            ([{"name": "a", "size": ""}], "the data listing gives 'a' the size ''"),
            ([{"name": "a", "size": -1}], "the data listing gives 'a' the size '-1'"),
            ([{"name": "a", "size": (1 << 60) + 1}], "the data listing gives 'a' the size '1152921504606846977'"),
            ([{"name": "a", "size": "x" * 31}], f"the data listing gives 'a' the size '{'x' * 30}…'"),
            (
                [{"name": "a", "size": 1}, {"name": "a", "size": 2}],
                "the data listing has 'a' twice, with 1 and 2 bytes",
            ),
            ([0] * 100_001, "the data listing has 100001 entries, more than 100000"),
        ],
    )
    def test_a_listing_that_cannot_be_trusted_is_refused_as_a_whole(self, value: Json, message: str) -> None:
        with pytest.raises(WireError) as caught:
            wire.parse_listing(value)

        assert str(caught.value) == message


class TestSigned:
    def test_a_signed_url_is_read_with_the_name_that_was_asked_for(self) -> None:
        signed = wire.parse_signed({"name": "other", "size": "7", "signedUrl": "https://s3/x?y"}, "a.csv")

        assert (signed.name, signed.size, signed.url) == ("a.csv", 7, "https://s3/x?y")

    @pytest.mark.parametrize("entry", [{}, {"signedUrl": ""}, {"signedUrl": 5}])
    def test_an_answer_without_a_url_is_refused(self, entry: Mapping[str, Json]) -> None:
        with pytest.raises(WireError, match=r"the answer for 'a\.csv' has (nothing|a text|a number) instead of"):
            wire.parse_signed(entry, "a.csv")


class TestTime:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("2026-11-22T12:00:00Z", NOON),
            (" 2026-11-22T12:00:00.000Z ", NOON),
            ("2026-11-22T12:00:00", NOON),
            ("2026-11-22T21:00:00+09:00", NOON),
            ("2026-11-22T12:00:00.5Z", NOON + timedelta(milliseconds=500)),
            ("2026-11-22T12:00:00.123456789Z", NOON + timedelta(microseconds=123_456)),
            ("2026-11-22", datetime(2026, 11, 22, tzinfo=UTC)),
        ],
    )
    def test_a_time_is_read_in_any_iso_form(self, text: str, expected: datetime) -> None:
        moment = wire.parse_time(text)

        assert moment == expected
        assert moment is not None
        assert moment.tzinfo is UTC

    @pytest.mark.parametrize(
        "value",
        ["", " ", None, 5, True, [], "soon", "2026-13-01", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-01"],
    )
    def test_what_is_no_time_is_none(self, value: Json) -> None:
        assert wire.parse_time(value) is None

    @given(st.text(st.characters(codec=None)) | st.text(st.sampled_from("0123456789-:T.+Z ,W")))
    def test_any_text_is_a_time_in_utc_or_none(self, text: str) -> None:
        moment = wire.parse_time(text)

        assert moment is None or moment.tzinfo is UTC

    @given(
        st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31)),  # noqa: DTZ001 - naive bounds
        st.integers(-1439, 1439),
    )
    def test_a_time_is_written_as_it_is_read_to_the_millisecond(self, naive: datetime, minutes: int) -> None:
        moment = naive.replace(tzinfo=timezone(timedelta(minutes=minutes)))

        written = wire.time_json(moment)

        assert written is not None
        assert written.endswith("Z")
        assert wire.parse_time(written) == moment - timedelta(microseconds=moment.microsecond % 1000)

    def test_no_time_is_written_as_none(self) -> None:
        assert wire.time_json(None) is None
        assert wire.time_json(NOON) == "2026-11-22T12:00:00.000Z"


@pytest.mark.parametrize("size", ["\x1c5", "5\x1f", " 5 "])
def test_digits_between_odd_blanks_are_a_number(size: str) -> None:
    assert wire.parse_listing([{"name": "a", "size": size}])[0].size == 5


def test_an_id_that_is_nested_without_end_is_refused() -> None:
    nested: Json = "x"
    for _ in range(100_000):
        nested = [nested]

    with pytest.raises(WireError, match="the unusable `id` 'an array'"):
        wire.parse_job({"id": nested, "requestId": "r"})


def test_text_with_a_lone_surrogate_can_be_stored() -> None:
    request = wire.parse_request({"id": "r", "description": "a\ud800b"})

    assert request.description == "a\ufffdb"


def test_a_listing_may_have_100_000_entries_and_no_more() -> None:
    entries: list[Json] = [{"name": str(number), "size": 1} for number in range(100_000)]

    assert len(wire.parse_listing(entries)) == 100_000
    with pytest.raises(WireError, match="100001 entries, more than 100000"):
        wire.parse_listing([*entries, {"name": "one more", "size": 1}])


@pytest.mark.parametrize("name", [7, None, [], ""])
def test_an_entry_of_the_listing_has_a_name(name: Json) -> None:
    with pytest.raises(WireError, match="an entry of the data listing has no name"):
        wire.parse_listing([{"name": name, "size": 1}])


@pytest.mark.parametrize(
    ("fraction", "microseconds"),
    [("", 0), (".1", 100_000), (".12345", 123_450), (".123456", 123_456), (".1234567", 123_456), (".000001", 1)],
)
def test_a_fraction_of_a_second_has_any_number_of_digits(fraction: str, microseconds: int) -> None:
    assert wire.parse_time(f"2026-11-22T12:00:00{fraction}Z") == NOON + timedelta(microseconds=microseconds)


@pytest.mark.parametrize("value", [{"a": 1}, [1]])
def test_a_size_that_is_an_array_or_an_object_is_only_named(value: Json) -> None:
    kind = "an object" if isinstance(value, dict) else "an array"

    with pytest.raises(WireError, match=f"the size '{kind}'"):
        wire.parse_listing([{"name": "a", "size": value}])
