"""What each way to download the files of a plan costs, and the ranges of the ZIP that it reads."""

from __future__ import annotations

from dcsync.core.cost import CostInputs, Method
from dcsync.core.model import ARCHIVE_NAME
from dcsync.core.plan import Known, plan, prices_of, spans_of
from tests.fakes import make_listed, make_snapshot
from tests.rigs.plans import BODY, make_directory, make_known


class TestWays:
    MARKET = CostInputs(calls_left=57, limit=57, bytes_per_second=None, slots=4)

    def test_without_a_directory_there_is_one_way(self) -> None:
        made = plan([make_listed("a.csv", 8), make_listed("b.csv", 9), make_listed(ARCHIVE_NAME, 100)])

        (price,) = prices_of(made, None, self.MARKET).values()

        assert (price.method, price.calls, price.size, price.requests) == (Method.FILES, 2, 17, 2)

    def test_each_way_counts_its_calls_bytes_and_requests(self) -> None:
        bodies = {"a.csv": b"1", "b.csv": b"22", "x/y": b"333", "x/z": b"333"}
        directory = make_directory(bodies, spacing=100_000)
        listing = [make_listed("a.csv", 1), make_listed("b.csv", 2), make_listed("own.csv", 50)]
        made = plan(listing, Known(directory=directory, previous=make_snapshot({"b.csv": b"22"})))

        prices = prices_of(made, directory, self.MARKET)

        assert {way: (price.calls, price.size, price.requests) for way, price in prices.items()} == {
            Method.FILES: (3, 50 + 1 + 200_000, 3),  # x/… have no URL: they come by a range whichever way the rest does
            Method.RANGES: (2, 50 + 300_000, 3),  # b.csv in between is linked, and longer than the gap
            Method.WHOLE: (2, 50 + 400_000, 2),
        }

    def test_a_plan_that_wants_nothing_costs_nothing(self) -> None:
        directory = make_directory({"a.csv": BODY})

        prices = prices_of(plan([make_listed("a.csv", 8)], make_known()), directory, self.MARKET)

        assert {(price.calls, price.size, price.requests) for price in prices.values()} == {(0, 0, 0)}

    def test_a_small_gap_is_read_over(self) -> None:
        near, far = (
            make_directory(dict.fromkeys("abc", BODY), spacing=1 << 12),
            make_directory(dict.fromkeys("abc", BODY), spacing=(1 << 12) + 1),
        )

        assert len(spans_of([near.members[0], near.members[2]], Method.RANGES, near)) == 1
        assert len(spans_of([far.members[0], far.members[2]], Method.RANGES, far)) == 2
        assert len(spans_of([far.members[0], far.members[2]], Method.WHOLE, far)) == 1

    def test_many_small_ranges_are_merged_over_wider_gaps(self) -> None:
        directory = make_directory({str(index): BODY for index in range(600)}, spacing=1 << 13)

        spans = spans_of(directory.members[::2], Method.RANGES, directory)

        assert len(spans) <= 128
        # From 129 on. They are 8 KiB apart, so that gaps of twice 4 KiB make one of them.
        assert len(spans_of(directory.members[:256:2], Method.RANGES, directory)) == 128
        assert len(spans_of(directory.members[:258:2], Method.RANGES, directory)) == 1
        assert [member for span in spans for member in span.members] == list(directory.members[::2])

    def test_a_long_stretch_is_cut_to_be_worked_on_at_once(self) -> None:
        directory = make_directory({str(index): BODY for index in range(16)}, spacing=2 << 20)

        spans = spans_of(directory.members, Method.WHOLE, directory)

        assert [span.stop - span.start for span in spans] == [8 << 20] * 4
        larger = make_directory({str(index): BODY for index in range(20)}, spacing=2 << 20)
        spans = spans_of(larger.members, Method.WHOLE, larger)
        assert [span.stop - span.start for span in spans] == [10 << 20] * 4
        # In pieces of 4 MiB at least.
        smaller = make_directory({str(index): BODY for index in range(12)}, spacing=1 << 20)
        spans = spans_of(smaller.members, Method.WHOLE, smaller)
        assert [span.stop - span.start for span in spans] == [4 << 20] * 3

    def test_gaps_are_widened_by_a_factor_of_two(self) -> None:
        directory = make_directory({str(index): BODY for index in range(1700)}, spacing=1000)
        # The gaps are 10,000 and 14,000 bytes wide by turns. 16 KiB is the first of 4, 8 and 16 KiB that spans them.
        chosen = [directory.members[26 * (index // 2) + 11 * (index % 2)] for index in range(130)]

        assert len(spans_of(chosen, Method.RANGES, directory)) == 1
