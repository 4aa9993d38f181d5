"""`dcsync config`: show, check, schema."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Dcsync
from tests.rigs.served import Served


def test_show_prints_every_key_with_its_value_and_origin(side: Served, dcsync: Dcsync) -> None:
    result = dcsync("config", "show")

    rows = dict(line.split("\t", 1) for line in result.out.splitlines())
    assert result.status == 0
    assert rows["key"] == "value\tfrom"
    assert rows["mirror.root"].startswith(f'"{side.root}"\tline ')
    assert rows["mirror.timezone"] == '"UTC"\tdefault'
    assert rows["auth.client_secret"] == "(not set)\tdefault"
    assert result.err == f"{side.config}:\n"


def test_show_prints_json(side: Served, dcsync: Dcsync) -> None:
    shown = dcsync("config", "show", "--json").json

    keys = {item["key"]: item for item in shown["keys"]}
    assert shown["file"] == str(side.config)
    assert keys["mirror.root"]["value"] == str(side.root)
    assert keys["mirror.root"]["origin"] == "file"
    assert keys["mirror.layout"] == {"key": "mirror.layout", "value": "dated", "origin": "default", "line": None}


def test_check_accepts_a_valid_file_without_secrets_or_disk(
    side: Served, dcsync: Dcsync, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.rigs.served import TOKEN

    monkeypatch.delenv(TOKEN)
    side.root.rmdir()

    result = dcsync("config", "check")

    assert (result.status, result.out) == (0, f"{side.config} is valid\n")
    assert dcsync("config", "check", "--json").json == {"valid": True, "mistakes": [], "warnings": []}


def test_check_warns_of_old_names(side: Served, dcsync: Dcsync) -> None:
    side.config.write_text(side.config.read_text().replace("[mirror]", '[mirror]\nstrategy = "archive"'))

    result = dcsync("config", "check")
    (warning,) = dcsync("config", "check", "--json").json["warnings"]

    assert result.status == 0
    assert '"archive" is now called "zip"' in result.err
    assert (warning["key"], warning["file"]) == ("mirror.strategy", str(side.config))


def test_check_lists_all_mistakes(side: Served, dcsync: Dcsync) -> None:
    side.config.write_text('[mirror]\nroot = "relative"\n[auth]\nclient_id = "app"\n[poll]\nintervall = "1h"\n')

    result = dcsync("config", "check")
    listed = dcsync("config", "check", "--json")

    assert result.status == listed.status == 2
    assert "config.toml:2: mirror.root" in result.err
    assert 'did you mean "interval"' in result.err
    assert [(item["key"], item["line"]) for item in listed.json["mistakes"]] == [
        ("mirror.root", 2),
        ("poll.intervall", 6),
    ]
    assert listed.json["valid"] is False


def test_check_says_how_to_add_the_account_that_is_missing(side: Served, dcsync: Dcsync) -> None:
    side.config.write_text('[mirror]\nroot = "/srv/dcsync"\n[auth]\nclient_id = "app"\n')

    result = dcsync("config", "check")

    assert result.status == 0
    assert "no [[account]] yet: dcsync accounts" in result.out


def test_schema_needs_no_configuration(dcsync: Dcsync, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCSYNC_CONFIG", "/nonexistent/config.toml")

    schema = json.loads(dcsync("config", "schema").out)

    assert schema["properties"]["poll"]["properties"]["interval"]["default"] == "15m"
