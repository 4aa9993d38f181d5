"""The third step: signing in, and what the signed-in user can see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dcsync.cli.guide.asking import LaterError, agree, say
from dcsync.cli.guide.commands import Answer, Commands
from dcsync.cli.guide.kind_step import Kind
from dcsync.cli.login import has_browser
from dcsync.errors import ExitStatus

if TYPE_CHECKING:
    from dcsync.config import Config


@dataclass(frozen=True, slots=True, kw_only=True)
class Guided:
    """What the steps after the configuration need. `kind` is known only if this run asked for it."""

    commands: Commands
    config: Config
    kind: Kind | None = None

    @property
    def signs_in(self) -> bool:
        """Whether the user signs in with a browser."""
        return self.config.auth.method == "login"

    @property
    def email(self) -> str:
        """The e-mail address of the service account, or nothing if it is not known."""
        from pathlib import Path

        from dcsync.app.key_files import KeyFiles
        from dcsync.cli.new_config import credential_file
        from dcsync.errors import ConfigError

        key = self.config.auth.private_key
        kind, _, rest = ("", "", "") if key is None else key.describe().partition(":")
        if kind not in {"file", "credential"}:
            return ""
        try:
            note = KeyFiles(Path(rest).expanduser() if kind == "file" else credential_file(rest)).note()
        except ConfigError:
            return ""
        return "" if note is None or note.service_account_id != self.config.auth.service_account_id else note.email

    def no_browser(self) -> list[str]:
        """Return the option for a sign-in with a browser on another machine."""
        is_elsewhere = not has_browser() if self.kind is None else self.kind is Kind.ELSEWHERE
        return ["--no-browser"] if is_elsewhere else []


def sign_in(guided: Guided) -> list[dict[str, Any]]:
    """Sign in unless that is done, and return the accounts that the user sees."""
    while True:
        answer = guided.commands.answer("accounts", "--json")
        if answer.status == 0:
            return _accounts(answer)
        if answer.status == ExitStatus.LOGIN_REQUIRED and guided.signs_in:
            _sign_in_once(guided)
        elif answer.status == ExitStatus.PERMISSION_DENIED:
            answer.show()
            invite(guided)
            look_again()
        else:
            raise answer.stop()


def invite(guided: Guided) -> None:
    """Print what an administrator of the account does once, so that the app and its user have access."""
    say("An account administrator does this once at Autodesk:")
    _item(f"1. adds the client ID {guided.config.auth.client_id} under Custom integrations")
    user = guided.email or ("the service account" if not guided.signs_in else "the user who signs in")
    _item(f"2. invites {user} under Members, as Executive or Account Administrator")


def _item(text: str) -> None:
    say(text, indent="     ", first="  ")


def look_again() -> None:
    """Wait until the user wants to look again. Raises `LaterError`."""
    if not agree("Look again?"):
        raise LaterError


def _accounts(answer: Answer) -> list[dict[str, Any]]:
    for warning in answer.value["warnings"]:
        say(f"Autodesk could not list all accounts: {warning}")
    found: list[dict[str, Any]] = answer.value["accounts"]
    return found


def _sign_in_once(guided: Guided) -> None:
    """Run `dcsync login` until it succeeds or the user gives up."""
    say("Sign in to Autodesk as the user whose data requests dcsync mirrors. dcsync asks only for the right to read.")
    if not agree("Sign in now?"):
        raise LaterError
    while True:
        done = guided.commands.answer("login", "--json", *guided.no_browser(), asks=True)
        if done.status == 0:
            user = done.value["user"]
            say("Signed in." if user is None else f"Signed in as user {user}.")
            return
        if done.status != ExitStatus.LOGIN_REQUIRED:
            raise done.stop()
        done.show()
        if not agree("Try again?"):
            raise LaterError
