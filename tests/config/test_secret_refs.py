"""References to secrets: what they resolve to, and where a configuration holds them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from dcsync.config import Config, SecretRef, secret_refs
from dcsync.config.fields import Section
from dcsync.config.secret_refs import Secret
from dcsync.errors import SecretExposed, SecretUnavailable
from tests.rigs.configs import ACCOUNT_ID, make_config, refusal

CANARY = "hunter2-canary"


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

    assert str(caught.value) == f"the secret file {path} has mode {mode:04o}, so others can use it"


@pytest.mark.parametrize(
    ("text", "environ", "said"),
    [
        ("env:TOKEN", {}, "the environment variable TOKEN is not set"),
        ("env:TOKEN", {"TOKEN": ""}, "env:TOKEN is empty"),
        ("env:TOKEN", {"TOKEN": "\n"}, "env:TOKEN is empty"),
        ("file:/absent/secret", {}, "the secret file /absent/secret does not exist"),
        ("credential:c", {}, "credential:c needs systemd's LoadCredential= ($CREDENTIALS_DIRECTORY is not set)"),
        (
            "credential:c",
            {"CREDENTIALS_DIRECTORY": "/no"},
            "the unit has no credential c",
        ),
    ],
)
def test_a_secret_that_is_not_there_is_named(text: str, environ: dict[str, str], said: str) -> None:
    with pytest.raises(SecretUnavailable) as caught:
        SecretRef(text).resolve(environ)

    assert str(caught.value) == said


def test_the_hint_about_a_credential_is_a_command_that_works() -> None:
    with pytest.raises(SecretUnavailable) as caught:
        SecretRef("credential:c").resolve({})

    assert "run the command as root" in caught.value.advice
    assert "sudo dcsync" in caught.value.advice


@pytest.mark.parametrize("environ", [{"INVOCATION_ID": "1"}, {"CREDENTIALS_DIRECTORY": "/no"}])
def test_in_a_unit_the_hint_about_a_credential_is_how_to_pass_it(environ: dict[str, str]) -> None:
    with pytest.raises(SecretUnavailable) as caught:
        SecretRef("credential:c").resolve(environ)

    assert "LoadCredential=c:/etc/dcsync/c" in caught.value.advice
    assert "/etc/dcsync/service.d/secrets.conf" in caught.value.advice
    assert "systemctl daemon-reload" in caught.value.advice


def test_the_hint_about_a_missing_file_is_how_to_write_it() -> None:
    with pytest.raises(SecretUnavailable) as caught:
        SecretRef("file:/absent/secret").resolve({})

    assert "(umask 077; cat > /absent/secret)" in caught.value.advice


@pytest.mark.parametrize("body", [b"", b"\n", b"s\xe9cret"])
def test_a_secret_file_without_a_secret_is_refused(tmp_path: Path, body: bytes) -> None:
    path = secret_file(tmp_path, body)

    with pytest.raises(SecretUnavailable, match=r"is empty|is not UTF-8 text"):
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
    with pytest.raises(ValueError, match=r"a name is missing|the secret is empty|not a path"):
        SecretRef(text)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffs3cret",
        " s3cret",
        "s3cret ",
        "\ts3cret\t",
        "s3cret\r\n\r\n",
        "\ns3cret\n\n",
        "\u00a0s3cret\u200b",
        "\ufeff \n s3cret \u2060",
    ],
)
def test_what_an_editor_or_a_paste_leaves_around_a_secret_is_removed(tmp_path: Path, text: str) -> None:
    path = secret_file(tmp_path, text.encode())

    assert resolved("env:TOKEN", TOKEN=text) == "s3cret"
    assert resolved(f"file:{path}") == "s3cret"
    assert resolved(f"credential:{path.name}", CREDENTIALS_DIRECTORY=str(tmp_path)) == "s3cret"
    assert resolved(text) == "s3cret"


def test_the_lines_of_a_key_and_the_spaces_in_a_password_stay() -> None:
    pem = "-----BEGIN PRIVATE KEY-----\r\nMIIE\n-----END PRIVATE KEY-----"

    assert resolved("env:KEY", KEY=f"\ufeff{pem}\n") == pem
    assert resolved("env:PASSWORD", PASSWORD="two words\t3\n") == "two words\t3"


@pytest.mark.parametrize("text", ["\ufeff", " \n", "\u200b"])
def test_what_is_left_of_nothing_is_empty(text: str) -> None:
    with pytest.raises(SecretUnavailable, match=r"^env:TOKEN is empty$"):
        resolved("env:TOKEN", TOKEN=text)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("text", [CANARY, f"{CANARY}-ä-é", f"{CANARY}\r\n"])
def test_a_file_of_a_windows_editor_in_utf_16_is_refused_with_the_cure(
    tmp_path: Path, encoding: str, text: str
) -> None:
    path = secret_file(tmp_path, text.encode(encoding))

    with pytest.raises(SecretUnavailable) as caught:
        resolved(f"file:{path}")

    assert str(caught.value) == f"the secret file {path} is UTF-16 text. Save it as UTF-8, without a BOM"
    assert "iconv" in caught.value.advice


@pytest.mark.parametrize("text", [f"{CANARY}\x00", f"{CANARY}\x1b[0m", f"a\x7f{CANARY}"])
def test_a_secret_with_a_control_character_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(SecretUnavailable, match="env:TOKEN contains a control character") as caught:
        resolved("env:TOKEN", TOKEN=text)

    assert CANARY not in str(caught.value)


# --- the manifest -----------------------------------------------------------------------------------------------------


def test_the_manifest_is_a_file_or_a_database_that_several_hosts_share() -> None:
    assert not make_config(state={"manifest": "sqlite"}).state.manifest.is_shared
    assert make_config(state={"manifest": "postgresql://u@h/d"}).state.manifest.is_shared
    assert make_config(state={"manifest": "env:DATABASE"}).state.manifest.is_shared
    assert refusal(state={"manifest": "mysql"}).startswith('must be "sqlite", "postgresql://')
    assert CANARY not in refusal(state={"manifest": f"mysql://u:{CANARY}@h/d"})
    assert "must be" in refusal(state={"manifest": 5})


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

    assert config.state.manifest.holds_secret is holds
    assert CANARY not in repr(config)


def test_a_password_in_the_manifest_s_address_is_not_shown() -> None:
    assert "hunter2" not in refusal(state={"manifest": "mysql://u:hunter2@h/db"})


# --- all of them ------------------------------------------------------------------------------------------------------


class Feed(Section):
    """A section with secrets that no released configuration has."""

    password: Secret | None = None
    tokens: list[Secret] = Field(default_factory=list)
    by_name: dict[str, Secret] = Field(default_factory=dict)
    label: str = ""


class Extended(Config):
    """A configuration of a later version."""

    feed: Feed | None = None
    feeds: list[Feed] = Field(alias="further", default_factory=list)


def extended(**sections: object) -> Extended:
    document = {
        "mirror": {"root": "/srv/dcsync"},
        "auth": {"method": "token", "access_token": "env:TOKEN"},
        "account": [{"name": "acme", "id": ACCOUNT_ID}],
    }
    return Extended.model_validate({**document, **sections})


def test_a_new_secret_key_is_found_wherever_it_is_nested() -> None:
    config = extended(
        feed={"password": "env:A", "tokens": ["env:B", "env:C"], "by_name": {"x": "env:D"}, "label": "env:NOT"},
        further=[{}, {"password": "env:E"}],
    )

    found = {path: ref.variable for path, ref in secret_refs(config) if ref.variable is not None}

    assert found == {
        ("auth", "access_token"): "TOKEN",
        ("feed", "password"): "A",
        ("feed", "tokens", 0): "B",
        ("feed", "tokens", 1): "C",
        ("feed", "by_name", "x"): "D",
        ("further", 1, "password"): "E",
    }


def test_keys_that_are_not_set_and_the_default_manifest_hold_no_secret() -> None:
    refs = dict(secret_refs(extended()))

    assert refs.keys() == {("state", "manifest"), ("network", "proxy"), ("auth", "access_token")}
    assert not any(ref.holds_secret for ref in refs.values())


# --- the proxy --------------------------------------------------------------------------------------------------------


def test_the_proxy_of_the_environment_is_the_default() -> None:
    default = make_config().network.proxy

    assert default.reads_environment
    assert not make_config(network={"proxy": "none"}).network.proxy.reads_environment
    assert make_config(network={"proxy": "none"}).network.proxy.is_keyword


@pytest.mark.parametrize(
    ("text", "shown", "holds"),
    [
        ("environment", "environment", False),
        ("none", "none", False),
        ("http://proxy.test:3128", "http://proxy.test:3128", False),
        ("proxy:3128", "proxy:3128", False),
        ("env:PROXY", "env:PROXY", False),
        ("credential:proxy", "credential:proxy", False),
        (f"http://user:{CANARY}@proxy.test:3128", "***", True),
        (f"user:{CANARY}@proxy.test:3128", "***", True),
    ],
)
def test_a_proxy_is_a_secret_if_it_has_a_password(text: str, shown: str, holds: bool) -> None:
    proxy = make_config(network={"proxy": text}).network.proxy

    assert (proxy.describe(), proxy.holds_secret) == (shown, holds)
    assert repr(proxy) == f"SecretRef({shown!r})"


def test_what_is_no_proxy_is_refused_without_showing_it() -> None:
    for value in (CANARY, "", 5, True):
        said = refusal(network={"proxy": value})
        assert 'must be "environment", "none"' in said
        assert CANARY not in said


def test_a_reference_equals_the_same_reference_of_its_kind() -> None:
    assert SecretRef("env:A") == SecretRef("env:A")
    assert SecretRef("env:A") != SecretRef("env:B")
    assert len({SecretRef("env:A"), SecretRef("env:A"), SecretRef("file:A")}) == 2


@pytest.mark.parametrize(
    ("text", "shown", "holds"),
    [
        ("duckdb:///srv/acc.duckdb", "duckdb:///srv/acc.duckdb", False),
        ("postgresql://user@host/acc", "postgresql://user@host/acc", False),
        (f"postgresql://user:{CANARY}@host/acc", "***", True),
        (f"postgresql://host/acc?password={CANARY}", "***", True),
        ("credential:load", "credential:load", False),
    ],
)
def test_the_address_of_a_load_is_a_secret_if_it_has_a_password(text: str, shown: str, holds: bool) -> None:
    (load,) = make_config(load=[{"to": text}]).loads

    assert (load.to.describe(), load.to.holds_secret) == (shown, holds)


def test_a_folder_as_the_target_of_a_load_is_no_reference_to_a_secret_file(tmp_path: Path) -> None:
    folder, secret = make_config(load=[{"to": "file:///srv/acc"}]).loads, secret_file(tmp_path, b"duckdb:///srv/x")

    assert folder[0].to.resolve({}).get_secret_value() == "file:///srv/acc"
    assert (folder[0].to.describe(), folder[0].to.holds_secret) == ("file:///srv/acc", False)
    (load,) = make_config(load=[{"to": f"file:{secret}"}]).loads
    assert load.to.resolve({}).get_secret_value() == "duckdb:///srv/x"
