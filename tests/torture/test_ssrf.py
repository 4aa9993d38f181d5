"""Signed URLs that lead where dcsync must not go: refused before any connection (docs/project/faults.md S6, S7, S8)."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from dcsync.api.storage import PublicResolver, Storage, open_storage
from dcsync.core.model import SignedFile
from dcsync.core.urls import StoragePolicy
from dcsync.errors import StorageUnreachable, UnsafeUrl
from dcsync.sandbox import Fault
from tests.rigs.connections import watched
from tests.rigs.mirror import add_extract, mirroring, tables
from tests.torture.conftest import Figure

PUBLIC: Final = "93.184.216.34"
HOST: Final = "bucket.s3.amazonaws.com"
CANARY: Final = "canary-query-5e1f"
TAIL: Final = f"/dc-extracts/a.csv?X-Amz-Signature={CANARY}"

SCHEMES: Final = str.split(
    "http file ftp ftps gopher dict ldap ldaps jar data javascript tftp sftp ssh ws wss s3 gs blob view-source netdoc "
    "smb unix about mailto php git"
)

#: Addresses that are not public, in the forms that RFC 3986 knows.
LITERALS: Final = """
    127.0.0.1 127.0.0.2 127.255.255.254 127.1.1.1 0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.255
    169.254.0.1 169.254.169.254 169.254.170.2 169.254.169.123 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.8 192.0.2.1
    192.168.0.1 192.168.255.255 198.18.0.1 198.19.255.255 198.51.100.7 203.0.113.9 224.0.0.1 239.255.255.250
    240.0.0.1 255.255.255.255 100.100.100.200
    [::] [::1] [0:0:0:0:0:0:0:1] [::0001] [::ffff:127.0.0.1] [::ffff:7f00:1] [::ffff:169.254.169.254] [::ffff:a9fe:a9fe]
    [::ffff:10.0.0.1] [::ffff:0.0.0.0] [::127.0.0.1] [::7f00:1] [::a9fe:a9fe] [64:ff9b::7f00:1]
    [64:ff9b::169.254.169.254]
    [64:ff9b:1::1] [2002:7f00:1::] [2002:a9fe:a9fe::] [2002:a00:1::1] [2002:c0a8:1::] [fe80::1] [febf::1] [fec0::1]
    [fc00::1] [fd00:ec2::254] [fdff::1] [ff02::1] [ff0e::1] [100::1] [2001:db8::1] [2001:0:7f00:1::] [2001:10::1]
    [::ffff:0:127.0.0.1] [0000:0000:0000:0000:0000:ffff:7f00:0001]
""".split()  # noqa: SIM905 - a table

#: The same in the forms that only old resolvers know.
NUMBERS: Final = """
    2130706433 2852039166 3232235521 167772161 0 4294967295 127.1 127.0.1 127.1.1 10.1 169.254.43518 192.168.257
    0177.0.0.1 0177.1 017700000001 0x7f.0.0.1 0x7f.1 0x7f000001 0x7F000001 0xa9fea9fe 0xA9.0xFE.0xA9.0xFE 0x7f.0x1
    127.000.000.001 0300.0250.0.1 00000177.1 0x 0x0 1 00 999999999999 256.256.256.256 1.2.3 1.2.3.4.5 localhost.0x7f
    127.0.0.1.1 0x7f.0.0.0x1
""".split()  # noqa: SIM905 - a table

#: What a resolver inside of a cloud or a company answers with an address of its own.
NAMES: Final = """
    localhost LOCALHOST localhost.localdomain ip6-localhost foo.localhost metadata metadata.google.internal
    metadata.goog instance-data instance-data.ec2.internal metadata.azure.internal metadata.packet.net kubernetes
    kubernetes.default.svc kubernetes.default.svc.cluster.local host.docker.internal gateway.docker.internal
    consul.service.consul vault.internal intranet router wpad 127.0.0.1.nip.io 169-254-169-254.sslip.io
    localtest.me lvh.me vcap.me 1u.ms a.7f000001.rbndr.us db.corp.example.com printer.local
""".split()  # noqa: SIM905 - a table

ODD: Final = [
    # User information, and what looks like it to another parser.
    f"https://user@{HOST}",
    f"https://user:pass@{HOST}",
    f"https://@{HOST}",
    f"https://:@{HOST}",
    f"https://{HOST}@127.0.0.1",
    f"https://{HOST}:443@127.0.0.1",
    f"https://{HOST}%2F@127.0.0.1",
    f"https://127.0.0.1\\@{HOST}",
    f"https://{HOST}\\@127.0.0.1",
    f"https://{HOST}#@127.0.0.1",
    f"https://127.0.0.1#@{HOST}",
    f"https://127.0.0.1?@{HOST}",
    f"https://127.0.0.1;@{HOST}",
    f"https://a@b@{HOST}",
    # Ports.
    *(f"https://{HOST}:{port}" for port in (0, 1, 22, 25, 80, 442, 444, 2375, 6379, 8080, 8443, 9200, 65535)),
    *(
        f"https://{HOST}:{port}"
        for port in ("99999", "-1", "x", "443x", "4 43", "٤٤٣", "0x1bb", "443:443", "%34%34%33")
    ),
    # Line breaks, blanks, controls.
    *(
        f"https://{HOST}{sign}"
        for sign in ("\r\nHost: 127.0.0.1", "\r", "\n", "\t", "\0", "\x0b", "\x7f", " ", "\u2028")
    ),
    *(f"https://{HOST}/a{sign}b" for sign in ("\r\n\r\nGET / HTTP/1.1", "\n", "\t", "\0", " ", "\x1b[2J")),
    f"\thttps://{HOST}",
    f" https://{HOST}",
    f"ht\ntps://{HOST}",
    # Look-alikes and what folds to something else.
    *(
        f"https://{name}"
        for name in (
            "ѕ3.amazonaws.com",
            "bucket.s3.amazonaws.сom",
            "１２７.0.0.1",
            "127。0。0。1",
            "ⓛocalhost",
            "①②⑦.⓪.⓪.①",
            "s3.amazonaws.com\u200b",
            "ſ3.amazonaws.com",
            "bücket.example.com",
            "s3．amazonaws．com",
            "loc\u00adalhost",
        )
    ),
    # Percent tricks, trailing dots, empty hosts, broken brackets, relative ones.
    *(
        f"https://{name}"
        for name in ("127%2e0%2e0%2e1", "%31%32%37.0.0.1", "localhost%00", "localhost%2f", "%6cocalhost")
    ),
    *(
        f"https://{name}"
        for name in ("localhost.", "127.0.0.1.", f"{HOST}.", ".", "..", "", "/", "//", ":443", "?", "#")
    ),
    *(
        f"https://{name}"
        for name in ("[", "]", "[]", "[::1", "::1]", "[::1]a", "[v1.x]", "[fe80::1%25eth0]", "[::1%lo]")
    ),
    *(f"https:{name}" for name in (HOST, f"/{HOST}", f"\\\\{HOST}", f"\\/{HOST}", "127.0.0.1")),
    f"//{HOST}",
    f"///{HOST}",
    f"\\\\{HOST}",
    HOST,
    "/etc/passwd",
    "",
]

URLS: Final = list(
    dict.fromkeys(
        [
            *(f"{scheme}://{HOST}{TAIL}" for scheme in SCHEMES),
            *(f"{scheme}:{HOST}{TAIL}" for scheme in ("data", "javascript", "file", "mailto")),
            *(f"{scheme}://{host}{TAIL}" for scheme in ("https", "http") for host in LITERALS),
            *(f"https://{host}{TAIL}" for host in NUMBERS),
            *(f"https://{host}{TAIL}" for host in NAMES),
            *(f"{start}{TAIL}" for start in ODD),
        ]
    )
)


class Inside(AbstractResolver):
    """A resolver of a network that means ill: every name and number leads inside."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        try:
            address = socket.inet_ntoa(socket.inet_aton(host))
        except OSError:
            address = "169.254.169.254"
        return [found(host, address, port), found(host, "::1", port)]

    async def close(self) -> None:
        pass


def found(host: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)


@asynccontextmanager
async def storage_with(policy: StoragePolicy, resolver: AbstractResolver, **options: object) -> AsyncIterator[Storage]:
    """Open the file store as `open_storage` does, but with a resolver that asks nobody."""
    connector = aiohttp.TCPConnector(limit=2, resolver=PublicResolver(policy, resolver), **options)  # type: ignore[arg-type]
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False, trust_env=False) as session:
        yield Storage(session, policy)


def signed(url: str) -> SignedFile:
    return SignedFile(name="a.csv", size=None, url=url)


async def test_two_hundred_urls_that_lead_elsewhere_are_refused_before_any_connection(figure: Figure) -> None:
    assert len(URLS) >= 200
    let_in: list[str] = []
    with watched() as connections:
        async with storage_with(StoragePolicy(), Inside()) as storage:
            for url in URLS:
                try:
                    async with storage.get(signed(url), {}):
                        let_in.append(url)
                except UnsafeUrl as error:
                    assert CANARY not in f"{error!r} {error}"  # noqa: PT017 - one of hundreds
                    assert error.message.isprintable()  # noqa: PT017 - the same

    assert let_in == []
    assert connections == []
    figure("signed URLs that lead elsewhere", f"{len(URLS)}, all refused, no connection begun")


async def test_a_sandbox_on_loopback_lets_in_this_machine_and_nothing_else(figure: Figure) -> None:
    """With `api.base_url` on loopback only loopback opens, and a name only if all that it leads to is there."""
    policy = StoragePolicy(allow_loopback=True)
    others = [f"{scheme}://{host}{TAIL}" for scheme in ("https", "http") for host in LITERALS if not is_loopback(host)]
    others += [f"https://{host}{TAIL}" for host in [*NUMBERS, *NAMES] if host.lower() != "localhost"]
    with watched() as connections:
        async with storage_with(policy, Flipping("169.254.169.254")) as storage:
            for url in others:
                with pytest.raises(UnsafeUrl):
                    async with storage.get(signed(url), {}):
                        pass

    assert connections == []
    figure("the same with a sandbox on loopback", f"{len(others)}, all refused")


def is_loopback(host: str) -> bool:
    """Say whether an address is this machine, also in the place of an IPv4 address within an IPv6 one."""
    return ipaddress.ip_address(host.strip("[]")).is_loopback or "127.0.0.1" in host or "7f00:" in host


class Flipping(AbstractResolver):
    """Gives its addresses one after the other, the last for ever: DNS rebinding."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        address = self.addresses.pop(0) if len(self.addresses) > 1 else self.addresses[0]
        return [found(host, address, port)]

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("inside", ["127.0.0.1", "169.254.169.254", "10.0.0.1", "::1", "fd00:ec2::254", "0.0.0.0"])
@pytest.mark.parametrize("remembers", [True, False], ids=["names remembered", "asked each time"])
async def test_a_name_that_turns_inward_is_never_followed_there(inside: str, remembers: bool) -> None:
    """What is connected to is the very address that was checked: public, then inside, then public again."""
    resolver = Flipping(PUBLIC, inside, PUBLIC, inside)
    refusals: list[str] = []
    with watched() as connections:
        async with storage_with(StoragePolicy(), resolver, use_dns_cache=remembers) as storage:
            for _ in range(6):
                try:
                    async with storage.get(signed(f"https://{HOST}{TAIL}"), {}):
                        pass
                except (StorageUnreachable, UnsafeUrl) as error:
                    refusals.append(error.code)

    assert {address[0] for address in connections if isinstance(address, tuple)} == {PUBLIC}
    assert len(refusals) == 6
    # Each look that led inside was refused as such, and each that did not began one connection.
    assert len(connections) == refusals.count("S-NETWORK")
    assert remembers or refusals.count("S-UNSAFE") == 4


async def test_the_net_hears_a_connection(unused_tcp_port: int) -> None:
    """Else the tests above could not fail."""
    with watched() as connections:
        async with open_storage(StoragePolicy(allow_loopback=True), connections=1) as storage:
            with pytest.raises(StorageUnreachable):
                async with storage.get(signed(f"http://127.0.0.1:{unused_tcp_port}{TAIL}"), {}):
                    pass

    assert connections == [("127.0.0.1", unused_tcp_port)]


REDIRECTS: Final = (
    "https://169.254.169.254/latest/meta-data",
    f"https://{HOST}/elsewhere?X-Amz-Signature={CANARY}",
    "//127.0.0.1/",
    "/elsewhere",
    "file:///etc/passwd",
    "",
)


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
async def test_a_redirect_of_the_store_is_a_fault_and_goes_nowhere(
    tmp_path: Path, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """Fault S7: through a whole run; nothing else is asked than the store and the API, and Location is not shown."""
    async with mirroring(tmp_path) as mirror:
        for number, location in enumerate(REDIRECTS):
            add_extract(mirror, tables(1, seed=number), days_ago=len(REDIRECTS) - number)
            fault = Fault(server="storage", kind="status", status=status, headers={"Location": location}, times=None)
            mirror.sandbox.faults.clear()
            mirror.sandbox.faults.add(fault)
            with watched() as connections:
                outcome = await mirror.sync_one()

            ours = {int(url.rpartition(":")[2]) for url in (mirror.sandbox.base_url, mirror.sandbox.storage_url)}
            assert {address[1] for address in connections if isinstance(address, tuple)} <= ours
            assert {failed.code for failed in outcome.failed} <= {"S-SERVER"}
            assert outcome.failed or outcome.due_later
            assert not any(location and location in failed.message for failed in outcome.failed)
        assert mirror.snapshots() == []
        assert not any("elsewhere" in call.path or "meta-data" in call.path for call in mirror.sandbox.calls)
        # docs/project/faults.md S8: with the token in every call of the API, none went to the store.
        store = [call for call in mirror.sandbox.calls if call.server == "storage"]
        assert len(store) >= len(REDIRECTS)
        assert not any("authorization" in call.headers or "cookie" in call.headers for call in store)
    said = "".join(capfd.readouterr())
    assert CANARY not in said
    assert "meta-data" not in said


async def test_this_host_is_not_contacted_through_a_proxy(
    tmp_path: Path, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """faults.md A28: for a proxy this host is another one. `network.proxy` decides, and no library on its own."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{unused_tcp_port}")
    monkeypatch.setenv("NO_PROXY", "")
    async with mirroring(tmp_path) as mirror:
        mirror.environ |= {"HTTP_PROXY": f"http://127.0.0.1:{unused_tcp_port}", "NO_PROXY": ""}
        job = add_extract(mirror, tables(3))
        with watched() as connections:
            await mirror.sync()

        mirror.assert_identical(job)
        assert connections
        assert not [address for address in connections if isinstance(address, tuple) and address[1] == unused_tcp_port]
