"""`dcsync service-account`: from the app's secret to a working sign-in, with no private key in any output."""

from __future__ import annotations

import json
import os
import pwd
import sys
from pathlib import Path

import pytest

from dcsync.app.key_files import KeyFiles
from dcsync.cli.new_config import default_root
from dcsync.cli.service_account_keys import default_name
from dcsync.sandbox import Fault
from dcsync.sandbox.service_accounts import MAX_ACCOUNTS, MAX_KEYS
from tests.cli.conftest import Dcsync, Result
from tests.rigs.json_page import documented, written
from tests.rigs.served import Served
from tests.rigs.terminal import on_terminal

SECRET = "DCSYNC_TEST_APP_SECRET"


@pytest.fixture(autouse=True)
def home(side: Served, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home: there is no configuration yet."""
    monkeypatch.setenv(SECRET, "sandbox-secret")
    place = side.folder / "home" / "dcsync"
    monkeypatch.setenv("DCSYNC_CONFIG", str(place / "config.toml"))
    return place


def app_of(side: Served) -> tuple[str, ...]:
    return ("--client-id", "sandbox", "--client-secret", f"env:{SECRET}", "--base-url", side.sandbox.base_url)


def run(side: Served, dcsync: Dcsync, *command: str) -> Result:
    """Run a command for the app of the options, and prove that its output has no private key."""
    result = dcsync("service-account", *command, *app_of(side))
    assert "PRIVATE KEY" not in result.out + result.err
    assert "sandbox-secret" not in result.out + result.err
    return result


def configure(side: Served, home: Path, made: dict[str, str], private_key: str | None = None) -> None:
    """Write the configuration that `create` printed."""
    auth = {**made, "private_key": private_key or made["private_key"]}
    side.write_config(auth=[f'{name} = "{value}"' for name, value in auth.items()])
    side.config.rename(home / "config.toml")


def create(side: Served, dcsync: Dcsync) -> dict[str, str]:
    result = run(side, dcsync, "create", "mirror", "--json")
    assert result.status == 0, result.err
    auth: dict[str, str] = result.json["auth"]
    return auth


def remote_keys(side: Served) -> list[str]:
    return [key for account in side.sandbox.service_accounts.accounts.values() for key in account.keys]


def test_from_an_empty_home_to_the_first_snapshot(side: Served, home: Path, dcsync: Dcsync) -> None:
    made = run(side, dcsync, "create", "mirror", "--json")
    side.sandbox.world.invite(made.json["email"])
    auth = made.json["auth"]

    commands = [
        (
            *("init", "--root", str(side.root), "--state-dir", str(side.state), "--base-url", side.sandbox.base_url),
            *("--method", auth["method"], "--client-id", auth["client_id"], "--client-secret", auth["client_secret"]),
            *("--service-account", auth["service_account_id"], "--key-id", auth["key_id"]),
            *("--private-key", auth["private_key"], "--account", f"acme={side.sandbox.world.hub_id}"),
        ),
        ("requests", "create", "--description", "Nightly", "--service-group", "admin"),
        ("requests",),
    ]
    for command in commands:
        result = dcsync(*command)
        assert result.status == 0, result.err
    assert side.sandbox.world.complete_jobs()
    result = dcsync("sync")

    assert result.status == 0, result.err
    assert list(side.root.glob("acme/*/*/_dcsync.json"))
    key = (home / "service-account.pem").read_text()
    assert key.startswith("-----BEGIN")
    assert not [path for path in side.state.rglob("*") if path.is_file() and key[40:80] in path.read_text("latin-1")]


def test_the_output_says_whom_to_invite_and_what_to_configure(side: Served, home: Path, dcsync: Dcsync) -> None:
    result = run(side, dcsync, "create", "mirror")

    assert result.status == 0, result.err
    (account,) = side.sandbox.service_accounts.accounts.values()
    (key,) = account.keys
    assert f"invites {account.email} under Members" in result.out
    assert "adds the client ID sandbox under Custom integrations" in result.out
    assert f'service_account_id = "{account.id}"\nkey_id = "{key}"\nprivate_key = "file:{home}/' in result.out
    assert "init --method service-account --client-id sandbox" in result.out
    assert "requests create" in result.out
    assert run(side, dcsync, "create").out == result.out
    assert {path.name: path.stat().st_mode & 0o777 for path in home.iterdir()} == {
        "service-account.pem": 0o600,
        "service-account.json": 0o600,
    }


@pytest.mark.parametrize("kind", ["lose-after-commit", "fail-after-commit", "reset"])
@pytest.mark.parametrize("call", range(5))
def test_a_run_that_lost_any_call_is_continued_by_the_next(side: Served, dcsync: Dcsync, call: int, kind: str) -> None:
    match = "service-accounts"
    side.sandbox.faults.add(Fault(server="token", kind=kind, match=match, skip=call, times=None, status=502))  # type: ignore[arg-type]
    lost = run(side, dcsync, "create", "mirror")
    assert lost.status == 3, lost.out
    side.sandbox.faults.clear()

    made = create(side, dcsync)

    assert len(side.sandbox.service_accounts.accounts) == 1
    assert remote_keys(side) == [made["key_id"]]


def test_the_key_is_rotated_in_place(side: Served, home: Path, dcsync: Dcsync) -> None:
    made = create(side, dcsync)
    side.sandbox.world.invite("mirror@sandbox.adskserviceaccount.autodesk.com")
    configure(side, home, made)
    before = (home / "service-account.pem").read_text()
    assert "would delete the key" in dcsync("service-account", "rotate-key", "--dry-run").out

    result = dcsync("service-account", "rotate-key")

    assert result.status == 0, result.err
    assert "A running daemon reads the new key" in result.out
    (new,) = remote_keys(side)
    assert new != made["key_id"]
    assert (home / "config.toml").read_text().count(f'key_id = "{new}"') == 1
    after = (home / "service-account.pem").read_text()
    assert before != after
    assert after not in result.out + result.err
    assert dcsync("requests").status == 0
    assert dcsync("service-account", "rotate-key", "--key-file", str(home / "x.pem")).status == 2


@pytest.mark.parametrize("call", range(8))
def test_a_rotation_that_lost_any_call_is_continued(side: Served, home: Path, dcsync: Dcsync, call: int) -> None:
    configure(side, home, create(side, dcsync))
    calls = "service-accounts|/token$"
    side.sandbox.faults.add(Fault(server="token", kind="lose-after-commit", match=calls, skip=call, times=None))
    assert dcsync("service-account", "rotate-key").status == 3
    side.sandbox.faults.clear()

    result = dcsync("service-account", "rotate-key", "--json")

    assert result.status == 0, result.err
    assert result.json.keys() == documented("`dcsync service-account rotate-key --json`")
    assert remote_keys(side) == [result.json["key_id"]]
    assert sorted(path.name for path in home.iterdir()) == [
        "config.toml",
        "service-account.json",
        "service-account.pem",
    ]


def test_a_key_in_a_variable_is_replaced_in_two_runs(
    side: Served, home: Path, dcsync: Dcsync, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = create(side, dcsync)
    monkeypatch.setenv("DCSYNC_TEST_KEY", (home / "service-account.pem").read_text())
    configure(side, home, made, "env:DCSYNC_TEST_KEY")
    rotate = ("service-account", "rotate-key", "--key-file", str(home / "new.pem"))
    assert dcsync("service-account", "rotate-key").status == 2
    early = dcsync(*rotate, "--remove-old")
    assert (early.status, remote_keys(side)) == (2, [made["key_id"]])

    assert f"would write it to {home}/new.pem" in dcsync(*rotate, "--dry-run").out
    assert "would delete the key" in dcsync(*rotate, "--dry-run", "--remove-old").out
    first = dcsync(*rotate)
    new = json.loads((home / "new.json").read_text())["key_id"]
    assert f'set key_id = "{new}" below [auth]' in first.out
    assert "--remove-old" in first.out
    too_soon = dcsync(*rotate, "--remove-old")
    assert (too_soon.status, remote_keys(side)) == (2, [made["key_id"], new])

    monkeypatch.setenv("DCSYNC_TEST_KEY", (home / "new.pem").read_text())
    (home / "config.toml").write_text((home / "config.toml").read_text().replace(made["key_id"], new))
    last = dcsync(*rotate, "--remove-old")

    assert last.status == 0, last.err
    assert remote_keys(side) == [new]
    assert "PRIVATE" not in first.out + too_soon.err + last.out


def test_accounts_and_keys_are_listed(side: Served, home: Path, dcsync: Dcsync) -> None:
    made = create(side, dcsync)
    configure(side, home, made)

    accounts = dcsync("service-account", "list", "--json").json
    keys = dcsync("service-account", "keys", "--json").json

    assert set(written(accounts)) == documented("`dcsync service-account list --json`")
    assert set(written(keys)) == documented("`dcsync service-account keys --json`")
    assert [row["configured"] for row in (*accounts["service_accounts"], *keys["keys"])] == [True, True]
    for command in (("list",), ("keys", "mirror")):
        shown = dcsync("service-account", *command)
        assert "\tENABLED\t" in shown.out
        assert "configured" in shown.out


def test_an_account_is_disabled_after_a_confirmation_and_enabled(side: Served, dcsync: Dcsync) -> None:
    create(side, dcsync)
    (account,) = side.sandbox.service_accounts.accounts.values()

    refused = run(side, dcsync, "disable", "mirror")
    assert refused.status == 2
    assert "--yes" in refused.err
    assert account.email in run(side, dcsync, "disable", "mirror", "--dry-run").out
    assert account.status == "ENABLED"
    assert account.email in run(side, dcsync, "disable", account.id, "--yes").out
    assert account.status == "DISABLED"
    keys = run(side, dcsync, "keys", "mirror")
    assert "service-account enable" in keys.err
    assert run(side, dcsync, "enable", account.email, "--json").json["service_account"]["status"] == "ENABLED"
    assert account.status == "ENABLED"


def test_on_a_terminal_an_account_is_disabled_only_after_a_yes(side: Served) -> None:
    account = side.sandbox.service_accounts.create({"name": "mirror", "firstName": "dcsync", "lastName": "mirror"})
    command = [sys.executable, "-m", "dcsync", "service-account", "disable", "mirror", *app_of(side)]
    for answer, status in (("n", "ENABLED"), ("y", "DISABLED")):
        with on_terminal(command, width=200) as terminal:
            terminal.until(lambda lines: any("cannot sign in then [y/N]" in line for line in lines), "the question")
            os.write(terminal.descriptor, f"{answer}\n".encode())
            terminal.end()
        assert account.status == status


def test_a_key_is_deleted_if_it_is_named_and_not_the_configured_one(side: Served, home: Path, dcsync: Dcsync) -> None:
    made = create(side, dcsync)
    configure(side, home, made)
    (account,) = side.sandbox.service_accounts.accounts.values()
    other = side.sandbox.service_accounts.add_key(account, "a public key").id
    delete = ("service-account", "delete-key", "mirror")

    refused = [dcsync(*delete, key, "--yes") for key in (made["key_id"], "unknown")]
    assert [result.status for result in refused] == [2, 2]
    assert "rotate-key" in refused[0].err
    assert dcsync(*delete, other).status == 2
    assert other in dcsync(*delete, other, "--dry-run").out
    assert remote_keys(side) == [made["key_id"], other]

    assert dcsync(*delete, other, "--yes", "--json").json == {"deleted": other}
    assert remote_keys(side) == [made["key_id"]]
    third = side.sandbox.service_accounts.add_key(account, "a public key").id
    assert third in dcsync(*delete, third, "--yes").out


def test_no_log_has_a_private_key(side: Served, home: Path, dcsync: Dcsync) -> None:
    made = dcsync("--log-level", "debug", "service-account", "create", "mirror", "--json", *app_of(side))
    before = (home / "service-account.pem").read_text()
    configure(side, home, made.json["auth"])
    side.sandbox.faults.add(Fault(server="token", kind="garble-after-commit", match="keys$", skip=2))
    rotated = dcsync("--log-level", "debug", "service-account", "rotate-key")

    assert rotated.status == 0, rotated.err
    assert "answer was lost" in rotated.err
    for key in (before, (home / "service-account.pem").read_text()):
        lines = [line for line in key.splitlines() if len(line) > 20]
        assert not [line for line in lines if line in made.out + made.err + rotated.out + rotated.err]


def test_a_configuration_that_is_named_is_named_in_the_next_steps(side: Served, dcsync: Dcsync) -> None:
    place = side.folder / "my own.toml"

    result = dcsync("--config", str(place), "service-account", "create", "mirror", *app_of(side))

    assert f"dcsync --config '{place}' init --method service-account" in result.out
    # The command can be copied as it is.
    assert f" --root {default_root()}\n" in result.out
    steps = ("init", "accounts", "requests create", "doctor", "sync")
    places = [result.out.index(f"dcsync --config '{place}' {step}") for step in steps]
    assert places == sorted(places)


def test_the_json_has_the_documented_keys(side: Served, dcsync: Dcsync) -> None:
    made = run(side, dcsync, "create", "mirror", "--json").json

    assert set(written(made)) == documented("`dcsync service-account create --json`")
    dry = run(side, dcsync, "create", "mirror", "--json", "--dry-run").json
    assert dry.keys() == {"steps"}


def test_a_dry_run_changes_nothing(side: Served, home: Path, dcsync: Dcsync) -> None:
    result = run(side, dcsync, "create", "--dry-run")

    assert result.status == 0
    assert str(home / "service-account.pem") in result.out
    assert side.sandbox.calls == []
    assert not home.exists()


@pytest.mark.needs_root
def test_for_the_service_the_key_and_the_secret_are_credentials(
    side: Served, dcsync: Dcsync, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = side.folder / "etc"
    folder.mkdir()
    (folder / "client-secret").write_text("sandbox-secret")
    (folder / "client-secret").chmod(0o600)
    monkeypatch.setattr("dcsync.config.SYSTEM", folder / "config.toml")
    monkeypatch.setattr(pwd, "getpwnam", lambda name: pwd.getpwuid({"dcsync": 65534}[name]))
    monkeypatch.setenv("DCSYNC_CONFIG", str(folder / "config.toml"))
    app = ("--client-id", "sandbox", "--base-url", side.sandbox.base_url, "--client-secret")

    by_file = dcsync("service-account", "create", "mirror", "--json", *app, f"file:{folder}/client-secret")
    by_name = dcsync("service-account", "create", "mirror", *app, "credential:client-secret")

    secret, key = f"client-secret:{folder}/client-secret", f"service-account-key:{folder}/service-account.pem"
    assert by_file.json["auth"]["client_secret"] == "credential:client-secret"
    assert by_file.json["auth"]["private_key"] == "credential:service-account-key"
    assert by_file.json["load_credential"] == [f"LoadCredential={secret}", f"LoadCredential={key}"]
    assert f"LoadCredential={key}" in by_name.out
    assert (folder / "service-account.pem").stat().st_mode & 0o777 == 0o600
    written_by_init = dcsync(
        *("init", "--root", "/data", "--method", "service-account", "--client-id", "sandbox", "--key-id", "k"),
        *("--client-secret", "credential:client-secret", "--service-account", "s"),
        *("--private-key", "credential:service-account-key"),
    )
    assert f"LoadCredential={key}" in written_by_init.out
    assert "install -m" not in written_by_init.out


@pytest.mark.needs_root
def test_a_key_that_is_a_credential_is_replaced_in_two_runs_of_root(
    side: Served, home: Path, dcsync: Dcsync, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = create(side, dcsync)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    configure(side, home, made, "credential:service-account-key")
    rotate = ("service-account", "rotate-key", "--key-file", str(home / "new.pem"))

    first = dcsync(*rotate)
    new = json.loads((home / "new.json").read_text())["key_id"]
    (home / "config.toml").write_text((home / "config.toml").read_text().replace(made["key_id"], new))
    last = dcsync(*rotate, "--remove-old")

    assert f"LoadCredential=service-account-key:{home}/new.pem" in first.out
    assert last.status == 0, last.err
    assert remote_keys(side) == [new]


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_wrong_secret_says_where_to_look(side: Served, dcsync: Dcsync, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRET, "wrong")

    result = run(side, dcsync, "create")

    assert result.status == 2
    assert "server-to-server app" in result.err


def test_an_app_of_another_type_is_refused_in_words(side: Served, dcsync: Dcsync) -> None:
    side.sandbox.faults.add(
        Fault(
            server="token", kind="refuse-error-object", match="service-accounts", status=403, body=b"not for this app"
        )
    )

    result = run(side, dcsync, "create")

    assert result.status == 13
    assert "not for this app" in result.err
    assert "server-to-server app" in result.err


def test_the_limits_of_autodesk_are_named(side: Served, home: Path, dcsync: Dcsync) -> None:
    for number in range(MAX_ACCOUNTS):
        side.sandbox.service_accounts.create({"name": f"robot-{number}", "firstName": "dcsync", "lastName": "mirror"})
    accounts = run(side, dcsync, "create", "mirror")
    (first, *_) = side.sandbox.service_accounts.accounts.values()
    for _ in range(MAX_KEYS):
        side.sandbox.service_accounts.add_key(first, "a public key")
    keys = run(side, dcsync, "create", "robot-0")

    assert (accounts.status, keys.status) == (13, 13)
    assert "at most 10 service accounts: name one of dcsync service-account list" in accounts.err
    assert "dcsync service-account delete-key" in keys.err
    assert not (home / "service-account.pem").exists()


@pytest.mark.parametrize("name", ["abc", "with space", "-----", "x" * 65])
def test_a_name_that_autodesk_would_refuse_is_refused_before_any_call(side: Served, dcsync: Dcsync, name: str) -> None:
    result = run(side, dcsync, "create", "--", name) if name.startswith("-") else run(side, dcsync, "create", name)

    assert result.status == 2
    assert side.sandbox.calls == []


def test_a_name_that_is_taken_is_refused_in_words(side: Served, dcsync: Dcsync) -> None:
    words = b"The 'name' already exists."
    side.sandbox.faults.add(
        Fault(server="token", kind="refuse-error-object", match="service-accounts", skip=1, status=400, body=words)
    )

    result = run(side, dcsync, "create", "mirror")

    assert "already exists" in result.err
    assert "5 to 64 letters" in result.err


def test_without_a_configuration_the_key_is_written_to_its_folder(
    side: Served, home: Path, dcsync: Dcsync, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DCSYNC_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))

    result = run(side, dcsync, "create", "--dry-run")

    folder = Path("/etc/dcsync") if os.geteuid() == 0 else home / "dcsync"
    assert f"write the private key to {folder}/service-account.pem" in result.out


def test_a_removal_without_an_answer_says_that_the_next_run_continues(side: Served, home: Path, dcsync: Dcsync) -> None:
    made = create(side, dcsync)
    configure(side, home, made)
    side.sandbox.faults.add(Fault(server="token", kind="reset", match="keys/", times=None))

    lost = dcsync("service-account", "rotate-key")
    side.sandbox.faults.clear()

    assert lost.status == 3
    assert "run the same command again" in lost.err
    assert made["key_id"] in remote_keys(side)
    assert made["key_id"] in dcsync("service-account", "rotate-key").out
    assert made["key_id"] not in remote_keys(side)


def test_two_commands_do_not_create_keys_at_once(side: Served, home: Path, dcsync: Dcsync) -> None:
    with KeyFiles(home / "service-account.pem").locked():
        result = run(side, dcsync, "create", "mirror")

    assert result.status == 2
    assert "another dcsync service-account is working" in result.err
    assert side.sandbox.calls == []
    create(side, dcsync)


def test_a_key_file_of_another_program_stays(side: Served, home: Path, dcsync: Dcsync) -> None:
    home.mkdir(parents=True)
    (home / "service-account.pem").write_text("another")

    result = run(side, dcsync, "create")

    assert result.status == 2
    assert "--key-file" in result.err
    assert (home / "service-account.pem").read_text() == "another"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("create",), "--client-id ID --client-secret REF"),
        (("create", "--client-id", "x"), "belong together"),
        (("create", "--client-id", "x", "--client-secret", "hunter2"), "do not write a secret on the command line"),
        (("create", "--base-url", "http://127.0.0.1"), "--base-url is for --client-id"),
        (("create", "--client-id", "x", "--client-secret", "env:X", "--base-url", "nonsense"), "api.base_url"),
        (("rotate-key",), "create one with `dcsync init`"),
        (("create", "--client-id", "x", "--client-secret", f"env:{SECRET}", "--key-file", "a.json"), "choose a name"),
    ],
)
def test_missing_options_are_named(side: Served, dcsync: Dcsync, options: tuple[str, ...], words: str) -> None:
    result = dcsync("service-account", *options)

    assert result.status == 2
    assert words in result.err
    assert "hunter2" not in result.err
    assert side.sandbox.calls == []


def test_other_sign_ins_have_no_key_and_perhaps_no_app(side: Served, home: Path, dcsync: Dcsync) -> None:
    home.mkdir(parents=True)
    side.config.rename(home / "config.toml")
    assert "client secret" in dcsync("service-account", "list").err
    side.write_config(auth=['client_id = "sandbox"', f'client_secret = "env:{SECRET}"'])
    side.config.rename(home / "config.toml")

    rotated = dcsync("service-account", "rotate-key")
    unnamed = dcsync("service-account", "keys")
    unknown = dcsync("service-account", "keys", "nobody")

    assert [result.status for result in (rotated, unnamed, unknown)] == [2, 2, 2]
    assert 'auth.method is "login"' in rotated.err
    assert "has no service account nobody" in unknown.err


@pytest.mark.parametrize(
    ("host", "name"),
    [("build.example.com", "dcsync-build-example-com"), ("", "dcsync"), ("x" * 90, f"dcsync-{'x' * 57}")],
)
def test_the_default_name_is_valid(host: str, name: str) -> None:
    assert default_name(host) == name
