"""Service accounts and their keys, from the application's secret to the first data request."""

from __future__ import annotations

from typing import Any

import aiohttp
import jwt
import pytest

from dcsync.sandbox import Fault
from dcsync.sandbox.service_accounts import MAX_ACCOUNTS, MAX_KEYS
from tests.sandbox.conftest import Answer, Remote, serving

ACCOUNT, KEY = "application:service_account", "application:service_account_key"
EVERY = (f"{ACCOUNT}:read", f"{ACCOUNT}:write", f"{KEY}:read", f"{KEY}:write")
ROBOT = {"name": "dcsync", "firstName": "dcsync", "lastName": "mirror"}
ROOT = "/authentication/v2/service-accounts"


async def ask(remote: Remote, form: dict[str, str]) -> Answer:
    auth = {"Authorization": aiohttp.encode_basic_auth("sandbox", "sandbox-secret")}
    url = f"{remote.sandbox.base_url}/authentication/v2/token"
    async with remote.session.post(url, data=form, headers=auth) as response:
        return Answer(status=response.status, headers=response.headers, body=await response.read())


async def admin(remote: Remote, *scopes: str) -> str:
    """Return a token of the application, by default with every scope."""
    form = {"grant_type": "client_credentials", "scope": " ".join(scopes or EVERY)}
    answer = await ask(remote, form)
    assert answer.status == 200
    return str(answer.json()["access_token"])


async def sign_in(remote: Remote, account: str, key: Any, scopes: list[str], only: str | None = None) -> Answer:
    """Exchange an assertion of a service account for a token."""
    claims = {
        "iss": "sandbox",
        "sub": account,
        "aud": f"{remote.sandbox.base_url}/authentication/v2/token",
        "exp": int(remote.clock.now().timestamp()) + 240,
        "scope": scopes,
    }
    assertion = jwt.encode(claims, key["privateKey"], algorithm="RS256", headers={"kid": key["kid"]})
    form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": assertion}
    return await ask(remote, {**form, **({} if only is None else {"scope": only})})


async def robot(remote: Remote, token: str) -> tuple[Any, Any]:
    """Create a service account and a key."""
    account = await remote.send("POST", ROOT, ROBOT, token=token)
    key = await remote.send("POST", f"{ROOT}/{account.json()['serviceAccountId']}/keys", token=token)
    assert (account.status, key.status) == (201, 201)
    return account.json(), key.json()


async def test_a_new_service_account_mirrors_once_it_is_invited(remote: Remote) -> None:
    account, key = await robot(remote, await admin(remote))
    scopes = ["data:read", "data:create"]
    token = (await sign_in(remote, account["serviceAccountId"], key, scopes)).json()["access_token"]
    remote.world.add_request("of a person")
    wanted = {"scheduleInterval": "ONE_TIME", "effectiveFrom": "2026-11-22T00:00:00Z", "serviceGroups": ["admin"]}

    refused = await remote.send("POST", "requests", wanted, token=token)
    remote.world.invite(account["email"])
    made = await remote.send("POST", "requests", wanted, token=token)

    assert account["email"] == "dcsync@sandbox.adskserviceaccount.autodesk.com"
    assert (refused.status, made.status) == (403, 201)
    assert (await remote.api("requests", token=token)).ids == [made.json()["id"]]
    assert made.json()["createdByEmail"] == account["email"]
    assert len((await remote.api("jobs", token=token)).ids) == 1
    assert (await remote.api("jobs")).ids == []


async def test_a_world_can_invite_each_new_service_account_at_once(remote: Remote) -> None:
    remote.world.invites_all = True
    account, key = await robot(remote, await admin(remote))

    token = (await sign_in(remote, account["serviceAccountId"], key, ["data:read"])).json()["access_token"]

    assert (await remote.api("requests", token=token)).ids == []


async def test_the_scope_of_a_token_can_be_a_part_of_the_assertion_s(remote: Remote) -> None:
    account, key = await robot(remote, await admin(remote))
    who = account["serviceAccountId"]

    part = await sign_in(remote, who, key, ["data:read", "data:write"], only="data:read")
    more = await sign_in(remote, who, key, ["data:read"], only="data:read data:write")

    grant = remote.sandbox.tokens.grant_of(part.json()["access_token"])
    assert grant is not None
    assert grant.scopes == {"data:read"}
    assert (more.status, more.json()["error"]) == (400, "invalid_grant")


async def test_accounts_and_keys_are_listed_without_private_keys(remote: Remote) -> None:
    token = await admin(remote)
    account, key = await robot(remote, token)
    path = f"{ROOT}/{account['serviceAccountId']}"

    (row,) = (await remote.send("GET", ROOT, token=token)).json()["serviceAccounts"]
    keys = await remote.send("GET", f"{path}/keys", token=token)

    assert (row["serviceAccountId"], row["email"]) == (account["serviceAccountId"], account["email"])
    assert (row["status"], row["createdBy"]) == ("ENABLED", "sandbox")
    assert row["createdAt"] == "2026-11-22 12:00:00.000000000 +0000 UTC"
    assert (await remote.send("GET", path, token=token)).json() == row
    assert [(found["kid"], found["status"]) for found in keys.json()["keys"]] == [(key["kid"], "ENABLED")]
    assert b"PRIVATE" not in keys.body


@pytest.mark.parametrize(
    ("method", "path", "needed"),
    [
        ("POST", ROOT, f"{ACCOUNT}:write"),
        ("GET", ROOT, f"{ACCOUNT}:read"),
        ("GET", f"{ROOT}/{{id}}", f"{ACCOUNT}:read"),
        ("PATCH", f"{ROOT}/{{id}}", f"{ACCOUNT}:write"),
        ("DELETE", f"{ROOT}/{{id}}", f"{ACCOUNT}:write"),
        ("POST", f"{ROOT}/{{id}}/keys", f"{KEY}:write"),
        ("GET", f"{ROOT}/{{id}}/keys", f"{KEY}:read"),
        ("PATCH", f"{ROOT}/{{id}}/keys/{{kid}}", f"{KEY}:write"),
        ("DELETE", f"{ROOT}/{{id}}/keys/{{kid}}", f"{KEY}:write"),
    ],
)
async def test_each_call_needs_a_token_of_the_application_with_its_scope(
    remote: Remote, method: str, path: str, needed: str
) -> None:
    account, key = await robot(remote, await admin(remote))
    path = path.format(id=account["serviceAccountId"], kid=key["kid"])
    body = {"status": "DISABLED"} if method == "PATCH" else {**ROBOT, "name": "another"}
    lacking = await admin(remote, *(scope for scope in EVERY if scope != needed))
    of_a_user = remote.sandbox.tokens.issue_access_token("ana", scopes=frozenset(EVERY))

    statuses = [(await remote.send(method, path, body, token=token)).status for token in ("x", of_a_user, lacking)]

    assert statuses == [401, 401, 403]
    assert (await remote.send(method, path, body, token=await admin(remote, needed))).status in {200, 201, 204}


async def test_a_disabled_account_or_key_cannot_sign_in(remote: Remote) -> None:
    token = await admin(remote)
    account, key = await robot(remote, token)
    who = account["serviceAccountId"]
    path, own = f"{ROOT}/{who}", f"{ROOT}/{who}/keys/{key['kid']}"

    async def set_status(where: str, status: str) -> int:
        return (await remote.send("PATCH", where, {"status": status}, token=token)).status

    async def can_sign_in() -> bool:
        return (await sign_in(remote, who, key, ["data:read"])).status == 200

    assert await can_sign_in()
    assert (await set_status(own, "DISABLED"), await can_sign_in()) == (204, False)
    assert (await set_status(own, "ENABLED"), await can_sign_in()) == (204, True)
    assert (await set_status(path, "DISABLED"), await can_sign_in()) == (200, False)
    assert (await remote.send("GET", f"{path}/keys", token=token)).status == 400
    assert (await remote.send("POST", f"{path}/keys", token=token)).status == 400
    assert (await set_status(path, "ENABLED"), await can_sign_in()) == (200, True)
    assert (await remote.send("DELETE", own, token=token)).status == 204
    assert not await can_sign_in()


async def test_a_deleted_account_is_gone_with_its_keys(remote: Remote) -> None:
    token = await admin(remote)
    account, key = await robot(remote, token)
    path = f"{ROOT}/{account['serviceAccountId']}"

    deleted = await remote.send("DELETE", path, token=token)

    assert (deleted.status, deleted.body) == (204, b"")
    assert (await remote.send("GET", path, token=token)).status == 404
    assert (await sign_in(remote, account["serviceAccountId"], key, ["data:read"])).status == 400


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "four"}, "'name'"),
        ({"name": "a" * 65}, "'name'"),
        ({"name": "under_score"}, "'name'"),
        ({"name": "-----"}, "'name'"),
        ({"name": None}, "'name'"),
        ({"firstName": "abc"}, "'firstName'"),
        ({"lastName": "Ä" * 5}, "'lastName'"),
    ],
)
async def test_a_malformed_service_account_is_400(remote: Remote, changes: dict[str, Any], words: str) -> None:
    answer = await remote.send("POST", ROOT, {**ROBOT, **changes}, token=await admin(remote))

    assert (answer.status, answer.json()["title"]) == (400, "invalid_request")
    assert words in answer.json()["detail"]


async def test_a_name_is_used_once_and_accounts_and_keys_are_limited(remote: Remote) -> None:
    token = await admin(remote)
    account, _ = await robot(remote, token)
    keys = f"{ROOT}/{account['serviceAccountId']}/keys"

    twice = await remote.send("POST", ROOT, ROBOT, token=token)
    accounts = [
        (await remote.send("POST", ROOT, {**ROBOT, "name": f"robot-{number}"}, token=token)).status
        for number in range(MAX_ACCOUNTS)
    ]
    more_keys = [(await remote.send("POST", keys, token=token)).status for _ in range(MAX_KEYS)]

    assert (twice.status, twice.json()["detail"]) == (400, "The 'name' already exists.")
    assert accounts == [201] * (MAX_ACCOUNTS - 1) + [403]
    assert more_keys == [201] * (MAX_KEYS - 1) + [403]


@pytest.mark.parametrize("status", ["ENABLED", "OFF", None])
async def test_a_status_that_changes_nothing_or_is_unknown_is_400(remote: Remote, status: str | None) -> None:
    token = await admin(remote)
    account, key = await robot(remote, token)
    path = f"{ROOT}/{account['serviceAccountId']}"

    answers = [
        await remote.send("PATCH", where, {"status": status}, token=token)
        for where in (path, f"{path}/keys/{key['kid']}")
    ]

    assert {answer.status for answer in answers} == {400}


@pytest.mark.parametrize("path", ["/x", "/x/keys", "/{id}/keys/x"])
async def test_a_missing_account_or_key_is_404(remote: Remote, path: str) -> None:
    token = await admin(remote)
    account, _ = await robot(remote, token)
    path = ROOT + path.format(id=account["serviceAccountId"])

    answer = await remote.send("DELETE" if path.endswith("/x") else "GET", path, token=token)

    assert (answer.status, answer.json()["title"]) == (404, "not_found")


async def test_a_body_that_is_not_json_is_400(remote: Remote) -> None:
    token = await admin(remote)

    assert (await remote.send("POST", ROOT, token=token)).status == 400
    assert (await remote.send("POST", ROOT, [], token=token)).status == 400


async def test_the_answer_can_be_lost_after_a_key_was_created(remote: Remote) -> None:
    token = await admin(remote)
    account, _ = await robot(remote, token)
    keys = f"{ROOT}/{account['serviceAccountId']}/keys"
    remote.sandbox.faults.add(Fault(server="token", kind="lose-after-commit", match="keys$"))

    with pytest.raises(aiohttp.ClientConnectionError):
        await remote.send("POST", keys, token=token)

    assert len((await remote.send("GET", keys, token=token)).json()["keys"]) == 2


async def test_the_application_needs_a_secret_and_a_scope_for_a_token_of_its_own(remote: Remote) -> None:
    refused = await ask(remote, {"grant_type": "client_credentials"})
    async with serving(client_secret=None) as public:
        url = f"{public.sandbox.base_url}/authentication/v2/token"
        form = {"grant_type": "client_credentials", "client_id": "sandbox", "scope": f"{ACCOUNT}:read"}
        async with public.session.post(url, data=form) as response:
            error = (await response.json())["error"]

    assert (refused.status, refused.json()["error"], error) == (400, "invalid_scope", "unauthorized_client")
