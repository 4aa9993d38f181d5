"""No secret comes out anywhere: not of a whole life at debug level, not of any error, not of the whole torture."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from dcsync.auth.token_store import TokenPair, TokenStore
from dcsync.errors import every_error
from dcsync.sandbox import Fault, World
from tests.rigs.canaries import BELONGS, MARKS, leaks_in, marks_in
from tests.rigs.ended import dying
from tests.rigs.mirror import tables
from tests.rigs.served import Served, served
from tests.rigs.waiting import until
from tests.test_canaries import assert_nowhere, command_line, secrets_of
from tests.torture.conftest import Figure

pytestmark = pytest.mark.timeout(600)

CLIENT_SECRET: Final = "canary-client-secret-7f3a9c"


@asynccontextmanager
async def daemon(side: Served, log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    with log.open("ab") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "dcsync", "--config", str(side.config), "--log-level", "debug", "--log-format", "json", "run"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    async with dying(process):
        yield process


COMMANDS: Final = (
    *(("sync", "--json"), ("status", "--json"), ("jobs", "--json"), ("requests",), ("doctor", "--json")),
    *(("hooks", "list", "--json"), ("verify", "--json"), ("diff", "--json"), ("prune", "--dry-run"), ("rebuild",)),
    *(("sync", "--dry-run"), ("logout",), ("jobs",)),
)


def add_faults(side: Served) -> None:
    """Let everything go wrong once that shows an address or a token to whoever handles it."""
    elsewhere = {"Location": "https://h.example/?X-Amz-Signature=canary-location"}
    for fault in (
        Fault(server="storage", kind="cut", amount=10),
        Fault(server="storage", kind="reset"),
        Fault(server="storage", kind="expired"),
        Fault(server="storage", kind="status", status=503, body=b"<Error><Code>SlowDown</Code></Error>"),
        Fault(server="storage", kind="status", status=307, headers=elsewhere),
        Fault(server="api", kind="status", status=500, body=b"<html>oops</html>", match="data-listing"),
        Fault(server="api", kind="reset", match="data-listing"),
    ):
        side.sandbox.faults.add(fault)


def environment(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


async def live(side: Served, port: int, seen: dict[str, bytes]) -> None:
    """Let a daemon work, look at all that it shows, take its token away, and kill it in the middle."""
    folder, tokens = side.folder, side.sandbox.tokens
    async with daemon(side, folder / "daemon.log") as process:
        await until(lambda: list(side.root.glob("acme/*/[0-9]*/**/_dcsync.json")), "a snapshot")
        seen["ps"] = command_line(process.pid).encode()
        seen["environ"] = environment(process.pid)
        async with aiohttp.ClientSession() as session:
            for path in ("/", "/healthz", "/metrics", "/callback/wrong?X-Amz-Signature=x"):
                async with session.get(f"http://127.0.0.1:{port}{path}") as answer:
                    seen[f"page {path}"] = await answer.read() + repr(answer.headers).encode()
        seen["the manifest's log"] = (side.state / "manifest.sqlite-wal").read_bytes()
        tokens.revoke_access()
        side.sandbox.faults.add(Fault(server="token", kind="garble-after-commit"))
        side.sandbox.world.add_job(next(iter(side.sandbox.world.requests)), files=tables(4, seed=9))
        before = side.sandbox.count("token")
        process.send_signal(signal.SIGUSR1)
        await until(lambda: side.sandbox.count("token") > before, "a refresh")
        process.send_signal(signal.SIGKILL)
        await process.wait()


async def test_a_whole_life_at_debug_level_lets_no_secret_out(
    tmp_path: Path, unused_tcp_port: int, figure: Figure
) -> None:
    """Fault S9: daemon and command line, pages, hooks, sidecars, the manifest with its log, `ps`, and a kill."""
    world = World(seed=11)
    seen: dict[str, bytes] = {}
    with served(tmp_path, world, client_secret=CLIENT_SECRET) as side:
        request = world.add_request("Nightly")
        for day in range(3):
            world.add_job(request, files=tables(6, seed=day), with_archive=day != 1)
        store = sign_in(side)
        hook = ["/bin/sh", "-c", f"cat >> {tmp_path}/hook.jsonl; env >> {tmp_path}/hook.env"]
        side.write_config(
            auth=(
                'method = "login"',
                'client_id = "sandbox"',
                f'client_secret = "file:{tmp_path / "client-secret"}"',
                f'[http]\nlisten = "127.0.0.1:{unused_tcp_port}"',
                f'[metrics]\ntextfile = "{tmp_path / "figures.prom"}"',
                f'[[hook]]\non = ["snapshot", "alert", "failure"]\nrun = {json.dumps(hook)}',
            )
        )
        add_faults(side)
        await live(side, unused_tcp_port, seen)
        side.sandbox.faults.clear()
        store.save(TokenPair(refresh_token=side.sandbox.tokens.issue_refresh_token("anna")))
        for arguments in COMMANDS:
            started = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "dcsync", "--config", str(side.config), "--log-level", "debug", *arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            seen[f"ps {arguments}"] = command_line(started.pid).encode()
            seen[f"output of {arguments}"], _ = await started.communicate()
        secrets = secrets_of(side)
    assert len(secrets) > 20
    written = written_below(tmp_path)
    assert {"hook.jsonl", "hook.env", "figures.prom", "daemon.log", "mirror/index.html"} <= written.keys()
    assert any(name.startswith("state/manifest.sqlite.replaced-") for name in written)
    everything = seen | written
    assert not [place for place, body in everything.items() if b"Traceback" in body]
    assert_nowhere(secrets, everything)
    assert not [f"{what} in {place}" for place, body in everything.items() for what in marks_in(body)]
    size = sum(map(len, everything.values()))
    figure(
        "a whole life at debug level",
        f"{len(everything)} artefacts, {size >> 10:,} KiB, {len(secrets)} secrets, none came out",
    )


def sign_in(side: Served) -> TokenStore:
    secret = side.folder / "client-secret"
    secret.write_text(CLIENT_SECRET)
    secret.chmod(0o600)
    side.state.mkdir(mode=0o700)
    store = TokenStore(side.state)
    store.save(TokenPair(refresh_token=side.sandbox.tokens.issue_refresh_token("anna")))
    return store


def written_below(folder: Path) -> dict[str, bytes]:
    """Return every file but those where secrets belong."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not BELONGS.fullmatch(path.name)
    }


FORCED: Final = """
    import asyncio, logging, sys
    import aiohttp, structlog
    from multidict import CIMultiDict, CIMultiDictProxy
    from yarl import URL
    from dcsync import log
    from dcsync.cli.group import show_bug
    from dcsync.errors import ConfigInvalid, ConfigMistake, LoadFailed, ValueRefused, every_error

    token, url, secret, form = sys.argv[1:]
    log.configure("debug", form, stream=sys.stderr)
    said = structlog.get_logger("forced")
    headers = {"Authorization": f"Bearer {token}", "x-amz-security-token": secret}
    where = URL(url, encoded=True)
    info = aiohttp.RequestInfo(where, "GET", CIMultiDictProxy(CIMultiDict(headers)), where)
    words = (
        f"GET {url} failed",
        f"the answer was {{'access_token': '{token}', 'refresh_token': '{secret}'}}",
        f'the answer was {{"access_token": "{token}", "refresh_token": "{secret}", "client_secret": "{secret}"}}',
        f"sent Authorization: Bearer {token} and client_secret={secret}&code={secret}",
    )

    def made():
        for kind in every_error():
            for text in words:
                if kind is ConfigInvalid:
                    yield kind((ConfigMistake(file="c", line=1, key="auth", message=text),))
                elif issubclass(kind, ValueRefused):
                    yield kind(text, "table", text, column="id", place="row 1")
                elif issubclass(kind, LoadFailed):
                    yield kind(text, "table", text)
                else:
                    yield kind(text)
        yield aiohttp.ClientResponseError(info, (), status=403, message="Forbidden", headers=info.headers)
        yield aiohttp.TooManyRedirects(info, ())
        yield aiohttp.InvalidURL(where)
        yield aiohttp.NonHttpUrlRedirectClientError(where)
        for text in words:
            for kind in (ValueError, KeyError, RuntimeError, OSError, AssertionError, UnicodeError):
                yield kind(text)
            yield ExceptionGroup("several", [ValueError(text), aiohttp.ClientPayloadError(text)])

    def deep(error, depth, token=token, url=url, secret=secret):
        password = {"token": token, "url": url}
        if depth:
            return deep(error, depth - 1)
        try:
            raise LookupError(url)
        except LookupError as cause:
            raise error from cause

    count = 0
    for error in made():
        count += 1
        try:
            deep(error, 3)
        except Exception as caught:
            said.exception("it went wrong", url=url, token=token, headers=headers, error=caught, body=str(caught))
            logging.getLogger("library").error("it went wrong with %s", caught, exc_info=True)
            said.debug(f"the rest: {caught}")
            show_bug(caught)
    print(count)
"""


@pytest.mark.parametrize("form", ["json", "console"])
async def test_no_error_of_any_class_shows_a_secret_in_its_traceback(tmp_path: Path, figure: Figure, form: str) -> None:
    """Fault S9, the second net: each class forced through the log and the last line of defence, with its locals."""
    token = "eyJhbGciOiAiUlMyNTYifQ.eyJ1c2VyIjogMX0.canary-signature-part"
    url = (
        "https://bucket.s3.amazonaws.com/dc/a.csv?AWSAccessKeyId=ASIASANDBOX7EXAMPLE&Signature=canary-sig%2B"
        "&x-amz-security-token=canary-session&X-Amz-Signature=canary-sig4"
    )
    secret = "canary-refresh-or-client-secret"
    script = tmp_path / "forced.py"
    script.write_text(textwrap.dedent(FORCED))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(script), token, url, secret, form),
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()[-2000:]
    (tmp_path / f"forced-{form}.log").write_bytes(err)

    assert int(out) > 4 * len(list(every_error()))
    assert err.count(b"Traceback") >= int(out) * 3
    assert marks_in(err) == []
    assert b"bucket.s3.amazonaws.com/dc/a.csv" in err
    figure(f"forced tracebacks, {form}", f"{int(out)} errors of every class, {len(err) >> 10:,} KiB, no secret")


# --- the whole torture ------------------------------------------------------------------------------------------------


@pytest.mark.last
@pytest.mark.timeout(3600)  # the other workers may have long tests to run
def test_no_file_that_the_torture_left_holds_a_secret(left_by_all: Path, figure: Figure) -> None:
    """Fault S9: everything below pytest's folder, after all the others, but the stores where secrets belong."""
    found, files, size = leaks_in(left_by_all)

    assert found == []
    figure("files that the torture left", f"{files:,} files, {size >> 20:,} MiB, no secret")


@pytest.mark.parametrize("what", MARKS)
def test_the_last_look_finds_a_secret_in_any_form(tmp_path: Path, what: str) -> None:
    """Planted in a copy of what a run leaves, plain, encoded, across two pieces, behind a hole, in a name."""
    mark = MARKS[what]
    secret = mark + b"0123456789"
    plants = {
        "plain.log": b"x" * 999 + secret,
        "wide.log": ("y" + secret.decode()).encode("utf-16-le"),
        "hex.log": b"z" + secret.hex().encode(),
        "across.bin": b"x" * ((1 << 20) - len(mark) // 2) + secret,
        **{f"base64-{shift}.log": base64.b64encode(b"q" * shift + secret) for shift in range(3)},
    }
    try:
        for name, body in plants.items():
            (tmp_path / name).write_bytes(body)
        with (tmp_path / "sparse.bin").open("wb") as sparse:
            sparse.seek(5 << 20)
            sparse.write(secret)
        (tmp_path / "link").symlink_to(b"nowhere/".decode() + secret.decode().replace("/", ""))
        (tmp_path / "config.toml").write_bytes(secret)
        (tmp_path / "token.json").write_bytes(secret)
        found, files, _ = leaks_in(tmp_path)
    finally:
        # What was planted must not be found again at the end.
        for path in tmp_path.iterdir():
            path.unlink()

    assert files == len(plants) + 1
    assert {place.rpartition("/")[2] for place in found if place.startswith(what)} == {*plants, "sparse.bin", "link"}
