"""The proxy of a URL: the variables as curl and Go read them, and no password in any text."""

from __future__ import annotations

import pytest

from dcsync.core.proxies import Proxy, ProxyRules, environment_proxies, one_proxy, parse_proxy

API = "https://developer.api.autodesk.com/x"
SECURE, PLAIN = "http://secure.test:3128", "http://plain.test:3128"
ENVIRON = {"HTTPS_PROXY": SECURE, "HTTP_PROXY": PLAIN}


def url_for(url: str, **environ: str) -> str | None:
    proxy = environment_proxies({**ENVIRON, **environ}).for_url(url)
    return None if proxy is None else proxy.url


# --- the variables ----------------------------------------------------------------------------------------------------


def test_the_scheme_of_the_url_chooses_the_variable() -> None:
    assert url_for(API) == SECURE
    assert url_for("http://ping.test/x") == PLAIN


def test_a_url_of_another_scheme_has_no_proxy() -> None:
    assert url_for("ftp://files.test/") is None


def test_without_variables_everything_is_direct() -> None:
    assert environment_proxies({}).for_url(API) is None
    assert ProxyRules().for_url(API) is None


def test_a_lower_case_name_takes_precedence_also_when_it_is_empty() -> None:
    proxy = environment_proxies({**ENVIRON, "https_proxy": "http://lower.test:1"}).for_url(API)

    assert proxy == Proxy(url="http://lower.test:1", source="https_proxy")
    assert url_for(API, https_proxy="") is None


def test_the_source_is_the_variable() -> None:
    proxy = environment_proxies(ENVIRON).for_url(API)

    assert proxy is not None
    assert proxy.shown == "http://secure.test:3128 (HTTPS_PROXY)"


@pytest.mark.parametrize(
    "url", ["http://localhost:1/x", "https://127.0.0.1/", "https://127.9.9.9:2", "http://[::1]:3/"]
)
def test_this_host_is_always_direct(url: str) -> None:
    assert url_for(url) is None
    assert one_proxy(SECURE, {}, source="network.proxy").for_url(url) is None


@pytest.mark.parametrize("url", ["", "https://", "https://[broken", "https://host:port/", "https://two:70000/"])
def test_a_url_without_a_host_has_no_proxy(url: str) -> None:
    assert url_for(url) is None


# --- NO_PROXY ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "exceptions",
    [
        "*",
        "autodesk.com",
        ".autodesk.com",
        "*.autodesk.com",
        "developer.api.autodesk.com",
        "DEVELOPER.API.Autodesk.com",
        "other.test, autodesk.com",
        "other.test autodesk.com",
        "autodesk.com:443",
        "autodesk.com.",
        ".autodesk.com.",
    ],
)
def test_no_proxy_names_a_host(exceptions: str) -> None:
    assert url_for(API, NO_PROXY=exceptions) is None


def test_no_proxy_names_a_host_with_a_dot_at_its_end() -> None:
    assert url_for("https://developer.api.autodesk.com./x", NO_PROXY="autodesk.com") is None


@pytest.mark.parametrize(
    "exceptions", ["", ",", "desk.com", "autodesk.com.test", "autodesk.com:80", "x.developer.api.autodesk.com", "."]
)
def test_no_proxy_does_not_name_a_host(exceptions: str) -> None:
    assert url_for(API, NO_PROXY=exceptions) == SECURE


@pytest.mark.parametrize(
    ("host", "exceptions", "is_direct"),
    [
        ("10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.3:443", True),
        ("10.1.2.3", "10.1.2.3:80", False),
        ("10.1.2.3", "11.0.0.0/8", False),
        ("[fd00::1]", "fd00::/8", True),
        ("[fd00::1]", "[fd00::1]", True),
        ("[fd00::1]", "[fd00::1]:443", True),
        ("[fd00::1]", "[fd00::1]:80", False),
        ("[fd00::1]", "fd01::1", False),
        ("ten.test", "10.0.0.0/8", False),
        # A network may be named by any of its addresses, and have a port.
        ("10.1.2.3", "10.9.9.9/8", True),
        ("[fd00::1]", "[fd00::/8]:443", True),
        ("[fd00::1]", "[fd00::/8]:80", False),
        # A host that looks like a port, and a port that is none.
        ("443", "443", True),
        ("ten.test", "443", False),
        ("ten.test", "ten.test:https", False),
        ("ten.test", "other.test:443", False),
        ("ten.test", "fd01::443", False),
    ],
)
def test_no_proxy_names_addresses_and_networks(host: str, exceptions: str, is_direct: bool) -> None:
    assert (url_for(f"https://{host}/", no_proxy=exceptions) is None) == is_direct


def test_no_proxy_applies_to_a_configured_proxy_too() -> None:
    rules = one_proxy(SECURE, {"NO_PROXY": "ping.test", "HTTPS_PROXY": PLAIN}, source="network.proxy")

    assert rules.for_url("https://ping.test/") is None
    for url in (API, "http://elsewhere.test/"):
        assert rules.for_url(url) == Proxy(url=SECURE, source="network.proxy")


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("proxy.test:3128", "http://proxy.test:3128"),
        ("proxy.test", "http://proxy.test:80"),
        ("https://proxy.test", "https://proxy.test:443"),
        ("http://[fd00::1]:8080/", "http://[fd00::1]:8080"),
        ("http://10.0.0.1:8080", "http://10.0.0.1:8080"),
    ],
)
def test_an_address_may_lack_scheme_and_port(text: str, url: str) -> None:
    assert parse_proxy(text, source="x").url == url


def test_the_user_and_the_password_are_decoded_and_shown_nowhere() -> None:
    proxy = parse_proxy("http://d%40corp:p%3Aw%C3%A4%2F@proxy.test:3128", source="x")

    assert (proxy.url, proxy.user, proxy.password) == ("http://proxy.test:3128", "d@corp", "p:wä/")
    assert proxy.authorization == "Basic ZEBjb3JwOnA6d8OkLw=="  # d@corp:p:wä/ in UTF-8
    assert "p:w" not in repr(proxy) + proxy.shown
    assert "d@corp" not in repr(proxy) + proxy.shown


def test_a_user_needs_no_password() -> None:
    proxy = parse_proxy("http://dcsync@proxy.test:3128", source="x")

    assert (proxy.user, proxy.password) == ("dcsync", "")
    assert proxy.authorization == "Basic ZGNzeW5jOg=="  # dcsync:
    assert parse_proxy("http://proxy.test:3128", source="x").authorization is None


@pytest.mark.parametrize(
    "text",
    [
        "http://",
        "http://canary@",
        "http://canary:x@proxy:port",
        "http://[canary",
        "canary proxy",
        "canary\nx",
        # Each would be the host `canary` with the port 12, of the user `canary` with a password that is not encoded.
        "http://canary:12/x@proxy.test:3128",
        "http://canary:12?x@proxy.test:3128",
        "http://canary:12#x@proxy.test:3128",
        "canary:12/x@proxy.test:3128",
    ],
)
def test_what_is_no_address_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"network\.proxy is not the address of a proxy") as caught:
        parse_proxy(text, source="network.proxy")

    assert "canary" not in str(caught.value)


def test_a_proxy_of_another_kind_is_refused_without_showing_it() -> None:
    with pytest.raises(ValueError, match="neither http:// nor https://") as caught:
        parse_proxy("socks5://canary:x@proxy.test:1080", source="HTTPS_PROXY")

    assert "canary" not in str(caught.value)
