"""What the sections and keys mean: values, defaults, and what does not fit together."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dcsync.config import Config, SecretRef
from dcsync.errors import SecretExposed, SecretUnavailable

ACCOUNT_ID = "872264f8-2433-498d-8d36-16649ecb13fe"
CANARY = "hunter2-canary"


def make_config(**sections: Any) -> Config:
    """Return a valid configuration with these sections merged over the least one."""
    document: dict[str, Any] = {
        "mirror": {"root": "/srv/dcsync"},
        "auth": {"method": "token", "access_token": "env:TOKEN"},
        "account": [{"name": "acme", "id": ACCOUNT_ID}],
    }
    for name, values in sections.items():
        document[name] = values if isinstance(values, list) or name == "auth" else {**document.get(name, {}), **values}
    return Config.model_validate(document)


def refusal(**sections: Any) -> str:
    """Return why a configuration is refused, in one line."""
    with pytest.raises(ValidationError) as caught:
        make_config(**sections)
    assert "input_value" not in str(caught.value)  # it may be a secret
    return "; ".join(error["msg"].removeprefix("Value error, ") for error in caught.value.errors())


# --- secrets ----------------------------------------------------------------------------------------------------------


def resolved(text: str, **environ: str) -> str:
    return SecretRef(text).resolve(environ).get_secret_value()


def secret_file(folder: Path, body: bytes = b"s3cret\n", mode: int = 0o600) -> Path:
    path = folder / "secret"
    path.write_bytes(body)
    path.chmod(mode)
    return path


def test_a_secret_comes_from_the_environment() -> None:
    assert resolved("env:TOKEN", TOKEN="s3cret") == "s3cret"


@pytest.mark.parametrize("body", [b"s3cret", b"s3cret\n", b"s3cret\r\n"])
def test_a_secret_comes_from_a_file_without_its_line_break(tmp_path: Path, body: bytes) -> None:
    assert resolved(f"file:{secret_file(tmp_path, body)}") == "s3cret"


def test_a_secret_comes_from_a_credential_of_systemd_whatever_its_mode(tmp_path: Path) -> None:
    path = secret_file(tmp_path, mode=0o444)

    assert resolved(f"credential:{path.name}", CREDENTIALS_DIRECTORY=str(tmp_path)) == "s3cret"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o666, 0o601])
def test_a_secret_file_that_others_can_use_is_refused_with_its_mode(tmp_path: Path, mode: int) -> None:
    path = secret_file(tmp_path, CANARY.encode(), mode)

    with pytest.raises(SecretExposed) as caught:
        resolved(f"file:{path}")

    assert str(caught.value) == f"the secret file {path} has mode {mode:04o}: others can read it"


@pytest.mark.parametrize(
    ("text", "environ", "said"),
    [
        ("env:TOKEN", {}, "the environment variable TOKEN is not set"),
        ("env:TOKEN", {"TOKEN": ""}, "env:TOKEN is empty"),
        ("env:TOKEN", {"TOKEN": "\n"}, "env:TOKEN is empty"),
        ("file:/absent/secret", {}, "the secret file /absent/secret cannot be read: No such file or directory"),
        ("credential:c", {}, "credential:c needs systemd's LoadCredential= ($CREDENTIALS_DIRECTORY is not set)"),
        (
            "credential:c",
            {"CREDENTIALS_DIRECTORY": "/no"},
            "the secret file /no/c cannot be read: No such file or directory",
        ),
    ],
)
def test_a_secret_that_is_not_there_is_named(text: str, environ: dict[str, str], said: str) -> None:
    with pytest.raises(SecretUnavailable) as caught:
        SecretRef(text).resolve(environ)

    assert str(caught.value) == said


@pytest.mark.parametrize("body", [b"", b"\n", b"\xff\xfe\x00"])
def test_a_secret_file_without_a_secret_is_refused(tmp_path: Path, body: bytes) -> None:
    path = secret_file(tmp_path, body)

    with pytest.raises(SecretUnavailable, match=r"is empty|is no text"):
        resolved(f"file:{path}")


def test_any_other_text_is_the_secret_itself_and_is_never_shown() -> None:
    secret = SecretRef(f"https:{CANARY}")

    assert secret.kind == "literal"
    assert repr(secret) == "SecretRef('***')"
    assert secret.describe() == "***"
    assert secret.resolve({}).get_secret_value() == f"https:{CANARY}"
    assert CANARY not in repr(secret.resolve({}))


@pytest.mark.parametrize("text", ["", "env:", "file:", "credential:", "credential:../token", "credential:.."])
def test_a_reference_to_nothing_or_out_of_its_folder_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"names nothing|it is empty|takes a name, no path"):
        SecretRef(text)


# --- [auth] -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("auth", "said"),
    [
        ({}, 'method = "login" needs client_id'),
        ({"method": "token"}, 'method = "token" needs refresh_token, or access_token for a short run'),
        ({"method": "token", "refresh_token": "env:T"}, 'method = "token" needs client_id'),
        (
            {"method": "service-account", "client_id": "x", "key_id": "k"},
            'method = "service-account" needs client_secret, account_id, private_key',
        ),
    ],
)
def test_a_method_names_all_keys_that_it_lacks(auth: dict[str, str], said: str) -> None:
    assert refusal(auth=auth) == said


# --- [mirror] and [state] ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("root", "state", "said"),
    [
        ("/srv/a", "/srv/a", "mirror.root: it must not be state.dir or below it"),
        ("/srv/a/b", "/srv/a", "mirror.root: it must not be state.dir or below it"),
        ("/srv/a", "/srv/a/state", "state.dir: below mirror.root its folder must begin with a dot"),
        ("/srv/a", "/srv/a/x/.state", "state.dir: below mirror.root its folder must begin with a dot"),
    ],
)
def test_the_state_stays_out_of_the_readers_sight(root: str, state: str, said: str) -> None:
    assert refusal(mirror={"root": root}, state={"dir": state}).startswith(said)


@pytest.mark.parametrize(
    ("root", "state"), [("/srv/a", "/srv/ab"), ("/srv/a", "/srv/a/.state/x"), ("/srv/a", "/var/b")]
)
def test_the_state_may_stand_beside_the_mirror_or_hidden_in_it(root: str, state: str) -> None:
    config = make_config(mirror={"root": root}, state={"dir": state})

    assert (config.mirror.root, config.state.dir) == (Path(root), Path(state))


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
        ("{account}/{request}/{jb}/{job}", "{jb} is unknown; there are {account} {request} {project} {date}"),
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


def test_the_manifest_is_a_file_or_a_database_that_several_hosts_share() -> None:
    assert not make_config(state={"manifest": "sqlite"}).state.manifest.is_shared
    assert make_config(state={"manifest": "postgresql://u@h/d"}).state.manifest.is_shared
    assert make_config(state={"manifest": "env:DATABASE"}).state.manifest.is_shared
    assert refusal(state={"manifest": "mysql"}).startswith('it must be "sqlite", "postgresql://')
    assert CANARY not in refusal(state={"manifest": f"mysql://u:{CANARY}@h/d"})
    assert "it must be" in refusal(state={"manifest": 5})


@pytest.mark.parametrize(
    ("address", "holds"),
    [
        (f"postgresql://u:{CANARY}@h/d", True),
        (f"postgresql://h/d?user=u&password={CANARY}", True),
        ("postgresql://u@h:5432/d", False),
        ("postgresql:///d", False),
        ("env:DATABASE", False),
        ("sqlite", False),
    ],
)
def test_a_password_in_the_address_is_noticed_and_never_shown(address: str, holds: bool) -> None:
    config = make_config(state={"manifest": address})

    assert config.state.manifest.holds_password is holds
    assert CANARY not in repr(config)


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
    assert refusal(poll={"interval": "29s"}).startswith("shorter than 30s")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8080", "http://localhost:1", "http://[::1]:9", "https://example.com"]
)
def test_an_address_is_https_or_on_this_machine(url: str) -> None:
    assert make_config(api={"base_url": f"{url}/"}).api.base_url == url


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://example.com", "is not https: tokens would go over the network in the clear"),
        ("http://127.0.0.1.example.com", "is not https"),
        ("http://10.0.0.1", "is not https"),
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
        assert refusal(api={"headers": {name: CANARY}}) == f"{name} is dcsync's own to set"


@pytest.mark.parametrize(("name", "value"), [("X Y", "1"), ("X", "a\r\nEvil: 1"), ("", "1"), ("X:", "1")])
def test_a_header_that_is_none_is_refused(name: str, value: str) -> None:
    assert "is not a header's name, or its value is not one line" in refusal(api={"headers": {name: value}})


# --- [[account]] and [[hook]] -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [ACCOUNT_ID, f"b.{ACCOUNT_ID}", ACCOUNT_ID.upper(), f"b.{ACCOUNT_ID.upper()}"])
def test_a_hub_id_and_an_account_id_are_the_same_account(text: str) -> None:
    config = make_config(account=[{"name": "acme", "id": text}])

    assert config.accounts[0].account_id == ACCOUNT_ID


@pytest.mark.parametrize("text", ["", "b.", ACCOUNT_ID[:-1], f"a.{ACCOUNT_ID}", f"b.b.{ACCOUNT_ID}", f"{ACCOUNT_ID}\n"])
def test_what_is_no_id_is_refused(text: str) -> None:
    assert "is not a hub id" in refusal(account=[{"name": "acme", "id": text}])


@pytest.mark.parametrize("name", ["", ".", "..", ".x", "x.", "a/b", "a b", "ü", "x" * 65, "-x", "a\n"])
def test_a_name_that_cannot_be_a_folder_is_refused(name: str) -> None:
    assert "cannot be a folder's name" in refusal(account=[{"name": name, "id": ACCOUNT_ID}])


def test_two_accounts_cannot_share_a_folder_even_where_case_does_not_count() -> None:
    accounts = [{"name": name, "id": ACCOUNT_ID} for name in ("acme", "beta", "ACME")]

    assert refusal(account=accounts) == "account: two accounts have the name 'acme'; each needs a folder of its own"


@pytest.mark.parametrize("start", ["2026-01-31", date(2026, 1, 31)])
def test_a_start_is_a_day_in_both_spellings_at_midnight_of_the_mirror(start: object) -> None:
    account = [{"name": "acme", "id": ACCOUNT_ID, "start": start}]
    utc, berlin = make_config(account=account), make_config(account=account, mirror={"timezone": "Europe/Berlin"})

    assert utc.start_of(utc.accounts[0]) == datetime(2026, 1, 31, tzinfo=UTC)
    assert berlin.start_of(berlin.accounts[0]) == datetime(2026, 1, 30, 23, tzinfo=UTC)


@pytest.mark.parametrize("start", ["31.1.2026", "2026-02-30", "yesterday", datetime(2026, 1, 31, tzinfo=UTC), 20260131])
def test_a_start_that_is_no_day_is_refused(start: object) -> None:
    assert refusal(account=[{"name": "acme", "id": ACCOUNT_ID, "start": start}])


def test_a_hook_needs_events_that_exist_and_a_program() -> None:
    hook = {"on": ["snapshot", "recovered"], "run": ["/bin/true"]}

    assert make_config(hook=[hook]).hooks[0].timeout == timedelta(minutes=10)
    assert "at least 1 item" in refusal(hook=[{**hook, "run": []}])
    assert "'snapshot', 'failure', 'attention' or 'recovered'" in refusal(hook=[{**hook, "on": ["bogus"]}])


@pytest.mark.parametrize("url", ["https://u:hunter2@h?x", "ftp://u:hunter2@h", "http://u:hunter2@example.com"])
def test_a_password_in_the_address_is_not_shown(url: str) -> None:
    assert "hunter2" not in refusal(api={"base_url": url})


def test_a_password_in_the_manifest_s_address_is_not_shown() -> None:
    assert "hunter2" not in refusal(state={"manifest": "mysql://u:hunter2@h/db"})


def test_root_and_state_are_compared_as_the_folders_they_are() -> None:
    words = refusal(mirror={"root": "/srv/dcsync/a"}, state={"dir": "/srv/dcsync/b/../a"})

    assert "must not be state.dir" in words


# --- what tells of the mirror -----------------------------------------------------------------------------------------


def test_an_account_is_stale_after_two_intervals_with_their_jitter_at_the_soonest() -> None:
    assert make_config().poll.stale_after == timedelta(hours=3)
    assert make_config(poll={"stale_after": "32m"}).poll.stale_after == timedelta(minutes=32)
    assert refusal(poll={"stale_after": "31m59s"}).startswith("stale_after is less than two intervals")
    assert refusal(poll={"interval": "2h"}).startswith("stale_after is less than two intervals")


def test_without_listen_there_are_no_pages() -> None:
    assert make_config().http.address is None
    assert make_config(http={"listen": ":9321"}).http.address == ("127.0.0.1", 9321)
    assert make_config(http={"listen": "[::1]:9321"}).http.address == ("::1", 9321)
    assert "is not an address and port" in refusal(http={"listen": "9321"})


def test_the_callback_s_secret_is_never_shown() -> None:
    assert CANARY not in repr(make_config(http={"callback_secret": CANARY}))


def test_messages_are_for_what_went_wrong_and_when_it_is_over_unless_said_otherwise() -> None:
    assert make_config().notify.on == ["failure", "attention", "recovered"]
    assert make_config(notify={"on": ["snapshot"]}).notify.on == ["snapshot"]
    assert "'snapshot', 'failure', 'attention' or 'recovered'" in refusal(notify={"on": ["bogus"]})


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
    assert refusal(metrics={"textfile": "/var/dcsync.txt"}).startswith("'/var/dcsync.txt' does not end in .prom")
