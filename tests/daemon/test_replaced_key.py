"""The key of a service account is replaced while the daemon runs."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from dcsync.sandbox.service_accounts import Key, ServiceAccount
from tests.rigs.daemon import Rig, running
from tests.rigs.mirror import Mirror, status_of

pytestmark = pytest.mark.timeout(240)


def give_key(mirror: Mirror, account: ServiceAccount) -> Key:
    """Give the service account a new key, and store its private half where the configuration says."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = serialization.PrivateFormat.PKCS8
    text = private.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    (mirror.folder / "key.pem").write_bytes(text)
    (mirror.folder / "key.pem").chmod(0o600)
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return mirror.sandbox.service_accounts.add_key(account, public.decode())


def with_account(mirror: Mirror) -> None:
    accounts = mirror.sandbox.service_accounts
    account = accounts.create({"name": "mirror", "firstName": "Dcsync", "lastName": "Mirror"})
    mirror.world.invite(account.email)
    mirror.environ["SECRET"] = "sandbox-secret"
    mirror.config["auth"] = {
        "method": "service-account",
        "client_id": "sandbox",
        "client_secret": "env:SECRET",
        "service_account_id": account.id,
        "key_id": give_key(mirror, account).id,
        "private_key": f"file:{mirror.folder / 'key.pem'}",
    }


async def polled_within(rig: Rig, span: timedelta) -> bool:
    (account,) = (await status_of(rig.mirror)).accounts
    return account.last_success is not None and rig.clock.now() - account.last_success <= span


async def test_a_daemon_takes_the_new_key_when_the_old_one_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path, prepare=with_account) as rig:
        mirror = rig.mirror
        (account,) = mirror.sandbox.service_accounts.accounts.values()
        (old,) = account.keys
        mirror.config["auth"]["key_id"] = give_key(mirror, account).id
        mirror.sandbox.service_accounts.delete_key(account, old)

        await rig.pass_time(hours=2)

        assert await polled_within(rig, timedelta(minutes=20))
        assert (await status_of(mirror)).codes == []


async def test_a_key_that_is_refused_and_stays_is_not_read_forever(tmp_path: Path) -> None:
    async with running(tmp_path, prepare=with_account) as rig:
        mirror = rig.mirror
        (account,) = mirror.sandbox.service_accounts.accounts.values()
        mirror.sandbox.service_accounts.delete_key(account, next(iter(account.keys)))

        await rig.pass_time(hours=2)

        assert (await status_of(mirror)).codes == ["T-ACCOUNT"]
        assert sum("RELOADING=1" in message for message in rig.heard.messages) == 0

        mirror.config["auth"]["key_id"] = give_key(mirror, account).id
        await rig.pass_time(hours=2)
        assert await polled_within(rig, timedelta(minutes=20))


async def test_a_configuration_that_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, prepare=with_account) as rig:
        mirror = rig.mirror
        (account,) = mirror.sandbox.service_accounts.accounts.values()
        mirror.sandbox.service_accounts.delete_key(account, next(iter(account.keys)))
        (mirror.folder / "key.pem").unlink()

        await rig.pass_time(hours=2)

        assert (await status_of(mirror)).codes == ["T-ACCOUNT"]
        assert not rig.task.done()
