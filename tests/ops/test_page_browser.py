"""The report page in a real browser: what a person sees, on every screen, of every name."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import date, timedelta
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page

from dcsync.core import page as report
from dcsync.core.alerts import Alert, AlertCode
from dcsync.core.anomaly import TableWarning
from dcsync.core.coverage import Days
from dcsync.core.diff import compare
from dcsync.core.freshness import FreshnessState
from dcsync.core.page import AccountHistory, Missing
from dcsync.core.summary import Summary
from dcsync.core.table import ColumnChange, TableFacts
from dcsync.ops.page import render_page
from tests.fakes import NOON, make_stored
from tests.rigs.browser import browsing, new_page
from tests.rigs.pages import make_account, make_freshness, make_history, make_past

pytestmark = pytest.mark.needs_tool("chromium")

HOSTILE = [
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "' onmouseover='document.title=\"owned\"",
    "{{ 7 * 7 }} {% raw %}",
    "javascript:document.title='owned'",
    "</style><style>body{display:none}</style>",
    "<!--",
    "&lt;b&gt; &amp;",
    "\u202egpj.exe\u2066",
    "تقرير المشروع اليومي",
    "line\nbreak\ttab\x00nul\x1b[31m",
    "W" * 300,
    "\ud800 lone",
]


def make_account_of(names: list[str], *, snapshots: int = 8) -> AccountHistory:
    """Return an account whose every name is one of these."""
    requests = []
    for number, name in enumerate(names):
        before = [make_stored(f"{name}.csv", b"1", table=TableFacts(header=(name, "b"), rows=10))]
        after = [make_stored(f"{name}.csv", b"2", table=TableFacts(header=("b", name), rows=400 + number))]
        warned = Summary(
            files=3,
            size=5000,
            rows=400,
            changed=1,
            columns=(ColumnChange(table=f"{name}.csv", added=(name,), removed=(name,), reordered=True),),
            warnings=(TableWarning(code="L-ROWS", table=f"{name}.csv", message=f"has 4 rows {name}"),),
        )
        past = [
            make_past(
                index,
                days_ago=snapshots - index,
                folder=f"acme/{name}/{index}",
                summary=warned if index == snapshots - 1 else None,
            )
            for index in range(snapshots)
        ]
        requests.append(
            make_history(
                *past,
                description=name,
                folder=f"acme/{name}",
                newest=compare(before, after),
                missing=[Missing(completed_at=NOON, words=f"no snapshot: {name}")],
                rows={f"{name}.csv": {one.job: 10 * place for place, one in enumerate(past)}},
                freshness=make_freshness(FreshnessState.LATE, 50, 26, 2, description=name),
                skipped=[NOON - timedelta(days=4, hours=3)],
                gaps=[Days(first=date(2026, 11, 2), last=date(2026, 11, 4))],
            )
        )
    alerts = [Alert.of(AlertCode.T_LOGIN, account="acme", message=name, hint=name) for name in names]
    return make_account(*requests, name=names[0], alerts=alerts)


def write(folder: Path, *accounts: AccountHistory) -> Path:
    path = folder / "index.html"
    path.write_bytes(render_page(report.page(accounts, now=NOON, version="1.0")).encode("utf-8", "replace"))
    return path


@asynccontextmanager
async def opened(path: Path, **options: Any) -> AsyncIterator[Page]:
    """Open the page from the disk; anything it complains of, or asks the network for, fails the test."""
    async with browsing() as browser, visiting(browser, path, **options) as page:
        yield page


@asynccontextmanager
async def visiting(browser: Browser, path: Path, **options: Any) -> AsyncIterator[Page]:
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
async def test_it_passes_axe_whatever_the_screen(tmp_path: Path, scheme: str, width: int) -> None:
    path = write(tmp_path, make_account_of(["My Company Data Extract", "Tower B"]))

    async with opened(path, color_scheme=scheme, viewport={"width": width, "height": 800}) as page:
        await page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        results = await Axe().run(page)

    assert results.violations_count == 0, results.generate_report()


async def test_an_empty_mirror_is_a_page_too(tmp_path: Path) -> None:
    path = write(tmp_path, make_account(), make_account(make_history(folder=None, latest=None), name="other"))

    async with opened(path) as page:
        results = await Axe().run(page)
        text = await page.inner_text("main")

    assert results.violations_count == 0, results.generate_report()
    assert "No alerts." in text
    assert "No data requests are known yet." in text
    assert "none yet" in text


async def test_hostile_names_are_text_and_nothing_else(tmp_path: Path) -> None:
    path = write(tmp_path, make_account_of(HOSTILE))

    async with opened(path) as page:
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
async def test_no_name_is_too_long_for_the_screen(tmp_path: Path, width: int) -> None:
    path = write(tmp_path, make_account_of(["W" * 300, "My Company"]))

    async with opened(path, viewport={"width": width, "height": 800}) as page:
        assert await page.evaluate("document.documentElement.scrollWidth") <= width


#: The elements that take room and reach beyond the screen, hidden columns of a table that scrolls among them.
_WIDE = """[...document.querySelectorAll('main *')].filter(element => {
    const box = element.getBoundingClientRect();
    return box.width > 1 && (box.right > innerWidth + 1 || box.left < -1);
}).map(element => element.tagName + '.' + element.className)"""


async def test_a_phone_shows_every_column(tmp_path: Path) -> None:
    path = write(tmp_path, make_account_of(["My Company Data Extract", "W" * 300]))

    async with opened(path, viewport={"width": 360, "height": 800}) as page:
        await page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert await page.evaluate(_WIDE) == []
        # Each value stands with the head of its column.
        cell = page.locator(".list td", has_text="400").first
        assert await cell.evaluate("cell => getComputedStyle(cell, '::before').content") == '"Rows: "'


async def test_the_page_opens_with_the_verdict_its_age_and_at_most_five_lines_of_alerts(tmp_path: Path) -> None:
    account = make_account_of(["Company data"])
    alerts = [Alert.of(code, account="acme", message="m") for code in list(AlertCode)[:12]]
    path = write(tmp_path, replace(account, alerts=[*alerts, *alerts[:3]]))

    async with opened(path) as page:
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
async def test_a_reader_sees_how_old_the_page_is(tmp_path: Path, later: timedelta, is_old: bool, said: str) -> None:
    path = write(tmp_path, make_account(make_history(freshness=make_freshness())))

    async with browsing() as browser:
        page = await new_page(browser)
        await page.clock.set_fixed_time(NOON + later)
        await page.goto(path.as_uri())
        age, verdict = await page.inner_text("#age"), await page.inner_text("#verdict")

    assert age == said
    assert (verdict == "Today is complete: 1 of 1 data request") is not is_old
    assert is_old is (verdict.startswith("Nothing is known about today. This page is 3 days old"))


async def test_a_page_that_stays_open_notices_that_it_is_no_longer_updated(tmp_path: Path) -> None:
    path = write(tmp_path, make_account(make_history(freshness=make_freshness())))

    async with browsing() as browser:
        page = await new_page(browser)
        await page.clock.install(time=NOON)
        await page.goto(path.as_uri())
        assert await page.inner_text("#verdict") == "Today is complete: 1 of 1 data request"
        await page.clock.fast_forward("25:00:00")

        assert (await page.inner_text("#verdict")).startswith("Nothing is known about today.")


async def test_without_scripts_the_page_says_what_its_time_means(tmp_path: Path) -> None:
    path = write(tmp_path, make_account(make_history(freshness=make_freshness())))

    async with opened(path, java_script_enabled=False) as page:
        assert await page.inner_text("#verdict") == "Today is complete: 1 of 1 data request"
        assert await page.inner_text("#age") == (
            "Written on 2026-11-22 12:00 UTC. dcsync rewrites this page after every poll. If that was more than 24 "
            "hours ago, dcsync has stopped or cannot write it, and nothing here is about today."
        )


async def test_a_missing_day_is_marked_and_said(tmp_path: Path) -> None:
    path = write(tmp_path, make_account_of(["Nightly"]))

    async with opened(path) as page:
        (first, *_) = await page.locator("td.missed").all_inner_texts()
        assert first.split() == ["18○", "missing"] or first.split() == ["18", "○", "missing"]
        assert await page.get_by_text("Missing days: 2026-11-22, 2026-11-21, 2026-11-20, 2026-11-18.").count() == 1


async def test_links_lead_to_the_folders(tmp_path: Path) -> None:
    folder = "acme/nigh tly/2026/11/21/120000Z-0000000a"
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "a_b.csv").write_text("id\n")
    path = write(tmp_path, make_account(make_history(make_past(folder=folder, days_ago=1))))

    async with opened(path) as page:
        await page.locator("dd a").first.click()
        assert page.url == f"{(tmp_path / folder).as_uri()}/"
        assert "a_b.csv" in await page.content()


async def test_it_can_be_gone_through_with_the_keyboard(tmp_path: Path) -> None:
    path = write(tmp_path, make_account_of(["Nightly"]))

    async with opened(path) as page:
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


async def test_a_chart_is_described_in_words(tmp_path: Path) -> None:
    path = write(tmp_path, make_account(make_history(make_past(1, days_ago=1), make_past(2))))

    async with opened(path) as page:
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


async def test_a_thousand_snapshots_stay_under_two_megabytes_and_twenty_elements_each(tmp_path: Path) -> None:
    """Size and number of elements decide how fast a browser opens the page. The machine's load decides nothing here."""
    path = write(tmp_path, a_thousand())

    assert path.stat().st_size < 2_000_000
    async with browsing() as browser, visiting(browser, path) as page:
        assert await page.locator(".month a").count() == 1000
        assert await page.locator("details tbody tr th a").count() == 1000
        assert await page.evaluate("document.getElementsByTagName('*').length") < 20_000
        assert await page.evaluate("document.scripts.length") == 1


def test_every_tag_is_closed(tmp_path: Path) -> None:
    class Stack(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in {"meta", "link", "polygon", "polyline"}:
                self.open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    stack = Stack()
    text = write(tmp_path, make_account_of(HOSTILE), make_account_of(["Nightly"])).read_text()
    stack.feed(text.replace("/>", ">"))

    assert stack.open == []


def test_nothing_in_it_but_its_own_script_can_run_and_nothing_be_fetched(tmp_path: Path) -> None:
    text = write(tmp_path, make_account_of(["Nightly"])).read_text()

    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    # The one script is a file of the package, and its hash allows no other.
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert script == resources.files("dcsync.ops").joinpath("templates/age.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy[1] == (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    assert "http://" not in text
    assert "https://" not in text
    assert text.count("<script") == 1
