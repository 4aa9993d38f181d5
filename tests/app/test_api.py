"""The API, opened for the app and its service account: from nothing to the first extract."""

from __future__ import annotations

from pathlib import Path

import pytest

from dcsync.app.api import open_api, service_account_admin
from dcsync.app.stores import FileStores
from dcsync.clock import SystemClock
from dcsync.config import Config
from dcsync.core.model import AccountId, AccountName
from dcsync.core.new_request import NewRequest
from dcsync.errors import AccessRefused, DcsyncError
from dcsync.ops.context import AccountSettings
from dcsync.ops.requests import create
from dcsync.sandbox import Sandbox, World
from tests.rigs.configs import make_config

SECRETS = {"CLIENT": "sandbox-secret"}


def configure(sandbox: Sandbox, folder: Path, account: str, key: str) -> Config:
    return make_config(
        api={"base_url": sandbox.base_url},
        state={"dir": str(folder / "state")},
        auth={
            "method": "service-account",
            "client_id": "sandbox",
            "client_secret": "env:CLIENT",
            "service_account_id": account,
            "key_id": key,
            "private_key": "env:KEY",
        },
    )


class Nobody:
    """A service account needs nobody to sign in."""

    def show(self, url: str, *, listening: bool, why_not: str) -> None:
        raise AssertionError(url)

    async def pasted(self) -> str:
        raise AssertionError

    def complain(self, error: DcsyncError) -> None:
        raise AssertionError(error)


async def test_the_app_creates_a_service_account_which_creates_its_data_request(tmp_path: Path) -> None:
    clock = SystemClock()
    async with Sandbox(World()) as sandbox:
        admin = service_account_admin(configure(sandbox, tmp_path, "not yet", "not yet"), environ=SECRETS)
        robot = await admin.create("mirror", first_name="dcsync", last_name="mirror")
        key = await admin.create_key(robot.id)
        sandbox.world.invite(robot.email)
        config = configure(sandbox, tmp_path, robot.id, key.id)
        account = AccountId(sandbox.world.account_id)
        settings = AccountSettings(name=AccountName("acme"), id=account)
        wanted = NewRequest(service_groups=("admin",), starts_at=clock.now())
        environ = {**SECRETS, "KEY": key.private_key}
        stores = FileStores(tmp_path / "state")

        async with open_api(config, stores, environ=environ) as reading:
            with pytest.raises(AccessRefused, match="lacks the scope data:create"):
                await create(reading.client, settings, wanted, clock=clock)
        async with open_api(config, stores, environ=environ, changer=Nobody()) as writing:
            made = await create(writing.client, settings, wanted, clock=clock)
        sandbox.world.complete_jobs()
        async with open_api(config, stores, environ=environ) as reading:
            (job,) = await reading.client.jobs(account)
            listing = await reading.client.listing(account, job.id)

        assert job.request_id == made.request.id
        assert made.request.created_by_email == robot.email
        assert any(listed.name.startswith("admin_") for listed in listing)
