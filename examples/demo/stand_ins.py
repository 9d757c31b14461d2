"""Stand-ins for the demo: small servers that speak the few calls of the product page's example.

They are not Slack, Kubernetes or PagerDuty: every answer says so in the header ``X-Stand-In``, and so does every line
they print. They keep their state in memory and forget it when they stop.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

LABEL = "infrasage-demo"
REPLICAS = 3
TOKENS = {"slack": "xoxb-stand-in", "kubernetes": "kubernetes-stand-in", "pagerduty": "pagerduty-stand-in"}


@dataclass
class StandIns:
    """Running stand-ins: where they listen, what was asked of them, and the one deployment's replicas."""

    port: int = 0
    replicas: dict[str, int] = field(default_factory=lambda: {"production/payment-api": REPLICAS})
    messages: list[dict[str, Any]] = field(default_factory=list)
    incidents: dict[str, dict[str, Any]] = field(default_factory=dict)
    scalings: list[tuple[str, int]] = field(default_factory=list)
    say: Callable[[str], None] = lambda line: None  # noqa: ARG005 - silent by default
    runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Where all of them listen."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def slack_url(self) -> str:
        """Slack's API."""
        return f"{self.url}/slack/api/"

    @property
    def pagerduty_url(self) -> str:
        """PagerDuty's API."""
        return f"{self.url}/pagerduty"

    def kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig that leads to the Kubernetes stand-in."""
        cluster = {"name": LABEL, "cluster": {"server": f"{self.url}/kubernetes"}}
        user = {"name": LABEL, "user": {"token": TOKENS["kubernetes"]}}
        context = {"name": LABEL, "context": {"cluster": LABEL, "user": LABEL}}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [cluster],
            "users": [user],
            "contexts": [context],
            "current-context": LABEL,
        }
        path.write_text(json.dumps(content))
        return path

    def secrets(self, folder: Path, tenant: str = "default") -> Path:
        """Write the secrets that the demo's runbook names."""
        mine = folder / tenant
        mine.mkdir(parents=True, exist_ok=True)
        (mine / "PAGERDUTY_API_TOKEN").write_text(TOKENS["pagerduty"])
        (mine / "PAGERDUTY_URL").write_text(self.pagerduty_url)
        return folder

    async def stop(self) -> None:
        """Stop listening."""
        if self.runner is not None:
            await self.runner.cleanup()


STATE: web.AppKey[StandIns] = web.AppKey("state", StandIns)


async def start_stand_ins(say: Callable[[str], None] | None = None) -> StandIns:
    """Start all of them on one free port of loopback."""
    state = StandIns()
    if say is not None:
        state.say = say
    application = web.Application(middlewares=[_labelled])
    application[STATE] = state
    scale = "/kubernetes/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"
    application.router.add_post("/slack/api/{method}", _slack)
    application.router.add_get(scale, _read_scale)
    application.router.add_patch(scale, _patch_scale)
    application.router.add_post("/pagerduty/incidents", _incident)
    state.runner = web.AppRunner(application, access_log=None)
    await state.runner.setup()
    await web.TCPSite(state.runner, "127.0.0.1", 0).start()
    state.port = state.runner.addresses[0][1]
    return state


@web.middleware
async def _labelled(request: web.Request, handler: Any) -> web.StreamResponse:
    answer: web.StreamResponse = await handler(request)
    answer.headers["X-Stand-In"] = LABEL
    return answer


async def _slack(request: web.Request) -> web.Response:
    state = request.app[STATE]
    if request.headers.get("Authorization") != f"Bearer {TOKENS['slack']}":
        return web.json_response({"ok": False, "error": "invalid_auth"})
    is_json = request.content_type == "application/json"
    given = dict(await request.json()) if is_json else dict(await request.post())
    if request.match_info["method"] != "chat.postMessage":
        return web.json_response({"ok": True})
    state.messages.append(given)
    state.say(f"Slack stand-in: {given['channel']}: {given['text']}")
    return web.json_response({"ok": True, "channel": "C0DEMO", "ts": f"{len(state.messages)}.000100"})


async def _read_scale(request: web.Request) -> web.Response:
    return _kubernetes(request) or _scale(request)


async def _patch_scale(request: web.Request) -> web.Response:
    refused = _kubernetes(request)
    if refused is not None:
        return refused
    state, name = request.app[STATE], _deployment(request)
    test, replace = await request.json()
    if state.replicas[name] != test["value"]:
        return _status(422, "the server rejected our request due to an error in our request: testing value failed")
    state.replicas[name] = replace["value"]
    state.scalings.append((name, replace["value"]))
    state.say(f"Kubernetes stand-in: {name} now has {replace['value']} replicas")
    return _scale(request)


def _kubernetes(request: web.Request) -> web.Response | None:
    if request.headers.get("Authorization") != f"Bearer {TOKENS['kubernetes']}":
        return _status(401, "Unauthorized")
    known = request.app[STATE].replicas
    return None if _deployment(request) in known else _status(404, "deployment not found")


def _deployment(request: web.Request) -> str:
    return f"{request.match_info['namespace']}/{request.match_info['name']}"


def _scale(request: web.Request) -> web.Response:
    count = request.app[STATE].replicas[_deployment(request)]
    metadata = {"name": request.match_info["name"], "namespace": request.match_info["namespace"]}
    body = {"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": {"replicas": count}}
    return web.json_response({**body, "status": {"replicas": count}})


def _status(code: int, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "status": "Failure", "code": code, "message": message}, status=code)


async def _incident(request: web.Request) -> web.Response:
    state = request.app[STATE]
    if request.headers.get("Authorization") != f"Token {TOKENS['pagerduty']}":
        return web.json_response({"error": {"message": "unauthorized"}}, status=401)
    key = request.headers.get("Idempotency-Key", f"none-{len(state.incidents)}")
    if key not in state.incidents:
        body = await request.json()
        state.incidents[key] = {"id": f"Q{len(state.incidents) + 1}", "title": body.get("title")}
        state.say(f"PagerDuty stand-in: incident {state.incidents[key]['id']}: {body.get('title')}")
    return web.json_response({"incident": state.incidents[key]}, status=201)


if __name__ == "__main__":

    async def _serve() -> None:
        state = await start_stand_ins(print)
        print(f"stand-ins on {state.url}; Ctrl-C stops them")
        await asyncio.Event().wait()

    asyncio.run(_serve())
