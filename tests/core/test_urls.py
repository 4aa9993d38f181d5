"""Where a signed URL may point: https to a public host, unless the operator said otherwise."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dcsync.core.urls import StoragePolicy, check_callback_url, check_signed_url, host_and_port, is_loopback_url
from dcsync.errors import UnsafeUrl

ANY = StoragePolicy()
SANDBOX = StoragePolicy(allow_loopback=True)
NAMED = StoragePolicy(hosts=("*.S3.example.com", "10.0.0.5", "localhost"))
SECRET = "X-Amz-Signature=s3cret"


@pytest.mark.parametrize(
    ("url", "host"),
    [
        (f"https://bucket.s3.amazonaws.com/a/b.csv?{SECRET}", "bucket.s3.amazonaws.com"),
        ("https://bucket.s3.amazonaws.com:443/a", "bucket.s3.amazonaws.com"),
        ("HTTPS://Bucket.S3.Amazonaws.com/a", "bucket.s3.amazonaws.com"),
        ("https://8.8.8.8/a", "8.8.8.8"),
        ("https://[2001:4860:4860::8888]/a", "2001:4860:4860::8888"),
    ],
)
def test_https_to_a_public_host_is_allowed(url: str, host: str) -> None:
    assert check_signed_url(url, ANY) == host


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("http://s3.amazonaws.com/a", "s3.amazonaws.com is not https on port 443"),
        ("ftp://s3.amazonaws.com/a", "s3.amazonaws.com is not https on port 443"),
        ("//s3.amazonaws.com/a", "s3.amazonaws.com is not https on port 443"),
        ("https://s3.amazonaws.com:8443/a", "s3.amazonaws.com is not https on port 443"),
        ("https://s3.amazonaws.com:80/a", "s3.amazonaws.com is not https on port 443"),
        ("https://s3.amazonaws.com./a", "has no usable host"),
        ("https:///a", "has no usable host"),
        ("file:///etc/passwd", "has no usable host"),
        ("a.csv", "has no usable host"),
        ("", "has no usable host"),
        ("https://user:pw@s3.amazonaws.com/a", "s3.amazonaws.com contains a user name"),
        ("https://@s3.amazonaws.com/a", "s3.amazonaws.com contains a user name"),
        ("https://2130706433/a", "has no usable host"),
        ("https://127.1/a", "has no usable host"),
        ("https://0177.0.0.1/a", "has no usable host"),
        ("https://0X7F.1/a", "has no usable host"),
        ("https://storage.0x/a", "has no usable host"),
        ("https://[::1/a", "is malformed"),
        ("https://h:99999/a", "is malformed"),
        ("https://h:x/a", "is malformed"),
        ("https://s3.amazonaws.com/a b", "contains characters that are not allowed in a URL"),
        ("https://s3.amazonaws.com/a\r\nX: y", "contains characters that are not allowed in a URL"),
        ("https://s3.amazonaws.com/a\x7f", "contains characters that are not allowed in a URL"),
        ("https://s3.amazonaws.com\\@evil/a", "contains characters that are not allowed in a URL"),
        ("https://ѕ3.amazonaws.com/a", "contains characters that are not allowed in a URL"),
        ("https://127.0.0.1/a", "address 127.0.0.1, which is not public"),
        ("https://169.254.169.254/latest/meta-data", "address 169.254.169.254, which is not public"),
        ("https://10.0.0.5/a", "address 10.0.0.5, which is not public"),
        ("https://[::1]/a", "address ::1, which is not public"),
        ("https://[::ffff:10.0.0.5]/a", "which is not public"),
        ("https://[fe80::1]/a", "address fe80::1, which is not public"),
    ],
)
def test_any_other_url_is_refused_and_told_why(url: str, what: str) -> None:
    with pytest.raises(UnsafeUrl) as caught:
        check_signed_url(url, ANY)

    assert what in caught.value.message


@pytest.mark.parametrize(("length", "shown"), [(120, "x" * 120), (121, "x" * 120 + "…")])
def test_a_long_host_is_cut_in_the_message(length: int, shown: str) -> None:
    with pytest.raises(UnsafeUrl) as caught:
        check_signed_url(f"http://{'x' * length}/a", ANY)

    assert caught.value.message == f"a signed URL for {shown} is not https on port 443"


@given(
    st.sampled_from(["http://h.example/", "https://10.0.0.5/", "https://u@h.example/", "https://h:x/", "https://h /"])
)
def test_a_refusal_never_shows_path_or_query(start: str) -> None:
    with pytest.raises(UnsafeUrl) as caught:
        check_signed_url(f"{start}private/path?{SECRET}", ANY)

    assert "s3cret" not in caught.value.message
    assert "private" not in caught.value.message


@given(st.text() | st.text(st.sampled_from("htps:/[]@.:1270%?#localhost\\")))
@example("%A")
def test_any_text_is_refused_or_has_a_host_over_https(text: str) -> None:
    for url in (text, "https://" + text):
        try:
            host = check_signed_url(url, ANY)
        except UnsafeUrl as error:
            assert error.message.isprintable()  # noqa: PT017 - either way is right
        else:
            assert url.lower().startswith("https://")
            assert host in url.lower()


class TestNamedHosts:
    def test_a_named_host_may_have_any_port(self) -> None:
        assert check_signed_url("https://b.s3.example.com:8443/a", NAMED) == "b.s3.example.com"

    def test_a_named_address_may_be_private(self) -> None:
        assert check_signed_url("https://10.0.0.5/a", NAMED) == "10.0.0.5"

    def test_a_host_that_is_not_named_is_refused(self) -> None:
        with pytest.raises(
            UnsafeUrl, match=r"points to bucket\.s3\.amazonaws\.com, which is not in api\.allow_storage_hosts"
        ):
            check_signed_url("https://bucket.s3.amazonaws.com/a", NAMED)

    def test_a_named_host_still_needs_https(self) -> None:
        with pytest.raises(UnsafeUrl, match="is not https"):
            check_signed_url("http://b.s3.example.com/a", NAMED)

    @pytest.mark.parametrize("host", ["s3.example.com", "s3.example.com.evil.net", "b.s3.example.comx"])
    def test_a_glob_covers_the_whole_host(self, host: str) -> None:
        assert not NAMED.names_host(host)

    def test_a_glob_does_not_look_at_case(self) -> None:
        assert NAMED.names_host("B.s3.EXAMPLE.com")


class TestLoopback:
    @pytest.mark.parametrize(
        ("url", "host"),
        [
            ("http://127.0.0.1:8080/a", "127.0.0.1"),
            ("http://localhost:1/a", "localhost"),
            ("https://[::1]:9/a", "::1"),
            ("https://127.9.9.9/a", "127.9.9.9"),
        ],
    )
    def test_the_sandbox_may_have_any_port_and_no_tls(self, url: str, host: str) -> None:
        assert check_signed_url(url, SANDBOX) == host

    @pytest.mark.parametrize("url", ["ftp://127.0.0.1/a", "http://10.0.0.5/a", "http://example.com/a"])
    def test_nothing_else_is_let_in_with_the_sandbox(self, url: str) -> None:
        with pytest.raises(UnsafeUrl):
            check_signed_url(url, SANDBOX)

    def test_a_list_of_hosts_does_not_shut_the_sandbox_out(self) -> None:
        policy = StoragePolicy(hosts=("*.example.com",), allow_loopback=True)

        assert check_signed_url("http://127.0.0.1:8080/a", policy) == "127.0.0.1"
        with pytest.raises(UnsafeUrl, match=r"not in api\.allow_storage_hosts"):
            check_signed_url("https://8.8.8.8/a", policy)

    def test_a_list_of_hosts_shuts_this_machine_out_without_the_sandbox(self) -> None:
        with pytest.raises(UnsafeUrl, match=r"localhost, which is not in api\.allow_storage_hosts"):
            check_signed_url("https://localhost/a", StoragePolicy(hosts=("*.example.com",)))

    def test_without_the_sandbox_a_named_localhost_still_needs_https(self) -> None:
        assert check_signed_url("https://localhost:8443/a", NAMED) == "localhost"
        with pytest.raises(UnsafeUrl, match="is not https"):
            check_signed_url("http://localhost:8080/a", NAMED)

    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("http://127.0.0.1:80/x", True),
            ("http://[::1]/", True),
            ("http://localhost", True),
            ("http://localhost.example.com", False),
            ("https://developer.api.autodesk.com", False),
            ("https://8.8.8.8", False),
            ("nonsense", False),
        ],
    )
    def test_a_loopback_url_is_told_by_its_host(self, url: str, expected: bool) -> None:
        assert is_loopback_url(url) is expected


class TestAddresses:
    @pytest.mark.parametrize("address", ["8.8.8.8", "2001:4860:4860::8888", "::ffff:8.8.8.8"])
    def test_a_public_address_is_allowed(self, address: str) -> None:
        assert ANY.allows_address("s3.amazonaws.com", address)

    @pytest.mark.parametrize(
        "address",
        [
            "10.1.2.3",
            "172.16.0.1",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "fe80::1",
            "fe80::1%eth0",
            "fd00:ec2::254",
            "ff0e::1",
            "::",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "127.0.0.1",
            "::1",
            "",
            "s3.amazonaws.com",
        ],
    )
    def test_no_other_address_is_whatever_the_name_was(self, address: str) -> None:
        assert ANY.allows_address("s3.amazonaws.com", address) is False

    @pytest.mark.parametrize("address", ["10.1.2.3", "127.0.0.1", "::ffff:10.1.2.3", "8.8.8.8"])
    def test_a_named_host_may_be_anywhere(self, address: str) -> None:
        assert NAMED.allows_address("b.s3.example.com", address)

    def test_the_sandbox_is_only_this_machine(self) -> None:
        assert SANDBOX.allows_address("h", "127.0.0.1")
        assert SANDBOX.allows_address("h", "::1")
        assert SANDBOX.allows_address("h", "::ffff:127.0.0.1")
        assert SANDBOX.allows_address("h", "::127.0.0.1")
        assert not SANDBOX.allows_address("h", "10.0.0.1")

    @given(st.ip_addresses(v=4, network="10.0.0.0/8") | st.ip_addresses(v=6, network="fd00::/8"))
    def test_no_private_address_is_ever_allowed(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
        assert not ANY.allows_address("h", str(address))
        assert not SANDBOX.allows_address("h", str(address))


@pytest.mark.parametrize(
    "address",
    [
        "fec0::1",
        "192.0.0.8",
        "192.88.99.1",
        "2001:1::1",
        "2001:0:4136:e378:8000:63bf:f7f7:f7f7",  # Teredo to 8.8.8.8
        "64:ff9b::7f00:1",
        "64:ff9b:1::808:808",
        "::ffff:0:127.0.0.1",
        "3fff::1",
        "5f00::1",
        "64:ff9b::a00:1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::",
        "::7f00:1",
        "::ffff:10.0.0.1",
    ],
)
def test_an_address_that_leads_to_a_private_one_is_not_public(address: str) -> None:
    assert not StoragePolicy().allows_address("h.example", address)


def test_an_address_that_leads_to_a_public_one_is() -> None:
    assert StoragePolicy().allows_address("h.example", "64:ff9b::808:808")


def test_a_host_with_its_port_is_unambiguous() -> None:
    assert host_and_port("proxy.test", 3128) == "proxy.test:3128"
    assert host_and_port("::1", 3128) == "[::1]:3128"


@pytest.mark.parametrize(
    "url", ["http://localhost:8080/callback", "https://dcsync.example.com/callback", "http://[::1]/"]
)
def test_a_callback_url_of_an_app_is_accepted(url: str) -> None:
    assert check_callback_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "foo",
            "localhost:8080/callback",
            "ftp://host/",
            "http://",
            "http:///path",
            "http://host:x/",
            "http://[::1",
        ),
        *("http://host:0/", "http://host/#part", "http://a@host/", "http://höst/", "http://host/a b", "http://host/\n"),
    ],
)
def test_a_callback_url_that_no_app_can_have_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is not a callback URL such as"):
        check_callback_url(url)
