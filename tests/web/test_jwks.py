"""Keys of a JWKS: RS256 and ES256, rotation, unknown keys, and a server that does not answer."""

import asyncio
import base64
import hashlib
import hmac
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import aiohttp
import jwt
import pytest
from aiohttp import web as aiohttp_web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from waiting import until

from app.web.app import build_web
from app.web.auth import auth_middleware, caller_of
from app.web.keys import GRACE_S, Keys, TokenRefused
from app.web.parts import TokenRules
from app.web.problems import problems_middleware

ALGORITHMS = {"RS256": jwt.algorithms.RSAAlgorithm, "ES256": jwt.algorithms.ECAlgorithm}


@pytest.fixture(scope="module")
def rsa_key():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture(scope="module")
def ec_key():
    return ec.generate_private_key(ec.SECP256R1())


def public(key, kid, algorithm, **fields):
    described = json.loads(ALGORITHMS[algorithm].to_jwk(key.public_key()))
    return {**described, "kid": kid, "use": "sig", "alg": algorithm, **fields}


def signed(key, kid, algorithm, **claims):
    now = datetime.now(UTC)
    whole = {"sub": "ann", "tenant": "default", "roles": ["viewer"], "exp": now + timedelta(minutes=5), "aud": "us"}
    return jwt.encode(whole | claims, key, algorithm=algorithm, headers={"kid": kid} if kid else None)


class KeyServer:
    """Serves a key set, counts who asks, and can fail; it hangs while answers is not set."""

    def __init__(self) -> None:
        self.keys = []
        self.asked = 0
        self.body: bytes | None = None
        self.status = 200
        self.answers = asyncio.Event()
        self.answers.set()

    async def serve(self, _):
        self.asked += 1
        await self.answers.wait()
        body = json.dumps({"keys": self.keys}).encode() if self.body is None else self.body
        return aiohttp_web.Response(body=body, status=self.status, content_type="application/json")


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def key_server():
    return KeyServer()


@pytest.fixture
async def rules(aiohttp_server, key_server):
    """Those of an API that asks the key server."""
    application = aiohttp_web.Application()
    application.router.add_get("/jwks", key_server.serve)
    served = await aiohttp_server(application)
    yield TokenRules(jwks_url=str(served.make_url("/jwks")), audience="us", leeway_s=30)
    key_server.answers.set()


@pytest.fixture
async def let_in(aiohttp_client, rules, clock):
    """The status that a token gets from an application that asks the key server."""
    keys = Keys(rules, clock)

    async def who(request):
        return aiohttp_web.Response(text=caller_of(request).subject)

    guarded = aiohttp_web.Application(middlewares=[problems_middleware, auth_middleware(keys, {"who": ("viewer",)})])
    guarded.on_cleanup.append(lambda _: keys.stop())
    guarded.router.add_get("/who", who, name="who")
    client = await aiohttp_client(guarded)

    async def status(token):
        async with client.get("/who", headers={"Authorization": f"Bearer {token}"}) as response:
            assert response.status in {200, 401} or response.headers["Retry-After"]
            return response.status

    return status


async def test_both_algorithms_are_let_in(let_in, key_server, rsa_key, ec_key):
    key_server.keys = [public(rsa_key, "r", "RS256"), public(ec_key, "e", "ES256")]
    assert await let_in(signed(rsa_key, "r", "RS256")) == 200
    assert await let_in(signed(ec_key, "e", "ES256")) == 200
    assert key_server.asked == 1


async def test_an_algorithm_may_be_left_out_of_the_key(let_in, key_server, rsa_key):
    described = public(rsa_key, "r", "RS256")
    described.pop("alg")
    key_server.keys = [described]
    assert await let_in(signed(rsa_key, "r", "RS256")) == 200


async def test_claims_are_checked_as_with_a_secret(let_in, key_server, rsa_key):
    key_server.keys = [public(rsa_key, "r", "RS256")]
    past = datetime.now(UTC)
    assert await let_in(signed(rsa_key, "r", "RS256", exp=past - timedelta(seconds=20))) == 200
    assert await let_in(signed(rsa_key, "r", "RS256", exp=past - timedelta(seconds=60))) == 401
    assert await let_in(signed(rsa_key, "r", "RS256", exp=past - timedelta(seconds=20), aud="others")) == 401
    assert await let_in(signed(rsa_key, "r", "RS256", aud="others")) == 401


@pytest.mark.parametrize("ends_in_s", [300, -20])
async def test_where_no_audience_is_set_the_log_says_once_why_tokens_with_one_are_refused(
    rules, key_server, rsa_key, clock, caplog, ends_in_s
):
    key_server.keys = [public(rsa_key, "r", "RS256")]
    keys = Keys(replace(rules, audience=None), clock)
    ends = datetime.now(UTC) + timedelta(seconds=ends_in_s)
    for aud in ("us", ["us", "them"], "us"):
        with pytest.raises(TokenRefused, match=r"^the token does not hold$"):
            await keys.claims(signed(rsa_key, "r", "RS256", aud=aud, exp=ends))
        clock.seconds += 400  # each set of keys has checks of its own
    said = "tokens with an aud are refused: set RUNBOOKS_API__JWT_AUDIENCE to what they name"
    assert [(one.message, one.error) for one in caplog.records] == [("token_audience_unset", said)]
    assert (await keys.claims(signed(rsa_key, "r", "RS256", aud=None, iss="anybody")))["sub"] == "ann"


@pytest.mark.parametrize("audience", ["us", None])
async def test_the_log_tells_nothing_of_tokens_that_do_not_hold_for_another_reason(
    rules, key_server, rsa_key, audience, caplog
):
    key_server.keys = [public(rsa_key, "r", "RS256")]
    keys = Keys(replace(rules, audience=audience))
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    ended = {"exp": datetime.now(UTC) - timedelta(seconds=60)}
    for key, claims in ((stranger, {}), (rsa_key, ended), (rsa_key, {"aud": "others"} if audience else ended)):
        with pytest.raises(TokenRefused):
            await keys.claims(signed(key, "r", "RS256", **claims))
    assert caplog.records == []


async def test_a_key_checks_its_own_algorithm_only(let_in, key_server, rsa_key, ec_key):
    key_server.keys = [public(rsa_key, "r", "RS256"), public(ec_key, "e", "ES256")]
    assert await let_in(signed(rsa_key, "e", "RS256")) == 401
    assert await let_in(signed(ec_key, "r", "ES256")) == 401
    assert await let_in(signed(rsa_key, "r", "RS512")) == 401
    assert await let_in(signed(rsa_key, "r", "PS256")) == 401


async def test_a_public_key_is_no_secret(let_in, key_server, rsa_key):
    """The confusion attack: HS256 with the public key, which everybody knows, as its secret."""
    key_server.keys = [public(rsa_key, "r", "RS256")]
    pem = rsa_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    head = part({"alg": "HS256", "kid": "r", "typ": "JWT"})
    said = part({"sub": "ann", "tenant": "default", "roles": ["admin"], "exp": 9999999999, "aud": "us"})
    mark = base64.urlsafe_b64encode(hmac.new(pem, head + b"." + said, hashlib.sha256).digest()).rstrip(b"=")
    assert await let_in((head + b"." + said + b"." + mark).decode()) == 401


async def test_a_token_names_its_key(let_in, key_server, rsa_key):
    key_server.keys = [public(rsa_key, "r", "RS256")]
    assert await let_in(signed(rsa_key, None, "RS256")) == 401


async def test_another_key_under_a_known_name_is_refused(let_in, key_server, rsa_key):
    key_server.keys = [public(rsa_key, "r", "RS256")]
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    assert await let_in(signed(stranger, "r", "RS256")) == 401


async def test_unknown_keys_are_asked_for_once_in_thirty_seconds(let_in, key_server, rsa_key, clock):
    key_server.keys = [public(rsa_key, "r", "RS256")]
    assert await let_in(signed(rsa_key, "r", "RS256")) == 200
    for number in range(20):
        assert await let_in(signed(rsa_key, f"made up {number}", "RS256")) == 401
    assert key_server.asked == 1
    clock.seconds += 31
    assert await let_in(signed(rsa_key, "made up", "RS256")) == 401
    assert key_server.asked == 2


async def test_a_new_key_is_let_in_and_a_withdrawn_one_is_not(let_in, key_server, rsa_key, ec_key, clock):
    key_server.keys = [public(rsa_key, "old", "RS256")]
    assert await let_in(signed(rsa_key, "old", "RS256")) == 200
    key_server.keys = [public(ec_key, "new", "ES256")]
    clock.seconds += 31
    assert await let_in(signed(ec_key, "new", "ES256")) == 200
    assert await let_in(signed(rsa_key, "old", "RS256")) == 401


async def test_a_withdrawn_key_is_noticed_although_nobody_uses_a_new_one(let_in, key_server, rsa_key, clock):
    key_server.keys = [public(rsa_key, "r", "RS256")]
    assert await let_in(signed(rsa_key, "r", "RS256")) == 200
    key_server.keys = []
    clock.seconds += 299
    assert await let_in(signed(rsa_key, "r", "RS256")) == 200
    clock.seconds += 2
    assert await let_in(signed(rsa_key, "r", "RS256")) == 401


@pytest.mark.parametrize("body", [b"not JSON", b"[]", b"{}", b'{"keys": 5}', b'{"keys": [5]}'])
async def test_a_server_without_a_key_set_is_our_fault_and_not_the_callers(let_in, key_server, rsa_key, body, clock):
    key_server.body = body
    assert await let_in(signed(rsa_key, "r", "RS256")) == 503
    assert await let_in(signed(rsa_key, "r", "RS256")) == 503
    assert key_server.asked == 1
    key_server.body, key_server.keys = None, [public(rsa_key, "r", "RS256")]
    clock.seconds += 3
    assert await let_in(signed(rsa_key, "r", "RS256")) == 200


async def test_known_keys_outlast_an_outage_for_an_hour(let_in, key_server, rsa_key, clock):
    key_server.keys = [public(rsa_key, "r", "RS256")]
    assert await let_in(signed(rsa_key, "r", "RS256")) == 200
    key_server.status = 500
    clock.seconds += 3500
    assert await let_in(signed(rsa_key, "r", "RS256")) == 200
    assert key_server.asked == 2
    clock.seconds += 200
    assert await let_in(signed(rsa_key, "r", "RS256")) == 503


async def test_calls_go_on_with_the_keys_they_know_while_the_server_hangs(let_in, key_server, rsa_key, clock):
    key_server.keys = [public(rsa_key, "r", "RS256")]
    token = signed(rsa_key, "r", "RS256")
    assert await let_in(token) == 200
    clock.seconds += 301
    key_server.answers.clear()
    async with asyncio.timeout(2):
        assert await let_in(token) == 200  # after a moment: the server may answer, and have withdrawn the key
    async with asyncio.timeout(2):
        for _ in range(round(3 / GRACE_S)):
            assert await let_in(token) == 200
        assert await asyncio.gather(*(let_in(token) for _ in range(20))) == [200] * 20
    assert key_server.asked == 2
    key_server.keys = []
    key_server.answers.set()
    await until(lambda: gives(let_in, token, 401))
    assert key_server.asked == 2


async def test_a_key_that_is_not_known_is_waited_for_and_fetched_once_for_all(let_in, key_server, rsa_key, clock):
    key_server.keys = [public(rsa_key, "old", "RS256")]
    assert await let_in(signed(rsa_key, "old", "RS256")) == 200
    key_server.keys.append(public(rsa_key, "new", "RS256"))
    clock.seconds += 31
    key_server.answers.clear()
    calls = [asyncio.create_task(let_in(signed(rsa_key, "new", "RS256"))) for _ in range(5)]
    await until(lambda: is_asked(key_server, 2))
    async with asyncio.timeout(2):
        assert await let_in(signed(rsa_key, "old", "RS256")) == 200
    assert not any(call.done() for call in calls)
    key_server.answers.set()
    assert await asyncio.gather(*calls) == [200] * 5
    assert key_server.asked == 2


async def test_an_api_that_stops_ends_the_fetch_under_way(world, rules, key_server, rsa_key):
    key_server.answers.clear()
    runner = aiohttp_web.AppRunner(build_web(world.parts(tokens=rules)), shutdown_timeout=0.1)
    await runner.setup()
    await aiohttp_web.TCPSite(runner, "127.0.0.1", 0).start()
    headers = {"Authorization": f"Bearer {signed(rsa_key, 'r', 'RS256')}"}
    async with aiohttp.ClientSession() as session:
        url = "http://{}:{}/api/v1/runbooks".format(*runner.addresses[0])
        call = asyncio.create_task(session.get(url, headers=headers))
        await until(lambda: is_asked(key_server, 1))
        (fetching,) = [task for task in asyncio.all_tasks() if task.get_name() == "jwks"]
        await runner.cleanup()
        assert fetching.cancelled()
        with pytest.raises(aiohttp.ClientError):
            await call


async def gives(let_in, token, status):
    return await let_in(token) == status


async def is_asked(key_server, times):
    return key_server.asked == times


async def test_keys_that_are_no_public_signing_keys_are_left_out(let_in, key_server, rsa_key, ec_key):
    small = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    private = {**json.loads(jwt.algorithms.ECAlgorithm.to_jwk(ec_key)), "kid": "private", "alg": "ES256"}
    secret = {"kty": "oct", "k": base64.urlsafe_b64encode(b"s" * 32).decode(), "kid": "oct", "alg": "HS256"}
    key_server.keys = [
        public(rsa_key, "r", "RS256"),
        public(rsa_key, "for encryption", "RS256", use="enc"),
        public(small, "small", "RS256"),
        public(rsa_key, "other algorithm", "RS256", alg="RS512"),
        {"kty": "RSA", "kid": "broken", "n": "x", "alg": "RS256"},
        {"kty": "?", "kid": "unknown kind"},
        public(rsa_key, "algorithms", "RS256", alg=["RS256"]),
        public(ec_key, "algorithm of fields", "ES256", alg={"name": "ES256"}),
        private,
        secret,
        {name: value for name, value in public(rsa_key, "", "RS256").items() if name != "kid"},
    ]
    assert await let_in(signed(rsa_key, "r", "RS256")) == 200
    for kid, key, algorithm in [
        ("for encryption", rsa_key, "RS256"),
        ("other algorithm", rsa_key, "RS512"),
        ("algorithms", rsa_key, "RS256"),
        ("algorithm of fields", ec_key, "ES256"),
        ("private", ec_key, "ES256"),
        ("oct", "s" * 32, "HS256"),
    ]:
        assert await let_in(signed(key, kid, algorithm)) == 401
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        weak = signed(small, "small", "RS256")
    assert await let_in(weak) == 401
