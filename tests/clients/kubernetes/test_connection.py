import asyncio
import json

import pytest
from aiohttp import web
from waiting import until

from app.clients.kubernetes import KubernetesClient
from app.core.errors import PermanentError, TemporaryError

CREDENTIAL = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential"}


def read(client):
    return client.read_scale("production", "payment-api")


def write(client):
    return client.set_scale("production", "payment-api", replicas=3, expected_replicas=3)


async def test_a_proxy_in_the_environment_is_not_asked(clients, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert (await read(clients.kubernetes)).replicas == 3


def plugin(script: str):
    return {"apiVersion": CREDENTIAL["apiVersion"], "command": "sh", "args": ["-c", script]}


def as_user(path, user):
    path.write_text(path.read_text().replace("{token: t}", json.dumps(user)))
    return path


async def test_many_first_requests_log_in_once(stand_ins, tmp_path, kubeconfig):
    (tmp_path / "credential").write_text(json.dumps({**CREDENTIAL, "status": {"token": "kubernetes-stand-in"}}))
    path = kubeconfig(tmp_path / "kubeconfig", stand_ins.url + "/kubernetes")
    script = f"echo once >> {tmp_path}/logins; cat {tmp_path}/credential"
    as_user(path, {"exec": plugin(script)})
    client = KubernetesClient(kubeconfig=path)
    counts = await asyncio.gather(*(read(client) for _ in range(8)))
    await client.close()
    assert {one.replicas for one in counts} == {3}
    assert (tmp_path / "logins").read_text() == "once\n"


class KnowingApi:
    """An API that knows some tokens. asked: each request's token; the deployment "slow" is answered when released."""

    def __init__(self) -> None:
        self.url = ""
        self.known = {"t-1"}
        self.asked: list[str] = []
        self.slow: asyncio.Transport | None = None
        self.released = asyncio.Event()

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append(request.headers["Authorization"].removeprefix("Bearer "))
        if self.asked[-1] not in self.known:
            return web.json_response({"kind": "Status", "message": "Unauthorized"}, status=401)
        if "/slow/" in request.path:
            self.slow = request.transport
            await self.released.wait()
        metadata = {"name": "any", "uid": "u", "resourceVersion": "1"}
        return web.json_response({"kind": "Scale", "metadata": metadata, "spec": {"replicas": 3}})


@pytest.fixture
async def api(aiohttp_server):
    knowing, application = KnowingApi(), web.Application()
    application.router.add_route("*", "/{path:.*}", knowing.handle)
    knowing.url = str((await aiohttp_server(application)).make_url("")).rstrip("/")
    return knowing


@pytest.fixture
def logins(tmp_path):
    """A file with a line for each login of a plugin: the first one gives t-1, the second t-2."""
    return tmp_path / "logins"


@pytest.fixture
async def client(api, logins, tmp_path, kubeconfig):
    credential = json.dumps({**CREDENTIAL, "status": {"token": "t-COUNT"}})
    said = f"echo '{credential}' | sed s/COUNT/$(grep -c once {logins})/"
    script = f"echo once >> {logins}; {said}; [ ! -e {logins}.off ]"
    client = KubernetesClient(kubeconfig=as_user(kubeconfig(tmp_path / "k", api.url), {"exec": plugin(script)}))
    yield client
    await client.close()


@pytest.mark.parametrize("ask", [read, write])
async def test_a_plugin_is_run_again_when_its_token_has_expired(api, client, logins, ask):
    await ask(client)
    api.known = {"t-2"}
    for _ in range(2):
        assert (await ask(client)).replicas == 3
    assert api.asked == ["t-1", "t-1", "t-2", "t-2"]
    assert logins.read_text() == "once\n" * 2


@pytest.mark.parametrize("kind", ["tokenFile", "token"])
async def test_a_token_that_was_replaced_in_its_file_is_read_again(api, tmp_path, kubeconfig, kind):
    def hold(token):
        (tmp_path / "token").write_text(token)
        as_user(kubeconfig(tmp_path / "k", api.url), {kind: token if kind == "token" else str(tmp_path / "token")})

    hold("t-1")
    client = KubernetesClient(kubeconfig=tmp_path / "k")
    await read(client)
    api.known = {"t-2"}
    hold("t-2")
    assert (await read(client)).replicas == 3
    await client.close()
    assert api.asked == ["t-1", "t-1", "t-2"]


@pytest.mark.parametrize("known", [{"t-2"}, set()])
async def test_many_requests_whose_token_has_expired_log_in_once(api, client, logins, known):
    await read(client)
    api.known = known
    found = await asyncio.gather(*(read(client) for _ in range(8)), return_exceptions=True)
    assert {type(one).__name__ for one in found} == {"Scale" if known else "PermanentError"}
    assert logins.read_text() == "once\n" * 2


async def test_credentials_that_are_wrong_for_good_are_renewed_once_a_request(api, client, logins):
    api.known = set()
    for count in (1, 2, 3):
        with pytest.raises(PermanentError, match="does not know who we are: renew the credentials"):
            await write(client)
        assert len(api.asked) == 2 * count
        assert logins.read_text() == "once\n" * (1 + count)


async def test_a_request_under_way_keeps_its_connection_when_others_log_in_again(api, client):
    slow = asyncio.create_task(client.read_scale("production", "slow"))

    async def is_under_way():
        return api.slow

    await until(is_under_way)
    api.known = {"t-2"}
    await read(client)
    assert not api.slow.is_closing()
    api.released.set()
    assert (await slow).replicas == 3

    async def is_closed():
        return api.slow.is_closing()

    await until(is_closed)


async def test_a_login_that_cannot_be_renewed_now_may_be_later(api, client, logins):
    await read(client)
    api.known = {"t-3"}
    off = logins.with_suffix(".off")
    off.touch()
    with pytest.raises(TemporaryError, match=r"credentials cannot be renewed: .*: exec: process returned 1"):
        await write(client)
    off.unlink()
    assert (await write(client)).replicas == 3


async def test_off_names_the_settings():
    with pytest.raises(PermanentError, match="RUNBOOKS_KUBERNETES__KUBECONFIG or RUNBOOKS_KUBERNETES__IN_CLUSTER"):
        await read(KubernetesClient())


@pytest.mark.parametrize("text", ["a: [", "just text", "", "{}", '{"current-context": "x", "contexts": []}'])
async def test_a_broken_kubeconfig_is_said_to_be(tmp_path, text):
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(PermanentError, match="the Kubernetes configuration cannot be read"):
        await read(KubernetesClient(kubeconfig=path))


async def test_a_kubeconfig_that_is_missing_or_names_a_missing_file_is_said_to_be(tmp_path, kubeconfig):
    broken = kubeconfig(tmp_path / "broken", "https://127.0.0.1:9", **{"certificate-authority": "/nowhere/ca.crt"})
    for path in (tmp_path / "missing", broken):
        with pytest.raises(PermanentError, match="the Kubernetes configuration cannot be read"):
            await read(KubernetesClient(kubeconfig=path))


async def test_outside_a_cluster_in_cluster_is_said_not_to_hold(monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(PermanentError, match=r"cannot be read: Service host/port is not set"):
        await read(KubernetesClient(in_cluster=True))
