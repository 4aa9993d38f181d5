"""An empty home, and an app in the sandbox."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dcsync.auth.token_store import TokenPair, TokenStore
from dcsync.cli.guide.account_step import add_account
from tests.cli.conftest import Dcsync, Result
from tests.rigs.hands import at_keyboard
from tests.rigs.served import Served, served

SECRET = "sandbox-secret"
#: A narrow terminal.
_COLUMNS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """The home of a person, who has nothing of dcsync yet."""

    side: Served
    folder: Path
    callback: str

    @property
    def place(self) -> Path:
        """Where the configuration goes."""
        return self.folder / ".config/dcsync/config.toml"

    @property
    def init(self) -> tuple[str, ...]:
        """The command. Everything else is asked."""
        return ("init", "--base-url", self.side.sandbox.base_url)

    def snapshots(self) -> list[Path]:
        """Return the published snapshots."""
        return list((self.folder / "dcsync").glob("*/*/[0-9]*/**/_dcsync.json"))


@pytest.fixture
def home(tmp_path: Path, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """An empty home, and a sandbox whose app has a callback URL with a separate port."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    # Root's usual place is the machine's own.
    monkeypatch.setenv("DCSYNC_CONFIG", str(folder / ".config/dcsync/config.toml"))
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    callback = f"http://localhost:{unused_tcp_port}/callback"
    (tmp_path / "side").mkdir()
    with served(tmp_path / "side", redirect_uris=(callback,)) as side:
        yield Home(side=side, folder=folder, callback=callback)


Init = Callable[..., Result]


def words_of(result: Result) -> str:
    """Return the output without its line breaks, which depend on the length of paths."""
    return " ".join(result.out.split())


@pytest.fixture
def init(home: Home, dcsync: Dcsync, monkeypatch: pytest.MonkeyPatch) -> Init:
    """Run `dcsync init` in this process. The person answers by a script, which must be used up."""

    def call(script: Sequence[tuple[str, str]], *options: str) -> Result:
        hands = at_keyboard(monkeypatch, script)
        monkeypatch.setattr("shutil.get_terminal_size", lambda *_: os.terminal_size((_COLUMNS, 24)))
        result = dcsync(*(home.init if not home.place.exists() else ("init",)), *options)
        assert hands.script == [], (hands.script, result)
        # Whatever was asked fits on the terminal, but for words that are longer than a line.
        lines = [line.strip() for question in hands.asked for line in question.splitlines()]
        assert [line for line in lines if len(line) > _COLUMNS and " " in line] == []
        assert SECRET not in result.out + result.err
        # Where lines break depends on the length of paths.
        return replace(result, out=" ".join(result.out.split()), err=" ".join(result.err.split()))

    return call


@pytest.fixture
def signed_in(home: Home, dcsync: Dcsync) -> Home:
    """The home of a person who has signed in and chosen no account yet."""
    state = home.folder / "state"
    state.mkdir(mode=0o700)
    TokenStore(state).save(TokenPair(refresh_token=home.side.sandbox.tokens.issue_refresh_token("ada")))
    place = home.place.with_name("client-secret")
    place.parent.mkdir(parents=True)
    place.write_text(SECRET)
    place.chmod(0o600)
    options = ("--root", home.folder / "dcsync", "--state-dir", state, "--client-id", "sandbox")
    result = dcsync(*home.init, *options, "--client-secret", f"file:{place}", "--redirect-uri", home.callback)
    assert result.status == 0, result.err
    return home


@pytest.fixture
def with_account(signed_in: Home) -> Home:
    """The home of a person who has chosen the account `acme`."""
    add_account(signed_in.place, "acme", signed_in.side.sandbox.world.hub_id)
    (signed_in.folder / "dcsync").mkdir()
    return signed_in
