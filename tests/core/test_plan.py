"""The plan: each listed file, and each further member of the archive, gets one action, with a reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.core import names
from dcsync.core.model import ARCHIVE_NAME, ListedFile, Snapshot, StoredFile
from dcsync.core.plan import Extract, Fetch, Keep, Known, Link, Selection, Skip, archive_in, plan
from dcsync.core.ziplayout import Refused
from tests.fakes import make_listed, make_snapshot, make_stored
from tests.rigs.plans import BODY, kept, make_directory, make_known

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


def test_the_words_for_actions_stay() -> None:
    """Scripts read them from `sync --dry-run --json`."""
    kinds = {action: action.kind for action in (Fetch, Extract, Link, Keep, Skip)}

    assert kinds == {Fetch: "fetch", Extract: "extract", Link: "link", Keep: "keep", Skip: "skip"}


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


def test_the_archive_is_found_by_its_name() -> None:
    archive = make_listed(ARCHIVE_NAME, 1000)

    assert archive_in([make_listed("a"), archive]) == archive
    assert archive_in([make_listed("a")]) is None


def test_a_snapshot_that_is_empty_compares_as_none() -> None:
    empty: Snapshot = make_snapshot({})

    assert plan([make_listed("a.csv", 8)], Known(previous=empty)) == plan([make_listed("a.csv", 8)])
