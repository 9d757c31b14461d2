"""A kubeconfig, and clients that it leads anywhere."""

import pytest
from aiohttp import web

from app.clients.kubernetes import KubernetesClient


def write_kubeconfig(path, server: str, **cluster: str):
    entries = "".join(f", {name}: {value}" for name, value in cluster.items())
    path.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n"
        f"clusters: [{{name: c, cluster: {{server: '{server}'{entries}}}}}]\n"
        "users: [{name: u, user: {token: t}}]\n"
        "contexts: [{name: c, context: {cluster: c, user: u}}]\n"
    )
    return path


@pytest.fixture
def kubeconfig():
    return write_kubeconfig


@pytest.fixture
async def connect(tmp_path):
    """A client towards a server: `connect("http://127.0.0.1:9", timeout_s=0.2)`."""
    clients: list[KubernetesClient] = []

    def to(server: str, **options) -> KubernetesClient:
        config = write_kubeconfig(tmp_path / f"kubeconfig-{len(clients)}", server)
        clients.append(KubernetesClient(kubeconfig=config, **options))
        return clients[-1]

    yield to
    for client in clients:
        await client.close()


@pytest.fixture
async def answering(aiohttp_server, connect):
    """A client whose API gives one answer to everything, but says whether it is ready."""

    async def start(make_answer, *, ready: bool = True):
        async def handler(_request: web.Request) -> web.Response:
            return make_answer()

        async def readyz(_request: web.Request) -> web.Response:
            return web.Response(text="ok") if ready else make_answer()

        application = web.Application()
        application.router.add_get("/readyz", readyz)
        application.router.add_route("*", "/{path:.*}", handler)
        server = await aiohttp_server(application)
        return connect(str(server.make_url("")).rstrip("/"))

    return start
