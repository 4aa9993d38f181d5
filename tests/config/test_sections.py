"""Keys, values and defaults of each section."""

from __future__ import annotations

import sys
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.rigs.configs import ACCOUNT_ID, make_config, refusal

CANARY = "hunter2-canary"


# --- [auth] -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("auth", "said"),
    [
        ({}, 'method = "login" needs client_id'),
        ({"method": "token"}, 'method = "token" needs refresh_token, or access_token (valid for one hour)'),
        ({"method": "token", "refresh_token": "env:T"}, 'method = "token" needs client_id'),
        (
            {"method": "service-account", "client_id": "x", "key_id": "k"},
            'method = "service-account" needs client_secret, service_account_id, private_key',
        ),
    ],
)
def test_a_method_names_all_keys_that_it_lacks(auth: dict[str, str], said: str) -> None:
    assert refusal(auth=auth) == said


# --- [requests] -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"), [("never", None), ("365d", timedelta(days=365)), ("15d", timedelta(days=15))]
)
def test_schedules_are_extended_by_a_duration_or_never(value: str, expected: timedelta | None) -> None:
    assert make_config(requests={"extend": value}).requests.extend == expected
    assert make_config().requests.extend is None


@pytest.mark.parametrize("value", [30, "14d", "", "always", True])
def test_an_extension_that_would_come_again_at_once_is_refused(value: object) -> None:
    assert refusal(requests={"extend": value})


# --- [mirror] and [state] ---------------------------------------------------------------------------------------------


def test_a_path_may_begin_at_the_home_but_not_where_the_program_happens_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ana")

    assert make_config(mirror={"root": "~/mirror"}).mirror.root == Path("/home/ana/mirror")
    assert refusal(mirror={"root": "mirror"}) == "'mirror' is not an absolute path"
    assert refusal(state={"dir": "./state"}) == "'state' is not an absolute path"


def test_the_named_layouts_and_templates_are_parsed() -> None:
    dated, hive = make_config().mirror.parsed_layout, make_config(mirror={"layout": "hive"}).mirror.parsed_layout
    own = make_config(mirror={"layout": "x/{account}-{request}/{date:%Y-%m}/{job}"}).mirror.parsed_layout

    assert (dated.request_segments, dated.latest_name) == (("{account}", "{request}"), "latest")
    assert (hive.request_segments, hive.latest_name) == (("account={account}", "request={request}"), "_latest")
    assert (own.request_segments, own.snapshot_segments) == (("x", "{account}-{request}"), ("{date:%Y-%m}", "{job}"))


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        ("{account}/{request}/{date}", "lacks {job}"),
        ("{job}/{account}", "must begin with a folder that does not depend on the job"),
        ("{account}/{request}/{jb}/{job}", "{jb} is unknown: the fields are {account} {request} {project} {date}"),
        ("{account}/../{request}/{job}", "has an empty, dotted or absolute folder"),
        ("/{account}/{request}/{job}", "has an empty, dotted or absolute folder"),
        ("{account}/{request}/{job", "has an empty, dotted or absolute folder|malformed"),
        ("{account}/{request}/{date:%s}/{job}", "has a format that is not one of"),
        ("", "empty"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(layout: str, said: str) -> None:
    assert any(part in refusal(mirror={"layout": layout}) for part in said.split("|"))


def test_latest_needs_a_folder_of_one_request() -> None:
    layout = "{account}/{date:%Y}/{request}-{job}"

    assert 'set latest = "none"' in refusal(mirror={"layout": layout})
    assert make_config(mirror={"layout": layout, "latest": "none"}).mirror.latest == "none"


def test_a_time_zone_that_is_misspelled_gets_a_suggestion() -> None:
    assert refusal(mirror={"timezone": "Europe/Berln"}).endswith('did you mean "Europe/Berlin"?')


@pytest.mark.parametrize("zone", ["", "Nowhere/At/All", "../../etc/passwd", "/etc/localtime", "UTC\0"])
def test_what_is_no_time_zone_is_refused(zone: str) -> None:
    assert "is not a time zone such as UTC or Europe/Berlin" in refusal(mirror={"timezone": zone})


@pytest.fixture
def no_zones(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A minimal system: no package has installed time zones."""
    for name in ("tzdata", *(name for name in sys.modules if name.startswith("tzdata."))):
        monkeypatch.setitem(sys.modules, name, None)
    zoneinfo.ZoneInfo.clear_cache()
    zoneinfo.reset_tzpath(())
    yield
    zoneinfo.reset_tzpath()


@pytest.mark.usefixtures("no_zones")
def test_utc_needs_no_time_zones_on_the_system() -> None:
    assert make_config(mirror={"timezone": "UTC"}).mirror.zone is UTC


@pytest.mark.usefixtures("no_zones")
def test_without_time_zones_the_mistake_is_the_system_s() -> None:
    said = refusal(mirror={"timezone": "Europe/Berlin"})

    assert said == "this system has no time zones but UTC, so 'Europe/Berlin' is unknown: install the package tzdata"


@pytest.mark.parametrize(("value", "expected"), [("5 GiB", 5 << 30), ("0", 0), (1024, 1024), ("500 MB", 500_000_000)])
def test_free_space_is_a_size(value: str | int, expected: int) -> None:
    assert make_config(mirror={"min_free": value}).mirror.min_free == expected


@pytest.mark.parametrize("value", [1.5, True, -1, "5 GuB", ["5 GiB"]])
def test_free_space_that_is_no_size_is_refused(value: object) -> None:
    assert "size" in refusal(mirror={"min_free": value}) or "negative" in refusal(mirror={"min_free": value})


# --- [transfer], [poll], [api] ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [("unlimited", None), ("20 MiB/s", 20 << 20), ("20 MiB", 20 << 20), ("1 MB/s", 1_000_000), (4096, 4096)],
)
def test_a_bandwidth_is_a_rate_or_unlimited(value: str | int, expected: int | None) -> None:
    assert make_config(transfer={"bandwidth": value}).transfer.bandwidth == expected


@pytest.mark.parametrize("value", ["0", 0, "none", "20 MiB/m", True, 1.5, -1])
def test_a_bandwidth_of_nothing_is_refused(value: object) -> None:
    assert refusal(transfer={"bandwidth": value})


def test_an_interval_is_a_duration_of_thirty_seconds_or_more() -> None:
    assert make_config(poll={"interval": "30s", "jitter": "0s"}).poll.interval == timedelta(seconds=30)
    assert refusal(poll={"interval": "29s"}).startswith("must be 30s or more")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8080", "http://localhost:1", "http://[::1]:9", "https://example.com"]
)
def test_an_address_is_https_or_on_this_machine(url: str) -> None:
    assert make_config(api={"base_url": f"{url}/"}).api.base_url == url


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://example.com", "must use https: tokens would be sent unencrypted"),
        ("http://127.0.0.1.example.com", "must use https"),
        ("http://10.0.0.1", "must use https"),
        ("ftp://example.com", "is not an address such as"),
        ("example.com", "is not an address such as"),
        ("https://example.com?x=1", "is not an address such as"),
        ("https://", "is not an address such as"),
    ],
)
def test_any_other_address_is_refused(url: str, said: str) -> None:
    assert said in refusal(api={"base_url": url})


def test_headers_are_the_operator_s_but_for_those_that_are_dcsync_s_own() -> None:
    assert make_config(api={"headers": {"Region": "EMEA"}}).api.headers == {"Region": "EMEA"}
    for name in ("Authorization", "cookie", "HOST", "Content-Length"):
        assert refusal(api={"headers": {name: CANARY}}) == f"{name} is set by dcsync itself"


@pytest.mark.parametrize(("name", "value"), [("X Y", "1"), ("X", "a\r\nEvil: 1"), ("", "1"), ("X:", "1")])
def test_a_header_that_is_none_is_refused(name: str, value: str) -> None:
    assert "is not a valid header name, or its value has more than one line" in refusal(api={"headers": {name: value}})


# --- [[account]] and [[hook]] -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [ACCOUNT_ID, f"b.{ACCOUNT_ID}", ACCOUNT_ID.upper(), f"b.{ACCOUNT_ID.upper()}"])
def test_a_hub_id_and_an_account_id_are_the_same_account(text: str) -> None:
    config = make_config(account=[{"name": "acme", "id": text}])

    assert config.accounts[0].account_id == ACCOUNT_ID


@pytest.mark.parametrize("text", ["", "b.", ACCOUNT_ID[:-1], f"a.{ACCOUNT_ID}", f"b.b.{ACCOUNT_ID}", f"{ACCOUNT_ID}\n"])
def test_what_is_no_id_is_refused(text: str) -> None:
    assert "is not a hub ID" in refusal(account=[{"name": "acme", "id": text}])


@pytest.mark.parametrize("name", ["", ".", "..", ".x", "x.", "a/b", "a b", "ü", "x" * 65, "-x", "a\n"])
def test_a_name_that_cannot_be_a_folder_is_refused(name: str) -> None:
    assert "is not a folder name" in refusal(account=[{"name": name, "id": ACCOUNT_ID}])


@pytest.mark.parametrize("start", ["31.1.2026", "2026-02-30", "yesterday", datetime(2026, 1, 31, tzinfo=UTC), 20260131])
def test_a_start_that_is_no_day_is_refused(start: object) -> None:
    assert refusal(account=[{"name": "acme", "id": ACCOUNT_ID, "start": start}])


def test_a_hook_needs_events_that_exist_and_a_program() -> None:
    hook = {"on": ["snapshot", "recovered"], "run": ["/bin/true"]}

    assert make_config(hook=[hook]).hooks[0].timeout == timedelta(minutes=10)
    assert "at least 1 item" in refusal(hook=[{**hook, "run": []}])
    assert "'snapshot', 'failure', 'alert' or 'recovered'" in refusal(hook=[{**hook, "on": ["bogus"]}])


@pytest.mark.parametrize("url", ["https://u:hunter2@h?x", "ftp://u:hunter2@h", "http://u:hunter2@example.com"])
def test_a_password_in_the_address_is_not_shown(url: str) -> None:
    assert "hunter2" not in refusal(api={"base_url": url})


# --- what tells of the mirror -----------------------------------------------------------------------------------------


def test_an_account_is_stale_after_two_intervals_with_their_jitter_at_the_soonest() -> None:
    assert make_config().poll.stale_after == timedelta(hours=3)
    assert make_config(poll={"stale_after": "32m"}).poll.stale_after == timedelta(minutes=32)
    assert refusal(poll={"stale_after": "31m59s"}).startswith("stale_after must be at least two intervals")
    assert refusal(poll={"interval": "2h"}).startswith("stale_after must be at least two intervals")


def test_without_listen_there_are_no_pages() -> None:
    assert make_config().http.address is None
    assert make_config(http={"listen": ":9321"}).http.address == ("127.0.0.1", 9321)
    assert make_config(http={"listen": "[::1]:9321"}).http.address == ("::1", 9321)
    assert "is not an address and port" in refusal(http={"listen": "9321"})


def test_the_callback_s_secret_is_never_shown() -> None:
    assert CANARY not in repr(make_config(http={"callback_secret": CANARY}))


def test_messages_are_for_what_went_wrong_and_when_it_is_over_unless_said_otherwise() -> None:
    assert make_config().notify.on == ["failure", "alert", "recovered"]
    assert make_config(notify={"on": ["snapshot"]}).notify.on == ["snapshot"]
    assert "'snapshot', 'failure', 'alert' or 'recovered'" in refusal(notify={"on": ["bogus"]})


def test_addresses_of_messages_and_of_the_heartbeat_are_secrets() -> None:
    config = make_config(notify={"urls": [f"slack://{CANARY}", "env:N"]}, heartbeat={"url": f"https://hc/{CANARY}"})

    assert CANARY not in repr(config)
    assert [url.describe() for url in config.notify.urls] == ["***", "env:N"]
    assert config.heartbeat.url is not None
    assert config.heartbeat.url.resolve({}).get_secret_value() == f"https://hc/{CANARY}"
    assert CANARY not in refusal(notify={"urls": [[CANARY]]})
    assert CANARY not in refusal(heartbeat={"url": {"url": CANARY}})


def test_figures_go_to_a_file_that_node_exporter_reads() -> None:
    assert make_config().metrics.textfile is None
    assert make_config(metrics={"textfile": "/var/x/../dcsync.prom"}).metrics.textfile == Path("/var/dcsync.prom")
    assert refusal(metrics={"textfile": "dcsync.prom"}) == "'dcsync.prom' is not an absolute path"
    assert refusal(metrics={"textfile": "/var/dcsync.txt"}).startswith("'/var/dcsync.txt' must end in .prom")


def test_the_ca_file_is_an_absolute_path() -> None:
    assert make_config().network.ca_file is None
    assert make_config(network={"ca_file": "/etc/ca.pem"}).network.ca_file == Path("/etc/ca.pem")
    assert "not an absolute path" in refusal(network={"ca_file": "ca.pem"})


# --- [[load]] ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "a/b", ".x", "status", "x" * 65])
def test_a_name_of_a_load_that_cannot_be_one_is_refused(name: str) -> None:
    assert "is not a name of up to 64" in refusal(load=[{"to": "env:X", "name": name}])


@pytest.mark.parametrize("schema", ["", "1a", "a-b", 'a"b', "a" * 64])
def test_a_schema_is_a_plain_name(schema: str) -> None:
    assert "is not a name of up to 63" in refusal(load=[{"to": "env:X", "schema": schema}])


def test_a_load_needs_an_address_that_dcsync_knows_and_is_never_shown() -> None:
    assert "Field required" in refusal(load=[{"name": "x"}])
    assert "did you mean postgresql?" in refusal(load=[{"to": f"postgressql://u:{CANARY}@host/x"}])
    assert CANARY not in refusal(load=[{"to": CANARY}])
    assert CANARY not in refusal(load=[{"to": [CANARY]}])
    assert CANARY not in repr(make_config(load=[{"to": f"postgresql://u:{CANARY}@host/x"}]))
    assert "at least 1 item" in refusal(load=[{"to": "env:X", "tables": []}])
