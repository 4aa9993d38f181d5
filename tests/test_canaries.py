"""Secrets planted wherever one can be, and looked for wherever one could come out (faults.md S9, promise 6)."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from dcsync.sandbox import Fault
from dcsync.sandbox.world import World
from tests.auth.test_assertion import pem, public
from tests.cli.test_login import address_shown, consent, login
from tests.rigs.ended import dying
from tests.rigs.mirror import tables
from tests.rigs.served import Served, served

CLIENT_SECRET = "canary-client-secret-7f3a9c"
SERVICE_ACCOUNT = "SERVICEACCOUNT9"


@dataclass(slots=True)
class Heard:
    """Everything that came out of the processes."""

    text: list[str] = field(default_factory=list)
    command_lines: list[str] = field(default_factory=list)


@pytest.fixture
def side(tmp_path: Path, unused_tcp_port: int) -> Iterator[Served]:
    redirect_uri = f"http://localhost:{unused_tcp_port}/callback"
    world = World(seed=9)
    with served(tmp_path, world, client_secret=CLIENT_SECRET, redirect_uris=(redirect_uri,)) as ready:
        request = world.add_request("Nightly")
        for _ in range(2):
            world.add_job(request, files=tables(4))
        ready.sandbox.tokens.service_accounts[SERVICE_ACCOUNT] = {"key-1": public()}
        secret, key = tmp_path / "client-secret", tmp_path / "key.pem"
        secret.write_text(CLIENT_SECRET)
        key.write_text(pem())
        for path in (secret, key):
            path.chmod(0o600)
        write_config(ready, "login", f'redirect_uri = "{redirect_uri}"')
        yield ready


def write_config(side: Served, method: str, *lines: str) -> None:
    side.write_config(
        auth=(
            f'method = "{method}"',
            'client_id = "sandbox"',
            f'client_secret = "file:{side.folder / "client-secret"}"',
            *lines,
        )
    )


def command_line(pid: int) -> str:
    """Return what `ps` shows of a process to everybody; nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


async def run(side: Served, heard: Heard, *arguments: str, **environ: str) -> int:
    """Run a command at debug level, and look at its command line while it runs, as `ps` would."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "dcsync", "--config", str(side.config), "--log-level", "debug", *arguments),
        env={**os.environ, **environ},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with dying(process):
        heard.command_lines.append(command_line(process.pid))
        out, err = await process.communicate()
    heard.text += [out.decode(), err.decode()]
    return process.returncode or 0


def secrets_of(side: Served) -> dict[str, str]:
    """Return every secret that went over the wire or lies in a file, by what it is."""
    tokens = side.sandbox.tokens
    found = {"client secret": CLIENT_SECRET, "private key": pem().splitlines()[1]}
    found |= {f"access token {number}": token for number, token in enumerate(tokens._access)}
    found |= {f"refresh token {number}": token for number, token in enumerate(tokens._refresh)}
    for number, call in enumerate(side.sandbox.calls):
        if call.server == "storage":
            found[f"signature {number}"] = call.query["Signature"]
        for name in ("authorization",):
            if name in call.headers:
                found[f"{name} {number}"] = call.headers[name].partition(" ")[2]
    return found


def assert_nowhere(secrets: dict[str, str], where: dict[str, bytes]) -> None:
    # In the forms that a URL, JSON or a listing would give it.
    leaks = [
        f"{what} in {place}"
        for what, secret in secrets.items()
        for place, body in where.items()
        if secret.encode() in body or secret[:24].encode() in body
    ]
    assert leaks == []


def files_of(side: Served, *, but: Callable[[Path], bool]) -> dict[str, bytes]:
    return {
        str(path.relative_to(side.folder)): path.read_bytes()
        for path in side.folder.rglob("*")
        if path.is_file() and not but(path)
    }


def is_a_store(path: Path) -> bool:
    return path.name.startswith("token.") or path.name in {"client-secret", "key.pem"}


async def test_no_secret_comes_out_anywhere(side: Served) -> None:
    heard = Heard()
    faults = side.sandbox.faults

    # Signing in, by hand.
    async with login(side) as process:
        heard.command_lines.append(command_line(process.pid))
        address = await address_shown(process)
        redirect = await consent(address)
        out, err = await process.communicate(f"{redirect}\n".encode())
        heard.text += [out.decode(), err.decode()]
    code = parse_qs(urlsplit(redirect).query)["code"][0]

    # The work, and everything that can go wrong on the way.
    assert await run(side, heard, "accounts") == 0
    faults.add(Fault(server="storage", kind="status", status=503, body=b"<Error><Code>SlowDown</Code></Error>"))
    faults.add(Fault(server="storage", kind="cut", amount=10))
    faults.add(Fault(server="storage", kind="reset"))
    faults.add(Fault(server="storage", kind="expired"))
    faults.add(Fault(server="api", kind="status", status=500, body=b"<html>oops</html>"))
    faults.add(Fault(server="api", kind="reset", match="data-listing"))
    await run(side, heard, "sync")
    await run(side, heard, "sync")
    await run(side, heard, "status", "--json")
    await run(side, heard, "jobs", "--json")
    side.sandbox.tokens.revoke_access()
    faults.add(Fault(server="token", kind="garble-after-commit"))
    await run(side, heard, "jobs")  # undecided: half of an answer with two tokens in it
    faults.clear()
    side.sandbox.tokens.live_refresh_tokens.clear()
    await run(side, heard, "logout", "--local")

    # A service account; and a key that is none.
    more = (f'service_account_id = "{SERVICE_ACCOUNT}"', 'key_id = "key-1"')
    write_config(side, "service-account", *more, f'private_key = "file:{side.folder / "key.pem"}"')
    assert await run(side, heard, "sync") == 0
    side.sandbox.tokens.service_accounts.clear()
    assert await run(side, heard, "jobs") == 12
    write_config(side, "service-account", *more, 'private_key = "env:DCSYNC_CANARY"')
    assert await run(side, heard, "jobs", DCSYNC_CANARY="canary-broken-key-51b2") == 2

    secrets = secrets_of(side) | {"code": code, "broken key": "canary-broken-key-51b2"}
    assert len(secrets) > 20
    said = {f"output {number}": text.encode() for number, text in enumerate(heard.text)}
    assert sum(map(len, said.values())) > 3000
    assert_nowhere(secrets, said)
    assert_nowhere(secrets, {f"ps {number}": line.encode() for number, line in enumerate(heard.command_lines)})
    written = files_of(side, but=is_a_store)
    assert any(name.startswith("mirror/acme/") for name in written)
    assert_nowhere(secrets, written)
    assert not any("Traceback" in text for text in heard.text)


def test_the_net_catches_a_leak(side: Served) -> None:
    with pytest.raises(AssertionError, match="client secret in a file"):
        assert_nowhere(secrets_of(side), {"a file": f"so {CLIENT_SECRET}!".encode()})
