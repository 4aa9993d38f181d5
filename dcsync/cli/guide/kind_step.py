"""The second step: who signs in. A service account is created here, with its key."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from dcsync.cli.guide.app_step import CALLBACK, AppAnswers, Start
from dcsync.cli.guide.asking import agree, ask, heading, pick, say, show, show_failure, word
from dcsync.cli.guide.commands import Commands
from dcsync.cli.login import has_browser
from dcsync.cli.new_config import KEY_CREDENTIAL, REFRESH_TOKEN, callback_url, reference
from dcsync.errors import TokenEndpointUnavailable


class Kind(Enum):
    """Who signs in, and how."""

    BROWSER = "you, with a browser on this machine"
    ELSEWHERE = "you, with a browser on another machine"
    CREATED = "a new service account, which signs in with a key (best on a server)"
    EXISTING = "an existing service account, whose key you have in a file"
    RENEWED = "a refresh token of another program"


_SERVICE_ACCOUNTS = (Kind.CREATED, Kind.EXISTING)


def ask_kind(start: Start, app: AppAnswers) -> Kind:
    """Ask who signs in, unless the options say so."""
    given = start.given
    person = Kind.BROWSER if has_browser() else Kind.ELSEWHERE
    match given.get("method"):
        case "login":
            return person
        case "token":
            return Kind.RENEWED
        case "service-account":
            return Kind.EXISTING if _names_account(given) else Kind.CREATED
        case _:
            pass
    if start.earlier() is not None:
        return Kind.CREATED
    heading("2. Sign-in")
    say("Autodesk shows every user only the data requests that this user created. Who signs in?")
    kinds: list[Kind] = [
        kind for kind in Kind if kind is not Kind.RENEWED and (app.secret or kind not in _SERVICE_ACCOUNTS)
    ]
    default = Kind.CREATED if start.is_service and app.secret else person
    if _names_account(given):
        default = Kind.EXISTING
    chosen = None
    while not isinstance(chosen, int):
        chosen = pick("Number", [kind.value for kind in kinds], default=str(kinds.index(default) + 1))
    return kinds[chosen]


def _names_account(given: Mapping[str, str]) -> bool:
    return any(name in given for name in ("service_account", "key_id", "private_key"))


def kind_values(start: Start, app: AppAnswers, kind: Kind) -> dict[str, str]:
    """Return the values of the configuration for this kind of sign-in."""
    given = start.given
    match kind:
        case Kind.BROWSER | Kind.ELSEWHERE:
            return _person(start, app)
        case Kind.RENEWED:
            token = given.get("refresh_token") or ask(
                "Reference to the refresh token", reference, default=REFRESH_TOKEN
            )
            return {"method": "token", "refresh_token": token}
        case Kind.EXISTING:
            own = f"file:{start.place.absolute().parent / 'service-account.pem'}"
            own = f"credential:{KEY_CREDENTIAL}" if start.is_service else own
            key = "Reference to its private key (PEM)"
            return {
                "method": "service-account",
                "service_account": given.get("service_account") or ask("ID of the service account", word),
                "key_id": given.get("key_id") or ask("ID of its key", word),
                "private_key": given.get("private_key") or ask(key, reference, default=own),
            }
        case Kind.CREATED:
            return _create(start, app)


def _person(start: Start, app: AppAnswers) -> dict[str, str]:
    """Ask for the callback URL until Autodesk shows its sign-in page. The client ID of a public app is checked here."""
    client_id = app.client_id
    url = start.given.get("redirect_uri") or ask("Callback URL of the app", callback_url, default=CALLBACK)
    refused: list[tuple[str, str]] = []
    while words := _page_refusal(start, client_id, url):
        say(f"Autodesk refuses the sign-in page: {words}. The page of the app must have the callback URL")
        show(url)
        say(f"and the client ID {client_id}. Correct the page and press Enter, or enter another value.")
        if (client_id, url) in refused and agree("Keep these values anyway?", default=False):
            break
        refused.append((client_id, url))
        if app.secret is None:
            client_id = ask("Client ID", word, default=client_id)
        url = ask("Callback URL of the app", callback_url, default=url)
    return {"method": "login", "client_id": client_id, "redirect_uri": url}


def _page_refusal(start: Start, client_id: str, url: str) -> str:
    from dcsync.cli.service_account_keys import app_config, root_environ
    from dcsync.cli.startup import run_async

    async def check() -> str:
        from dcsync.app.api import token_endpoint
        from dcsync.ops.login import page_refusal

        config = app_config(start.place, client_id, None, start.base_url)
        return await page_refusal(token_endpoint(config, environ=root_environ()), redirect_uri=url)

    try:
        return run_async(check())
    except TokenEndpointUnavailable as error:
        show_failure(error)
        return ""


def _create(start: Start, app: AppAnswers) -> dict[str, str]:
    """Create the service account and its key, or continue what an earlier run began."""
    from dcsync.cli.service_account_keys import default_name, valid_name

    earlier = start.earlier()
    if earlier is None:
        name = ask("Name of the service account", valid_name, default=default_name())
    else:
        name = earlier.name
        say(f"An earlier run began to create the service account {name}. This run continues.")
    line = ["service-account", "create", name, "--json"]
    line += ["--client-id", app.client_id, "--client-secret", app.secret or ""]
    line += [] if start.base_url is None else ["--base-url", start.base_url]
    made = Commands(start.place).answer(*line)
    if made.status:
        raise made.stop()
    made.show()
    auth = made.value["auth"]
    say(f"The service account is {made.value['email']}. Its private key is in {made.value['key_file']} (mode 0600).")
    return {
        "method": "service-account",
        "client_secret": auth["client_secret"],
        "service_account": auth["service_account_id"],
        "key_id": auth["key_id"],
        "private_key": auth["private_key"],
    }
