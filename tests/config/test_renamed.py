"""Names of the previous version: accepted with a warning, refused next to the new one."""

from __future__ import annotations

from pathlib import Path

import pytest

from dcsync.config import parse
from dcsync.config.renamed import rename
from dcsync.errors import ConfigInvalid

PLACE = Path("config.toml")
MIRROR = '[mirror]\nroot = "/srv/dcsync"\n'
AUTH = '[auth]\nmethod = "token"\naccess_token = "env:TOKEN"\n'
#: How each warning ends.
ENDS = "Version 0.2 is the last one that accepts the old name"
ACCOUNT = '[[account]]\nname = "acme"\nid = "872264f8-2433-498d-8d36-16649ecb13fe"\n'
SERVICE = """[auth]
method = "service-account"
client_id = "x"
client_secret = "env:S"
key_id = "k"
private_key = "env:K"
"""


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigInvalid) as caught:
        parse(text, place=PLACE)
    return str(caught.value).split("\n")


def test_the_old_key_of_the_service_account_is_read_with_a_warning() -> None:
    config = parse(MIRROR + SERVICE + 'account_id = "robot"\n' + ACCOUNT, place=PLACE)

    assert config.auth.service_account_id == "robot"
    assert [str(old) for old in config.old_names] == [
        f"config.toml:9: auth.account_id: renamed to auth.service_account_id. {ENDS}"
    ]


def test_the_old_name_of_the_event_is_read_with_a_warning() -> None:
    hook = '[[hook]]\non = ["snapshot", "attention", "alert"]\nrun = ["true"]\n[notify]\non = ["attention"]\n'

    config = parse(MIRROR + AUTH + ACCOUNT + hook, place=PLACE)

    assert config.hooks[0].on == ["snapshot", "alert"]
    assert config.notify.on == ["alert"]
    assert [str(old).partition(": ")[2] for old in config.old_names] == [
        f'hook.1.on: "attention" is now called "alert". {ENDS}',
        f'notify.on: "attention" is now called "alert". {ENDS}',
    ]


def test_the_old_strategy_is_read_with_a_warning() -> None:
    config = parse(MIRROR + 'strategy = "archive"\n' + AUTH + ACCOUNT, place=PLACE)

    assert config.mirror.strategy == "zip"
    assert [str(old) for old in config.old_names] == [
        f'config.toml:3: mirror.strategy: "archive" is now called "zip". {ENDS}'
    ]


def test_new_names_bring_no_warning() -> None:
    text = MIRROR + 'strategy = "zip"\n' + SERVICE + 'service_account_id = "robot"\n' + ACCOUNT

    assert parse(text, place=PLACE).old_names == ()


def test_both_names_of_one_key_are_a_mistake_at_the_old_one() -> None:
    text = MIRROR + SERVICE + 'service_account_id = "robot"\naccount_id = "other"\n' + ACCOUNT

    said = "it is the old name of auth.service_account_id, and both are set: remove this line"
    assert problems(text) == [f"config.toml:10: auth.account_id: {said}"]


def test_an_old_key_with_a_wrong_value_is_reported_at_its_own_line() -> None:
    assert problems(MIRROR + SERVICE + "account_id = 7\n" + ACCOUNT) == [
        "config.toml:9: auth.service_account_id: must be text in quotes"
    ]


def test_the_old_key_is_unknown_in_another_section() -> None:
    assert problems(MIRROR + 'account_id = "x"\n' + AUTH + ACCOUNT)[0].startswith(
        "config.toml:3: mirror.account_id: unknown key"
    )


@pytest.mark.parametrize("document", [{"auth": "x"}, {"auth": [1, {"b": 2}]}, {"mirror": {"strategy": [{}]}}, {}])
def test_a_document_without_old_names_is_left_as_it_is(document: dict[str, object]) -> None:
    assert rename(document) == (document, ())


def test_the_document_itself_is_not_changed() -> None:
    document = {"mirror": {"strategy": "archive"}, "auth": {"account_id": "x"}}

    renamed, found = rename(document)

    assert renamed == {"mirror": {"strategy": "zip"}, "auth": {"service_account_id": "x"}}
    assert document == {"mirror": {"strategy": "archive"}, "auth": {"account_id": "x"}}
    assert len(found) == 2
