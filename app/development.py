"""``runbooks run``: the broker, a worker, the API and the demo in one go, for a machine with nothing on it."""

import asyncio
import contextlib
import importlib.util
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import orjson
from pydantic import SecretStr

from app.broker.kafka import EmbeddedKafka
from app.core.errors import ConfigurationError, RunbooksError
from app.ending import cancelled
from app.main import Worker
from app.settings import Settings
from app.streams.structured_logs import configure_logging
from app.timelines import timeline
from app.wiring import now

DEMO_FOLDER = Path("examples/demo")
SERVERS = "RUNBOOKS_KAFKA__BOOTSTRAP_SERVERS"
"""In ``env`` where the broker is our own: where commands find it that read Kafka themselves, as ``audit verify``."""
TOKEN_LIFE = timedelta(days=7)
TOKENS = {
    "OPERATOR_JWT": ("operator", "viewer"),
    "VIEWER_JWT": ("viewer",),
    "APPROVER_JWT": ("approver", "viewer"),
    "ADMIN_JWT": ("admin",),
}
"""The roles of each token in ``env``; its subject is the first of them. Who acts must also see what came of it."""
READY_TIMEOUT_S = 60.0
DEMO_START_S = 60.0
WAITS_FOR_A_PERSON = frozenset({"awaiting_approval", "attention"})
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Development:
    """A running installation: where it is, and the token of an admin. asked: set once the demo waits for a person."""

    api_url: str
    bootstrap_servers: str
    admin_token: str
    failure: "asyncio.Future[BaseException]"
    asked: asyncio.Event = field(default_factory=asyncio.Event)


def make_token(
    secret: str, subject: str, roles: list[str], tenant: str = "default", life: timedelta = TOKEN_LIFE
) -> str:
    """An HS256 token, for development."""
    at = now()
    claims = {"sub": subject, "tenant": tenant, "roles": roles, "iat": at, "exp": at + life}
    return jwt.encode(claims, secret, algorithm="HS256")


async def run(settings: Settings, say: Say, *, demo: bool) -> None:
    """Start everything, show the demo, and go on until cancelled or until an agent fails.

    Raises ConfigurationError.
    """
    async with contextlib.AsyncExitStack() as stack:
        stand_ins = await _stand_ins(stack, say) if demo else None
        development = await stack.enter_async_context(installation(settings, say, stand_ins, _log_to_file))
        if stand_ins is not None:
            following = asyncio.create_task(follow_demo(development, settings.data_dir, say))
            stack.push_async_callback(cancelled, following)
            await until_asked(following, development)
        say(f"running; the API is at {development.api_url}, tokens are in {settings.data_dir / 'env'}; Ctrl-C stops it")
        error = await development.failure
        raise ConfigurationError(f"the worker stopped: {error!r}; its log is {settings.data_dir / 'worker.log'}")


def _log_to_file(settings: Settings, worker: Worker) -> None:
    configure_logging(settings.log_level, worker.secrets.mask_any, settings.data_dir / "worker.log")


@contextlib.asynccontextmanager
async def installation(
    settings: Settings, say: Say, stand_ins: Any = None, on_worker: Callable[[Settings, Worker], None] | None = None
) -> AsyncIterator[Development]:
    """The broker (unless one is named) and a worker, ready; ``env`` in the data folder says how to reach them.

    on_worker: told of the worker before it starts.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    async with contextlib.AsyncExitStack() as stack:
        env = settings.data_dir / "env"
        servers = settings.kafka.bootstrap_servers
        ours = servers is None or f"{SERVERS}={servers}" in _lines_of(env)  # a shell that has read env starts it, too
        if ours:
            broker = EmbeddedKafka(data_dir=settings.data_dir / "kafka", port=settings.kafka.port, progress=say)
            say("starting Apache Kafka …")
            servers = (await stack.enter_async_context(broker)).bootstrap_servers
        assert servers is not None
        local = _local(settings, servers, stand_ins)
        worker = Worker(local)
        if on_worker is not None:
            on_worker(settings, worker)
        say("starting the worker …")
        running = await stack.enter_async_context(worker.running())
        await _until_ready(running.readiness)
        assert local.api.jwt_secret is not None
        secret = local.api.jwt_secret.get_secret_value()
        url = f"http://127.0.0.1:{running.port}"
        tokens = {name: make_token(secret, roles[0], list(roles)) for name, roles in TOKENS.items()}
        _write_env(
            env, {"API_URL": url, "KAFKA_BOOTSTRAP_SERVERS": servers, **({SERVERS: servers} if ours else {}), **tokens}
        )
        yield Development(url, servers, tokens["ADMIN_JWT"], running.failure)


def _local(settings: Settings, servers: str, stand_ins: Any) -> Settings:
    """The settings of a development installation: loopback is allowed, and a secret is made where none is given."""
    secret = settings.api.jwt_secret
    if secret is None and settings.api.jwks_url is None:
        secret = SecretStr(_kept_secret(settings.data_dir / "jwt-secret"))
    changes: dict[str, Any] = {
        "kafka": settings.kafka.model_copy(update={"bootstrap_servers": servers}),
        "api": settings.api.model_copy(update={"jwt_secret": secret}),
        "network": settings.network.model_copy(update={"allow_loopback": True}),
    }
    if stand_ins is not None:
        changes |= _towards(stand_ins, settings)
    return settings.model_copy(update=changes)


def _towards(stand_ins: Any, settings: Settings) -> dict[str, Any]:
    """What leads the clients to the stand-ins."""
    kubeconfig = stand_ins.kubeconfig(settings.data_dir / "kubeconfig.json")
    folder = stand_ins.secrets(settings.data_dir / "secrets")
    token = SecretStr("xoxb-stand-in")
    return {
        "runbooks_dir": DEMO_FOLDER / "runbooks",
        "kubernetes": settings.kubernetes.model_copy(update={"kubeconfig": kubeconfig}),
        "slack": settings.slack.model_copy(
            update={"bot_token": token, "base_url": stand_ins.slack_url, "approval_channel": "#approvals"}
        ),
        "secrets": settings.secrets.model_copy(update={"folder": folder}),
    }


def _kept_secret(path: Path) -> str:
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(48))
    return path.read_text()


def _lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []


def _write_env(path: Path, values: dict[str, str]) -> None:
    path.touch(mode=0o600)
    path.write_text("".join(f"{name}={value}\n" for name, value in values.items()))


async def _until_ready(readiness: Callable[[], list[str]]) -> None:
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            while readiness():  # noqa: ASYNC110 - readiness is asked, as a client would
                await asyncio.sleep(0.05)
    except TimeoutError:
        reasons = "; ".join(readiness())
        raise ConfigurationError(f"the worker was not ready within {READY_TIMEOUT_S:.0f} s: {reasons}") from None


async def _stand_ins(stack: contextlib.AsyncExitStack, say: Say) -> Any:
    path = DEMO_FOLDER / "stand_ins.py"
    specification = importlib.util.spec_from_file_location("stand_ins", path)
    if not path.exists() or specification is None or specification.loader is None:
        raise ConfigurationError(f"{path} is not here: run it from the project's folder, or set DEMO=0")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    stand_ins = await module.start_stand_ins(lambda line: say(f"    [{line}]"))
    stack.push_async_callback(stand_ins.stop)
    return stand_ins


async def until_asked(following: "asyncio.Task[None]", development: Development) -> None:
    """Wait until the demo asks, or cannot any more: it has ended, or the worker has failed."""
    asked = asyncio.ensure_future(development.asked.wait())
    ends: set[asyncio.Future[Any]] = {asked, following, development.failure}
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        asked.cancel()


async def follow_demo(development: Development, data_dir: Path, say: Say) -> None:
    """Publish the demo's anomaly, say how to approve the step that waits, and print what became of it."""
    try:
        await _show_demo(development, data_dir, say)
    except (RunbooksError, aiohttp.ClientError, OSError) as error:
        say(f"the demo stopped: {error}; the log of the worker is {data_dir / 'worker.log'}")


async def _show_demo(development: Development, data_dir: Path, say: Say) -> None:
    headers = {"Authorization": f"Bearer {development.admin_token}"}
    anomaly = orjson.loads((DEMO_FOLDER / "anomaly.json").read_bytes())
    say("")
    say("demo: an anomaly of payment-api is published; Slack, Kubernetes and PagerDuty are stand-ins")
    async with aiohttp.ClientSession(development.api_url, headers=headers) as session:
        async with session.post("/api/v1/anomalies", json=anomaly) as answer:
            document = await answer.json()
            if answer.status != HTTPStatus.ACCEPTED:
                raise RunbooksError(f"its anomaly was not taken: {document.get('detail')}")
        (anomaly_id,) = document["anomaly_ids"]
        item = await _demo_execution(session, anomaly_id, lambda item: item["status"] in WAITS_FOR_A_PERSON)
        _say_all(say, timeline(item))
        waiting = [step for step in item["steps"] if step["status"] == "awaiting_approval"]
        if not waiting:
            reason = item["reason"] or "no reason is known"
            say(f"the demo did not get as far as asking for approval: it is {item['status']} ({reason})")
            return
        folder = "" if data_dir == Path(".run") else f"RUNBOOKS_DATA_DIR={data_dir} "
        digest = waiting[0]["approval"]["digest"]
        say(f"step {waiting[0]['index'] + 1} waits for a person; in another shell:")
        say(f"    {folder}.venv/bin/runbooks approve {item['execution_id']} --digest {digest}")
        say("")
        development.asked.set()
        _say_all(say, timeline(await _demo_execution(session, anomaly_id, lambda _: False)))


def _say_all(say: Say, lines: list[str]) -> None:
    for line in lines:
        say(line)


async def _demo_execution(
    session: aiohttp.ClientSession, anomaly_id: str, enough: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """The demo's execution once it has ended or is as wanted; its approval expires by itself.

    Raises RunbooksError when the anomaly has started none after a while.
    """
    query = {"service_id": "payment-api", "limit": "20"}
    loop = asyncio.get_running_loop()
    deadline, seen = loop.time() + DEMO_START_S, False
    while True:
        with contextlib.suppress(aiohttp.ClientError):
            async with session.get("/api/v1/runbooks/history", params=query) as answer:
                items: list[dict[str, Any]] = (await answer.json()).get("items", [])
            mine = [item for item in items if item["trigger_anomaly_id"] == anomaly_id]
            seen = seen or bool(mine)
            if mine and (mine[0]["finished_at"] is not None or enough(mine[0])):
                return mine[0]
        if not seen and loop.time() >= deadline:
            raise RunbooksError(f"no execution of its anomaly showed within {DEMO_START_S:.0f} s")
        await asyncio.sleep(0.05)
