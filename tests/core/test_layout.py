"""Where a snapshot goes: always the same folder for the same job, always below the root."""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.core import layout
from dcsync.core.model import AccountName, JobId
from tests.fakes import JOB_ID, NOON, REQUEST_ID

ACME = AccountName("acme")
SLUG = "my-company-data-extract-ce9bc188"
LAYOUTS = [
    "dated",
    "hive",
    "{account}/{project}/{job}",
    "{account}/{request}-{project}/{date}/{job}-{time}",
    "mirror/{account}.{request}/{date:%G-W%V/%u}/{time}.{job}",
]


def folder_of(text: str, completed_at: datetime | None = NOON, project: str | None = None) -> str:
    return layout.place(
        layout.parse_layout(text),
        account=ACME,
        request_slug=SLUG,
        project=project,
        completed_at=completed_at,
        job=JOB_ID,
    )


def test_the_dated_layout_has_a_folder_a_day_and_a_latest_in_that_of_the_request() -> None:
    dated = layout.parse_layout("dated")

    place = layout.place(
        dated, account=ACME, request_slug=SLUG, project=None, completed_at=NOON, job=JobId("9bd7c8a0-5b0c-4b8e")
    )

    assert dated.latest_name == "latest"
    assert dated.holds_one_request
    assert place == f"acme/{SLUG}/2026/11/22/120000Z-9bd7c8a0"


def test_the_hive_layout_names_its_columns_and_hides_latest_from_readers_of_partitions() -> None:
    hive = layout.parse_layout("hive")

    assert hive.latest_name == "_latest"
    assert hive.holds_one_request
    assert folder_of("hive") == f"account=acme/request={SLUG}/date=2026-11-22/job=9bd7c8a0"


def test_a_template_is_split_where_it_begins_to_depend_on_the_job() -> None:
    parsed = layout.parse_layout("{account}/{date:%Y/%m}/{request}/{job}")

    assert parsed.request_segments == ("{account}",)
    assert parsed.snapshot_segments == ("{date:%Y/%m}", "{request}", "{job}")
    assert not parsed.holds_one_request


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{account}/{job}", "acme/9bd7c8a0"),
        ("{account}/{date}/{job}", "acme/2026-11-22/9bd7c8a0"),
        ("{account}/{date:%Y-%j}/{time}.{job}", "acme/2026-326/120000Z.9bd7c8a0"),
        ("{account}/{date:%G-W%V}/{job}", "acme/2026-W47/9bd7c8a0"),
        ("{account}/{project}/{job}", "acme/account/9bd7c8a0"),
        ("data/{account}/{{x}}/{job}", "data/acme/{x}/9bd7c8a0"),
    ],
)
def test_a_template_is_filled_with_what_is_known_of_the_job(template: str, expected: str) -> None:
    assert folder_of(template) == expected


def test_a_project_gets_a_folder_that_cannot_leave_its_place() -> None:
    assert folder_of("{account}/{project}/{job}", project="../b/c") == "acme/..%2Fb%2Fc/9bd7c8a0"


@pytest.mark.parametrize("template", LAYOUTS)
def test_a_job_without_a_time_goes_below_undated(template: str) -> None:
    folder = folder_of(template, completed_at=None)

    assert ("undated" in folder) == ("{date" in layout.NAMED_LAYOUTS.get(template, template))
    assert folder.endswith(("9bd7c8a0", "9bd7c8a0-000000Z"))


def test_a_job_without_a_time_still_has_a_folder_of_its_own() -> None:
    assert folder_of("dated", completed_at=None) == f"acme/{SLUG}/undated/000000Z-9bd7c8a0"


def test_a_time_zone_moves_the_day_and_stands_in_the_time() -> None:
    place = layout.place(
        layout.parse_layout("dated"),
        account=ACME,
        request_slug=SLUG,
        project=None,
        completed_at=datetime(2026, 11, 22, 23, 30, tzinfo=UTC),
        job=JOB_ID,
        zone=ZoneInfo("Europe/Berlin"),
    )

    assert place == f"acme/{SLUG}/2026/11/23/003000+0100-9bd7c8a0"


def test_both_hours_of_an_autumn_night_have_their_own_folder() -> None:
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)  # 02:30 in Berlin, and an hour later again

    folders = {
        layout.place(
            layout.parse_layout("dated"),
            account=ACME,
            request_slug=SLUG,
            project=None,
            completed_at=moment,
            job=JOB_ID,
            zone=ZoneInfo("Europe/Berlin"),
        )
        for moment in (first, first + timedelta(hours=1))
    }

    assert folders == {f"acme/{SLUG}/2026/10/25/023000+0200-9bd7c8a0", f"acme/{SLUG}/2026/10/25/023000+0100-9bd7c8a0"}


@pytest.mark.parametrize("text", ["2026-11-22T12:00:00+00:00", "2026-11-22T21:00:00+09:00"])
def test_the_same_moment_in_another_zone_has_the_same_folder(text: str) -> None:
    assert folder_of("dated", completed_at=datetime.fromisoformat(text)).endswith("/2026/11/22/120000Z-9bd7c8a0")


def test_more_of_the_id_is_shown_when_two_jobs_would_share_a_folder() -> None:
    place = layout.place(
        layout.parse_layout("{account}/{job}"),
        account=ACME,
        request_slug=SLUG,
        project=None,
        completed_at=NOON,
        job=JOB_ID,
        id_length=32,
    )

    assert place == "acme/9bd7c8a05b0c4b8e8d0e0c1e9a5d1f11"


@given(
    text=st.sampled_from(LAYOUTS),
    description=st.text(max_size=80),
    project=st.none() | st.text(max_size=80),
    job=st.text(max_size=40),
    completed_at=st.none() | st.datetimes(datetime(1000, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)),  # noqa: DTZ001 - naive bounds
    offset=st.integers(-14, 14),
)
def test_any_job_has_a_safe_relative_folder(
    text: str, description: str, project: str | None, job: str, completed_at: datetime | None, offset: int
) -> None:
    place = layout.place(
        layout.parse_layout(text),
        account=ACME,
        request_slug=layout.request_slug(description, REQUEST_ID),
        project=project,
        completed_at=completed_at,
        job=JobId(job),
        zone=timezone(timedelta(hours=offset)),
    )

    components = place.split("/")
    for part in components:
        assert part not in {"", ".", ".."}
        assert not part.startswith(".dcsync")
        assert "\\" not in part
        assert not {"Cc", "Cf", "Cs"} & {unicodedata.category(character) for character in part}
        assert len(part.encode()) <= 255


@pytest.mark.parametrize(
    ("template", "what"),
    [
        ("date", "'date' is not a layout: write dated"),
        ("{account}/{date}", "lacks {job}"),
        ("{job}", "must begin with a folder"),
        ("{date}/{account}/{job}", "must begin with a folder"),
        ("", "empty, dotted or absolute"),
        ("/{account}/{job}", "empty, dotted or absolute"),
        ("{account}//{job}", "empty, dotted or absolute"),
        ("{account}/{job}/", "empty, dotted or absolute"),
        ("{account}/../{job}", "empty, dotted or absolute"),
        ("./{account}/{job}", "empty, dotted or absolute"),
        ("{account}/.hidden/{job}", "empty, dotted or absolute"),
        ("~/{account}/{job}", "empty, dotted or absolute"),
        ("{account}/{job", "is malformed"),
        ("{account}/job}", "is malformed"),
        ("{account}/a:b/{job}", "characters that a file name cannot have"),
        ("{account}/con/{job}", "characters that a file name cannot have"),
        ("{account}/a\\b/{job}", "characters that a file name cannot have"),
        ("{account}/{job} ", "characters that a file name cannot have"),
        ("{account}/_dcsync.json/{job}", "characters that a file name cannot have"),
        ("{account}/{id}/{job}", "{id} is unknown: the fields are {account} {request} {project} {date} {time} {job}"),
        ("{account}/{}/{job}", "{} is unknown"),
        ("{account!r}/{job}", "{account} is unknown"),
        ("{account.x}/{job}", "{account.x} is unknown"),
        ("{account}/{job:>8}", "{job:>8} has a format"),
        ("{account}/{date:%c}/{job}", "{date:%c} has a format"),
        ("{account}/{date:%H:%M}/{job}", "{date:%H:%M} has a format"),
        ("{account}/{date:%Y/../..}/{job}", "has a format"),
        ("{account}/{date:/etc}/{job}", "has a format"),
    ],
)
def test_a_template_that_cannot_work_is_refused_and_told_why(template: str, what: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        layout.parse_layout(template)

    assert what in str(caught.value)


@given(st.text(st.sampled_from("{}/.~:%!acountjobdeY{}"), max_size=30))
def test_parsing_any_template_raises_nothing_but_value_error(template: str) -> None:
    try:
        parsed = layout.parse_layout("{account}/" + template + "/{job}")
    except ValueError as error:
        assert "layout" in str(error)  # noqa: PT017 - either way is right
    else:
        assert parsed.request_segments[0] == "{account}"
        assert parsed.snapshot_segments[-1] == "{job}"


@pytest.mark.parametrize(
    ("identifier", "length", "expected"),
    [
        (JOB_ID, 8, "9bd7c8a0"),
        (JOB_ID, 10, "9bd7c8a05b"),
        ("abc", 8, "abc"),
        ("..", 8, ".%2E"),
        ("-", 8, "%FF"),
        ("CON", 8, "%43ON"),
    ],
)
def test_a_short_id_is_safe_in_a_path(identifier: str, length: int, expected: str) -> None:
    assert layout.short_id(identifier, length) == expected


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ("My Company Data Extract", SLUG),
        ("  Täglich: Ångström & Co. ", "taglich-angstrom-co-ce9bc188"),
        ("データ", "request-ce9bc188"),
        ("", "request-ce9bc188"),
        ("../../etc", "etc-ce9bc188"),
        ("x" * 100, "x" * 60 + "-ce9bc188"),
        ("x" * 59 + " yz", "x" * 59 + "-ce9bc188"),
    ],
)
def test_a_request_s_folder_has_its_description_in_ascii_and_some_of_its_id(description: str, expected: str) -> None:
    assert layout.request_slug(description, REQUEST_ID) == expected


@given(st.text(), st.from_regex(r"[A-Za-z0-9._~-]{1,128}", fullmatch=True))
def test_any_request_s_folder_is_one_safe_component(description: str, request_id: str) -> None:
    slug = layout.request_slug(description, request_id)

    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,58}[a-z0-9])?-[A-Za-z0-9._~%]{1,12}", slug)
    assert not slug.endswith(".")


def test_the_last_day_there_is_has_a_place_in_every_zone() -> None:
    placed = layout.place(
        layout.parse_layout("dated"),
        account=AccountName("acme"),
        request_slug="r",
        project=None,
        completed_at=datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC),
        job=JobId("abc"),
        zone=timezone(timedelta(hours=1)),
    )

    assert placed.startswith("acme/r/9999/12/31/")


def test_years_have_four_digits() -> None:
    placed = layout.place(
        layout.parse_layout("dated"),
        account=AccountName("acme"),
        request_slug="r",
        project=None,
        completed_at=datetime(999, 12, 31, tzinfo=UTC),
        job=JobId("abc"),
    )

    assert placed == "acme/r/0999/12/31/000000Z-abc"


@pytest.mark.parametrize(
    "template",
    [
        "{account}/{date:.}./{date:.}./{job}",
        "{account}/{date:%Y//%m}/{job}",
        "{account}/{date:%Y/./%m}/{job}",
        "{account}/{date:.dcsync/%Y}/{job}",
        "{account}/{job}.",
    ],
)
def test_a_template_that_makes_no_safe_folder_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match="layout"):
        layout.parse_layout(template)


# --- reading a folder's name back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["dated", "hive", "{account}/{request}-{project}/{date}/{job}-{time}", "x/{job}"])
@pytest.mark.parametrize("zone", [UTC, ZoneInfo("Asia/Kolkata"), ZoneInfo("America/St_Johns")])
@pytest.mark.parametrize("completed_at", [NOON, datetime(999, 2, 28, 1, 2, 3, tzinfo=UTC), None])
def test_a_folder_s_name_tells_what_it_was_made_of(text: str, zone: tzinfo, completed_at: datetime | None) -> None:
    parsed = layout.parse_layout(f"{{account}}/{text}" if text.startswith("x/") else text)
    folder = layout.place(
        parsed,
        account=ACME,
        request_slug=SLUG,
        project=None,
        completed_at=completed_at,
        job=JOB_ID,
        zone=zone,
    )

    found = layout.recognise(parsed, folder, zone)

    assert found is not None
    assert (found.account, found.job) == ("acme", "9bd7c8a0")
    if "{request}" in text or text in layout.NAMED_LAYOUTS:
        assert found.request_slug == SLUG
    if "{time}" in layout.NAMED_LAYOUTS.get(text, text):
        assert found.completed_at == completed_at
    elif "date" in layout.NAMED_LAYOUTS.get(text, text) and completed_at is not None:
        assert found.completed_at is not None
        assert found.completed_at.astimezone(zone).date() == completed_at.astimezone(zone).date()


@pytest.mark.parametrize(
    "folder",
    [
        "acme",
        "acme/r/latest",
        "acme/r/2026/11/22",
        "acme/r/2026/11/22/x",
        "acme/r/2026/11/22/120000Z-a/b",
        "a/r/1/1/1/1",
    ],
)
def test_a_folder_that_is_no_snapshot_s_is_not_recognised(folder: str) -> None:
    assert layout.recognise(layout.parse_layout("dated"), folder) is None


@pytest.mark.parametrize(
    ("template", "folder", "day"),
    [
        ("{account}/{date:%Y-%j}/{time}-{job}", "acme/2024-060/120000Z-a", datetime(2024, 2, 29, 12, tzinfo=UTC)),
        ("{account}/{date:%G-W%V}/{time}-{job}", "acme/2026-W47/120000Z-a", None),
        ("{account}/{date:%Y/%m/%d}/{time}-{job}", "acme/2026/02/30/120000Z-a", None),
        ("{account}/{date}/{date:%Y}/{job}/{job}", "acme/2026-11-22/2026/a/a", datetime(2026, 11, 22, tzinfo=UTC)),
    ],
)
def test_a_date_that_is_not_whole_or_is_none_is_no_date(template: str, folder: str, day: datetime | None) -> None:
    found = layout.recognise(layout.parse_layout(template), folder)

    assert found is not None
    assert (found.completed_at, found.job) == (day, "a")


@pytest.mark.parametrize("field", ["{date:%Y}", "{time}", "{job}"])
def test_the_folders_of_a_snapshot_begin_with_the_first_that_depends_on_the_job(field: str) -> None:
    parsed = layout.parse_layout(f"{{account}}/{{request}}/{field}/more/{{job}}")

    assert parsed.request_segments == ("{account}", "{request}")
    assert parsed.snapshot_segments == (field, "more", "{job}")


@pytest.mark.parametrize(
    "template",
    ["con/{job}", ".hidden/{job}", "{account}/.{job}", "{account}/./{job}", "{account}/../{job}", "{account}//{job}"],
)
def test_no_folder_of_a_layout_has_an_unsafe_name(template: str) -> None:
    with pytest.raises(ValueError, match="layout"):
        layout.parse_layout(template)


@pytest.mark.parametrize(
    ("template", "folder", "expected"),
    [
        ("dated", "acme/r-1/2026/11/22/x", ("acme", "new")),
        ("dated", "acme2/r-1/2026/11/22/x", None),
        ("hive", "account=acme/request=r/date=2026-11-22/job=x", ("account=acme", "account=new")),
        ("hive", "acme/r-1/2026/11/22/x", None),
        ("{request}/of-{account}/{date}/{job}", "r-1/of-acme/2026-11-22/x", ("r-1/of-acme", "r-1/of-new")),
        ("{request}/of-{account}/{date}/{job}", "r-1", None),
        ("{account}-{request}/{date}/{job}", "acme-r-1/2026-11-22/x", None),
        ("data/{request}/{job}", "data/r-1/x", None),
    ],
)
def test_the_folder_of_an_account_is_known_under_another_name(
    template: str, folder: str, expected: tuple[str, str] | None
) -> None:
    parsed = layout.parse_layout(template)

    assert layout.account_folder(parsed, folder, old=AccountName("acme"), new=AccountName("new")) == expected


@pytest.mark.parametrize(
    ("template", "folder", "history"),
    [
        ("dated", "acme/r-1/2026/11/22/x", "acme/r-1/history"),
        ("hive", "account=acme/request=r-1/date=2026-11-22/job=x", "account=acme/request=r-1/_history"),
        ("{account}/{date:%Y}/{job}", "acme/2026/x", "acme/history/r-1"),
    ],
)
def test_the_history_is_in_the_folder_of_its_data_request(template: str, folder: str, history: str) -> None:
    assert layout.parse_layout(template).history_folder(folder, "r-1") == history


def test_a_history_is_found_in_any_layout() -> None:
    found = layout.history_folders(["acme/r-1/2026/x", "account=acme/request=r-1/date=2026/job=y"], "r-1")

    assert {"acme/r-1/history", "account=acme/request=r-1/_history", "acme/history/r-1"} <= set(found)
