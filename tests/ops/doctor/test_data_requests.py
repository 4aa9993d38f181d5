"""The check of data requests names the commands that mend them, and they are real commands."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from dcsync.core.model import AccountId, AccountName, DataRequest, RequestId
from dcsync.ops.context import AccountSettings
from dcsync.ops.doctor.checks import Check
from dcsync.ops.doctor.data_requests import requests_of
from tests.fakes import ACCOUNT_ID, NOON, make_request
from tests.rigs.commands import commands, parsed

SECRET = "a-secret-that-nobody-knows"
RIGHT, WRONG = (f"https://mirror.example.com/callback/{word}" for word in (SECRET, "another"))


def account(**changes: Any) -> AccountSettings:
    return AccountSettings(name=AccountName("acme"), id=AccountId(ACCOUNT_ID), **changes)


def request(number: int = 0, **changes: Any) -> DataRequest:
    values = {"id": RequestId(f"request-{number}"), "description": f"Request {number}", "schedule_interval": "DAY"}
    return make_request(**{**values, "effective_to": NOON + timedelta(days=365), "callback_url": None, **changes})


def check(*requests: DataRequest, secret: str | None = None, **changes: Any) -> Check:
    return requests_of(account(**changes), requests, NOON, secret=secret)


@pytest.mark.parametrize(
    ("found", "said", "named"),
    [
        ((), "no data requests are visible", ["dcsync requests create"]),
        (
            (request(effective_to=NOON),),
            "1 data request visible; 1 ended: Request 0",
            ["dcsync requests extend request-0"],
        ),
        (
            (request(effective_to=NOON + timedelta(days=14)),),
            "1 to end within 14 days: Request 0",
            ["dcsync requests extend request-0"],
        ),
        ((request(is_active=False),), "1 inactive: Request 0", ["dcsync requests activate request-0"]),
        (
            (request(is_active=False, effective_to=NOON), request(1, effective_to=NOON)),
            "1 inactive: Request 0; 1 ended: Request 1",
            ["dcsync requests activate request-0", "dcsync requests extend request-1"],
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_command(found: tuple[DataRequest, ...], said: str, named: list[str]) -> None:
    result = check(*found)

    assert result.level.value == "warn"
    assert said in result.message
    assert commands(result.advice) == named
    for command in named:
        parsed(command)


@pytest.mark.parametrize(
    ("urls", "said", "named"),
    [
        ((WRONG,), "1 with a callback of another mirror: Request 0", ["request-0 https://mirror.example.com"]),
        (
            (RIGHT, None),
            "1 without the callback that others have: Request 1",
            ["request-1 https://mirror.example.com"],
        ),
        (
            (RIGHT, WRONG, None, "https://other.example.com/hook"),
            "another mirror: Request 1; 1 without the callback that others have: Request 2",
            ["request-1 https://mirror.example.com", "request-2 https://mirror.example.com"],
        ),
    ],
)
def test_a_callback_that_is_missing_or_wrong_is_named(
    urls: tuple[str | None, ...], said: str, named: list[str]
) -> None:
    result = check(*(request(number, callback_url=url) for number, url in enumerate(urls)), secret=SECRET)

    assert said in result.message
    assert commands(result.advice) == [f"dcsync requests set-callback {command}/callback/" for command in named]
    assert SECRET not in result.message + result.advice
    for command in commands(result.advice):
        parsed(command)


@pytest.mark.parametrize(
    ("found", "options"),
    [
        ((request(),), {}),
        ((request(callback_url=RIGHT), request(1, callback_url=RIGHT)), {"secret": SECRET}),
        # Nobody knows under which name Autodesk reaches this machine.
        ((request(),), {"secret": SECRET}),
        # The daemon does not listen.
        ((request(callback_url=WRONG),), {}),
        ((request(callback_url="https://user:word@mirror.example.com/callback/x"),), {"secret": SECRET}),
        ((request(is_active=False, schedule_interval="ONE_TIME"),), {}),
        ((request(effective_to=NOON), request(1)), {"retired": ("Request 0",)}),
        ((request(is_active=False), request(1)), {"requests": ("Request 1",)}),
    ],
)
def test_nothing_is_wrong(found: tuple[DataRequest, ...], options: dict[str, Any]) -> None:
    assert check(*found, **options).level.value == "ok"


def test_many_of_them_are_not_all_named() -> None:
    result = check(*(request(number, effective_to=NOON) for number in range(7)))

    assert len(commands(result.advice)) == 5
    assert result.message.endswith("Request 4, …")
