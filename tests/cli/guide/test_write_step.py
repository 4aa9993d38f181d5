"""The files of the guide, above all those of the service, where root writes for another user."""

from __future__ import annotations

import pwd
from pathlib import Path

import pytest

from dcsync.config import load
from tests.cli.guide.conftest import SECRET, Home, Init

pytestmark = pytest.mark.needs_root
APP = [("Client ID", "sandbox"), ("Client secret", SECRET)]


@pytest.fixture
def etc(home: Home, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the service's configuration, on a machine where the service is installed."""
    folder = home.place.parent
    (folder / "service.d").mkdir(parents=True)
    monkeypatch.setattr("dcsync.config.SYSTEM", home.place)
    monkeypatch.setattr(pwd, "getpwnam", lambda name: pwd.getpwuid({"dcsync": 65534}[name]))
    # The service would get its credentials from systemd.
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    return folder


def login(home: Home, number: str = "1") -> list[tuple[str, str]]:
    return [*APP, ("Number [3]", number), ("Callback URL", home.callback)]


def folders(home: Home) -> list[tuple[str, str]]:
    return [("Mirror folder [/srv/dcsync]", f"{home.folder}/m"), ("[/var/lib/dcsync]", f"{home.folder}/s")]


def test_secrets_become_credentials_of_the_service(home: Home, init: Init, etc: Path) -> None:
    result = init([*login(home), *folders(home), ("Sign in now?", "later")])

    assert result.status == 0, result
    facts = home.place.stat()
    assert (facts.st_uid, facts.st_gid, facts.st_mode & 0o777) == (0, pwd.getpwuid(65534).pw_gid, 0o640)
    secret = load(home.place, environ={}, accounts_needed=False).auth.client_secret
    assert secret is not None
    assert secret.describe() == "credential:client-secret"
    assert (etc / "client-secret").stat().st_mode & 0o777 == 0o600
    drop_in = etc / "service.d/secrets.conf"
    assert drop_in.read_text() == f"[Service]\nLoadCredential=client-secret:{etc}/client-secret\n"
    assert drop_in.stat().st_mode & 0o777 == 0o644


def test_the_settings_of_the_administrator_stay(home: Home, init: Init, etc: Path) -> None:
    drop_in = etc / "service.d/secrets.conf"
    drop_in.write_text("[Service]\nEnvironment=A=b")
    init([*login(home), *folders(home), ("Sign in now?", "later")])

    line = f"LoadCredential=client-secret:{etc}/client-secret"
    assert drop_in.read_text() == f"[Service]\nEnvironment=A=b\n[Service]\n{line}\n"
    # A credential that is passed on already, by whichever file, is not passed on again.
    drop_in.rename(etc / "service.d/mine.conf")
    init([("Sign in now?", "later")])
    assert not drop_in.exists()


def test_a_service_account_has_two_credentials(home: Home, init: Init, etc: Path) -> None:
    script = [*APP, ("Number [3]", ""), ("Name of the service account", "mirror"), *folders(home)]

    # The key has a name of its own as a credential, and systemd would put it there.
    (etc / "service-account-key").symlink_to(etc / "service-account.pem")
    result = init([*script, ("Look again?", "later")])

    assert result.status == 0, result
    assert (etc / "service.d/secrets.conf").read_text().splitlines() == [
        "[Service]",
        f"LoadCredential=client-secret:{etc}/client-secret",
        f"LoadCredential=service-account-key:{etc}/service-account.pem",
    ]
    assert "invites mirror@" in result.out


@pytest.mark.usefixtures("etc")
def test_a_relative_folder_is_shown_as_an_absolute_one(home: Home, init: Init, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home.folder)

    result = init([*login(home), ("Mirror folder", "relative/x"), ("Folder for tokens", "later")])

    assert f"That is {home.folder}/relative/x." in result.out


def test_folders_that_exclude_each_other_are_asked_for_again(home: Home, init: Init, etc: Path) -> None:
    same = [("Mirror folder", "/data"), ("Folder for tokens", "/data")]

    result = init([*login(home), *same, ("Mirror folder", "later")])

    assert result.status == 0, result
    assert "This is not possible: --root: must not be state.dir" in result.out
    assert not home.place.exists()
    assert not (etc / "client-secret").exists()
