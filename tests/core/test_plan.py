"""The plan: each listed file, and each further member of the archive, gets one action, with a reason."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.core import names
from dcsync.core.cost import CostInputs, Method
from dcsync.core.model import ARCHIVE_NAME, ListedFile, Snapshot, StoredFile
from dcsync.core.plan import (
    Extract,
    Fetch,
    Keep,
    Known,
    Link,
    Plan,
    Selection,
    Skip,
    archive_in,
    plan,
    prices_of,
    spans_of,
)
from dcsync.core.ziplayout import Directory, Member, Refused
from tests.fakes import make_listed, make_snapshot, make_stored

BODY = b"12345678"
FILE_NAMES = st.sampled_from([ARCHIVE_NAME, "a.csv", "A.csv", "b.csv", "c.txt", "../d", "d/e", "é.csv"]) | st.text(
    min_size=1, max_size=9
)
LISTINGS = st.lists(st.builds(make_listed, FILE_NAMES, st.integers(0, 3)), unique_by=lambda file: file.name)
BODIES = st.dictionaries(FILE_NAMES, st.sampled_from([b"", b"1", b"22", b"333", b"33x"]), max_size=6)
# An archive is not in itself.
MEMBERS = BODIES.map(lambda bodies: {name: body for name, body in bodies.items() if name != ARCHIVE_NAME})
SELECTIONS = st.builds(
    Selection,
    include=st.sampled_from([("*",), ("*.csv",), ("a*", "b*"), ()]),
    exclude=st.sampled_from([(), ("a*",), ("*",)]),
    keep_archive=st.booleans(),
)


def make_directory(bodies: Mapping[str, bytes], *, refused: tuple[Refused, ...] = (), spacing: int = 100) -> Directory:
    """Return the directory of an archive in which each member is 8 bytes long at most and takes up `spacing`."""
    members = tuple(
        Member(
            name=name,
            raw_name=name.encode(),
            method=8,
            crc32=zlib.crc32(body),
            packed=len(body) + 2,
            size=len(body),
            offset=index * spacing,
            stop=(index + 1) * spacing,
        )
        for index, (name, body) in enumerate(bodies.items())
    )
    return Directory(members=members, refused=refused, size=len(members) * spacing + 500)


def test_the_words_for_actions_stay() -> None:
    """Scripts read them from `sync --dry-run --json`."""
    kinds = {action: action.kind for action in (Fetch, Extract, Link, Keep, Skip)}

    assert kinds == {Fetch: "fetch", Extract: "extract", Link: "link", Keep: "keep", Skip: "skip"}


def kept(made: Plan) -> tuple[Keep, ...]:
    return tuple(action for action in made.actions if isinstance(action, Keep))


def make_known(
    previous: bytes | None = BODY,
    archive: bytes | None = BODY,
    *,
    stored: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Known:
    """Return what is known of the one file `a.csv`: its content before, and in the archive."""
    before = (
        None if previous is None else replace(make_snapshot(), files=(make_stored("a.csv", previous, **stored or {}),))
    )
    return Known(previous=before, directory=None if archive is None else make_directory({"a.csv": archive}), **changes)


class TestByUrl:
    def test_a_file_that_is_new_is_fetched(self) -> None:
        file = make_listed("a.csv", 8)

        assert plan([file]).actions == (Fetch(file=file, name="a.csv", reason="not in the previous snapshot"),)

    def test_a_file_of_equal_size_is_asked_for_unless_unchanged(self) -> None:
        known = make_known(archive=None)

        (fetch,) = plan([make_listed("a.csv", 8)], known).fetches

        assert known.previous is not None
        assert fetch.unless == known.previous.files[0]
        assert fetch.reason == "same size; requested only if its ETag changed"

    @pytest.mark.parametrize(
        ("size", "known", "reason"),
        [
            (9, make_known(archive=None), "size changed from 8"),
            (8, make_known(archive=None, conditional=False), "same size, and no ETag to compare"),
            (8, make_known(archive=None, stored={"etag": None}), "same size, and no ETag to compare"),
        ],
    )
    def test_a_file_that_no_etag_can_tell_apart_is_fetched(self, size: int, known: Known, reason: str) -> None:
        (fetch,) = plan([make_listed("a.csv", size)], known).fetches

        assert (fetch.unless, fetch.reason) == (None, reason)

    def test_the_file_before_is_found_by_the_server_s_name(self) -> None:
        stored = make_stored("..%2Fa.csv", BODY, original="../a.csv")

        made = plan([make_listed("../a.csv", 8)], Known(previous=replace(make_snapshot(), files=(stored,))))

        assert [(fetch.name, fetch.unless) for fetch in made.fetches] == [("..%2Fa.csv", stored)]

    def test_names_that_clash_on_some_disk_get_two(self) -> None:
        made = plan([make_listed("a.csv"), make_listed("A.csv")])

        on_disk = {fetch.file.name: fetch.name for fetch in made.fetches}
        assert on_disk == names.assign(["a.csv", "A.csv"])

    def test_an_empty_listing_is_an_empty_plan(self) -> None:
        assert plan([]).actions == ()


class TestStaged:
    def test_what_an_earlier_run_staged_is_kept(self) -> None:
        staged = make_stored("..%2Fa.csv", BODY, original="../a.csv")

        made = plan([make_listed("../a.csv", 8)], Known(staged={"..%2Fa.csv": staged}))

        assert made.actions == (Keep(file=make_listed("../a.csv", 8), name="..%2Fa.csv", staged=staged),)
        assert kept(made)[0].reason == "staged by an earlier run"

    @pytest.mark.parametrize(
        "staged",
        [
            {"a.csv": make_stored("a.csv", b"1234567")},
            {"a.csv": make_stored("a.csv", BODY, original="A.csv")},
            {"b.csv": make_stored("b.csv", BODY)},
        ],
    )
    def test_what_is_staged_of_another_file_or_size_is_not_kept(self, staged: Mapping[str, StoredFile]) -> None:
        made = plan([make_listed("a.csv", 8)], Known(staged=staged))

        assert [type(action) for action in made.actions] == [Fetch]

    def test_what_is_staged_is_checked_against_the_archive_as_far_as_that_is_believed(self) -> None:
        staged = {"a.csv": make_stored("a.csv", b"87654321")}

        assert kept(plan([make_listed("a.csv", 8)], make_known(staged=staged))) == ()
        assert kept(plan([make_listed("a.csv", 8)], make_known(staged=staged, damaged={"a.csv": "CRC32"}))) != ()
        assert kept(plan([make_listed("a.csv", 8)], make_known(archive=b"87654321", staged=staged))) != ()


class TestArchive:
    def test_a_file_that_is_as_before_is_linked(self) -> None:
        known = make_known()

        made = plan([make_listed("a.csv", 8)], known)

        assert known.previous is not None
        assert made.actions == made.links
        assert made.links == (
            Link(
                file=make_listed("a.csv", 8),
                name="a.csv",
                reason="CRC32 and sizes equal those in the previous snapshot",
                source=known.previous.files[0],
                packed=10,
            ),
        )

    @pytest.mark.parametrize(
        ("known", "reason"),
        [
            (make_known(previous=None), "not in the previous snapshot"),
            (make_known(previous=b"1234567"), "size changed from 7"),
            (make_known(previous=b"1234567x"), "CRC32 changed"),
            (make_known(stored={"packed": 9}), "compressed size changed"),
            (make_known(trust_crc=False), "same CRC32, which is not trusted (mirror.trust_crc = false)"),
            (make_known(unlinkable={"a.csv"}), "the file in the previous snapshot differs from its record"),
        ],
    )
    def test_a_file_that_may_have_changed_is_extracted(self, known: Known, reason: str) -> None:
        made = plan([make_listed("a.csv", 8)], known)

        assert known.directory is not None
        assert made.extracts == (
            Extract(file=make_listed("a.csv", 8), name="a.csv", reason=reason, member=known.directory.members[0]),
        )
        assert made.by_url().actions == (Fetch(file=make_listed("a.csv", 8), name="a.csv", reason=reason),)

    def test_a_file_of_the_same_compressed_size_is_linked(self) -> None:
        assert len(plan([make_listed("a.csv", 8)], make_known(stored={"packed": 10})).links) == 1

    @pytest.mark.parametrize(
        ("size", "known", "doubt"),
        [
            (9, make_known(None), "8 bytes in the ZIP, 9 bytes in the data listing"),
            (8, make_known(None, damaged={"a.csv": "CRC32"}), "damaged in the ZIP: CRC32"),
            (8, Known(directory=make_directory({})), "not in the ZIP"),
            (
                8,
                Known(directory=make_directory({}, refused=(Refused(name="a.csv", reason="encrypted"),))),
                "refused in the ZIP: encrypted",
            ),
        ],
    )
    def test_a_listed_file_of_which_the_archive_is_not_believed_is_fetched(
        self, size: int, known: Known, doubt: str
    ) -> None:
        (fetch,) = plan([make_listed("a.csv", size)], known).fetches

        assert fetch.reason == f"{doubt}; not in the previous snapshot"

    def test_a_file_in_doubt_can_still_be_unchanged(self) -> None:
        (fetch,) = plan([make_listed("a.csv", 8)], make_known(damaged={"a.csv": "CRC32"})).fetches

        assert fetch.unless is not None
        assert fetch.reason == "damaged in the ZIP: CRC32; same size; requested only if its ETag changed"

    def test_a_kept_archive_is_fetched_and_not_looked_for_in_itself(self) -> None:
        known = Known(directory=make_directory({}))

        (fetch,) = plan([make_listed(ARCHIVE_NAME, 500)], known, selection=Selection(keep_archive=True)).fetches

        assert fetch.reason == "not in the previous snapshot"


class TestFurtherMembers:
    def test_a_member_that_is_not_listed_is_extracted_into_its_folder_and_has_no_url(self) -> None:
        directory = make_directory({"schemas/a.json": b"{}"})

        made = plan([], Known(directory=directory))

        (extract,) = made.extracts
        assert (extract.name, extract.file, extract.is_listed) == (
            "schemas/a.json",
            ListedFile(name="schemas/a.json", size=2),
            False,
        )
        assert made.by_url() == made

    @pytest.mark.parametrize(
        ("member", "known", "reason", "is_lost"),
        [
            ("../x", {}, "only in the ZIP, and its path leaves the snapshot", True),
            ("/etc/x", {}, "only in the ZIP, and its path leaves the snapshot", True),
            ("x", {"damaged": {"x": "CRC32"}}, "only in the ZIP; damaged in the ZIP: CRC32", True),
            ("A.CSV", {}, "only in the ZIP; the data listing spells it 'a.csv'", False),
            ("data/a.csv", {}, "only in the ZIP; the data listing spells it 'a.csv'", False),
        ],
    )
    def test_a_member_that_is_not_listed_may_be_left_out(
        self, member: str, known: dict[str, Any], reason: str, is_lost: bool
    ) -> None:
        directory = make_directory({member: BODY, "a.csv": BODY})

        made = plan([make_listed("a.csv", 8)], Known(directory=directory, **known))

        assert made.skipped == (Skip(file=ListedFile(name=member, size=8), reason=reason, is_lost=is_lost),)

    def test_a_member_of_other_content_than_the_listed_one_is_no_other_spelling_of_it(self) -> None:
        """`schemas/a.csv` may be as long as `a.csv` by chance."""
        directory = make_directory({"schemas/a.csv": b"87654321", "a.csv": BODY})

        made = plan([make_listed("a.csv", 8)], Known(directory=directory))

        assert {extract.name for extract in made.extracts} == {"a.csv", "schemas/a.csv"}
        assert made.skipped == ()

    def test_a_member_in_place_of_the_listed_one_is_another_spelling_of_it(self) -> None:
        made = plan([make_listed("a.csv", 8)], Known(directory=make_directory({"data/a.csv": b"87654321"})))

        assert [skip.reason for skip in made.skipped] == ["only in the ZIP; the data listing spells it 'a.csv'"]
        assert [fetch.name for fetch in made.fetches] == ["a.csv"]

    def test_a_member_of_another_size_is_no_twin_of_a_listed_file(self) -> None:
        directory = make_directory({"data/a.csv": b"1", "a.csv": BODY})

        assert {extract.name for extract in plan([make_listed("a.csv", 8)], Known(directory=directory)).extracts} == {
            "a.csv",
            "data/a.csv",
        }


class TestMembersWithoutMeasure:
    """Members that are not listed are limited together; what is listed is limited by its size in the listing."""

    MIB = 1 << 20

    @staticmethod
    def make(sizes: Mapping[str, int], listed: int) -> tuple[list[ListedFile], Known]:
        directory = make_directory({**dict.fromkeys(sizes, b""), "a.csv": b""})
        sizes = {**sizes, "a.csv": listed}
        members = tuple(replace(member, size=sizes[member.name]) for member in directory.members)
        return [make_listed("a.csv", listed)], Known(directory=replace(directory, members=members))

    @pytest.mark.parametrize(
        ("sizes", "listed"),
        [((32, 32), 0), ((64,), 16), ((100, 100), 50), ((1, 2), 1), ((400,), 100)],
    )
    def test_up_to_64_mib_or_four_times_the_listing_is_taken(self, sizes: tuple[int, ...], listed: int) -> None:
        further = {f"schemas/{n}": size * self.MIB for n, size in enumerate(sizes)}
        listing, known = self.make(further, listed * self.MIB)

        made = plan(listing, known)

        assert {extract.name for extract in made.extracts} == {*further, "a.csv"}

    @pytest.mark.parametrize(("sizes", "listed"), [((32, 33), 0), ((65,), 16), ((100, 101), 50), ((401,), 100)])
    def test_more_is_left_out_and_why(self, sizes: tuple[int, ...], listed: int) -> None:
        further = {f"schemas/{n}": size * self.MIB for n, size in enumerate(sizes)}
        listing, known = self.make(further, listed * self.MIB)

        made = plan(listing, known)

        assert [extract.name for extract in made.extracts] == ["a.csv"]
        total = sum(further.values())
        reason = f"only in the ZIP, and refused: together with the other unlisted entries it unpacks to {total}"
        assert {skip.file.name: skip.reason for skip in made.skipped} == dict.fromkeys(further, f"{reason} bytes")

    def test_the_archive_does_not_count_as_content_of_the_listing(self) -> None:
        listing, known = self.make({"schemas/a": 65 * self.MIB}, 0)

        made = plan([*listing, make_listed(ARCHIVE_NAME, 1000 * self.MIB)], known)

        assert [extract.name for extract in made.extracts] == ["a.csv"]

    @pytest.mark.parametrize(("size", "expected"), [(150 * MIB, True), (150 * MIB + 1, False)])
    def test_up_to_a_hundred_times_the_archive_is_taken(self, size: int, expected: bool) -> None:
        """A listing may name the ZIP alone."""
        _, known = self.make({"b.csv": size}, 0)
        assert known.directory is not None
        known = replace(known, directory=replace(known.directory, size=3 * self.MIB // 2))

        made = plan([make_listed(ARCHIVE_NAME, 1000)], known)

        assert ("b.csv" in {extract.name for extract in made.extracts}) is expected
        assert made.keeps_archive is not expected


class TestNeededArchive:
    """The ZIP repeats the other files, or the snapshot contains it."""

    LISTING: ClassVar = [make_listed("a.csv", 8), make_listed(ARCHIVE_NAME, 500)]
    REFUSED = Refused(name="schemas/x", reason="the content is encrypted")

    def make(self, members: Mapping[str, bytes] | None = None, *, refused: tuple[Refused, ...] = ()) -> Directory:
        return make_directory({"a.csv": BODY, **(members or {})}, refused=refused)

    @pytest.mark.parametrize(
        ("known", "selection"),
        [
            (Known(), Selection()),
            (make_known(), Selection()),
            (make_known(damaged={"a.csv": "CRC32"}), Selection()),
            (Known(directory=make_directory({}, refused=(Refused(name="a.csv", reason="encrypted"),))), Selection()),
            (Known(directory=make_directory({}, refused=(REFUSED,))), Selection(include=("*.csv",))),
        ],
    )
    def test_an_archive_that_repeats_the_files_is_left_out(self, known: Known, selection: Selection) -> None:
        made = plan(self.LISTING, known, selection=selection)

        skipped = {skip.file.name: (skip.reason, skip.is_lost) for skip in made.skipped}
        assert skipped[ARCHIVE_NAME] == ("repeats the other files (mirror.keep_archive = false)", False)
        assert (made.lost, made.keeps_archive) == ((), False)

    @pytest.mark.parametrize(
        ("members", "refused", "changes", "first"),
        [
            ({}, (REFUSED,), {}, "schemas/x"),
            ({"../x": b"1"}, (), {}, "../x"),
            ({"schemas/a": b"1"}, (), {"damaged": {"schemas/a": "CRC32"}}, "schemas/a"),
        ],
    )
    @pytest.mark.parametrize("include", ["*", "[!a]*"])
    def test_an_archive_with_a_file_that_cannot_be_had_otherwise_is_kept(
        self,
        members: dict[str, bytes],
        refused: tuple[Refused, ...],
        changes: dict[str, Any],
        first: str,
        include: str,
    ) -> None:
        known = Known(directory=self.make(members, refused=refused), **changes)

        made = plan(self.LISTING, known, selection=Selection(include=(include,)))

        (fetch,) = (fetch for fetch in made.fetches if fetch.file.name == ARCHIVE_NAME)
        assert fetch.reason == f"kept, because 1 entry cannot be extracted (first: {first})"
        assert [skip.file.name for skip in made.lost] == [first]
        assert made.keeps_archive

    def test_several_files_are_counted(self) -> None:
        refused = (self.REFUSED, Refused(name="schemas/y", reason="the content is encrypted"))

        made = plan(self.LISTING, Known(directory=self.make(refused=refused)))

        assert {fetch.reason for fetch in made.fetches} == {
            "kept, because 2 entries cannot be extracted (first: schemas/x)",
            "not in the previous snapshot",
        } - {"not in the previous snapshot"}

    def test_an_archive_that_cannot_be_read_is_kept(self) -> None:
        made = plan(self.LISTING, Known(zip_fault="no end record"))

        (fetch,) = (fetch for fetch in made.fetches if fetch.file.name == ARCHIVE_NAME)
        assert fetch.reason == "kept, because it cannot be compared with the other files: no end record"

    def test_a_staged_archive_that_is_needed_is_kept_for_that_reason(self) -> None:
        staged = {ARCHIVE_NAME: make_stored(ARCHIVE_NAME, b"x" * 500)}

        made = plan(self.LISTING, Known(zip_fault="no end record", staged=staged))

        (keep,) = kept(made)
        assert keep.reason == "kept, because it cannot be compared with the other files: no end record"

    def test_a_staged_archive_of_the_configuration_is_kept(self) -> None:
        staged = {ARCHIVE_NAME: make_stored(ARCHIVE_NAME, b"x" * 500)}

        made = plan(self.LISTING, Known(staged=staged), selection=Selection(keep_archive=True))

        assert [keep.reason for keep in kept(made)] == ["staged by an earlier run"]

    def test_an_archive_that_the_account_excludes_is_never_kept(self) -> None:
        known = Known(directory=self.make(refused=(self.REFUSED,)))

        made = plan(self.LISTING, known, selection=Selection(exclude=("*.zip",)))

        assert {skip.file.name: skip.reason for skip in made.skipped}[ARCHIVE_NAME] == "in the account's exclude"
        assert [skip.file.name for skip in made.lost] == ["schemas/x"]
        assert not made.keeps_archive

    def test_an_archive_that_is_gone_is_lost(self) -> None:
        made = plan(self.LISTING, Known(zip_gone="Autodesk does not have it"))

        assert [(skip.file.name, skip.reason) for skip in made.lost] == [(ARCHIVE_NAME, "Autodesk does not have it")]

    def test_a_refused_file_that_is_not_selected_is_not_lost(self) -> None:
        made = plan(
            self.LISTING, Known(directory=self.make(refused=(self.REFUSED,))), selection=Selection(include=("*.csv",))
        )

        assert ("schemas/x", "not in the account's include") in [(skip.file.name, skip.reason) for skip in made.skipped]
        assert made.lost == ()

    def test_without_use_of_the_archive_listed_files_have_their_urls_and_the_others_come_from_it(self) -> None:
        known = Known(directory=self.make({"schemas/a": b"1"}), previous=make_known().previous, uses_zip=False)

        made = plan(self.LISTING, known)

        assert [(fetch.name, fetch.unless is not None) for fetch in made.fetches] == [("a.csv", True)]
        assert [extract.name for extract in made.extracts] == ["schemas/a"]


@pytest.mark.parametrize(
    ("selection", "name", "reason"),
    [
        (Selection(), "a.csv", None),
        (Selection(), ARCHIVE_NAME, "repeats the other files (mirror.keep_archive = false)"),
        (Selection(keep_archive=True), ARCHIVE_NAME, None),
        (Selection(keep_archive=True, include=("*.csv",)), ARCHIVE_NAME, "not in the account's include"),
        (Selection(include=("admin_*", "issues_*")), "issues_issues.csv", None),
        (Selection(include=("admin_*",)), "Admin_users.csv", "not in the account's include"),
        (Selection(include=()), "a.csv", "not in the account's include"),
        (Selection(include=("a*",), exclude=("a?",)), "ab", "in the account's exclude"),
        (Selection(include=("a*",), exclude=("a?",)), "abc", None),
    ],
)
def test_a_selection_says_why_a_file_is_left_out(selection: Selection, name: str, reason: str | None) -> None:
    assert selection.reason_to_skip(name) == reason
    assert [skip.reason for skip in plan([make_listed(name)], selection=selection).skipped] == (
        [reason] if reason else []
    )


def test_a_selection_is_known_again_by_its_digest() -> None:
    """Another process compares it, so it does not depend on the interpreter's hashes."""
    assert Selection().digest == Selection(include=("*",)).digest == "371862d6f463cfc8"
    others = [Selection(include=("a*",)), Selection(exclude=("a*",)), Selection(keep_archive=True)]
    assert len({selection.digest for selection in [Selection(), *others]}) == 4


@given(LISTINGS, BODIES, BODIES, MEMBERS, SELECTIONS, st.booleans())
def test_each_file_gets_one_action_and_the_largest_comes_first(
    listing: list[ListedFile],
    before: dict[str, bytes],
    staged: dict[str, bytes],
    archive: dict[str, bytes],
    selection: Selection,
    trust_crc: bool,
) -> None:
    known = Known(
        previous=make_snapshot(before),
        staged={
            names.component(name): make_stored(names.component(name), body, original=name)
            for name, body in staged.items()
        },
        directory=make_directory(archive) if archive else None,
        trust_crc=trust_crc,
    )

    made = plan(listing, known, selection=selection)

    files = [action.file for action in made.actions]
    sizes = [file.size for file in files]
    assert sizes == sorted(sizes, reverse=True)
    assert sorted(file.name for file in files) == sorted({file.name for file in listing} | archive.keys())
    assert sum(map(len, (made.fetches, made.extracts, made.links, kept(made), made.skipped))) == len(made.actions)
    on_disk = [action.name for action in made.actions if not isinstance(action, Skip)]
    assert len({names.clash_key(name) for name in on_disk}) == len(on_disk)
    listed = {file.name for file in listing}
    new = [*(fetch.file for fetch in made.fetches), *(extract.file for extract in made.extracts)]
    assert made.new_bytes == sum(file.size for file in new)
    assert {fetch.file.name for fetch in made.by_url().fetches} == {file.name for file in new} & listed
    for link in made.links:
        assert trust_crc
        assert before[link.file.name] == archive[link.file.name]
    for keep in kept(made):
        assert (keep.staged.original, keep.staged.size) == (keep.file.name, keep.file.size)


@given(LISTINGS, MEMBERS)
def test_the_order_of_the_listing_changes_nothing(listing: list[ListedFile], archive: dict[str, bytes]) -> None:
    # Two listed files that clash with a member are both right as its spelling: the last one is named.
    known = Known(directory=make_directory(archive))
    listing = list({names.clash_key(file.name): file for file in listing}.values())

    assert plan(listing[::-1], known) == plan(listing, known)


class TestWays:
    MARKET = CostInputs(calls_left=57, limit=57, bytes_per_second=None, slots=4)

    def test_without_a_directory_there_is_one_way(self) -> None:
        made = plan([make_listed("a.csv", 8), make_listed("b.csv", 9), make_listed(ARCHIVE_NAME, 100)])

        (price,) = prices_of(made, None, self.MARKET).values()

        assert (price.method, price.calls, price.size, price.requests) == (Method.FILES, 2, 17, 2)

    def test_each_way_counts_its_calls_bytes_and_requests(self) -> None:
        bodies = {"a.csv": b"1", "b.csv": b"22", "x/y": b"333"}
        directory = make_directory(bodies, spacing=100_000)
        listing = [make_listed("a.csv", 1), make_listed("b.csv", 2), make_listed("own.csv", 50)]
        made = plan(listing, Known(directory=directory, previous=make_snapshot({"b.csv": b"22"})))

        prices = prices_of(made, directory, self.MARKET)

        assert {way: (price.calls, price.size, price.requests) for way, price in prices.items()} == {
            Method.FILES: (3, 50 + 1 + 100_000, 3),  # x/y has no URL: it comes by a range whichever way the rest does
            Method.RANGES: (2, 50 + 200_000, 3),  # b.csv in between is linked, and longer than the gap
            Method.WHOLE: (2, 50 + 300_000, 2),
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
        assert [member for span in spans for member in span.members] == list(directory.members[::2])

    def test_a_refused_member_that_is_not_listed_is_left_out_and_named(self) -> None:
        refused = Refused(name="schemas/x", reason="the content is encrypted")
        directory = replace(make_directory({"a.csv": BODY}), refused=(refused,))

        made = plan([make_listed("a.csv", len(BODY))], Known(directory=directory))

        assert [(skip.file.name, skip.reason) for skip in made.skipped] == [
            ("schemas/x", "only in the ZIP, and refused: the content is encrypted")
        ]

    def test_a_member_that_the_listing_spells_otherwise_is_left_out(self) -> None:
        directory = make_directory({"extract/A.CSV": BODY})

        made = plan([make_listed("a.csv", len(BODY))], Known(directory=directory))

        assert [skip.reason for skip in made.skipped] == ["only in the ZIP; the data listing spells it 'a.csv'"]
        assert [fetch.file.name for fetch in made.fetches] == ["a.csv"]

    def test_a_long_stretch_is_cut_to_be_worked_on_at_once(self) -> None:
        directory = make_directory({str(index): BODY for index in range(16)}, spacing=2 << 20)

        spans = spans_of(directory.members, Method.WHOLE, directory)

        assert [span.stop - span.start for span in spans] == [8 << 20] * 4


def test_the_archive_is_found_by_its_name() -> None:
    archive = make_listed(ARCHIVE_NAME, 1000)

    assert archive_in([make_listed("a"), archive]) == archive
    assert archive_in([make_listed("a")]) is None


def test_a_snapshot_that_is_empty_compares_as_none() -> None:
    empty: Snapshot = make_snapshot({})

    assert plan([make_listed("a.csv", 8)], Known(previous=empty)) == plan([make_listed("a.csv", 8)])
