"""The report page in a real browser: what a person sees, on every screen, of every name."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page

from dcsync.core.alerts import Alert, AlertCode
from dcsync.core.diff import compare
from dcsync.core.page import AccountHistory
from dcsync.core.summary import Summary
from dcsync.core.table import ColumnChange, TableFacts
from tests.fakes import NOON, make_stored
from tests.rigs.browser import browsing, new_page
from tests.rigs.pages import HOSTILE, make_account, make_account_of, make_freshness, make_history, make_past, write_page

pytestmark = [pytest.mark.needs_tool("chromium"), pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One browser for all tests: its start takes twice as long as a test. Each test has a context of its own."""
    async with browsing() as started:
        yield started


@asynccontextmanager
async def visiting(browser: Browser, path: Path, **options: Any) -> AsyncIterator[Page]:
    """Open the page from the disk; anything it complains of, or asks the network for, fails the test."""
    page = await new_page(browser, **options)
    said: list[str] = []
    asked: list[str] = []
    # What the browser says of its own listing of a folder is not about us.
    page.on("console", lambda message: said.append(message.text) if page.url == path.as_uri() else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    await page.goto(path.as_uri())
    yield page
    await page.context.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
async def test_it_passes_axe_whatever_the_screen(browser: Browser, tmp_path: Path, scheme: str, width: int) -> None:
    path = write_page(tmp_path, make_account_of(["My Company Data Extract", "Tower B"]))

    async with visiting(browser, path, color_scheme=scheme, viewport={"width": width, "height": 800}) as page:
        await page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        results = await Axe().run(page)

    assert results.violations_count == 0, results.generate_report()


async def test_an_empty_mirror_is_a_page_too(browser: Browser, tmp_path: Path) -> None:
    path = write_page(tmp_path, make_account(), make_account(make_history(folder=None, latest=None), name="other"))

    async with visiting(browser, path) as page:
        results = await Axe().run(page)
        text = await page.inner_text("main")

    assert results.violations_count == 0, results.generate_report()
    assert "No alerts." in text
    assert "No data requests are known yet." in text
    assert "none yet" in text


async def test_hostile_names_are_text_and_nothing_else(browser: Browser, tmp_path: Path) -> None:
    path = write_page(tmp_path, make_account_of(HOSTILE))

    async with visiting(browser, path) as page:
        await page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        for name in ["<script>document", "onerror=", "{{ 7 * 7 }}", "</style><style>", "&lt;b&gt; &amp;", "تقرير"]:
            assert await page.get_by_text(name).count() > 0, name
        assert await page.title() == f"dcsync: {HOSTILE[0]}"
        assert await page.evaluate("document.querySelectorAll('script').length") == 1
        assert await page.evaluate("document.querySelectorAll('img, iframe, object').length") == 0
        assert await page.evaluate("document.querySelectorAll('style').length") == 1
        targets = await page.evaluate("[...document.links].map(link => link.getAttribute('href'))")
        assert await page.evaluate("document.body.offsetHeight") > 1000

    assert all(target.startswith(("./", "#")) for target in targets)
    text = path.read_text()
    # Nothing that turns the direction of the text or moves a terminal's cursor is left.
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08\x0b-\x1f\ud800-\udfff]", text)


@pytest.mark.parametrize("width", [320, 360, 1280])
async def test_no_name_is_too_long_for_the_screen(browser: Browser, tmp_path: Path, width: int) -> None:
    path = write_page(tmp_path, make_account_of(["W" * 300, "My Company"]))

    async with visiting(browser, path, viewport={"width": width, "height": 800}) as page:
        assert await page.evaluate("document.documentElement.scrollWidth") <= width


#: The elements that take room and reach beyond the screen, hidden columns of a table that scrolls among them.
_WIDE = """[...document.querySelectorAll('main *')].filter(element => {
    const box = element.getBoundingClientRect();
    return box.width > 1 && (box.right > innerWidth + 1 || box.left < -1);
}).map(element => element.tagName + '.' + element.className)"""


async def test_a_phone_shows_every_column(browser: Browser, tmp_path: Path) -> None:
    path = write_page(tmp_path, make_account_of(["My Company Data Extract", "W" * 300]))

    async with visiting(browser, path, viewport={"width": 360, "height": 800}) as page:
        await page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert await page.evaluate(_WIDE) == []
        # Each value stands with the head of its column.
        cell = page.locator(".list td", has_text="400").first
        assert await cell.evaluate("cell => getComputedStyle(cell, '::before').content") == '"Rows: "'


async def test_the_page_opens_with_the_verdict_its_age_and_at_most_five_lines_of_alerts(
    browser: Browser, tmp_path: Path
) -> None:
    account = make_account_of(["Company data"])
    alerts = [Alert.of(code, account="acme", message="m") for code in list(AlertCode)[:12]]
    path = write_page(tmp_path, replace(account, alerts=[*alerts, *alerts[:3]]))

    async with visiting(browser, path) as page:
        text = (await page.inner_text("main")).splitlines()
        shown = [
            line for line in text[: text.index("Last poll: 2026-11-22 12:00. Last successful run: never.")] if line
        ]

    assert text[0].startswith("Nothing is known about today. This page is ")
    assert "the extract of 'Company data' is 2 days overdue (3 missing)" in text[0]
    assert shown[1].startswith("Written ")
    assert shown[2] == "16 alerts"
    assert len(shown[3:8]) == 5
    assert shown[8:] == ["8 more", "All 16, and what to do", "Company data"]


@pytest.mark.parametrize(
    ("later", "is_old", "said"),
    [
        (timedelta(seconds=-90), False, "Written just now, on 2026-11-22 12:00 UTC."),
        (timedelta(minutes=61), False, "Written 61 minutes ago, on 2026-11-22 12:00 UTC."),
        (timedelta(hours=23), False, "Written 23 hours ago, on 2026-11-22 12:00 UTC."),
        (
            timedelta(days=3, hours=2),
            True,
            "Written 3 days ago, on 2026-11-22 12:00 UTC: dcsync has not updated this page since. Is it running?",
        ),
    ],
)
async def test_a_reader_sees_how_old_the_page_is(
    browser: Browser, tmp_path: Path, later: timedelta, is_old: bool, said: str
) -> None:
    path = write_page(tmp_path, make_account(make_history(freshness=make_freshness())))

    page = await new_page(browser)
    await page.clock.set_fixed_time(NOON + later)
    await page.goto(path.as_uri())
    age, verdict = await page.inner_text("#age"), await page.inner_text("#verdict")
    await page.context.close()

    assert age == said
    assert (verdict == "Today is complete: 1 of 1 data request") is not is_old
    assert is_old is (verdict.startswith("Nothing is known about today. This page is 3 days old"))


async def test_a_page_that_stays_open_notices_that_it_is_no_longer_updated(browser: Browser, tmp_path: Path) -> None:
    path = write_page(tmp_path, make_account(make_history(freshness=make_freshness())))

    page = await new_page(browser)
    await page.clock.install(time=NOON)
    await page.goto(path.as_uri())
    assert await page.inner_text("#verdict") == "Today is complete: 1 of 1 data request"
    await page.clock.fast_forward("25:00:00")

    assert (await page.inner_text("#verdict")).startswith("Nothing is known about today.")
    await page.context.close()


async def test_without_scripts_the_page_says_what_its_time_means(browser: Browser, tmp_path: Path) -> None:
    path = write_page(tmp_path, make_account(make_history(freshness=make_freshness())))

    async with visiting(browser, path, java_script_enabled=False) as page:
        assert await page.inner_text("#verdict") == "Today is complete: 1 of 1 data request"
        assert await page.inner_text("#age") == (
            "Written on 2026-11-22 12:00 UTC. dcsync rewrites this page when something on it changes, and "
            "otherwise about every half hour. If that was more than 24 "
            "hours ago, dcsync has stopped or cannot write it, and nothing here is about today."
        )


async def test_a_missing_day_is_marked_and_said(browser: Browser, tmp_path: Path) -> None:
    path = write_page(tmp_path, make_account_of(["Nightly"]))

    async with visiting(browser, path) as page:
        (first, *_) = await page.locator("td.missed").all_inner_texts()
        assert first.split() == ["18○", "missing"] or first.split() == ["18", "○", "missing"]
        assert await page.get_by_text("Missing days: 2026-11-22, 2026-11-21, 2026-11-20, 2026-11-18.").count() == 1


async def test_links_lead_to_the_folders(browser: Browser, tmp_path: Path) -> None:
    folder = "acme/nigh tly/2026/11/21/120000Z-0000000a"
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "a_b.csv").write_text("id\n")
    path = write_page(tmp_path, make_account(make_history(make_past(folder=folder, days_ago=1))))

    async with visiting(browser, path) as page:
        await page.locator("dd a").first.click()
        assert page.url == f"{(tmp_path / folder).as_uri()}/"
        assert "a_b.csv" in await page.content()


async def test_it_can_be_gone_through_with_the_keyboard(browser: Browser, tmp_path: Path) -> None:
    path = write_page(tmp_path, make_account_of(["Nightly"]))

    async with visiting(browser, path) as page:
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.className") == "skip"
        seen = set()
        for _ in range(40):
            await page.keyboard.press("Tab")
            focused = await page.evaluate("document.activeElement.tagName + '.' + document.activeElement.className")
            if focused == "BODY.":
                break
            seen.add(focused)
            shown = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert shown != "none"
        assert {"A.", "SUMMARY.", "DIV.scroll"} <= seen


async def test_a_chart_is_described_in_words(browser: Browser, tmp_path: Path) -> None:
    path = write_page(tmp_path, make_account(make_history(make_past(1, days_ago=1), make_past(2))))

    async with visiting(browser, path) as page:
        assert await page.get_by_role("img", name="Size of 2 snapshots, from 2.0 KiB on 2026-11-21").count() == 1


def a_thousand() -> AccountHistory:
    """Return an account with a thousand daily snapshots of 260 tables, all of them changed in the newest."""
    before = [
        make_stored(f"admin_table_{n:03}.csv", b"1", table=TableFacts(header=("id",), rows=n)) for n in range(260)
    ]
    after = [
        make_stored(f"admin_table_{n:03}.csv", b"2", table=TableFacts(header=("id", "more"), rows=2 * n))
        for n in range(260)
    ]
    changes = tuple(ColumnChange(table=f"admin_table_{n:03}.csv", added=("more",)) for n in range(260))
    summary = Summary(files=261, size=5 << 30, rows=12_345_678, changed=52)
    past = [
        make_past(
            number,
            days_ago=1000 - number,
            summary=replace(summary, size=summary.size + (number % 97 << 22), columns=changes if number == 999 else ()),
        )
        for number in range(1000)
    ]
    rows = {stored.name: {one.job: place * 7 % 400 for place, one in enumerate(past[-30:])} for stored in after}
    return make_account(make_history(*past, newest=compare(before, after), rows=rows))


async def test_a_thousand_snapshots_stay_under_two_megabytes_and_twenty_elements_each(
    browser: Browser, tmp_path: Path
) -> None:
    """Size and number of elements decide how fast a browser opens the page. The machine's load decides nothing here."""
    path = write_page(tmp_path, a_thousand())

    assert path.stat().st_size < 2_000_000
    async with visiting(browser, path) as page:
        assert await page.locator(".month a").count() == 1000
        assert await page.locator("details tbody tr th a").count() == 1000
        assert await page.evaluate("document.getElementsByTagName('*').length") < 20_000
        assert await page.evaluate("document.scripts.length") == 1
