"""A real Kubernetes control plane on loopback: etcd, kube-apiserver and kube-controller-manager as our children."""

import hashlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from parts import missing_part

HERE = Path(__file__).parent
MANIFEST = HERE.parents[1] / "docs" / "rbac.yaml"
READY_TIMEOUT_S = 90.0
USERS = {"admin": "system:masters", "runbook-engine": "", "nobody": ""}  # the group of each; its token is its name
STRANGER = "stranger"  # a context whose token the API does not know
CONTROLLERS = "deployment replicaset disruption daemonset garbage-collector namespace"


def _until_stopped(pid: int) -> None:
    """Until each of its threads has stopped: one that runs on another core takes a moment to."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while any(_state(task) not in "TZX" for task in Path(f"/proc/{pid}/task").iterdir()):
        assert time.monotonic() < deadline, f"process {pid} does not stop"
        time.sleep(0.001)


def _state(task: Path) -> str:
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:  # it has ended
        return "X"


def find_binary() -> Path:
    """What build.sh has built; never built here."""
    sources = b"".join((HERE / name).read_bytes() for name in ("go.mod", "go.sum", "main.go"))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    binary = cache / "infrasage-runbooks" / f"testcluster-{hashlib.sha256(sources).hexdigest()[:16]}"
    if not binary.exists() or shutil.which("setpriv") is None:
        missing_part("the Kubernetes test cluster (`make kube` builds it)")
    return binary


class Cluster:
    """Contexts of its kubeconfig: those of USERS, and STRANGER; its data survives the stop of any part."""

    def __init__(self) -> None:
        self._binary = str(find_binary())
        self._dir = Path(tempfile.mkdtemp(prefix="kube-"))
        self._etcd, self._etcd_peer, self.port, self._controllers = _free_ports(4)
        self._parts: dict[str, subprocess.Popen] = {}
        self.url = f"https://127.0.0.1:{self.port}"
        self.kubeconfig = self._dir / "kubeconfig"

    def start(self) -> None:
        """Start all, and give runbook-engine its rights."""
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        (self._dir / "tokens.key").write_bytes(pem)
        lines = (f'{user},{user},{user}-uid,"{group}"\n' for user, group in USERS.items())
        (self._dir / "users.csv").write_text("".join(lines))
        self._write_kubeconfig()
        self.start_etcd()
        self.start_api()
        self.start_controllers()
        for document in yaml.safe_load_all(MANIFEST.read_text()):
            self.ask(f"/apis/rbac.authorization.k8s.io/v1/{document['kind'].lower()}s", document)
        needed = {"verb": "get", "resource": "nodes"}
        self._wait("kube-apiserver", lambda: self.allows("runbook-engine", needed))

    def start_etcd(self) -> None:
        url, peer = f"http://127.0.0.1:{self._etcd}", f"http://127.0.0.1:{self._etcd_peer}"
        self._start(
            "etcd",
            f"--data-dir={self._dir / 'etcd-data'}",
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
        )

    def start_api(self) -> None:
        """Start the API and wait until it is ready; the others may be running already."""
        key = self._dir / "tokens.key"
        self._start(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._etcd}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--cert-dir={self._dir / 'certificates'}",
            f"--token-auth-file={self._dir / 'users.csv'}",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/24",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--disable-admission-plugins=ServiceAccount",
            "--endpoint-reconciler-type=none",
        )
        self._wait("kube-apiserver", lambda: self.ask("/readyz") == "ok")

    def start_controllers(self) -> None:
        self._start(
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._controllers}",
            f"--cert-dir={self._dir / 'controllers'}",
            f"--controllers={','.join(f'{name}-controller' for name in CONTROLLERS.split())}",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
        )
        health = f"https://127.0.0.1:{self._controllers}/healthz"
        trusting = ssl._create_unverified_context()
        self._wait("kube-controller-manager", lambda: _fetched(health, trusting) == "ok")

    def kill(self, part: str = "kube-apiserver") -> None:
        """End a part at once, as when its machine is lost."""
        process = self._parts.pop(part)
        process.kill()
        process.wait()

    def remove(self) -> None:
        for part in list(self._parts):
            self.kill(part)
        shutil.rmtree(self._dir)

    @contextmanager
    def frozen(self, part: str = "kube-apiserver") -> Iterator[None]:
        """While this holds, the part takes connections and answers nothing."""
        self._parts[part].send_signal(signal.SIGSTOP)
        _until_stopped(self._parts[part].pid)
        try:
            yield
        finally:
            self._parts[part].send_signal(signal.SIGCONT)

    @contextmanager
    def without_api(self) -> Iterator[None]:
        """While this holds, nothing listens where the API was.

        The controllers go and come with it: they would wait longer each time, up to 30 s, before they look again.
        """
        self.kill("kube-controller-manager")
        self.kill()
        try:
            yield
        finally:
            self.start_api()
            self.start_controllers()

    def ask(self, path: str, body: dict[str, Any] | None = None) -> str:
        """What the API answers to the admin: to a GET, or to the POST of a body."""
        trusted = ssl.create_default_context(cafile=str(self._certificate))
        return _fetched(self.url + path, trusted, body)

    def allows(self, user: str, attributes: dict[str, str]) -> bool:
        """Whether a user has a right; one that was given a moment ago may not have arrived yet."""
        kind = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview"}
        review = {**kind, "spec": {"user": user, "resourceAttributes": attributes}}
        return json.loads(self.ask("/apis/authorization.k8s.io/v1/subjectaccessreviews", review))["status"]["allowed"]

    @property
    def _certificate(self) -> Path:
        """The API's own, with the authority that it made for itself."""
        return self._dir / "certificates" / "apiserver.crt"

    def _write_kubeconfig(self) -> None:
        cluster = {"server": self.url, "certificate-authority": str(self._certificate)}
        names = [*USERS, STRANGER]
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": name, "user": {"token": name}} for name in names],
            "contexts": [{"name": name, "context": {"cluster": "test", "user": name}} for name in names],
            "current-context": "admin",
        }
        self.kubeconfig.write_text(json.dumps(content))

    def _start(self, part: str, *options: str) -> None:
        """Its end is tied to this thread's: call it from the main thread."""
        command = ["setpriv", "--pdeathsig", "KILL", self._binary, part, *options]
        with self._log(part).open("ab") as log:
            self._parts[part] = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._dir)

    def _wait(self, part: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while True:
            assert self._parts[part].poll() is None, self._log(part).read_text()[-3000:]
            try:
                if ready():
                    return
            except (OSError, urllib.error.URLError):  # not listening yet, no certificate yet, or not ready
                pass
            assert time.monotonic() < deadline, f"{part} did not get ready: {self._log(part).read_text()[-3000:]}"
            time.sleep(0.05)

    def _log(self, part: str) -> Path:
        return self._dir / f"{part}.log"


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def _fetched(url: str, trusted: ssl.SSLContext, body: dict[str, Any] | None = None) -> str:
    headers = {"Authorization": "Bearer admin", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusted))
    with opener.open(urllib.request.Request(url, data, headers), timeout=5) as answer:
        return answer.read().decode()
