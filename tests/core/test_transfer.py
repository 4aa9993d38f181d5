"""One download: what is asked for, what an answer means, when it is too slow, when it is tried again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.core import transfer
from dcsync.core.transfer import (
    Complete,
    Decision,
    Have,
    Patience,
    RateGuard,
    Throttle,
    Unchanged,
    Write,
    decide,
    decide_range,
    headers_for,
    md5_of_etag,
    range_headers,
    resumable_etag,
)
from dcsync.errors import (
    ChecksumMismatch,
    ContentChanged,
    DcsyncError,
    DiskFull,
    RangeIgnored,
    SizeMismatch,
    StorageError,
    StorageFault,
    StorageRefused,
    StorageUnreachable,
    TooSlow,
    UnsafeUrl,
)

ETAG = '"9b2cf535f27731c974343645a3985328"'
OTHER = '"00000000000000000000000000000000"'
HAVE = Have(size=40, etag=ETAG)
NOTHING = Have(size=0, etag=ETAG)


def answer(
    status: int, headers: dict[str, str] | None = None, *, have: Have | None = None, unless_etag: str | None = None
) -> Decision:
    """Decide on an answer for a file of 100 bytes."""
    return decide(status, headers or {}, size=100, have=have, unless_etag=unless_etag)


class TestHeaders:
    @pytest.mark.parametrize("have", [None, NOTHING])
    def test_a_fresh_download_asks_for_the_bytes_as_they_are_stored(self, have: Have | None) -> None:
        assert headers_for(have, None) == {"Accept-Encoding": "identity"}

    def test_a_resumed_download_asks_for_the_rest_of_the_same_file(self) -> None:
        assert headers_for(HAVE, None) == {"Accept-Encoding": "identity", "Range": "bytes=40-", "If-Match": ETAG}

    @pytest.mark.parametrize("have", [None, NOTHING])
    def test_a_file_of_the_snapshot_before_is_asked_for_unless_unchanged(self, have: Have | None) -> None:
        assert headers_for(have, OTHER) == {"Accept-Encoding": "identity", "If-None-Match": OTHER}

    def test_a_resumed_download_is_not_conditional_on_the_snapshot_before(self) -> None:
        assert "If-None-Match" not in headers_for(HAVE, OTHER)


class TestWholeFile:
    @pytest.mark.parametrize("length", ["100", "", "abc", "-1", "１００", "９９"])
    def test_a_200_of_the_listed_length_or_none_is_written_from_the_start(self, length: str) -> None:
        assert answer(200, {"content-length": length, "etag": ETAG}) == Write(offset=0, etag=ETAG)

    def test_a_200_without_an_etag_or_a_length_is_written_too(self) -> None:
        assert answer(200) == Write(offset=0, etag=None)

    def test_a_200_to_a_range_request_restarts_the_file(self) -> None:
        assert answer(200, {"content-length": "100", "etag": OTHER}, have=HAVE) == Write(offset=0, etag=OTHER)

    @pytest.mark.parametrize(("length", "shown"), [("99", "99"), ("101", "101"), ("0", "0"), ("9" * 5000, "9" * 20)])
    def test_a_200_of_another_length_than_listed_is_refused(self, length: str, shown: str) -> None:
        with pytest.raises(SizeMismatch) as caught:
            answer(200, {"content-length": length})

        assert caught.value.message == f"the storage announces {shown} bytes, the data listing 100"


class TestUnchanged:
    def test_a_304_to_a_conditional_request_says_unchanged(self) -> None:
        assert answer(304, unless_etag=ETAG) == Unchanged()
        assert answer(304, unless_etag=ETAG, have=NOTHING) == Unchanged()

    @pytest.mark.parametrize(("have", "unless_etag"), [(None, None), (HAVE, ETAG)])
    def test_a_304_that_was_not_asked_for_is_a_fault(self, have: Have | None, unless_etag: str | None) -> None:
        with pytest.raises(StorageFault, match="answered with status 304"):
            answer(304, have=have, unless_etag=unless_etag)


class TestResume:
    @pytest.mark.parametrize("total", ["100", "*"])
    @pytest.mark.parametrize("etag", [{"etag": ETAG}, {}])
    def test_a_206_with_the_rest_goes_on_where_the_file_ends(self, total: str, etag: dict[str, str]) -> None:
        decision = answer(206, {"content-range": f"bytes 40-99/{total}", **etag}, have=HAVE)

        assert decision == Write(offset=40, etag=ETAG)

    def test_one_byte_is_enough_to_go_on_from(self) -> None:
        one = Have(size=1, etag=ETAG)

        assert headers_for(one, None)["Range"] == "bytes=1-"
        assert answer(206, {"content-range": "bytes 1-99/100"}, have=one) == Write(offset=1, etag=ETAG)

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"content-range": "bytes 41-99/100"},
            {"content-range": "bytes 0-99/100"},
            {"content-range": "bytes 40-98/100"},
            {"content-range": "bytes 40-100/101"},
            {"content-range": "bytes 40-99/101"},
            {"content-range": "bytes 40-99"},
            {"content-range": "bytes */100"},
            {"content-range": "bytes 40-99/100 "},
            {"content-range": f"bytes {'4' * 20}-99/100"},
            {"content-range": "bytes 40-99/100", "etag": OTHER},
            {"content-range": "bytes 40-99/100", "etag": f"W/{ETAG}"},
        ],
    )
    def test_a_206_with_anything_else_throws_away_what_is_there(self, headers: dict[str, str]) -> None:
        with pytest.raises(ContentChanged, match="different part of the file"):
            answer(206, headers, have=HAVE)

    @pytest.mark.parametrize("have", [None, NOTHING])
    def test_a_206_that_was_not_asked_for_is_a_fault(self, have: Have | None) -> None:
        with pytest.raises(StorageFault, match="status 206"):
            answer(206, {"content-range": "bytes 0-99/100"}, have=have)

    def test_a_412_says_the_file_changed(self) -> None:
        with pytest.raises(ContentChanged, match="changed at Autodesk"):
            answer(412, have=HAVE)

    def test_a_416_at_the_listed_size_says_everything_is_there(self) -> None:
        assert answer(416, have=Have(size=100, etag=ETAG)) == Complete()

    @pytest.mark.parametrize("size", [99, 101])
    def test_a_416_at_another_size_throws_away_what_is_there(self, size: int) -> None:
        with pytest.raises(ContentChanged, match=f"no bytes after byte {size}"):
            answer(416, have=Have(size=size, etag=ETAG))

    @pytest.mark.parametrize("status", [412, 416])
    @pytest.mark.parametrize("have", [None, NOTHING])
    def test_a_failed_condition_that_was_not_set_is_a_fault(self, status: int, have: Have | None) -> None:
        with pytest.raises(StorageFault, match=f"status {status}"):
            answer(status, have=have)


class TestOtherAnswers:
    @pytest.mark.parametrize("status", [400, 401, 403])
    @pytest.mark.parametrize("have", [None, HAVE])
    def test_a_refusal_asks_for_a_new_url(self, status: int, have: Have | None) -> None:
        with pytest.raises(StorageRefused, match=rf"refused the signed URL \(status {status}\)"):
            answer(status, have=have)

    @pytest.mark.parametrize("status", [201, 204, 301, 302, 404, 429, 500, 503])
    def test_any_other_status_is_a_fault(self, status: int) -> None:
        with pytest.raises(StorageFault, match=f"the storage answered with status {status}"):
            answer(status, unless_etag=ETAG)

    @pytest.mark.parametrize("status", [403, 503])
    def test_the_reason_of_the_storage_is_part_of_the_message(self, status: int) -> None:
        words = "SlowDown: reduce your rate"
        with pytest.raises(StorageError, match=f"{status}\\)?: {words}$"):
            decide(status, {}, size=100, have=None, unless_etag=None, words=words)
        with pytest.raises(StorageError, match=f"{status}\\)?: {words}$"):
            decide_range(status, {}, start=0, stop=9, size=100, etag=None, words=words)

    @given(
        status=st.sampled_from([200, 206, 304, 412, 416, 403, 500]),
        headers=st.dictionaries(
            st.sampled_from(["content-length", "content-range", "etag"]),
            st.text(max_size=8) | st.from_regex(r"bytes [0-9]{1,3}-99/(100|\*)", fullmatch=True) | st.just(ETAG),
        ),
        have=st.none() | st.builds(Have, size=st.integers(0, 100), etag=st.just(ETAG)),
        unless_etag=st.none() | st.just(ETAG),
    )
    def test_bytes_are_kept_only_under_the_etag_they_came_with(
        self, status: int, headers: dict[str, str], have: Have | None, unless_etag: str | None
    ) -> None:
        try:
            decision = answer(status, headers, have=have, unless_etag=unless_etag)
        except DcsyncError as error:
            assert error.transient  # noqa: PT017 - either way is right
            return

        if isinstance(decision, Write) and decision.offset:
            assert have is not None
            assert decision == Write(offset=have.size, etag=have.etag)
            assert status == 206
            assert headers.get("etag", have.etag) == have.etag


class TestRangeOfTheArchive:
    @pytest.mark.parametrize(("etag", "condition"), [(ETAG, {"If-Match": ETAG}), (f"W/{ETAG}", {}), (None, {})])
    def test_it_is_asked_for_as_part_of_the_archive_that_was_seen(
        self, etag: str | None, condition: dict[str, str]
    ) -> None:
        assert range_headers(10, 20, etag) == {"Accept-Encoding": "identity", "Range": "bytes=10-19", **condition}

    @pytest.mark.parametrize("total", ["100", "*"])
    @pytest.mark.parametrize(
        ("headers", "etag", "found"), [({"etag": ETAG}, ETAG, ETAG), ({"etag": OTHER}, None, OTHER), ({}, ETAG, None)]
    )
    def test_a_206_with_it_tells_the_etag(
        self, total: str, headers: dict[str, str], etag: str | None, found: str | None
    ) -> None:
        headers = {"content-range": f"bytes 10-19/{total}", **headers}

        assert decide_range(206, headers, start=10, stop=20, size=100, etag=etag) == found

    @pytest.mark.parametrize(
        ("status", "headers", "error"),
        [
            (206, {"content-range": "bytes 10-20/100"}, RangeIgnored),
            (206, {"content-range": "bytes 11-19/100"}, RangeIgnored),
            (206, {}, RangeIgnored),
            (200, {"content-length": "100"}, RangeIgnored),
            (206, {"content-range": "bytes 10-19/100", "content-length": "11"}, RangeIgnored),
            (206, {"content-range": "bytes 10-19/100", "content-encoding": "gzip"}, RangeIgnored),
            (206, {"content-range": "bytes 10-19/101"}, ContentChanged),
            (206, {"content-range": "bytes 10-19/100", "etag": OTHER}, ContentChanged),
            (412, {}, ContentChanged),
            (416, {}, ContentChanged),
            (401, {}, StorageRefused),
            (403, {}, StorageRefused),
            (304, {}, StorageFault),
            (503, {}, StorageFault),
        ],
    )
    def test_anything_else_is_not_believed(
        self, status: int, headers: dict[str, str], error: type[DcsyncError]
    ) -> None:
        with pytest.raises(error):
            decide_range(status, headers, start=10, stop=20, size=100, etag=ETAG)


@pytest.mark.parametrize("etag", [ETAG, '"abc-5"', '"x"'])
def test_a_download_may_be_resumed_under_a_strong_etag(etag: str) -> None:
    assert resumable_etag(etag) == etag


@pytest.mark.parametrize("etag", [None, "", '""', '"', f"W/{ETAG}", "abc", '"abc', 'abc"'])
def test_a_download_is_not_resumed_under_anything_else(etag: str | None) -> None:
    assert resumable_etag(etag) is None


@pytest.mark.parametrize(
    ("etag", "expected"),
    [
        (ETAG, "9b2cf535f27731c974343645a3985328"),
        (ETAG.upper(), "9b2cf535f27731c974343645a3985328"),
        (None, None),
        ("", None),
        (ETAG.strip('"'), None),
        (ETAG[:-1] + '-3"', None),
        (f"W/{ETAG}", None),
        ('"' + "g" * 32 + '"', None),
        (ETAG + "\n", None),
    ],
)
def test_an_etag_of_32_hex_digits_may_be_an_md5(etag: str | None, expected: str | None) -> None:
    assert md5_of_etag(etag) == expected


class TestRateGuard:
    def test_a_trickle_is_too_slow_once_the_window_is_over(self) -> None:
        guard = RateGuard(1000.0, min_rate=100, window_s=10.0)

        assert [guard.is_too_slow(1000.0 + second, 99) for second in range(1, 11)] == [False] * 9 + [True]

    def test_the_minimum_rate_is_fast_enough(self) -> None:
        guard = RateGuard(1000.0, min_rate=100, window_s=10.0)

        assert not any(guard.is_too_slow(1000.0 + second, 100) for second in range(1, 41))

    def test_each_window_is_judged_by_itself(self) -> None:
        guard = RateGuard(0.0, min_rate=100, window_s=10.0)

        assert not guard.is_too_slow(10.0, 1_000_000)
        assert not guard.is_too_slow(19.0, 1)
        assert guard.is_too_slow(20.0, 1)
        assert guard.is_too_slow(30.0, 999)
        assert not guard.is_too_slow(40.0, 1000)

    def test_a_long_silence_counts_in_full(self) -> None:
        guard = RateGuard(0.0, min_rate=100, window_s=10.0)

        assert guard.is_too_slow(100.0, 9_999)

    def test_by_default_it_takes_a_kibibyte_a_second_over_a_minute(self) -> None:
        assert RateGuard(0.0).is_too_slow(60.0, 60 * 1024 - 1)
        assert not RateGuard(0.0).is_too_slow(60.0, 60 * 1024)
        assert not RateGuard(0.0).is_too_slow(59.9, 0)

    @given(st.lists(st.integers(1, 90), max_size=40))
    def test_a_steady_rate_is_never_misjudged(self, steps: list[int]) -> None:
        slow, fast, now = RateGuard(0.0), RateGuard(0.0), 0
        windows, since = 0, 0

        told = []
        for seconds in steps:
            now += seconds
            if now - since >= 60:
                windows, since = windows + 1, now
            told.append(slow.is_too_slow(now, seconds * 1023))
            assert not fast.is_too_slow(now, seconds * 1024)

        assert told.count(True) == windows


class TestThrottle:
    def test_without_a_rate_nothing_waits(self) -> None:
        assert Throttle(None).wait_s(1000.0, 10**12) == 0.0

    def test_bytes_take_their_time_at_the_rate(self) -> None:
        throttle = Throttle(100)

        assert throttle.wait_s(1000.0, 50) == 0.5
        assert throttle.wait_s(1000.0, 50) == 1.0  # another download, at the same moment
        assert throttle.wait_s(1000.75, 25) == 0.5
        assert Throttle(100).wait_s(0.25, 50) == 0.5

    def test_time_without_bytes_is_not_saved_up(self) -> None:
        throttle = Throttle(100)
        throttle.wait_s(1000.0, 100)

        assert throttle.wait_s(2000.0, 200) == 2.0

    @given(
        st.integers(1, 10**6),
        st.lists(st.tuples(st.floats(0.0, 30.0), st.integers(0, 1 << 20)), min_size=1, max_size=40),
    )
    def test_downloads_that_wait_as_told_never_exceed_the_rate_over_any_stretch(
        self, rate: int, steps: list[tuple[float, int]]
    ) -> None:
        throttle, now, begun, done = Throttle(rate), 1000.0, [], []

        for pause, received in steps:
            now += pause
            begun.append(now)
            now += throttle.wait_s(now, received)
            done.append(now)

        for first in range(len(steps)):
            for last in range(first, len(steps)):
                received = sum(size for _, size in steps[first : last + 1])
                assert received <= rate * (done[last] - begun[first]) * (1 + 1e-9) + rate * 1e-6


class TestPatience:
    def test_an_expired_url_is_signed_again_at_once_three_times_then_with_back_off(self) -> None:
        patience = Patience()

        waits = [patience.wait_after(StorageRefused("403"), progressed=False, draw=1.0) for _ in range(9)]

        assert waits == [0.0, 0.0, 0.0, 2.0, 4.0, 8.0, 16.0, 32.0, None]

    def test_wrong_content_is_tried_three_times(self) -> None:
        patience = Patience()

        waits = [patience.wait_after(ChecksumMismatch("md5"), progressed=True, draw=1.0) for _ in range(3)]

        assert waits == [1.0, 2.0, None]

    def test_a_changed_file_is_fetched_anew_at_once_and_counts_with_wrong_content(self) -> None:
        patience = Patience()

        assert patience.wait_after(ContentChanged("412"), progressed=False, draw=1.0) == 0.0
        assert patience.wait_after(SizeMismatch("short"), progressed=False, draw=0.5) == 1.0
        assert patience.wait_after(ContentChanged("412"), progressed=False, draw=1.0) is None

    @pytest.mark.parametrize("error", [StorageUnreachable("reset"), StorageFault("503"), TooSlow("slow")])
    def test_a_broken_connection_is_tried_five_times(self, error: DcsyncError) -> None:
        patience = Patience()

        waits = [patience.wait_after(error, progressed=False, draw=1.0) for _ in range(5)]

        assert waits == [1.0, 2.0, 4.0, 8.0, None]

    def test_a_broken_connection_that_brought_bytes_is_no_failed_attempt(self) -> None:
        patience = Patience()

        waits = [patience.wait_after(StorageUnreachable("reset"), progressed=True, draw=0.5) for _ in range(50)]

        assert waits == [0.5] * 50

    def test_expiry_is_never_counted_as_a_failed_attempt(self) -> None:
        patience = Patience()
        for _ in range(4):
            patience.wait_after(StorageUnreachable("reset"), progressed=False, draw=0.0)
            assert patience.wait_after(StorageRefused("403"), progressed=False, draw=0.0) == 0.0

        assert patience.wait_after(StorageUnreachable("reset"), progressed=False, draw=0.0) is None

    @pytest.mark.parametrize("error", [UnsafeUrl("private address"), DiskFull("no space"), DcsyncError("other")])
    def test_what_trying_again_cannot_help_is_given_up_at_once(self, error: DcsyncError) -> None:
        assert Patience().wait_after(error, progressed=True, draw=1.0) is None

    @given(
        st.lists(
            st.sampled_from(
                [
                    StorageRefused("r"),
                    StorageFault("f"),
                    StorageUnreachable("u"),
                    ContentChanged("c"),
                    SizeMismatch("s"),
                ]
            ),
            min_size=15,
            max_size=15,
        ),
        st.floats(0.0, 1.0),
    )
    def test_without_progress_it_ends_within_15_attempts(self, errors: list[DcsyncError], draw: float) -> None:
        patience = Patience()

        waits = [patience.wait_after(error, progressed=False, draw=draw) for error in errors]

        assert None in waits  # 8 refusals, 2 mismatches and 4 failures at most before it
        assert all(wait is None or 0.0 <= wait <= 60.0 for wait in waits)


def test_the_numbers_of_a_transfer_are_these() -> None:
    assert (transfer.PIECE_SIZE, transfer.MIN_RATE, transfer.RATE_WINDOW_S) == (1_048_576, 1024, 60.0)
