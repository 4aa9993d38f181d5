"""Company networks: a real proxy and a CA of one's own. Only the proxy can resolve the names (network.md)."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dcsync.app.alerts import alert_settings
from dcsync.app.api import open_api, token_endpoint
from dcsync.errors import AuthError, TokenEndpointUnavailable
from dcsync.ops.alerts.notify import send_heartbeat
from dcsync.sandbox import Fault, Synthetic, World
from tests.rigs import tinyproxy
from tests.rigs.ended import dying
from tests.rigs.examined import chain, examine, write_config
from tests.rigs.mirror import Mirror, add_extract, mirroring, tables
from tests.rigs.notified import CANARY, notification_server
from tests.rigs.tinyproxy import Tinyproxy
from tests.rigs.tls import Authority, make_authority, tls_front
from tests.rigs.waiting import until

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tool("tinyproxy"), pytest.mark.needs_tool("unshare")]

API, STORAGE, PING = "api.dcsync.test", "storage.dcsync.test", "ping.dcsync.test"
LOGIN = ("dcsync", "canary-of-the-proxy")
KINDS = ["configured", "secret", "environment", "lower case"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Company:
    """A mirror in a network whose only way out is the proxy."""

    mirror: Mirror
    proxy: Tinyproxy
    authority: Authority

    def set_proxy(self, kind: str = "configured", url: str | None = None) -> None:
        """Name the proxy in the configuration or in the environment, with its password if it has one."""
        if url is None:
            url = self.proxy.url if self.proxy.login is None else self.proxy.url_with_password
        network, environ = self.mirror.config["network"], self.mirror.environ
        match kind:
            case "configured":
                network["proxy"] = url
            case "secret":
                network["proxy"], environ["COMPANY_PROXY"] = "env:COMPANY_PROXY", url
            case "environment":
                environ["HTTPS_PROXY"] = environ["HTTP_PROXY"] = url
            case _:
                environ["https_proxy"] = environ["http_proxy"] = url


@asynccontextmanager
async def company(
    folder: Path, *, login: tuple[str, str] | None = None, denied: tuple[str, ...] = (), **options: Any
) -> AsyncIterator[Company]:
    """Run the sandbox with TLS under names that only the proxy knows, and a mirror of it."""
    authority = make_authority(folder)
    certificate = authority.issue(API, STORAGE)
    with tinyproxy.proxying(folder, hosts=[API, STORAGE, PING], login=login, denied=denied) as proxy:
        async with (
            mirroring(folder, **options) as mirror,
            tls_front(certificate, mirror.sandbox.base_url) as api_port,
            tls_front(certificate, mirror.sandbox.storage_url) as storage_port,
        ):
            mirror.sandbox.base_url = f"https://{API}:{api_port}"
            mirror.sandbox.storage_url = f"https://{STORAGE}:{storage_port}"
            mirror.config = {
                "api": {"allow_storage_hosts": [STORAGE]},
                "network": {"ca_file": str(authority.certificate)},
            }
            yield Company(mirror=mirror, proxy=proxy, authority=authority)


# --- the consumers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("login", [None, LOGIN])
async def test_the_api_and_the_storage_are_reached_through_the_proxy(
    tmp_path: Path, kind: str, login: tuple[str, str] | None
) -> None:
    async with company(tmp_path, login=login) as network:
        network.set_proxy(kind)
        # The sandbox checks the signature of the exact path.
        job = add_extract(network.mirror, {**tables(2), "it's a+~é%2F.csv": b"id\n1\n"})

        outcome = await network.mirror.sync_one()

        assert (outcome.error, outcome.failed) == (None, [])
        network.mirror.assert_identical(job)
        assert network.proxy.connects(API) > 0
        assert network.proxy.connects(STORAGE) > 0


@pytest.mark.parametrize("kind", KINDS)
async def test_the_token_endpoint_is_reached_through_the_proxy(tmp_path: Path, kind: str) -> None:
    async with company(tmp_path, login=LOGIN) as network:
        network.set_proxy(kind)
        chain(network.mirror)

        outcome = await network.mirror.sync_one()

        assert outcome.error is None
        assert network.mirror.sandbox.count("token", status=200) == 1


async def test_a_sign_in_reaches_the_token_endpoint_through_the_proxy(tmp_path: Path) -> None:
    async with company(tmp_path) as network:
        network.set_proxy("environment")
        chain(network.mirror)
        endpoint = token_endpoint(network.mirror.configuration(), environ=network.mirror.environ)

        with pytest.raises(AuthError, match="invalid_grant"):
            await endpoint.exchange("no code", verifier="v" * 43, redirect_uri="http://localhost:8080/callback")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_the_heartbeat_is_sent_through_the_proxy(tmp_path: Path, kind: str, scheme: str) -> None:
    async with company(tmp_path, login=LOGIN) as network, notification_server() as service:
        certificate = network.authority.issue(PING)
        async with tls_front(certificate, f"http://127.0.0.1:{service.port}") as secure_port:
            network.set_proxy(kind)
            port = service.port if scheme == "http" else secure_port
            network.mirror.config["heartbeat"] = {"url": f"{scheme}://{PING}:{port}/{CANARY}"}
            config = network.mirror.configuration()
            settings = alert_settings(config, network.mirror.stores(), environ=network.mirror.environ)
            assert settings.heartbeat is not None

            assert await send_heartbeat(settings.heartbeat, settings.network)

            assert service.heartbeats == [f"/{CANARY}"]


async def test_a_run_sends_its_heartbeat_through_the_proxy(tmp_path: Path) -> None:
    async with company(tmp_path) as network, notification_server() as service:
        network.set_proxy("environment")
        network.mirror.config["heartbeat"] = {"url": f"http://{PING}:{service.port}/{CANARY}"}
        add_extract(network.mirror, tables(1))

        await network.mirror.run()

        assert service.heartbeats == [f"/{CANARY}"]


def certificate_folder(network: Company) -> Path:
    """Return a folder that OpenSSL finds the authority in."""
    folder = network.mirror.folder / "certificates"
    folder.mkdir()
    (folder / "ca.pem").write_bytes(network.authority.certificate.read_bytes())
    subprocess.run(["openssl", "rehash", str(folder)], check=True)
    return folder


async def test_a_proxy_may_itself_use_tls(tmp_path: Path) -> None:
    async with (
        company(tmp_path, login=LOGIN) as network,
        tls_front(network.authority.issue("localhost"), network.proxy.url) as port,
    ):
        network.set_proxy(url=f"https://{LOGIN[0]}:{LOGIN[1]}@localhost:{port}")
        job = add_extract(network.mirror, tables(2))

        checks = await examine(network.mirror)
        await network.mirror.sync_one()

        assert checks["network"].message.endswith("TLSv1.3")
        network.mirror.assert_identical(job)


@pytest.mark.needs_tool("openssl")
@pytest.mark.parametrize("kind", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
async def test_a_process_obeys_the_environment_alone(tmp_path: Path, kind: str) -> None:
    """A user without a [network] section: HTTPS_PROXY and one of OpenSSL's variables are enough for everything."""
    async with company(tmp_path, login=LOGIN, world=World()) as network:
        add_extract(network.mirror, tables(1))
        del network.mirror.config["network"]
        environ = {
            **{name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
            **network.mirror.environ,
            "HTTPS_PROXY": network.proxy.url_with_password,
            kind: str(network.authority.certificate if kind == "SSL_CERT_FILE" else certificate_folder(network)),
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dcsync", "--config", write_config(network.mirror), "doctor"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environ,
        )
        async with dying(process):
            said = (await process.communicate())[0].decode()

        assert process.returncode == 0, said
        assert f"through the proxy {network.proxy.url} (HTTPS_PROXY), TLSv1.3" in said
        assert "requests.acme: 1 data request visible" in said
        assert LOGIN[1] not in said


# --- exceptions -------------------------------------------------------------------------------------------------------


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process resolve the names, too."""
    ask = socket.getaddrinfo

    def resolve(host: Any, *args: Any, **options: Any) -> Any:
        return ask("127.0.0.1" if host in {API, STORAGE} else host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@pytest.mark.usefixtures("resolved")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("direct", "proxied"), [(API, STORAGE), (STORAGE, API)])
async def test_no_proxy_is_honoured(tmp_path: Path, kind: str, direct: str, proxied: str) -> None:
    async with company(tmp_path) as network:
        network.set_proxy(kind)
        network.mirror.environ["NO_PROXY"] = f"elsewhere.test,{direct}"
        job = add_extract(network.mirror, tables(1))

        await network.mirror.sync_one()

        network.mirror.assert_identical(job)
        assert network.proxy.connects(direct) == 0
        assert network.proxy.connects(proxied) > 0


@pytest.mark.usefixtures("resolved")
async def test_none_ignores_the_environment(tmp_path: Path) -> None:
    async with company(tmp_path) as network:
        network.set_proxy("environment")
        network.mirror.config["network"]["proxy"] = "none"
        job = add_extract(network.mirror, tables(1))

        await network.mirror.sync_one()

        network.mirror.assert_identical(job)
        assert network.proxy.connects() == 0


# --- a proxy that does not work ---------------------------------------------------------------------------------------


async def test_a_proxy_that_dies_midway_delays_the_snapshot_only(tmp_path: Path) -> None:
    async with company(tmp_path) as network:
        mirror = network.mirror
        network.set_proxy("environment")
        staging = mirror.root / ".dcsync/staging"
        job = add_extract(mirror, {"large.csv": Synthetic(3 << 20)})
        mirror.sandbox.faults.add(Fault(server="storage", kind="slow", amount=1 << 20))

        async def kill_midway() -> None:
            await until(lambda: any(part.stat().st_size for part in staging.rglob("*.part")), "a download has begun")
            network.proxy.kill()

        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            tasks.create_task(kill_midway())
            outcome = await mirror.sync_one()
        codes = {failed.code for failed in outcome.failed} | {outcome.error.code if outcome.error else "S-NETWORK"}
        assert codes <= {"S-NETWORK", "A-NETWORK"}
        assert mirror.snapshots() == []

        network.proxy.start()
        mirror.clock.advance(3600)
        again = await mirror.sync_one()

        assert (again.error, again.failed) == (None, [])
        mirror.assert_identical(job)


@pytest.mark.parametrize(
    ("url", "problem", "hint"),
    [
        ("{url}", "requires a user name and a password (407 Proxy Authentication Required)", "network.proxy"),
        ("http://dcsync:wrong@127.0.0.1:{port}", "rejects the user name or the password (4", "the password"),
        ("http://127.0.0.1:9", "no connection to the proxy 127.0.0.1:9 (Connection refused)", "network.proxy"),
        ("http://[::1]:9", "no connection to the proxy [::1]:9 (", "network.proxy"),
        ("http://proxy.invalid:3128", "the name of the proxy proxy.invalid could not be resolved", "network.proxy"),
    ],
)
async def test_what_the_proxy_refuses_is_named_as_the_proxys(
    tmp_path: Path, url: str, problem: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = socket.getaddrinfo

    def resolve(host: Any, *args: Any, **options: Any) -> Any:
        if host == "proxy.invalid":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return ask(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    async with company(tmp_path, login=LOGIN) as network:
        network.set_proxy(url=url.format(url=network.proxy.url, port=network.proxy.port))
        add_extract(network.mirror, tables(1))

        check = (await examine(network.mirror))["network"]
        outcome = await network.mirror.sync_one()

        for message, advice in ((check.message, check.advice), (outcome.error.message, outcome.error.advice)):  # type: ignore[union-attr]
            assert problem in message
            assert hint in advice
            assert "wrong" not in message
        assert outcome.error is not None
        assert outcome.error.code == "A-NETWORK"
        # Nothing is wrong with the token.
        chain(network.mirror)
        with pytest.raises(TokenEndpointUnavailable, match="proxy") as caught:
            await _token(network.mirror)
        assert hint in caught.value.advice
        assert network.mirror.sandbox.calls == []


async def _token(mirror: Mirror) -> str:
    config = mirror.configuration()
    async with open_api(config, mirror.stores(), environ=mirror.environ, clock=mirror.clock) as opened:
        return await opened.client.tokens.access_token()


async def test_a_host_that_the_proxy_denies_is_named(tmp_path: Path) -> None:
    async with company(tmp_path, denied=(API,)) as network:
        network.set_proxy()

        checks = await examine(network.mirror)

        shown = f"the proxy {network.proxy.url} (network.proxy)"
        assert f"{shown} refuses to connect to the host (403 Filtered)" in checks["network"].message
        assert "allow this host" in checks["network"].advice


async def test_a_storage_host_that_the_proxy_denies_is_named(tmp_path: Path) -> None:
    async with company(tmp_path, denied=(STORAGE,)) as network:
        network.set_proxy("environment")
        add_extract(network.mirror, tables(1))

        outcome = await network.mirror.sync_one()

        (failed,) = outcome.failed
        assert failed.code == "S-NETWORK"
        assert f"storage: the proxy {network.proxy.url} (HTTPS_PROXY) refuses to connect" in failed.message
        assert "allow this host" in failed.hint


# --- doctor -----------------------------------------------------------------------------------------------------------


async def test_doctor_says_which_proxy_is_used_for_what(tmp_path: Path) -> None:
    async with company(tmp_path, login=LOGIN) as network:
        network.set_proxy("environment")
        network.mirror.environ["NO_PROXY"] = "ping.dcsync.test"
        network.mirror.config["heartbeat"] = {"url": f"https://{PING}/{CANARY}"}

        checks = await examine(network.mirror)

        shown = f"{network.proxy.url} (HTTPS_PROXY)"
        expected = f"{shown} for {API}, the storage; no proxy for the heartbeat; NO_PROXY: ping.dcsync.test"
        assert checks["proxy"].message == expected
        assert f"through the proxy {shown}, TLSv1" in checks["network"].message
        assert not any(LOGIN[1] in check.message or CANARY in check.message for check in checks.values())


async def test_doctor_names_a_proxy_variable_that_is_not_valid(tmp_path: Path) -> None:
    async with company(tmp_path) as network:
        network.mirror.environ["HTTPS_PROXY"] = "socks5://user:canary@proxy.test:1080"

        checks = await examine(network.mirror)

        assert checks["proxy"].message.startswith("HTTPS_PROXY names a proxy that is neither http:// nor https://")
        assert 'network.proxy = "none"' in checks["proxy"].advice
        assert checks["network"].message == "needs proxy"
        assert "canary" not in str(checks)


# --- certificates -----------------------------------------------------------------------------------------------------


async def test_a_certificate_that_is_not_trusted_names_the_cure(tmp_path: Path) -> None:
    async with company(tmp_path) as network:
        network.set_proxy()
        del network.mirror.config["network"]["ca_file"]
        add_extract(network.mirror, tables(1))

        check = (await examine(network.mirror))["network"]
        outcome = await network.mirror.sync_one()

        assert outcome.error is not None
        for message, advice in ((check.message, check.advice), (outcome.error.message, outcome.error.advice)):
            assert f"TLS with {API} failed (unable to get local issuer certificate)" in message
            assert "network.ca_file" in advice
            assert "inspects TLS" in advice


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "cannot be read: No such file or directory"), (b"\x30\x82", "contains no certificate in PEM format")],
)
async def test_a_ca_file_that_cannot_be_used_is_named(tmp_path: Path, content: bytes | None, problem: str) -> None:
    async with company(tmp_path) as network:
        place = tmp_path / "other.pem"
        if content is not None:
            place.write_bytes(content)
        network.mirror.config["network"]["ca_file"] = str(place)

        checks = await examine(network.mirror)

        assert checks["proxy"].message == f"network.ca_file {place} {problem}"


# --- secrets and limits -----------------------------------------------------------------------------------------------


async def test_a_signed_url_is_checked_before_the_proxy_sees_it(tmp_path: Path) -> None:
    urls = iter(["http://storage.dcsync.test/x", "https://10.0.0.1/x", "https://user@storage.dcsync.test/x"])
    async with company(tmp_path, sign=lambda _job, _name: next(urls)) as network:
        network.set_proxy()
        add_extract(network.mirror, tables(3))

        outcome = await network.mirror.sync_one()

        assert {failed.code for failed in outcome.failed} == {"S-UNSAFE"}
        assert network.proxy.connects() == network.proxy.connects(API) > 0


async def test_the_password_of_the_proxy_is_written_nowhere(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with company(tmp_path, login=LOGIN, denied=(STORAGE,)) as network:
        network.set_proxy("secret")
        add_extract(network.mirror, tables(1))

        await network.mirror.run()

        settings = alert_settings(
            network.mirror.configuration(), network.mirror.stores(), environ=network.mirror.environ
        )
        assert "COMPANY_PROXY" not in settings.environ
        assert LOGIN[1] not in repr(settings)
        for place in (network.mirror.root, network.mirror.state):
            assert not [path for path in place.rglob("*") if path.is_file() and LOGIN[1].encode() in path.read_bytes()]
        assert "".join(capfd.readouterr()).count(LOGIN[1]) == 0
