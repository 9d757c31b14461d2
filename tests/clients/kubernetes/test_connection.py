import asyncio
import json

import pytest

from app.clients.kubernetes import KubernetesClient
from app.core.errors import PermanentError


def read(client):
    return client.read_scale("production", "payment-api")


async def test_a_proxy_in_the_environment_is_not_asked(clients, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert (await read(clients.kubernetes)).replicas == 3


async def test_many_first_requests_log_in_once(stand_ins, tmp_path, kubeconfig):
    credential = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential"}
    (tmp_path / "credential").write_text(json.dumps({**credential, "status": {"token": "kubernetes-stand-in"}}))
    path = kubeconfig(tmp_path / "kubeconfig", stand_ins.url + "/kubernetes")
    script = f"echo once >> {tmp_path}/logins; cat {tmp_path}/credential"
    execution = {"apiVersion": credential["apiVersion"], "command": "sh", "args": ["-c", script]}
    path.write_text(path.read_text().replace("{token: t}", json.dumps({"exec": execution})))
    client = KubernetesClient(kubeconfig=path)
    counts = await asyncio.gather(*(read(client) for _ in range(8)))
    await client.close()
    assert {one.replicas for one in counts} == {3}
    assert (tmp_path / "logins").read_text() == "once\n"


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
