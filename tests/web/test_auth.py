"""Every weakness that was seen in aiohttp-jwt, closed (HS256; keys of a JWKS are in test_jwks.py)."""

import asyncio
import base64
import json
import logging
from datetime import UTC, datetime, timedelta

import jwt
import pytest

from app.core.errors import ConfigurationError
from app.web.parts import TokenRules

OTHER = "another secret that is long enough for HS256 too"
PATH = "/api/v1/runbooks"


async def status(web, token, scheme="Bearer"):
    return (await web.plain("GET", PATH, {"Authorization": f"{scheme} {token}"})).status


def later(seconds):
    return datetime.now(UTC) + timedelta(seconds=seconds)


@pytest.fixture
async def strict(world, serve):
    """An API that checks audience and issuer, with a leeway of 30 s."""
    rules = TokenRules(secret="a secret of the tests that is long enough", audience="us", issuer="them", leeway_s=30)
    return await serve(world.parts(tokens=rules))


def named(token, **claims):
    return token(**({"aud": "us", "iss": "them"} | claims))


async def test_a_valid_token_is_let_in(strict, token):
    assert await status(strict, named(token)) == 200


@pytest.mark.parametrize("claim", ["nbf", "iat"])
async def test_a_token_of_the_future_is_refused_beyond_the_leeway(strict, token, claim):
    assert await status(strict, named(token, **{claim: later(20)})) == 200
    assert await status(strict, named(token, **{claim: later(60)})) == 401


async def test_an_expired_token_is_refused_beyond_the_leeway(strict, token):
    assert await status(strict, named(token, exp=later(-20))) == 200
    assert await status(strict, named(token, exp=later(-60))) == 401


async def test_the_leeway_forgives_nothing_but_time(strict, token):
    assert await status(strict, named(token, exp=later(-20), aud="others")) == 401
    assert await status(strict, named(token, exp=later(-20), iss="others")) == 401
    assert await status(strict, named(token, secret=OTHER, exp=later(-20))) == 401


@pytest.mark.parametrize("claims", [{"aud": "others"}, {"iss": "others"}, {"without": ["aud"]}, {"without": ["iss"]}])
async def test_another_audience_or_issuer_is_refused(strict, token, claims):
    assert await status(strict, named(token, **claims)) == 401


async def test_without_an_audience_a_token_for_somebody_is_refused_and_the_log_says_what_to_set(web, token, caplog):
    for _ in range(2):
        answer = await web.plain("GET", PATH, {"Authorization": f"Bearer {token(aud='us')}"})
        assert (answer.status, answer.body["detail"]) == (401, "the token does not hold")
    (told,) = [one for one in caplog.records if one.message == "token_audience_unset"]
    assert "RUNBOOKS_API__JWT_AUDIENCE" in told.error


@pytest.mark.parametrize(
    "claims",
    [
        {"secret": OTHER},
        {"algorithm": "HS384", "secret": "x" * 48},
        {"algorithm": "HS512", "secret": "x" * 64},
        {"without": ["exp"]},
        {"exp": "soon"},
        {"without": ["sub"]},
        {"sub": ""},
        {"sub": "  "},
        {"sub": "a\nb"},
        {"sub": "a" * 201},
        {"without": ["tenant"]},
        {"tenant": ""},
        {"tenant": "default\n"},
        {"tenant": "../other"},
        {"tenant": ["default"]},
        {"roles": "viewer"},
        {"roles": {"viewer": True}},
    ],
)
async def test_a_token_that_is_not_whole_is_refused(web, token, claims):
    assert await status(web, token(**claims)) == 401


async def test_a_subject_must_be_text(web):
    now = datetime.now(UTC)
    claims = {"sub": 7, "tenant": "default", "roles": ["viewer"], "exp": now + timedelta(minutes=1)}
    body = base64.urlsafe_b64encode(json.dumps(claims | {"exp": claims["exp"].timestamp()}).encode())
    signed = jwt.api_jws.encode(base64.urlsafe_b64decode(body), "a secret of the tests that is long enough", "HS256")
    assert await status(web, signed) == 401


@pytest.mark.parametrize("exp", ["Infinity", "null", "1e400", "[1]", '{"a":1}'])
async def test_an_end_that_is_no_time_is_refused(web, exp):
    payload = f'{{"sub":"ann","tenant":"default","roles":["viewer"],"exp":{exp}}}'.encode()
    signed = jwt.api_jws.encode(payload, "a secret of the tests that is long enough", "HS256")
    assert await status(web, signed) == 401


def unsigned(header):
    parts = [header, {"sub": "ann", "tenant": "default", "roles": ["admin"], "exp": 9999999999}]
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + "."


@pytest.mark.parametrize(
    "bad",
    [
        "garbage",
        "a.b.c",
        "....",
        unsigned({"alg": "none"}),
        unsigned({"alg": "None", "typ": "JWT"}),
        unsigned({"alg": 5}),
        unsigned([1]),
        unsigned({}),
        base64.urlsafe_b64encode(b"[" * 5000).decode().rstrip("=") + ".e30.x",
    ],
)
async def test_garbage_is_refused(web, bad):
    answer = await web.plain("GET", PATH, {"Authorization": f"Bearer {bad}"})
    assert answer.status == 401


@pytest.mark.parametrize("scheme", ["Bearerfoo", "bearer", "BEARER", "Basic", "Token", ""])
async def test_the_scheme_is_exactly_bearer(web, token, scheme):
    answer = await web.plain("GET", PATH, {"Authorization": f"{scheme} {token()}"})
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Bearer  {}", "{}", "Bearer {} {}"])
async def test_the_header_is_a_scheme_and_a_token(web, token, header):
    value = header.replace("{}", token())
    assert (await web.plain("GET", PATH, {"Authorization": value})).status == 401


async def test_two_headers_are_none(web, token):
    headers = [("Authorization", f"Bearer {token()}"), ("Authorization", f"Bearer {token(roles=['admin'])}")]
    assert (await web.plain("GET", PATH, headers)).status == 401


async def test_no_token_is_refused_and_told_how(web):
    answer = await web.plain("GET", PATH)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert "Authorization: Bearer" in answer.body["detail"]


async def test_bytes_that_are_no_text_are_refused(web):
    reader, writer = await asyncio.open_connection(web.client.host, web.client.port)
    writer.write(b"GET /api/v1/runbooks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe.a.b\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
    writer.close()
    await writer.wait_closed()


async def test_a_method_that_no_route_takes_gets_past_nothing(web, world):
    answer = await web.plain("OPTIONS", PATH)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET")


@pytest.mark.parametrize("path", ["/healthzXsecret", "/healthz/", "/metricsx", "/openapi.json/x"])
async def test_public_is_a_route_and_not_a_prefix(web, path):
    assert (await web.plain("GET", path)).status == 404


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/openapi.json"])
async def test_what_is_public_needs_no_token_and_minds_no_bad_one(web, path):
    assert (await web.plain("GET", path)).status == 200
    assert (await web.plain("GET", path, {"Authorization": "Bearer rubbish"})).status == 200


async def test_a_refusal_does_not_say_what_was_wrong_with_the_token(web, token, caplog):
    caplog.set_level(logging.DEBUG)
    bad = token(secret=OTHER)
    answer = await web.plain("GET", PATH, {"Authorization": f"Bearer {bad}"})
    assert answer.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
    assert answer.body["detail"] == "the token does not hold"
    assert "ignature" not in str(answer)
    assert not [record for record in caplog.records if record.name.startswith("aiohttp_jwt")]
    assert bad not in caplog.text


async def test_a_role_is_a_whole_word(web, token):
    for roles in (["view"], ["viewers"], ["viewer operator"], [["viewer"]], [7], []):
        assert await status(web, token(roles=roles)) == 403
    assert await status(web, token(roles=["viewer", "astronaut", 7])) == 200


async def test_a_missing_role_is_named(web, token):
    answer = await web.plain("GET", PATH, {"Authorization": f"Bearer {token(roles=['operator', 'wizard'])}"})
    assert answer.status == 403
    assert answer.body["detail"] == "this needs the role viewer; the token's roles: operator"


@pytest.mark.parametrize(
    "given",
    [{}, {"secret": "x" * 31}, {"secret": "x" * 32, "jwks_url": "http://127.0.0.1/jwks"}],
)
def test_rules_that_let_in_nobody_or_anybody_are_refused(given):
    with pytest.raises(ConfigurationError):
        TokenRules(**given)


def test_the_secret_is_not_shown():
    assert "x" * 32 not in repr(TokenRules(secret="x" * 32))
