"""Every key with its value and origin. No secret is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from dcsync.config import Setting, Settings, example, json_schema, read_settings
from dcsync.errors import ConfigInvalid

SECRET = "kaf7Ohx6eeNg"
FILE = f"""
[mirror]
root = "/srv/dcsync"
strategy = "archive"
[state]
manifest = "postgresql://dcsync:{SECRET}@db/dcsync"
[api]
headers = {{ X-Key = "{SECRET}" }}
[network]
proxy = "http://user:{SECRET}@proxy:3128"
[auth]
client_id = "app"
client_secret = "{SECRET}"
[notify]
urls = ["mailto://{SECRET}@example.com", "env:TEAMS"]
[[load]]
to = "postgresql://dcsync:{SECRET}@db/acc"
schema = "acc"
[[load]]
name = "file"
to = "duckdb:///srv/acc.duckdb"
[[account]]
name = "acme"
id = "b.872264f8-2433-498d-8d36-16649ecb13fe"
start = 2026-01-31
[[account]]
name = "other"
id = "b.972264f8-2433-498d-8d36-16649ecb13fe"
"""


def read(tmp_path: Path, text: str = FILE) -> Settings:
    place = tmp_path / "config.toml"
    place.write_text(text)
    place.chmod(0o600)
    return read_settings(place, environ={})


def by_key(settings: Settings) -> dict[str, Setting]:
    found = {setting.key: setting for setting in settings.settings}
    assert len(found) == len(settings.settings)
    return found


def test_what_the_file_sets_has_its_line_and_the_rest_its_default(tmp_path: Path) -> None:
    found = by_key(read(tmp_path))

    assert found["mirror.root"] == Setting(key="mirror.root", value="/srv/dcsync", line=3)
    assert found["mirror.layout"] == Setting(key="mirror.layout", value="dated", line=None)
    assert found["account.1.start"] == Setting(key="account.1.start", value="2026-01-31", line=25)
    assert found["account.2.name"] == Setting(key="account.2.name", value="other", line=27)
    assert found["account.2.include"] == Setting(key="account.2.include", value=["*"], line=None)
    assert found["poll.interval"].value == "15m"
    assert found["transfer.bandwidth"].value == "unlimited"
    assert found["heartbeat.url"] == Setting(key="heartbeat.url", value=None, line=None)


def test_an_old_name_is_shown_as_it_is_read(tmp_path: Path) -> None:
    settings = read(tmp_path)

    assert by_key(settings)["mirror.strategy"] == Setting(key="mirror.strategy", value="zip", line=4)
    assert [(old.key, old.line) for old in settings.old_names] == [("mirror.strategy", 4)]


def test_no_secret_is_shown(tmp_path: Path) -> None:
    settings = read(tmp_path)

    found = by_key(settings)
    assert SECRET not in repr(settings)
    assert found["auth.client_secret"].value == "***"
    assert found["api.headers"].value == {"X-Key": "***"}
    assert found["notify.urls"].value == ["***", "env:TEAMS"]
    assert found["state.manifest"].value == "postgresql"
    assert found["network.proxy"].value == "***"
    assert [found[f"load.{number}.to"].value for number in (1, 2)] == ["***", "duckdb:///srv/acc.duckdb"]
    assert [found[f"load.{number}.schema"].value for number in (1, 2)] == ["acc", "dcsync"]


def test_every_key_there_is_has_a_row_but_those_of_tables_that_the_file_lacks(tmp_path: Path) -> None:
    found = by_key(read(tmp_path, example()))

    schema = json_schema()["properties"]
    assert isinstance(schema, dict)
    expected = {
        f"{section}.1.{key}" if "items" in table else f"{section}.{key}"
        for section, table in schema.items()
        if section not in {"load", "hook"}
        for key in table.get("items", table)["properties"]
    }
    assert found.keys() == expected


def test_a_mistake_is_reported_as_by_every_command(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid) as raised:
        read(tmp_path, FILE.replace('"/srv/dcsync"', '"srv"'))

    assert [mistake.line for mistake in raised.value.mistakes] == [3]
