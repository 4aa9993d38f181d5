"""The report is written after a run, from what the manifest knows, and never fails the run."""

from __future__ import annotations

import base64
import hashlib
import re
import stat
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import pytest

from dcsync.core.alerts import Alert, AlertCode
from dcsync.core.lifecycle import JobState
from dcsync.core.model import JobId
from dcsync.ops.page import render_page
from tests.ops.test_diff import forget_tables
from tests.rigs.mirror import Mirror, add_extract, sidecar, status_of
from tests.rigs.pages import HOSTILE, make_account_of, page_of, write_page
from tests.rigs.reports import ACME, days, report, rows, write

# --- the page ---------------------------------------------------------------------------------------------------------


async def test_the_page_shows_each_request_with_its_newest_snapshot(mirror: Mirror) -> None:
    await days(mirror, rows(10), rows(20, b"id,name"))

    page = await report(mirror)

    newest = mirror.snapshots()[-1].relative_to(mirror.root)
    assert f'href="./{newest}/"' in page
    assert "My Company Data Extract" in page
    assert ">+10<" in page
    assert ">+name<" in page
    assert "No alerts." in page
    assert "Size of 2 snapshots" in page
    assert 'href="./acme/my-company-data-extract-' in page


def test_the_template_is_compiled_once_however_many_pages_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []
    compile_source = jinja2.Environment.compile

    def counted(self: jinja2.Environment, *arguments: Any, **options: Any) -> Any:
        compiled.append(self)
        return compile_source(self, *arguments, **options)

    monkeypatch.setattr(jinja2.Environment, "compile", counted)

    pages = {render_page(page_of()) for _ in range(3)}

    assert len(pages) == 1
    assert len(compiled) <= 1  # none if an earlier test wrote a page


async def test_the_page_opens_with_the_verdict_of_today_and_marks_the_days_that_are_missing(mirror: Mirror) -> None:
    for days_ago in (8, 7, 6, 5, 3, 2, 1):
        add_extract(mirror, {"a.csv": rows(1)}, days_ago=days_ago + 0.1)
    await mirror.sync()

    page = await report(mirror)
    assert 'id="verdict">Today is complete: 1 of 1 data request</p>' in page
    assert "<dt>Missing</dt><dd>none</dd>" in page
    assert "<dt>Schedule ends</dt><dd>no end</dd>" in page
    assert "Missing days: 2026-11-18." in page
    assert page.count('<td class="missed"') == 1

    mirror.clock.advance(2 * 86400)
    await mirror.sync()
    page = await report(mirror)
    assert 'class="verdict bad" id="verdict">Today is incomplete: ' in page
    assert re.search(r"the extract of &#39;My Company Data Extract&#39; is \d+ hours overdue \(2 missing\)</p>", page)
    assert re.search(r"<dt>Missing</dt><dd>2 since 2026-11-2", page)
    assert page.count('<td class="missed"') == 3

    add_extract(mirror, {"a.csv": rows(1)})
    await mirror.sync()
    assert "Today is complete: 1 of 1 data request" in await report(mirror)


async def test_a_retired_request_is_not_missed_in_the_verdict(mirror: Mirror) -> None:
    await days(mirror, rows(1))
    mirror.clock.advance(9 * 86400)
    await mirror.sync()
    async with mirror.opened() as context:
        await write(context, retired=("My Company*",))

    page = (mirror.root / "index.html").read_text()
    assert "Nothing is due: 1 data request is over" in page
    assert 'class="badge over">Retired<' in page


async def test_the_page_says_from_when_it_is_outdated(mirror: Mirror) -> None:
    page = await report(mirror)

    assert 'datetime="2026-11-22T12:00:00Z" data-stale-s="172800">2026-11-22 12:00 UTC</time>' in page
    assert "If that was more than 2 days ago, dcsync has stopped or cannot write it" in page


async def test_an_empty_mirror_has_a_report_too(mirror: Mirror) -> None:
    assert "No data requests are known yet." in await report(mirror)
    assert "The mirror has no snapshots yet." in (mirror.root / "views.sql").read_text()


async def test_what_holds_up_all_accounts_and_what_is_lost_is_on_top(mirror: Mirror) -> None:
    await days(mirror, rows(1))
    job = add_extract(mirror, {"a.csv": rows(2)})
    await mirror.sync()
    async with mirror.opened() as context:
        await context.manifest.move(ACME, JobId(job), JobState.EXPIRED, at=mirror.clock.now(), reason="it is gone")
        await write(context, token=Alert.of(AlertCode.T_LOGIN, account=ACME, message="run dcsync login"))

    page = (mirror.root / "index.html").read_text()
    alerts = page[page.index("<section") : page.index("</section>")]
    assert "run dcsync login" in alerts
    assert "it is gone" in alerts
    assert 'class="lost"' in page


async def test_a_manifest_of_an_older_version_has_a_report_with_what_it_knows(mirror: Mirror) -> None:
    await days(mirror, rows(10), rows(20))
    async with mirror.opened() as context:
        await forget_tables(context.manifest)

    page = await report(mirror)

    assert "Size of 2 snapshots" in page
    assert "Rows of 2" not in page


async def test_a_delta_request_has_no_latest(mirror: Mirror) -> None:
    request = mirror.world.add_request("Changes", service_groups=("cdcadmin",), date_range="YESTERDAY")
    await days(mirror, rows(10), request=request)

    page = await report(mirror)

    assert "Delta extract" in page
    assert ">latest<" not in page
    assert ".latest." not in (mirror.root / "views.sql").read_text().replace("SCHEMA", "")


async def test_pruned_snapshots_stay_in_the_history(mirror: Mirror) -> None:
    await days(mirror, rows(10), rows(20))
    async with mirror.opened() as context:
        first = min((await context.manifest.jobs(ACME)).values(), key=lambda known: str(known.job.completed_at))
        await context.manifest.move(ACME, first.job.id, JobState.PRUNED, at=mirror.clock.now())

    page = await report(mirror)

    assert "1 more pruned" in page
    assert "Rows of 2 snapshots, from 10 on" in page


# --- how it is written ------------------------------------------------------------------------------------------------


async def test_readers_see_the_old_page_or_the_new_one_and_may_read_it(mirror: Mirror) -> None:
    await days(mirror, rows(1))
    await report(mirror)
    before = (mirror.root / "index.html").stat().st_ino

    await report(mirror)

    assert (mirror.root / "index.html").stat().st_ino != before
    for name in ("index.html", "views.sql"):
        assert stat.S_IMODE((mirror.root / name).stat().st_mode) == 0o644
    assert not list(mirror.root.glob("*.new"))
    assert not list((mirror.root / ".dcsync").glob("*.new"))


async def test_a_symlink_in_its_place_is_not_followed(mirror: Mirror, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (mirror.root / "index.html").symlink_to(victim)

    await report(mirror)

    assert victim.read_text() == "untouched"
    assert not (mirror.root / "index.html").is_symlink()


@pytest.mark.parametrize(("name", "other"), [("index.html", "views.sql"), ("views.sql", "index.html")])
async def test_a_file_that_cannot_be_written_is_an_alert_and_the_other_is_written(
    mirror: Mirror, name: str, other: str
) -> None:
    (mirror.root / name).mkdir()

    add_extract(mirror, {"a.csv": rows(10)})
    await mirror.run()

    assert (mirror.root / other).is_file()
    (alert,) = [item.alert for item in (await status_of(mirror)).accounts[0].alerts]
    assert (alert.code, alert.subject) == ("P-REPORT", name)
    assert str(mirror.root / name) in alert.message
    assert alert.message.endswith(f" failed: writing {mirror.root / name}: it is a folder, not a regular file")
    assert "move it away" in alert.hint
    assert alert.hint.endswith(". The next poll writes it again")
    (mirror.root / name).rmdir()
    await mirror.run()
    assert (await status_of(mirror)).codes == []


# --- warnings ---------------------------------------------------------------------------------------------------------


async def test_a_table_that_lost_its_rows_is_warned_of_in_all_places(mirror: Mirror) -> None:
    outcomes = await days(mirror, rows(100), rows(104), rows(40))

    (published,) = outcomes[-1].published
    (warning,) = published.warnings
    assert (warning.code, warning.table) == ("L-ROWS", "a.csv")
    assert "has 40 rows, down from 102" in warning.message
    assert [outcome.published[0].warnings for outcome in outcomes[:-1]] == [(), ()]
    assert sidecar(mirror.snapshots()[-1])["warnings"] == [
        {"code": "L-ROWS", "table": "a.csv", "message": warning.message}
    ]
    page = await report(mirror)
    assert "1 alert<" in page
    assert warning.message in page
    assert 'class="warned"' in page


async def test_a_table_that_lost_columns_is_warned_of(mirror: Mirror) -> None:
    outcomes = await days(mirror, rows(3, b"id,name"), rows(3))

    assert [(warning.code, warning.table) for warning in outcomes[-1].published[0].warnings] == [("L-COLUMNS", "a.csv")]
    assert sidecar(mirror.snapshots()[-1])["changes"]["columns"] == [
        {"table": "a.csv", "added": [], "removed": ["name"], "reordered": False}
    ]


async def test_a_backfill_is_held_against_what_was_before_it_in_time(mirror: Mirror) -> None:
    await days(mirror, rows(1000))
    add_extract(mirror, {"a.csv": rows(10)}, days_ago=5)

    assert (await mirror.sync_one()).published[0].warnings == ()


async def test_a_lost_manifest_is_rebuilt_with_the_history(mirror: Mirror) -> None:
    await days(mirror, rows(100, b"id,name"), rows(40))
    before = await report(mirror)
    for path in mirror.state.glob("manifest.sqlite*"):
        path.unlink()
    await mirror.sync()

    page = await report(mirror)

    def told(text: str) -> str:
        """Leave out what is of the run: when it was, and what it fetched."""
        return re.sub(r"\d+(\.\d+)? [KMG]?i?B</td>", "", text[text.index("<article") :])

    assert told(page) == told(before)


# --- what is in it ----------------------------------------------------------------------------------------------------


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
    text = write_page(tmp_path, make_account_of(HOSTILE), make_account_of(["Nightly"])).read_text()
    stack.feed(text.replace("/>", ">"))

    assert stack.open == []


def test_nothing_in_it_but_its_own_script_can_run_and_nothing_be_fetched(tmp_path: Path) -> None:
    text = write_page(tmp_path, make_account_of(["Nightly"])).read_text()

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
