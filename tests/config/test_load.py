"""Locating, reading and checking the file: every problem at once, each with its line, and no secret in any of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from dcsync.config import Config, find, json_schema, load
from dcsync.config.load import SYSTEM
from dcsync.errors import ConfigInvalid, ConfigMissing

CANARY = "hunter2-canary"
MIRROR = '[mirror]\nroot = "/srv/dcsync"\n'
AUTH = '[auth]\nmethod = "token"\naccess_token = "env:TOKEN"\n'
ACCOUNT = '[[account]]\nname = "acme"\nid = "872264f8-2433-498d-8d36-16649ecb13fe"\n'
#: Nine lines: [mirror] is 1, [auth] 3, [[account]] 6.
WHOLE = MIRROR + AUTH + ACCOUNT
NOBODY = 65534


def write(folder: Path, text: str | bytes, *, mode: int = 0o600) -> Path:
    path = folder / "config.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return path


def load_text(folder: Path, text: str | bytes, *, mode: int = 0o600) -> Config:
    return load(write(folder, text, mode=mode), environ={})


def problems(folder: Path, text: str | bytes, *, mode: int = 0o600) -> list[str]:
    """Return what is said of a text, the name of the file cut to its last part."""
    with pytest.raises(ConfigInvalid) as caught:
        load_text(folder, text, mode=mode)
    return [line.removeprefix(f"{folder}/") for line in str(caught.value).split("\n")]


@contextmanager
def as_nobody() -> Iterator[None]:
    """Take root's right to read everything away for a while; another user has none to lose."""
    me = os.geteuid()
    if me == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if me == 0:
            os.seteuid(0)


# --- reading ----------------------------------------------------------------------------------------------------------


def test_the_least_configuration_loads_with_all_defaults(tmp_path: Path) -> None:
    config = load_text(tmp_path, WHOLE)

    assert config.mirror.root == Path("/srv/dcsync")
    assert [account.name for account in config.accounts] == ["acme"]
    assert config.transfer.concurrency == 16
    assert config.hooks == []


@pytest.mark.parametrize("body", [b"\xef\xbb\xbf" + WHOLE.encode(), WHOLE.replace("\n", "\r\n").encode()])
def test_a_file_written_on_windows_loads(tmp_path: Path, body: bytes) -> None:
    assert repr(load_text(tmp_path, body)) == repr(load_text(tmp_path, WHOLE))


def test_broken_toml_is_named_with_its_line_and_column(tmp_path: Path) -> None:
    said = problems(tmp_path, WHOLE + "[log]\nlevel = \n")

    assert said == ["config.toml:10: not valid TOML: Invalid value (column 9)"]


def test_a_byte_that_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    said = problems(tmp_path, b"# one\n# caf\xe9\n" + WHOLE.encode())

    assert said == ["config.toml:2: not UTF-8 text"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_a_file_in_utf_16_is_named_with_the_cure(tmp_path: Path, encoding: str) -> None:
    assert problems(tmp_path, WHOLE.encode(encoding)) == ["config.toml:1: UTF-16 text. Save the file as UTF-8"]


def test_a_file_that_is_not_there_is_missing_not_invalid(tmp_path: Path) -> None:
    with pytest.raises(ConfigMissing, match=r"none\.toml does not exist") as caught:
        load(tmp_path / "none.toml", environ={})

    assert "dcsync init" in caught.value.advice


def test_a_folder_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="not a file but a folder"):
        load(tmp_path, environ={})


def test_a_file_without_permission_is_said_so_with_the_uid(tmp_path: Path) -> None:
    path = write(tmp_path, WHOLE, mode=0)

    with as_nobody():
        uid = os.geteuid()
        with pytest.raises(ConfigInvalid) as caught:
            load(path, environ={})

    assert str(caught.value) == f"{path}: cannot read the file: Permission denied (as uid {uid})"
    assert "run the command as root (sudo dcsync …)" in caught.value.advice


# --- where it is looked for -------------------------------------------------------------------------------------------


def make_file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(WHOLE)
    return path


def test_the_named_file_comes_first_then_the_variable_then_the_user(tmp_path: Path) -> None:
    user = make_file(tmp_path / "xdg/dcsync/config.toml")
    named, variable = make_file(tmp_path / "named.toml"), make_file(tmp_path / "variable.toml")
    xdg = {"XDG_CONFIG_HOME": str(tmp_path / "xdg")}
    both = {**xdg, "DCSYNC_CONFIG": str(variable)}

    assert find(named, environ=both) == named
    assert find(None, environ=both) == variable
    assert find(None, environ=xdg) == user


def test_a_variable_that_names_nothing_is_not_passed_over(tmp_path: Path) -> None:
    make_file(tmp_path / "xdg/dcsync/config.toml")
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "xdg"), "DCSYNC_CONFIG": str(tmp_path / "typo.toml")}

    with pytest.raises(ConfigMissing, match=r"typo\.toml does not exist"):
        load(None, environ=environ)


def test_without_xdg_it_is_the_dot_config_of_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    user = make_file(tmp_path / ".config/dcsync/config.toml")

    assert find(None, environ={}) == user


def test_the_system_s_file_is_the_last_choice(tmp_path: Path) -> None:
    environ, system = {"XDG_CONFIG_HOME": str(tmp_path / "xdg")}, make_file(tmp_path / "etc/config.toml")

    assert find(None, environ=environ, system=system) == system

    user = make_file(tmp_path / "xdg/dcsync/config.toml")
    assert find(None, environ=environ, system=system) == user


def test_without_any_file_the_error_names_the_places_in_order(tmp_path: Path) -> None:
    with pytest.raises(ConfigMissing) as caught:
        find(None, environ={"XDG_CONFIG_HOME": str(tmp_path)}, system=tmp_path / "etc/config.toml")

    assert str(caught.value).endswith(f"found in {tmp_path}/dcsync/config.toml or {tmp_path}/etc/config.toml")


def test_the_system_s_file_is_in_etc() -> None:
    assert Path("/etc/dcsync/config.toml") == SYSTEM


# --- checking ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (
            MIRROR + 'strategie = "auto"\n' + AUTH + ACCOUNT,
            3,
            'mirror.strategie: unknown key; did you mean "strategy"?',
        ),
        (WHOLE + "[mirorr]\n", 9, 'mirorr: unknown key; did you mean "mirror"?'),
        (WHOLE + 'incldue = ["*"]\n', 9, 'account.1.incldue: unknown key; did you mean "include"?'),
        (
            WHOLE + '[[hook]]\non = []\nrun = ["x"]\ntimeot = "1m"',
            12,
            'hook.1.timeot: unknown key; did you mean "timeout"?',
        ),
        (WHOLE + "[log]\nzzzz = 1\n", 10, "log.zzzz: unknown key; the keys are format, level"),
        (WHOLE + '[log]\n"\\u001b[2J" = 1\n', 9, "log.\\x1b[2J: unknown key; the keys are format, level"),
    ],
)
def test_an_unknown_key_is_named_with_its_line_and_what_was_meant(
    tmp_path: Path, text: str, line: int, said: str
) -> None:
    assert problems(tmp_path, text) == [f"config.toml:{line}: {said}"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[transfer]\nconcurrency = 0\n", "transfer.concurrency: must be 1 or more"),
        ('[transfer]\nconcurrency = "16"\n', "transfer.concurrency: must be a whole number, without quotes"),
        ("[transfer]\nconcurrency = true\n", "transfer.concurrency: must be a whole number, without quotes"),
        ('[log]\nlevel = "loud"\n', "log.level: must be one of 'debug', 'info', 'warning' or 'error'"),
        ('[poll]\ninterval = "5s"\n', "poll.interval: must be 30s or more: polls and downloads share the rate limit"),
        ("[poll]\ninterval = 15\n", 'poll.interval: 15 is not a duration such as "15m"'),
        ('[http]\nlisten = ["x"]\n', "http.listen: must be text in quotes"),
        ("[state]\ndir = 5\n", "state.dir: must be a path in quotes"),
        ("[keep]\ndaily = -1\n", "keep.daily: must be 0 or more"),
    ],
)
def test_a_wrong_type_or_value_is_named_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    assert problems(tmp_path, WHOLE + text) == [f"config.toml:10: {said}"]


def test_all_problems_come_at_once_in_the_order_of_the_lines(tmp_path: Path) -> None:
    text = "\n".join(
        [
            "[log]",
            'format = "xml"',
            "[transfer]",
            "concurency = 3",
            "[mirror]",
            'root = "srv"',
            "keep_archive = 1",
            AUTH + 'methd = "token"\n' + ACCOUNT,
        ]
    )

    assert problems(tmp_path, text) == [
        "config.toml:2: log.format: must be one of 'auto', 'console' or 'json'",
        'config.toml:4: transfer.concurency: unknown key; did you mean "concurrency"?',
        "config.toml:6: mirror.root: 'srv' is not an absolute path",
        "config.toml:7: mirror.keep_archive: must be true or false, without quotes",
        'config.toml:11: auth.methd: unknown key; did you mean "method"?',
    ]


def test_sections_that_are_missing_are_named(tmp_path: Path) -> None:
    assert problems(tmp_path, "") == [
        "config.toml: mirror: the section [mirror] is missing",
        "config.toml: auth: the section [auth] is missing",
        "config.toml: account: add at least one [[account]], or let dcsync init add one",
    ]


@pytest.mark.parametrize("none", ["", "account = []\n"])
def test_no_account_is_a_problem_for_all_but_what_finds_out_which_there_are(tmp_path: Path, none: str) -> None:
    path = write(tmp_path, none + MIRROR + AUTH)

    with pytest.raises(ConfigInvalid, match="at least one"):
        load(path, environ={})

    assert load(path, environ={}, accounts_needed=False).accounts == []


def test_a_missing_account_is_named_with_everything_else(tmp_path: Path) -> None:
    assert problems(tmp_path, MIRROR + AUTH.replace("env:TOKEN", "env:"), mode=0o644) == [
        "config.toml: account: add at least one [[account]], or let dcsync init add one",
        "config.toml:5: auth.access_token: a name is missing after env:",
    ]


def test_a_key_that_is_missing_is_named_at_its_section(tmp_path: Path) -> None:
    second = '[[account]]\nname = "beta"\n'

    assert problems(tmp_path, WHOLE + second) == ["config.toml:9: account.2.id: is missing"]


# --- secrets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620])
def test_a_secret_in_a_file_that_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    (said,) = problems(tmp_path, WHOLE.replace("env:TOKEN", CANARY), mode=mode)

    assert said.startswith("config.toml:5: auth.access_token: others can read this secret. Run chmod 600")
    assert CANARY not in said


def test_every_secret_in_a_file_that_others_can_use_is_named_with_its_line(tmp_path: Path) -> None:
    text = WHOLE + (
        f'[http]\ncallback_secret = "{CANARY}"\n[notify]\nurls = ["env:A", "{CANARY}"]\n'
        f'[heartbeat]\nurl = "{CANARY}"\n[state]\nmanifest = "postgresql://u:{CANARY}@h/d"\n'
    )

    said = problems(tmp_path, text, mode=0o644)

    assert [line.partition(": others can read")[0] for line in said] == [
        "config.toml:10: http.callback_secret",
        "config.toml:12: notify.urls.2",
        "config.toml:14: heartbeat.url",
        "config.toml:16: state.manifest",
    ]
    assert CANARY not in "\n".join(said)


@pytest.mark.parametrize("reference", ["env:TOKEN", "file:/run/secret", "credential:token"])
def test_a_reference_to_a_secret_may_be_read_by_all(tmp_path: Path, reference: str) -> None:
    config = load_text(tmp_path, WHOLE.replace("env:TOKEN", reference), mode=0o644)

    assert config.auth.access_token is not None
    assert config.auth.access_token.describe() == reference


def test_a_secret_in_a_private_file_is_taken(tmp_path: Path) -> None:
    config = load_text(tmp_path, WHOLE.replace("env:TOKEN", CANARY), mode=0o600)

    assert config.auth.access_token is not None
    assert config.auth.access_token.resolve({}).get_secret_value() == CANARY


def test_no_secret_is_in_a_configuration_that_is_shown(tmp_path: Path) -> None:
    keys = ("client_secret", "private_key", "access_token", "refresh_token")
    auth = '[auth]\nmethod = "token"\nclient_id = "x"\n' + "".join(f'{key} = "{CANARY}-{key}"\n' for key in keys)
    config = load_text(tmp_path, MIRROR + auth + ACCOUNT)

    shown = [repr(config), str(config), repr(config.auth), str(config.model_dump()), f"{config.auth.private_key}"]

    assert [text for text in shown if CANARY in text] == []
    assert "SecretRef('***')" in repr(config)


@pytest.mark.parametrize(
    "auth",
    [
        f'method = "token"\naccess_token = ["{CANARY}"]\n',
        f'method = "token"\naccess_token = {{ env = "{CANARY}" }}\n',
        f'method = "token"\nacces_token = "{CANARY}"\n',
        f'method = "nothing"\naccess_token = "{CANARY}"\n',
        f'method = "service-account"\nclient_id = "x"\nclient_secret = "{CANARY}"\n',
        f'method = "token"\nrefresh_token = "{CANARY}"\n',
        f'method = "token"\naccess_token = "{CANARY}\n',
        f'method = "token"\naccess_token = "{CANARY}"\naccess_token = "{CANARY}"\n',
        f"method = \"token\"\naccess_token = '{CANARY}'x\n",
        f'method = "token"\naccess_token = {CANARY}\n',
    ],
)
@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_no_problem_shows_a_secret(tmp_path: Path, auth: str, mode: int) -> None:
    said = problems(tmp_path, MIRROR + "[auth]\n" + auth + ACCOUNT, mode=mode)

    assert said
    assert CANARY not in "\n".join(said)


def test_an_address_with_a_password_is_refused_without_showing_it(tmp_path: Path) -> None:
    (said,) = problems(tmp_path, f'{WHOLE}[api]\nbase_url = "https://user:{CANARY}@example.com"\n')

    assert said == "config.toml:10: api.base_url: remove the user name and password, which belong in [auth]"


def words_of_keys() -> dict[tuple[str, str], tuple[list[str], bool]]:
    """Return the words that each key may have, and whether it is a list, from the schema of the whole model."""
    found = {
        ("mirror", "layout"): (["dated", "hive", "{job}"], False),
        ("state", "manifest"): (["sqlite"], False),
        ("network", "proxy"): (["environment", "none"], False),
    }
    for section, schema in cast("dict[str, Any]", json_schema()["properties"]).items():
        for name, key in schema.get("items", schema)["properties"].items():
            inner = key.get("items", key)
            words = inner.get("enum") or [word for word in inner.get("examples", ()) if word.isalpha()]
            words = ["true", "false"] if inner.get("type") == "boolean" else words
            if words:
                found[section, name] = (words, "items" in key)
    return found


def test_the_mistake_of_every_key_with_fixed_words_names_them(tmp_path: Path) -> None:
    heads = {"load": '[[load]]\nto = "env:X"\n', "hook": '[[hook]]\nrun = ["x"]\n', "auth": '[auth]\nclient_id = "x"\n'}
    found = words_of_keys()
    assert len(found) >= 17
    for (section, name), (words, is_list) in found.items():
        needed = (MIRROR if section != "mirror" else "") + (AUTH if section != "auth" else "") + ACCOUNT
        head = MIRROR if section == "mirror" else heads.get(section, f"[{section}]\n")
        values = ['["no-such-word"]', "[7]", '"snapshot"'] if is_list else ['"no-such-word"', "[7]"]
        # A layout of another type than text is no mistake in a word.
        for value in values[:1] if name == "layout" else values:
            said = [each for each in problems(tmp_path, f"{needed}{head}{name} = {value}\n") if f"{section}." in each]
            assert [word for word in words if word not in "".join(said)] == [], said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[hook]\non = ["alert"]\n', "hook: must be a list of sections: write [[hook]], with two brackets"),
        ('[[poll]]\ninterval = "15m"\n', "poll: must be a section: write [poll]"),
        ('[api]\nheaders = "x"\n', 'api.headers: must be a table such as { NAME = "value" }'),
        ('[history]\ntables = "*"\n', 'history.tables: must be a list in brackets, such as ["*"]'),
        ("[verify]\npart_days = 400\n", "verify.part_days: must be 366 or less"),
        ('[transfer]\nbandwidth = "fast"\n', "transfer.bandwidth: 'fast' is not \"unlimited\" or a rate such as"),
    ],
)
def test_no_mistake_has_the_words_of_python(tmp_path: Path, text: str, said: str) -> None:
    (problem,) = problems(tmp_path, WHOLE + text)
    assert said in problem
