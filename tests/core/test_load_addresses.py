"""The addresses that tables are loaded into."""

from __future__ import annotations

import pytest

from dcsync.core.load_addresses import SCHEMES, check_address, has_secret, scheme_of, shown

CANARY = "hunter2-canary"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_is_accepted_in_any_case(scheme: str) -> None:
    assert scheme_of(f"{scheme.upper()}://user@host/database") == scheme


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("oracle://host/x", "cannot begin with 'oracle'; the known ones are postgresql, postgres, duckdb"),
        ("postgressql://host/x", "cannot begin with 'postgressql'; did you mean postgresql?"),
        (CANARY, "is not an address such as postgresql://user@host/database; it must begin with one of"),
        (f"postgresql:{CANARY}", "is not an address such as"),
        (f"user:{CANARY}@host://x", "is not an address such as"),
        ("", "is not an address such as"),
        ("duckdb://acc.duckdb", "must begin with duckdb:/// (three slashes) and an absolute path"),
        ("sqlite:////srv/acc.db", "must begin with sqlite:/// (three slashes) and an absolute path"),
        ("file://folder", "must begin with file:/// (three slashes) and an absolute path"),
    ],
)
def test_what_is_no_address_is_refused_without_its_text(address: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"address|path") as caught:
        check_address(address)

    assert said in str(caught.value)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        f"postgresql://user:x@{CANARY}@host/acc",
        f"postgresql://user:x:{CANARY}@host/acc",
        f"postgresql://user:1/{CANARY}@host/acc",
        f"postgresql://user:x#{CANARY}@host/acc",
        f"mssql://user:x/{CANARY}@host/acc",
        f"postgresql://user:{CANARY}@[::1/acc",
        f"postgresql://user:x@host:{CANARY}/acc",
    ],
)
def test_a_special_character_that_would_make_the_password_the_host_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="write %40 for @, %3A for :") as caught:
        check_address(address)

    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://user:x%40y@host:5432/acc?sslmode=verify-full&user=a@b",
        "postgresql://host/acc",
        "duckdb:///srv/a@b:c@d.duckdb",
        "file:///srv/a:b@c",
        "s3://bucket/a@b:c@d",
    ],
)
def test_an_address_that_means_one_thing_is_accepted(address: str) -> None:
    check_address(address)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (
            f"postgresql://user:{CANARY}@db.example.com:5432/acc?password={CANARY}#x",
            "postgresql://db.example.com:5432/acc",
        ),
        (f"postgresql://user:{CANARY}@@host/acc", "postgresql://host/acc"),
        (f"postgresql://user:{CANARY}@[::1/acc", "postgresql://…"),
        (f"postgresql://user:{CANARY}#x@host/acc", "postgresql://…"),
        (f"postgresql://user:{CANARY}?x@host/acc", "postgresql://…"),
        (f"postgresql://user:{CANARY}/x@host/acc", "postgresql://…"),
        (f"postgresql://user:x@{CANARY}/x@host/acc", "postgresql://…"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
        ("file:///srv/a:b@c", "file:///srv/a:b@c"),
        ("duckdb:///srv/acc.duckdb", "duckdb:///srv/acc.duckdb"),
        ("s3://bucket/folder", "s3://bucket/folder"),
    ],
)
def test_it_is_shown_without_secrets(address: str, words: str) -> None:
    assert shown(address) == words


@pytest.mark.parametrize(
    ("address", "has"),
    [
        ("postgresql://user@host/acc", False),
        ("duckdb:///srv/acc.duckdb", False),
        ("postgresql://user:x@host/acc", True),
        ("postgresql://host/acc?password=x", True),
        ("s3://bucket/folder#x", True),
        ("postgresql://user:x@[::1/acc", True),
        ("postgresql://user:x/y@host/acc", True),
        ("file:///srv/a:b@c", False),
    ],
)
def test_a_password_is_in_front_of_the_host_or_in_the_query(address: str, has: bool) -> None:
    assert has_secret(address) is has
