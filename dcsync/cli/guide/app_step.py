"""The first step: the app, with its client ID and its client secret, which Autodesk checks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dcsync.cli.guide.asking import agree, ask, heading, say, show, show_failure, word
from dcsync.cli.new_config import credential_file, reference, service_group
from dcsync.errors import ClientRejected, ConfigError, SecretUnavailable, TokenEndpointUnavailable

if TYPE_CHECKING:
    from dcsync.app.key_files import Note

#: Where an app and its secret are shown.
PORTAL = "https://aps.autodesk.com/"
CALLBACK = "http://localhost:8080/callback"


@dataclass(frozen=True, slots=True, kw_only=True)
class AppAnswers:
    """The app. `secret` is the reference that the configuration gets, or None for a public app."""

    client_id: str
    secret: str | None
    #: The secret itself, if it was typed and must still be stored.
    typed: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What the guide begins with: the place of the configuration, and the values of the options."""

    place: Path
    given: Mapping[str, str]

    @property
    def base_url(self) -> str | None:
        """The address of the API, if it is not Autodesk's."""
        return self.given.get("base_url")

    @property
    def is_service(self) -> bool:
        """Whether root writes the configuration of the service, whose secrets systemd passes on."""
        return service_group(self.place) is not None

    def earlier(self) -> Note | None:
        """Return the note of a service account that an earlier run began to create."""
        from dcsync.app.key_files import KeyFiles

        return KeyFiles(self.place.absolute().parent / "service-account.pem").note()

    def secret(self) -> str:
        """Return the reference to the client secret."""
        own = f"file:{self.place.absolute().parent / 'client-secret'}"
        return self.given.get("client_secret") or ("credential:client-secret" if self.is_service else own)

    def file_of(self, secret: str) -> Path | None:
        """Return the file in which a secret is stored, or None if dcsync cannot write it."""
        kind, _, rest = secret.partition(":")
        if kind == "credential" and self.is_service:
            return credential_file(rest)
        return Path(rest) if kind == "file" else None


def ask_app(start: Start) -> AppAnswers:
    """Ask for the app until Autodesk accepts it."""
    heading("1. App")
    say(
        f"dcsync calls the API as an app that you create once at {PORTAL} (Applications, Create application, "
        "Traditional Web App). The page of the app shows its client ID and its client secret, and has a field for "
        "callback URLs. To sign in with a browser, enter this callback URL there:"
    )
    show(start.given.get("redirect_uri", CALLBACK))
    earlier = start.earlier()
    known = start.given.get("client_id") or (None if earlier is None else earlier.client_id)
    app = AppAnswers(client_id=known or ask("Client ID", word), secret=None)
    app = _with_secret(start, app)
    while app.secret is not None:
        refusal = _refusal(start, app)
        if refusal is None:
            break
        say(f"Autodesk refuses the app: {refusal}. Compare both values with the page of the app.")
        app = _corrected(start, app, refusal)
    return app


def _with_secret(start: Start, app: AppAnswers) -> AppAnswers:
    """Return the app with the secret that is stored already, or else with a typed one."""
    secret = start.secret()
    place = start.file_of(secret)
    if place is None or os.path.lexists(place):
        say(f"The client secret is in {place or secret}.")
        return replace(app, secret=secret)
    return _ask_secret(app, secret, needed="client_secret" in start.given)


def _ask_secret(app: AppAnswers, secret: str, *, needed: bool) -> AppAnswers:
    def check(text: str) -> str:
        if not text.isprintable():
            message = "the secret contains a control character: paste it again"
            raise click.BadParameter(message)
        return reference(text) if text.partition(":")[0] in {"env", "file", "credential"} else text

    question = "Client secret (not shown while you type or paste it"
    question += ")" if needed else "; Enter if the app has none)"
    while True:
        text = ask(question, check, default=None if needed else "", hidden=True)
        if text.partition(":")[0] in {"env", "file", "credential"}:
            return replace(app, secret=text, typed=None)
        if text:
            return replace(app, secret=secret, typed=text)
        if agree("Is it a public app, without a client secret?", default=False):
            return replace(app, secret=None, typed=None)


def _corrected(start: Start, app: AppAnswers, refusal: str) -> AppAnswers:
    """Ask for both values again. A stored secret is replaced only if the user agrees."""
    secret = app.secret or ""
    place = start.file_of(secret)
    if place is None:
        raise ConfigError(refusal, hint=f"correct the client ID or {secret}, and run dcsync init again")
    app = replace(app, client_id=ask("Client ID", word, default=app.client_id))
    if app.typed is None and not agree(f"Replace the secret in {place}?"):
        return app
    return _ask_secret(app, secret, needed=True)


def _refusal(start: Start, app: AppAnswers) -> str | None:
    """Return why Autodesk refuses the app, or None if it accepts the app or cannot be asked."""
    from dcsync.cli.service_account_keys import app_config, root_environ
    from dcsync.cli.startup import run_async

    async def check() -> str | None:
        from dcsync.app.api import token_endpoint
        from dcsync.auth.endpoint import SCOPES

        config = app_config(start.place, app.client_id, app.typed or app.secret, start.base_url)
        try:
            await token_endpoint(config, environ=root_environ()).application_token(SCOPES)
        except ClientRejected as error:
            return error.message
        return None

    while True:
        try:
            return run_async(check())
        except SecretUnavailable as error:
            return error.message
        except TokenEndpointUnavailable as error:
            show_failure(error)
            if not agree("Check the app again?"):
                return None
