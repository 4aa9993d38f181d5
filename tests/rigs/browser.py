"""A real browser: Debian's chromium without a screen."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import Browser, Page, async_playwright

#: Finds a hang. The default of 30 s is too short for a busy machine.
_PATIENCE_MS = 120_000
# Without these it looks for the maker's hosts at every start.
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def program() -> str | None:
    """Return the browser's path, if there is one."""
    return shutil.which("chromium")


@asynccontextmanager
async def browsing() -> AsyncIterator[Browser]:
    """Start the browser and end it with the block."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program(), args=_ARGUMENTS, timeout=_PATIENCE_MS)
        try:
            yield browser
        finally:
            await browser.close()


async def new_page(browser: Browser, **options: Any) -> Page:
    """Return an empty page, in a context of its own."""
    context = await browser.new_context(**options)
    context.set_default_timeout(_PATIENCE_MS)
    return await context.new_page()
