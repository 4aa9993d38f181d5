"""The JSON schema: it accepts what dcsync accepts, refuses what editors can see, and explains every key."""

from __future__ import annotations

import json
import tomllib
from typing import Any, cast

import pytest
from jsonschema import Draft7Validator

from dcsync.config import Config, example, json_schema

SCHEMA = cast("dict[str, Any]", json_schema())


def keys() -> dict[tuple[str, str], dict[str, Any]]:
    """Return the schema of every key by section and name."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for section, schema in SCHEMA["properties"].items():
        table = schema.get("items", schema)
        found |= {(section, name): key for name, key in table["properties"].items()}
    return found


def mistakes(text: str) -> list[str]:
    return [error.message for error in Draft7Validator(SCHEMA).iter_errors(tomllib.loads(text))]


MINIMAL = '[mirror]\nroot = "/srv/dcsync"\n[auth]\nclient_id = "app"\n'


def test_it_is_a_valid_schema_without_references_and_json() -> None:
    Draft7Validator.check_schema(SCHEMA)

    text = json.dumps(SCHEMA)
    assert "$ref" not in text
    assert "$defs" not in text


@pytest.mark.parametrize("text", [MINIMAL, example(), MINIMAL + '[[hook]]\non = ["alert"]\nrun = ["true"]\n'])
def test_it_accepts_what_dcsync_accepts(text: str) -> None:
    Config.model_validate(tomllib.loads(text))

    assert mistakes(text) == []


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ('[pol]\ninterval = "15m"\n', "'pol' was unexpected"),
        ('[poll]\nintervall = "15m"\n', "'intervall' was unexpected"),
        ("[poll]\ninterval = 15\n", "15 is not of type 'string'"),
        ("[transfer]\nconcurrency = 0\n", "0 is less than the minimum of 1"),
        ('[log]\nlevel = "loud"\n', "'loud' is not one of ['debug', 'info', 'warning', 'error']"),
        ('[[account]]\nname = "acme"\n', "'id' is a required property"),
        ('[[hook]]\non = ["night"]\nrun = ["true"]\n', "'night' is not one of"),
        ('[[load]]\nschema = "acc"\n', "'to' is a required property"),
        ('[[load]]\nto = "env:X"\nmode = "all"\n', "'all' is not one of ['latest', 'history']"),
        ("[heartbeat]\nurl = 1\n", "1 is not of type 'string'"),
    ],
)
def test_it_refuses_what_an_editor_can_see(more: str, words: str) -> None:
    found = mistakes(MINIMAL + more)

    assert len(found) == 1
    assert words in found[0]


def test_every_key_and_section_has_a_description() -> None:
    assert len(keys()) > 50
    assert [key for key, schema in keys().items() if not schema.get("description", "").endswith((".", "}."))] == []
    assert [name for name, schema in SCHEMA["properties"].items() if not schema.get("description")] == []


def test_keys_that_share_a_comment_share_the_description() -> None:
    known = keys()

    assert known["auth", "service_account_id"]["description"].startswith('Method "service-account":')
    assert known["auth", "private_key"]["description"] == known["auth", "service_account_id"]["description"]
    assert known["hook", "run"]["description"].startswith("The program and its arguments")


def test_defaults_are_those_of_the_example_and_placeholders_are_none() -> None:
    defaults = {key: schema["default"] for key, schema in keys().items() if "default" in schema}

    assert defaults["poll", "interval"] == "15m"
    assert defaults["mirror", "min_free"] == "5 GiB"
    assert defaults["transfer", "bandwidth"] == "unlimited"
    assert defaults["verify", "rate"] == "50 MiB/s"
    assert defaults["hook", "timeout"] == "10m"
    assert defaults["account", "include"] == ["*"]
    assert (defaults["load", "schema"], defaults["load", "tables"]) == ("dcsync", ["*"])
    assert defaults["keep", "last"] == 0
    absent = keys().keys() - defaults.keys()
    assert absent == {
        ("mirror", "root"),
        ("network", "ca_file"),
        ("auth", "client_id"),
        ("auth", "client_secret"),
        ("auth", "refresh_token"),
        ("auth", "access_token"),
        ("auth", "service_account_id"),
        ("auth", "key_id"),
        ("auth", "private_key"),
        ("account", "name"),
        ("account", "id"),
        ("load", "to"),
        ("http", "callback_secret"),
        ("hook", "on"),
        ("hook", "run"),
        ("heartbeat", "url"),
        ("metrics", "textfile"),
    }
