"""The settings that are made from the configuration."""

from __future__ import annotations

from pathlib import Path

from dcsync.app.alerts import alert_settings
from dcsync.app.from_config import hidden_names
from dcsync.app.stores import FileStores
from dcsync.config import Config
from dcsync.config.fields import Section
from dcsync.config.secret_refs import Secret
from tests.rigs.configs import ACCOUNT_ID


class Feed(Section):
    """A section of a later version."""

    passwords: list[Secret]


class Extended(Config):
    """A configuration of a later version."""

    feed: Feed


def test_hooks_do_not_inherit_the_variable_of_a_new_secret_key(tmp_path: Path) -> None:
    config = Extended.model_validate(
        {
            "mirror": {"root": "/srv/dcsync"},
            "state": {"manifest": "env:DATABASE"},
            "auth": {"method": "token", "access_token": "env:TOKEN"},
            "account": [{"name": "acme", "id": ACCOUNT_ID}],
            "feed": {"passwords": ["env:FIRST", "file:/second", "env:THIRD"]},
        }
    )
    environ = dict.fromkeys(["DATABASE", "TOKEN", "FIRST", "THIRD", "PATH"], "x")

    assert hidden_names(config) >= {"DATABASE", "TOKEN", "FIRST", "THIRD"}
    assert alert_settings(config, FileStores(tmp_path), environ=environ).environ == {"PATH": "x"}
