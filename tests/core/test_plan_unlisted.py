"""The members of a ZIP that the data listing lacks, and when the snapshot needs the ZIP itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from dcsync.core.model import ARCHIVE_NAME, ListedFile
from dcsync.core.plan import Known, Selection, Skip, plan
from dcsync.core.ziplayout import Directory, Refused
from tests.fakes import make_listed, make_stored
from tests.rigs.plans import BODY, kept, make_directory, make_known


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
        expected = [Skip(file=make_listed(name, 0), reason=f"{reason} bytes", is_lost=True) for name in further]
        assert [replace(skip, file=make_listed(skip.file.name, skip.file.size)) for skip in made.skipped] == expected

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

    def test_a_staged_archive_of_another_size_is_fetched(self) -> None:
        staged = {ARCHIVE_NAME: make_stored(ARCHIVE_NAME, b"x" * 499)}

        made = plan(self.LISTING, Known(zip_fault="no end record", staged=staged))

        assert kept(made) == ()
        assert ARCHIVE_NAME in {fetch.name for fetch in made.fetches}

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
