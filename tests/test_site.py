"""The documentation site: complete, without broken links, and without anything from other hosts."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import threading
import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dcsync.cli.group import dcsync
from dcsync.config import json_schema
from dcsync.core.alerts import AlertCode
from dcsync.errors import ExitStatus
from dcsync.ops.metrics import render
from scripts.docs.__main__ import build
from scripts.docs.pages import ADDED, REPOSITORY, write_pages
from scripts.docs.reference import GENERATED
from scripts.manual import commands
from tests.ops.test_metrics import make_account, make_status
from tests.rigs.browser import browsing
from tests.rigs.ended import join

#: What a browser loads on its own: scripts, styles, images and fonts. Links are only followed by readers.
_LOADED: Final = re.compile(r"""\bsrc=["']?([^"' >]+)|<link\b[^>]*\bhref=["']?([^"' >]+)|url\(["']?([^"')]+)""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site once."""
    return build(tmp_path_factory.mktemp("site"))


def pages_in(navigation: Any) -> Iterator[str]:
    """Yield the pages of a part of the navigation, in order."""
    if isinstance(navigation, str):
        yield navigation
    elif isinstance(navigation, list):
        for item in navigation:
            yield from pages_in(item)
    else:
        for inner in navigation.values():
            yield from pages_in(inner)


def test_every_page_is_in_the_navigation_once() -> None:
    """A page that is not in zensical.toml would be on the site, but no reader would find it."""
    project = tomllib.loads((REPOSITORY / "zensical.toml").read_text(encoding="utf-8"))["project"]
    folder = REPOSITORY / "docs"
    pages = [path.relative_to(folder).as_posix() for path in folder.rglob("*.md")] + list(ADDED.values())

    assert sorted(pages_in(project["nav"])) == sorted(pages)


def test_every_generated_part_is_on_one_page() -> None:
    texts = [path.read_text(encoding="utf-8") for path in (REPOSITORY / "docs").rglob("*.md")]
    named = Counter(name for text in texts for name in re.findall(r"<!-- generated: (.+) -->", text))

    assert named == Counter(list(GENERATED))


def test_a_link_out_of_docs_leads_to_the_page_of_that_document(tmp_path: Path) -> None:
    for name, text in {
        "docs/guides/a.md": "[log](../../CHANGELOG.md#x) [b](b.md) [far](https://example.com/CHANGELOG.md)\n",
        "docs/guides/b.md": "<!-- generated: part -->\n",
        "CHANGELOG.md": "[a](docs/guides/a.md)\n",
        "CONTRIBUTING.md": "",
        "SECURITY.md": "",
    }.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text(text)

    write_pages(tmp_path / "out", {"part": lambda: "filled in"}, tmp_path / "in")

    written = (tmp_path / "out/guides/a.md").read_text()
    assert written == "[log](../project/changelog.md#x) [b](b.md) [far](https://example.com/CHANGELOG.md)\n"
    assert (tmp_path / "out/guides/b.md").read_text() == "filled in\n"
    assert (tmp_path / "out/project/changelog.md").read_text() == "[a](../guides/a.md)\n"


def test_a_broken_link_fails_the_build(tmp_path: Path) -> None:
    (tmp_path / "in/docs").mkdir(parents=True)
    (tmp_path / "in/docs/index.md").write_text("# A\n\n[gone](#gone)\n")
    (tmp_path / "in/zensical.toml").write_text('[project]\nsite_name = "A"\n')
    for name in ADDED:
        shutil.copy(REPOSITORY / "LICENSE", tmp_path / "in" / name)

    with pytest.raises(subprocess.CalledProcessError):
        build(tmp_path / "out", tmp_path / "in")


def test_the_reference_has_every_code_key_command_metric_and_exit_status(site: Path) -> None:
    def headings(page: str) -> set[str]:
        text = (site / "reference" / page).read_text(encoding="utf-8")
        found = re.findall(r"<h[23][^>]*>(.*?)<a class=.headerlink", text)
        return {re.sub(r"<[^>]+>", "", heading).strip() for heading in found}

    sections: Any = json_schema()["properties"]
    keys = {
        f"{name}.{key}" for name, section in sections.items() for key in section.get("items", section)["properties"]
    }
    context = dcsync.make_context("dcsync", [], resilient_parsing=True)
    exported = text_string_to_metric_families(render(make_status(make_account())).decode())
    metrics = (site / "reference/metrics.html").read_text(encoding="utf-8")

    assert headings("alerts.html") >= {code.value for code in AlertCode}
    assert headings("configuration.html") >= keys
    assert headings("commands.html") == {"dcsync", *(name for name, _ in commands(dcsync, context))}
    assert headings("exit-status.html") == {f"Exit status {int(status)}" for status in ExitStatus}
    assert [family.name for family in exported if f"<code>{family.name}" not in metrics] == []


def test_no_page_shows_the_escapes_of_its_source(site: Path) -> None:
    """In a table, a vertical bar in code is only that. Another program may need a backslash before it."""
    shown = [path.name for path in site.rglob("*.html") if re.search(r"<code>[^<]*\\\|", path.read_text("utf-8"))]

    assert shown == []


def test_no_page_and_no_style_loads_anything_from_another_host(site: Path) -> None:
    found = {
        reference
        for path in [*site.rglob("*.html"), *site.rglob("*.css")]
        for match in _LOADED.finditer(path.read_text(encoding="utf-8"))
        for reference in match.groups()
        if reference and not reference.startswith("data:")
    }

    assert any(reference.endswith(".css") for reference in found)
    assert {reference for reference in found if urlsplit(reference).netloc} == set()


@pytest.mark.needs_tool("chromium")
async def test_a_reader_searches_without_a_request_to_another_host(site: Path) -> None:
    asked: list[str] = []
    with serving(site) as own:
        async with browsing() as browser:
            page = await browser.new_page()
            page.on("request", lambda request: asked.append(request.url))
            async with page.expect_event("worker", timeout=60_000):  # the search is ready
                await page.goto(f"http://{own}/index.html")
            await page.keyboard.press("Control+k")
            await page.keyboard.type("M-LATEST")
            await page.get_by_text(re.compile(r"^\d+ results$")).wait_for(timeout=60_000)

    assert {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "blob:"))} == {own}


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a folder and yield the host and port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_QuietHandler, directory=str(folder)))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        join(thread)


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Log nothing."""
