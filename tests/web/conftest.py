"""The API over fakes, called over real sockets; every answer is held against the OpenAPI document."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import jwt
import orjson
import pytest
from building import T0
from fakes import FakeDefinitions, FakeHistory, FakeLog, FakeProjection
from jsonschema import Draft202012Validator
from prometheus_client import CollectorRegistry

from app.core.catalog import RunbookPut
from app.core.events import Limits
from app.core.pauses import Pause, PausePut
from app.core.runbook import read_runbook
from app.web.app import build_web
from app.web.openapi import describe
from app.web.parts import Patience, TokenRules, WebParts
from app.web.routes import ROUTES

SECRET = "a secret of the tests that is long enough"
SIGNING = ("key-1", b"k" * 32)
DOCUMENT = describe(ROUTES)
PRODUCT_PAGE = {
    "name": "scale-out-payment-api",
    "trigger": {
        "service_id": "payment-api",
        "metric_name": "cpu_usage_percent",
        "condition": "anomaly_score > 0.7",
    },
    "steps": [
        {"type": "slack", "message": "Scaling", "channel": "#alerts"},
        {
            "type": "kubernetes",
            "action": "scale",
            "namespace": "production",
            "deployment": "payment-api",
            "replicas": 5,
            "require_approval": True,
        },
    ],
}


class Answer(NamedTuple):
    """What came back; body is the decoded JSON, None where there is none."""

    status: int
    body: Any
    headers: Any


@dataclass
class World:
    """The fakes behind one API, and the clock they share."""

    history: FakeHistory = field(default_factory=FakeHistory)
    definitions: FakeDefinitions = field(default_factory=FakeDefinitions)
    reasons: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    now: datetime = T0
    ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.projection = FakeProjection(self.history)
        self.log = FakeLog(self.history, self.definitions, dict([SIGNING]))

    def parts(self, **changes: Any) -> WebParts:
        parts = WebParts(
            log=self.log,
            definitions=self.definitions,
            history=self.history,
            projection=self.projection,
            trail=self.log,
            tokens=TokenRules(secret=SECRET),
            limits=Limits(max_concurrent_runbooks=7),
            readiness=lambda: self.reasons,
            warnings=lambda: self.warnings,
            clock=lambda: self.now,
            new_id=lambda: f"id-{next(self.ids)}",
            registry=CollectorRegistry(),
            signing=SIGNING,
            patience=Patience(seen_s=0.1, decided_s=0.1, dry_run_s=0.1, in_force_s=0.1),
        )
        return replace(parts, **changes)

    def put(self, content: dict[str, Any], tenant: str = "default") -> None:
        """Bring a definition into force."""
        self.definitions.catalog.apply(RunbookPut(tenant=tenant, runbook=read_runbook(content), by="ann", at=T0))

    def pause(self, name: str = "freeze", tenant: str = "default", **fields: Any) -> None:
        """Bring a pause into force."""
        pause = Pause(**({"starts_at": T0, "by": "ann"} | fields), tenant=tenant, name=name)
        self.definitions.catalog.apply(PausePut(pause=pause, at=T0))


def make_token(secret: str = SECRET, algorithm: str = "HS256", *, headers=None, without=(), **claims: Any) -> str:
    now = datetime.now(UTC)
    whole = {"sub": "ann", "tenant": "default", "roles": ["viewer"], "iat": now, "exp": now + timedelta(minutes=5)}
    kept = {name: value for name, value in (whole | claims).items() if name not in without}
    return jwt.encode(kept, secret, algorithm=algorithm, headers=headers)


class Web:
    """A client of the API."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        roles=("admin",),
        tenant="default",
        sub="ann",
        raw: Any = None,
        headers=None,
    ) -> Answer:
        token = make_token(roles=list(roles), tenant=tenant, sub=sub)
        given = {"Authorization": f"Bearer {token}"} | (headers or {})
        data = raw if raw is not None else None if body is None else orjson.dumps(body)
        return await self.plain(method, path, given, data)

    async def plain(self, method: str, path: str, headers=None, data: Any = None) -> Answer:
        """A call with these headers and no others."""
        async with self.client.request(method, path, data=data, headers=headers, allow_redirects=False) as response:
            raw = await response.read()
            decoded = orjson.loads(raw) if "json" in response.content_type and raw else None
            answer = Answer(response.status, decoded, response.headers)
        hold_against_document(method, path.partition("?")[0], answer)
        return answer

    async def execute(self, name="scale-out-payment-api", key: str | None = None, **fields: Any) -> Answer:
        """A manual execution; fields of the call itself are not needed in these tests."""
        headers = None if key is None else {"Idempotency-Key": key}
        body = {"runbook_name": name, **fields}
        return await self.call("POST", "/api/v1/runbooks/execute", body, roles=["operator"], headers=headers)


def hold_against_document(method: str, path: str, answer: Answer) -> None:
    """Fail when an answer is not as the OpenAPI document says."""
    operation = _operation(method, path)
    if answer.status >= 400 and not (operation and str(answer.status) in operation["responses"]):
        assert answer.headers["Content-Type"].startswith("application/problem+json"), answer
        schema = {"$ref": "#/components/schemas/ProblemDocument"}
        assert answer.body["status"] == answer.status
    else:
        assert operation is not None, f"{method} {path} answers and is not described"
        content = operation["responses"][str(answer.status)].get("content")
        if content is None:
            return
        schema = content["application/json"]["schema"]
    found = Draft202012Validator(schema | {"components": DOCUMENT["components"]}).iter_errors(answer.body)
    assert not list(found), f"{method} {path} {answer}"


def _operation(method: str, path: str) -> dict[str, Any] | None:
    fixed = DOCUMENT["paths"].get(path, {}).get(method.lower())
    if fixed is not None:
        return fixed
    for template, operations in DOCUMENT["paths"].items():
        parts, wanted = path.split("/"), template.split("/")
        same = len(parts) == len(wanted) and all(
            one in (other, "") or other.startswith("{") for one, other in zip(parts, wanted, strict=True)
        )
        if same and method.lower() in operations:
            return operations[method.lower()]
    return None


@pytest.fixture
def token():
    """Makes tokens that hold, but for what a test changes."""
    return make_token


@pytest.fixture
def world() -> World:
    """The fakes, with the product page's runbook in force for two tenants."""
    world = World()
    world.put(PRODUCT_PAGE)
    world.put(PRODUCT_PAGE, tenant="other")
    return world


@pytest.fixture
def serve(aiohttp_client):
    """Starts an API over a world's parts."""

    async def start(parts: WebParts) -> Web:
        return Web(await aiohttp_client(build_web(parts)))

    return start


@pytest.fixture
async def web(world, serve) -> Web:
    return await serve(world.parts())
