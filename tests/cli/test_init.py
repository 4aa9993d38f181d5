"""`dcsync init`: with flags, and on a terminal."""

from __future__ import annotations

import json
import pwd
import shutil
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import pytest

from dcsync.config import example, load
from tests.cli.conftest import Dcsync
from tests.rigs.person import at_terminal
from tests.rigs.processes import forking
from tests.rigs.served import TOKEN, Served
from tests.rigs.syscalls import Watch

ACCOUNT = "b.872264f8-2433-498d-8d36-16649ecb13fe"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the configuration goes; nothing of the machine's own is looked at."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DCSYNC_CONFIG", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return tmp_path / "etc/config.toml"


# --- flags ------------------------------------------------------------------------------------------------------------


def test_flags_alone_write_a_configuration_that_works(side: Served, dcsync: Dcsync, tmp_path: Path) -> None:
    written = tmp_path / "written.toml"

    result = dcsync(
        "--config",
        written,
        "init",
        *("--root", side.root),
        *("--state-dir", side.state),
        *("--method", "token"),
        *("--access-token", f"env:{TOKEN}"),
        *("--account", f"acme={side.sandbox.world.hub_id}"),
        *("--base-url", side.sandbox.base_url),
    )

    assert result.status == 0, result.err
    assert dcsync("--config", written, "sync").out == "acme: nothing new (1 call)\n"


def test_what_is_written_is_the_example_with_its_comments(place: Path, dcsync: Dcsync) -> None:
    dcsync("--config", place, "init", "--root", "/data", "--client-id", "abc", "--account", f"acme={ACCOUNT}")

    comments = [line for line in place.read_text().splitlines() if line.startswith("# ")]
    assert {line for line in example().splitlines() if line.startswith("# ")} <= set(comments)
    config = load(place, environ={})
    assert (str(config.mirror.root), config.auth.method, config.auth.client_id) == ("/data", "login", "abc")
    assert config.auth.client_secret is None
    assert config.auth.refresh_token is None
    assert [(account.name, account.id) for account in config.accounts] == [("acme", ACCOUNT)]
    assert place.stat().st_mode & 0o777 == 0o600
    assert place.parent.stat().st_mode & 0o777 == 0o700


def test_a_service_account_is_written_with_all_it_needs(place: Path, dcsync: Dcsync) -> None:
    result = dcsync(
        "--config",
        place,
        "init",
        *("--root", "/data", "--method", "service-account", "--client-id", "abc", "--service-account", "sa"),
        *("--client-secret", "credential:secret", "--key-id", "k", "--private-key", "file:/keys/sa.pem"),
        *("--account", f"acme={ACCOUNT}", "--account", f"beta={ACCOUNT}"),
    )

    assert result.status == 0, result.err
    auth = load(place, environ={}).auth
    assert (auth.method, auth.service_account_id, auth.key_id) == ("service-account", "sa", "k")
    assert auth.client_secret is not None
    assert auth.client_secret.describe() == "credential:secret"
    assert auth.private_key is not None
    assert auth.private_key.describe() == "file:/keys/sa.pem"
    assert [account.name for account in load(place, environ={}).accounts] == ["acme", "beta"]
    assert "LoadCredential=secret:" in result.out
    assert " login" not in result.out


def test_a_refresh_token_s_place_has_a_default(place: Path, dcsync: Dcsync) -> None:
    result = dcsync("--config", place, "init", "--root", "/data", "--method", "token", "--client-id", "abc")

    assert result.status == 0, result.err
    auth = load(place, environ={}, accounts_needed=False).auth
    assert auth.refresh_token is not None
    assert auth.refresh_token.describe() == "env:DCSYNC_REFRESH_TOKEN"
    assert "export DCSYNC_REFRESH_TOKEN=" in result.out


def test_relative_paths_are_of_the_folder_that_one_is_in(
    place: Path, dcsync: Dcsync, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    dcsync("--config", place, "init", "--root", "m", "--client-id", "abc", "--client-secret", "file:~/secret")

    config = load(place, environ={}, accounts_needed=False)
    assert config.mirror.root == tmp_path / "m"
    assert config.auth.client_secret is not None
    assert config.auth.client_secret.describe() == f"file:{tmp_path}/home/secret"


def test_without_a_place_it_goes_where_the_commands_look(
    place: Path, dcsync: Dcsync, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCSYNC_CONFIG", str(place))

    result = dcsync("init", "--root", tmp_path, "--client-id", "abc")

    assert result.status == 0
    assert place.is_file()
    assert f"Wrote {place}" in result.out
    assert "\n  dcsync login " in result.out


def test_what_to_do_next_is_said(place: Path, dcsync: Dcsync) -> None:
    result = dcsync("--config", place, "init", "--root", "/no/such root", "--client-id", "abc")

    wanted = [
        "mkdir -p '/no/such root'",
        *(f"dcsync --config {place} {command}\n" for command in ("login", "accounts", "doctor", "sync")),
    ]
    order = [result.out.index(words) for words in wanted]
    assert order == sorted(order)


def test_everything_that_is_missing_is_named_at_once(place: Path, dcsync: Dcsync) -> None:
    result = dcsync("--config", place, "init", "--method", "service-account", "--key-id", "k")

    assert result.status == 2
    assert "missing: --root, --client-id, --client-secret, --service-account, --private-key" in result.err
    assert not place.parent.exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--client-id", "x", "--key-id", "k"], "missing: --method"),
        (["--client-id", "x", "--method", "login", "--key-id", "k"], "--key-id is for --method service-account"),
        (["--client-id", "x", "--method", "token", "--redirect-uri", "http://x"], "is for --method login"),
        (["--client-id", "x", "--account", "acme"], "'acme' is not NAME=ID"),
        (["--client-id", "x", "--account", "acme=1"], "'1' is not a hub ID"),
        (["--client-id", "x", "--account", f"a/b={ACCOUNT}"], "is not a folder name"),
        (["--client-id", "x", "--account", f"a={ACCOUNT}", "--account", f"A={ACCOUNT}"], "two accounts have the name"),
        (["--client-id", "x", "--client-secret", "env:"], "a name is missing after env:"),
        (["--client-id", "x", "--base-url", "http://example.org"], "--base-url: 'http://example.org' must use https"),
        (["--client-id", "x", "--state-dir", "/"], "--root: must not be state.dir or a folder in it"),
        (["--client-id", "x\udcff"], "not valid UTF-8"),
        (["--client-id", "x", "--root", "~no-such-user/x"], "has no home folder"),
        (["--client-id", "x", "--root", ""], "the path is empty"),
    ],
)
def test_what_cannot_be_is_refused_by_its_flag_and_nothing_is_written(
    place: Path, dcsync: Dcsync, flags: Sequence[str], said: str
) -> None:
    result = dcsync("--config", place, "init", "--root", "/data", *flags)

    assert result.status == 2
    assert said in result.err
    assert not place.parent.exists()


@pytest.mark.parametrize("flag", ["--client-secret", "--private-key", "--refresh-token", "--access-token"])
def test_a_secret_on_the_command_line_is_refused_and_not_repeated(place: Path, dcsync: Dcsync, flag: str) -> None:
    result = dcsync("--config", place, "init", "--root", "/data", "--client-id", "x", flag, "hunter2-canary")

    assert result.status == 2
    assert "env:NAME, file:PATH" in result.err
    assert "canary" not in result.out + result.err
    assert not place.parent.exists()


def test_a_configuration_that_is_there_is_never_overwritten(side: Served, dcsync: Dcsync) -> None:
    before = side.config.read_bytes()

    # $DCSYNC_CONFIG names it.
    result = dcsync("init", "--root", "/data", "--client-id", "x")

    assert result.status == 2
    assert f"{side.config} already exists, and dcsync never overwrites" in result.err
    assert "continue with dcsync init on a terminal, without options" in result.err
    assert side.config.read_bytes() == before


# --- on a terminal ----------------------------------------------------------------------------------------------------


def test_on_a_terminal_nothing_is_asked_when_nothing_is_missing(place: Path) -> None:
    with at_terminal("--config", place, "init", "--root", "/data", "--client-id", "abc") as user:
        status = user.finish()

    assert status == 0, user.seen
    assert "Mirror folder" not in user.seen
    assert place.is_file()


def test_all_options_and_an_existing_file_are_an_error_on_a_terminal_too(place: Path) -> None:
    """A script that runs twice asks nothing."""
    line = ("--config", place, "init", "--root", "/data", "--client-id", "abc")
    with at_terminal(*line) as user:
        assert user.finish() == 0
    with at_terminal(*line) as user:
        status = user.finish()

    assert status == 2
    assert "already exists" in user.seen


def test_options_that_differ_from_an_existing_file_are_refused_on_a_terminal(side: Served) -> None:
    before = side.config.read_bytes()
    with at_terminal("--config", side.config, "init", "--root", "/elsewhere") as user:
        status = user.finish()

    assert status == 2
    assert "already exists" in user.seen
    assert side.config.read_bytes() == before


def test_the_file_names_its_schema_to_editors(dcsync: Dcsync, place: Path) -> None:
    assert dcsync("--config", place, "init", "--root", "/data", "--client-id", "app").status == 0

    schema = place.with_name("config.schema.json")
    assert place.read_text().startswith("#:schema ./config.schema.json\n")
    assert json.loads(schema.read_text())["title"] == "The configuration of dcsync"


def test_a_file_in_place_of_the_schema_stays(dcsync: Dcsync, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.with_name("config.schema.json").write_text("mine")

    assert dcsync("--config", place, "init", "--root", "/data", "--client-id", "app").status == 0
    assert place.with_name("config.schema.json").read_text() == "mine"


# --- for the service --------------------------------------------------------------------------------------------------


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the service's configuration, on a machine where the service is installed."""
    folder = tmp_path / "etc/dcsync"
    (folder / "service.d").mkdir(parents=True)
    monkeypatch.setattr("dcsync.config.SYSTEM", folder / "config.toml")
    monkeypatch.setattr(pwd, "getpwnam", lambda name: pwd.getpwuid({"dcsync": 65534}[name]))
    return folder


def init_service(dcsync: Dcsync, place: Path) -> str:
    given = ("--root", "/srv/dcsync", "--client-id", "app", "--client-secret", "credential:client-secret")
    result = dcsync("--config", str(place), "init", *given)
    assert result.status == 0
    return result.out


@pytest.mark.needs_root
def test_root_writes_a_file_that_the_service_can_read_and_the_steps_to_start_it(dcsync: Dcsync, etc: Path) -> None:
    place = etc / "config.toml"

    out = init_service(dcsync, place)

    facts = place.stat()
    assert (facts.st_uid, facts.st_gid, facts.st_mode & 0o777) == (0, pwd.getpwuid(65534).pw_gid, 0o640)
    commands = [line.strip().split("   ")[0] for line in out.partition("Next:\n")[2].splitlines()]
    assert [command for command in commands if command.startswith(("install", "printf", "systemctl", "dcsync"))] == [
        f"install -m 0600 /dev/stdin {etc}/client-secret",
        f"printf '[Service]\\nLoadCredential=client-secret:{etc}/client-secret\\n' > {etc}/service.d/secrets.conf",
        "systemctl daemon-reload",
        *[f"dcsync --config {place} {word}" for word in ("login", "accounts", "doctor")],
        "systemctl enable --now dcsync",
    ]


@pytest.mark.needs_root
def test_the_steps_leave_out_what_is_there_and_name_the_unit_of_an_instance(dcsync: Dcsync, etc: Path) -> None:
    (etc / "client-secret").touch()
    (etc / "service.d/secrets.conf").touch()

    out = init_service(dcsync, etc / "other.toml")

    assert "LoadCredential" not in out
    assert "install -m" not in out
    assert "systemctl enable --now dcsync@other" in out


@pytest.mark.needs_root
def test_without_the_service_the_first_step_installs_it(
    dcsync: Dcsync, etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(name: str) -> pwd.struct_passwd:
        raise KeyError(name)

    monkeypatch.setattr(pwd, "getpwnam", nobody)

    out = init_service(dcsync, etc / "config.toml")

    steps = out.partition("Next:\n")[2]
    assert steps.lstrip().startswith("dcsync service install")
    assert f"chgrp dcsync {etc} {etc / 'config.toml'}" in steps
    assert (etc / "config.toml").stat().st_mode & 0o777 == 0o600


async def test_killed_before_any_of_its_calls_it_leaves_the_whole_file_or_none(tmp_path: Path) -> None:
    place = tmp_path / "etc/dcsync/config.toml"
    line = ("--config", str(place), "init", "--root", "/data", "--client-id", "abc")
    async with forking(tmp_path) as start:
        for call in count(1):
            watch = Watch(folder=tmp_path, kill_at=call)
            await start.watched(watch, *line)
            assert watch.killed_before is not None
            if place.exists():
                break
            shutil.rmtree(tmp_path / "etc", ignore_errors=True)

        assert call > 5
        assert load(place, environ={}, accounts_needed=False).auth.client_id == "abc"
        # What a killed run left is no obstacle for the next one.
        place.unlink()
        place.with_name("config.toml.new").write_text("half of")
        run = await start(*line)
        assert await run.wait() == 0
    assert load(place, environ={}, accounts_needed=False).auth.client_id == "abc"
    assert sorted(path.name for path in place.parent.iterdir()) == ["config.schema.json", "config.toml"]
