"""The reachability check names the failed step (name, connection, TLS) and makes no API call."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dcsync.api.reach import Reached, reach
from dcsync.core.proxies import one_proxy
from dcsync.errors import ApiUnreachable
from dcsync.network import Network


def make_certificate(folder: Path) -> Path:
    """Write a self-signed certificate for 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


@asynccontextmanager
async def listening(certificate: Path | None = None) -> AsyncIterator[int]:
    """Listen on loopback, with TLS if there is a certificate, and never respond."""
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)

    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    server = await asyncio.start_server(close, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_a_connection_without_tls_is_reported_as_one() -> None:
    async with listening() as port:
        assert await reach(f"http://127.0.0.1:{port}/path") == Reached(address="127.0.0.1", port=port, tls=None)


async def test_a_certificate_that_is_trusted_gives_tls(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    async with listening(certificate) as port:
        context = ssl.create_default_context(cafile=str(certificate))

        assert (await reach(f"https://127.0.0.1:{port}", network=Network(tls=context))).tls == "TLSv1.3"


async def test_an_untrusted_certificate_is_reported(tmp_path: Path) -> None:
    async with listening(make_certificate(tmp_path)) as port:
        with pytest.raises(ApiUnreachable, match=r"TLS with 127.0.0.1 failed \(self-signed certificate\)") as caught:
            await reach(f"https://127.0.0.1:{port}")

    assert "network.ca_file" in caught.value.advice


async def test_a_server_without_tls_is_reported() -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ApiUnreachable, match=r"TLS with 127.0.0.1 failed \(WRONG_VERSION_NUMBER\)"):
            await reach(f"https://127.0.0.1:{port}")


async def test_a_closed_port_is_reported() -> None:
    async with listening() as port:
        pass

    with pytest.raises(ApiUnreachable, match=rf"no connection to 127.0.0.1:{port} \(Connection refused\)"):
        await reach(f"http://127.0.0.1:{port}")


async def test_an_unknown_name_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)

    with pytest.raises(ApiUnreachable, match=r"the name api.test could not be resolved \(Name or service not known\)"):
        await reach("https://api.test")


async def test_text_that_cannot_be_a_name_is_reported() -> None:
    with pytest.raises(ApiUnreachable, match=r"could not be resolved \(not a valid host name\)"):
        await reach("https://two..dots")


async def test_several_addresses_that_refuse_are_one_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening() as port:
        pass
    both: list[Any] = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("127.0.0.1", "127.0.0.2")
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)

    with pytest.raises(ApiUnreachable, match=rf"no connection to api.test:{port} \("):
        await reach(f"http://api.test:{port}")


# --- proxies (tests/test_network.py has a real one) -------------------------------------------------------------------


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[Network]:
    """A network whose proxy gives this answer to every request."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield Network(proxies=one_proxy(url, {}, source="network.proxy"))


NTLM = b"HTTP/1.1 407 Denied\r\nProxy-Authenticate: NTLM\r\nproxy-authenticate: Negotiate\r\nContent-Length: 0\r\n\r\n"
BASIC = NTLM.replace(b"Negotiate", b'Basic realm="x"')


@pytest.mark.parametrize(
    ("answer", "problem", "hint"),
    [
        (NTLM, "accepts only NTLM, Negotiate, which dcsync does not support (407 Denied)", "cntlm"),
        (BASIC, "requires a user name and a password (407 Denied)", "the user name and the password"),
        (b"HTTP/1.1 502 Bad\r\nContent-Length: 0\r\n\r\n", "cannot reach the host (502 Bad)", "network.proxy"),
        (b"HTTP/1.1 403 \x1b[31m\r\nContent-Length: 0\r\n\r\n", "(403 \\x1b[31m)", "allow this host"),
    ],
)
async def test_the_refusal_of_a_proxy_is_explained_alike_by_doctor_and_by_a_call(
    answer: bytes, problem: str, hint: str
) -> None:
    async with answering(answer) as network:
        with pytest.raises(ApiUnreachable) as caught:
            await reach("https://api.test", network=network)
        assert problem in str(caught.value)
        assert hint in caught.value.advice

        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError) as raised:
                await session.get("https://api.test", **network.route("https://api.test"))
        failure = network.explain(raised.value, "https://api.test")
        if b"\x1b" not in answer:  # aiohttp refuses such a status line itself
            assert failure.reason == str(caught.value)
            assert failure.hint == caught.value.advice


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH\r\n\r\n", b"", b"x" * 100_000])
async def test_what_is_no_proxy_is_named(answer: bytes) -> None:
    async with answering(answer) as network:
        with pytest.raises(ApiUnreachable, match=r"is not an HTTP proxy|through the proxy http"):
            await reach("https://api.test", network=network)
