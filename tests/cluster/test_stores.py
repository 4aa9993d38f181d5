"""The choice of the stores: files of the state folder, or a database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dcsync.app.stores import FileStores
from dcsync.cluster import stores_for
from dcsync.cluster.stores import DatabaseStores
from dcsync.config import Config
from tests.rigs.configs import ACCOUNT_ID


def make_config(manifest: str) -> Config:
    document: dict[str, Any] = {
        "mirror": {"root": "/srv/dcsync"},
        "state": {"dir": "/var/lib/dcsync", "manifest": manifest},
        "auth": {"method": "token", "access_token": "env:TOKEN"},
        "account": [{"name": "acme", "id": ACCOUNT_ID}],
    }
    return Config.model_validate(document)


def test_a_file_is_in_the_state_folder_and_hides_nothing() -> None:
    stores = stores_for(make_config("sqlite"), {})

    assert isinstance(stores, FileStores)
    assert stores.place == Path("/var/lib/dcsync/manifest.sqlite")
    assert stores.hidden_names == frozenset()


def test_a_database_is_chosen_by_its_address_and_hides_its_password() -> None:
    stores = stores_for(make_config("env:DATABASE"), {"DATABASE": "postgresql://anna:hunter2@here/mirror"})

    assert isinstance(stores, DatabaseStores)
    assert stores.place == stores_for(make_config("postgresql://anna:hunter2@here/mirror"), {}).place
    assert stores.hidden_names == {"PGPASSWORD", "PGPASSFILE"}
    assert "hunter2" not in stores.shown
