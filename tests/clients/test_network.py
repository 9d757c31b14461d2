import socket

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver

from app.clients.http import HttpClient
from app.clients.network import AddressRefused, JudgingConnector, NetworkPolicy
from app.core.errors import PermanentError, TemporaryError

CLOSED = NetworkPolicy()
OPEN = NetworkPolicy(allow_loopback=True, allow_private=True)

NEVER = [
    "169.254.169.254",
    "169.254.170.2",
    "fe80::1",
    "fe80::1%eth0",
    "fd00:ec2::254",
    "fd20:ce::254",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "224.0.0.1",
    "ff02::1",
    "0.0.0.0",
    "0.1.2.3",
    "::",
    "240.0.0.1",
    "255.255.255.255",
    "192.0.2.1",
    "2001:db8::1",
    "fec0::1",
    "::127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::a9fe:a9fe",
    "::ffff:0.0.0.0",
    "2001:0:4136:e378:8000:63bf:5601:5601",
]
LOOPBACK = ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1"]
PRIVATE = ["10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "fd12::1", "::ffff:10.0.0.1"]
PUBLIC = ["8.8.8.8", "172.32.0.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]


@pytest.mark.parametrize("address", NEVER)
def test_some_addresses_are_never_reached(address):
    assert "never reached" in OPEN.why_not(address)


@pytest.mark.parametrize("address", LOOPBACK)
def test_loopback_is_a_matter_of_policy(address):
    assert "ALLOW_LOOPBACK" in NetworkPolicy(allow_private=True).why_not(address)
    assert NetworkPolicy(allow_loopback=True).why_not(address) is None


@pytest.mark.parametrize("address", PRIVATE)
def test_private_is_a_matter_of_policy(address):
    assert "ALLOW_PRIVATE" in NetworkPolicy(allow_loopback=True).why_not(address)
    assert NetworkPolicy(allow_private=True).why_not(address) is None


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_reached(address):
    assert CLOSED.why_not(address) is None


class FakeResolver(AbstractResolver):
    """Answers each question with the next of the given answers."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def resolve(self, host, port=0, family=socket.AF_INET):
        self.asked += 1
        found = self.answers.pop(0)
        return [
            {
                "hostname": host,
                "host": address,
                "port": port,
                "family": socket.AF_INET6 if ":" in address else socket.AF_INET,
                "proto": 0,
                "flags": socket.AI_NUMERICHOST,
            }
            for address in found
        ]

    async def close(self):
        pass


@pytest.fixture
async def target(aiohttp_server):
    """A server on loopback that counts what reaches it."""
    application = web.Application()
    hits: list[str] = []

    async def hit(request: web.Request) -> web.Response:
        hits.append(request.host)
        return web.json_response({"secret": "inside"})

    application.router.add_get("/", hit)
    server = await aiohttp_server(application)
    server.hits = hits
    return server


@pytest.fixture
async def reach():
    """One GET under a policy, with a resolver that answers as told."""
    clients: list[HttpClient] = []

    async def get(policy: NetworkPolicy, url: str, resolver: AbstractResolver | None = None):
        clients.append(HttpClient(policy, resolver))
        return await clients[-1].request("GET", url, headers={}, body=None, timeout_s=5)

    yield get
    for client in clients:
        await client.close()


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "[::1]", "[::ffff:127.0.0.1]"]
)
async def test_no_spelling_of_loopback_gets_through(reach, target, host):
    with pytest.raises((PermanentError, TemporaryError)) as caught:
        await reach(CLOSED, f"http://{host}:{target.port}/")
    assert target.hits == []
    assert "refused" in str(caught.value) or "not allowed" in str(caught.value) or "not valid" in str(caught.value)


@pytest.mark.parametrize("host", ["[::ffff:169.254.169.254]", "169.254.169.254", "[fe80::1%25lo]", "[fd00:ec2::254]"])
async def test_metadata_is_refused_under_the_most_open_policy(reach, host):
    with pytest.raises(PermanentError, match="never reached"):
        await reach(OPEN, f"http://{host}/latest/meta-data/")


async def test_the_connector_itself_judges_an_address_that_no_resolver_saw(target):
    async with aiohttp.ClientSession(connector=JudgingConnector(CLOSED)) as session:
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await session.get(f"http://127.0.0.1:{target.port}/")
    assert isinstance(caught.value.os_error, AddressRefused)
    assert target.hits == []


async def test_a_name_of_an_inner_address_is_refused(reach, target):
    with pytest.raises(PermanentError, match=r"evil\.test is 127\.0\.0\.1: loopback"):
        await reach(CLOSED, f"http://evil.test:{target.port}/", FakeResolver(["127.0.0.1"]))
    assert target.hits == []


async def test_the_refused_ones_of_several_addresses_are_left_out(reach, target):
    answer = await reach(
        NetworkPolicy(allow_loopback=True),
        f"http://both.test:{target.port}/",
        FakeResolver(["169.254.169.254", "127.0.0.1"]),
    )
    assert (answer.status, target.hits) == (200, [f"both.test:{target.port}"])


async def test_the_address_that_was_judged_is_the_one_connected_to(reach, target):
    resolver = FakeResolver(["127.0.0.1"], ["169.254.169.254"])
    policy = NetworkPolicy(allow_loopback=True)
    answer = await reach(policy, f"http://rebinding.test:{target.port}/", resolver)
    assert (answer.status, resolver.asked) == (200, 1)


async def test_a_name_is_judged_again_for_every_request(target):
    client = HttpClient(NetworkPolicy(allow_loopback=True), FakeResolver(["127.0.0.1"], ["169.254.169.254"]))
    url = f"http://rebinding.test:{target.port}/"
    try:
        await client.request("GET", url, headers={}, body=None, timeout_s=5)
        with pytest.raises(PermanentError, match=r"169\.254\.169\.254: link-local"):
            await client.request("GET", url, headers={}, body=None, timeout_s=5)
    finally:
        await client.close()
    assert len(target.hits) == 1


async def test_a_name_without_an_address_may_have_one_later(reach):
    with pytest.raises(TemporaryError, match="not connected"):
        await reach(OPEN, "http://nobody.test/", FakeResolver([]))


async def test_a_proxy_in_the_environment_is_not_asked(reach, target, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    answer = await reach(NetworkPolicy(allow_loopback=True), f"http://127.0.0.1:{target.port}/")
    assert answer.status == 200


@pytest.mark.parametrize(
    "url",
    ["ftp://example.com/", "file:///etc/passwd", "http://", "//host/", "http://[::1", "http://[nonsense]/", "text", ""],
)
def test_what_is_no_http_url_is_refused(url):
    with pytest.raises(PermanentError, match="http:// or https://"):
        HttpClient(OPEN).check_url(url)


@pytest.mark.parametrize("url", ["https://example.com/a?b", "http://8.8.8.8:80/", "http://[2606:4700::1]/"])
def test_what_can_be_reached_is_not_refused_early(url):
    HttpClient(CLOSED).check_url(url)


def test_a_literal_address_is_judged_before_anything_is_sent():
    with pytest.raises(PermanentError, match=r"10\.0\.0\.1 is refused: private"):
        HttpClient(CLOSED).check_url("http://user@10.0.0.1:8080/")
