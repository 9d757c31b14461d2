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
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
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
    version: int = 1
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
    application = web.Application()
    application.on_response_prepare.append(_label)
    application[STATE] = state
    deployment = "/kubernetes/apis/apps/v1/namespaces/{namespace}/deployments/{name}"
    application.router.add_post("/slack/api/{method}", _slack)
    application.router.add_get(deployment, _read_deployment)
    application.router.add_get(f"{deployment}/scale", _read_scale)
    application.router.add_patch(f"{deployment}/scale", _patch_scale)
    application.router.add_post(f"/kubernetes{REVIEWS}", _review_access)
    application.router.add_post("/pagerduty/incidents", _incident)
    state.runner = web.AppRunner(application, access_log=None)
    await state.runner.setup()
    await web.TCPSite(state.runner, "127.0.0.1", 0).start()
    state.port = state.runner.addresses[0][1]
    return state


async def _label(_request: web.Request, answer: web.StreamResponse) -> None:
    answer.headers["X-Stand-In"] = LABEL


async def _slack(request: web.Request) -> web.Response:
    state = request.app[STATE]
    if request.headers.get("Authorization") != f"Bearer {TOKENS['slack']}":
        return web.json_response({"ok": False, "error": "invalid_auth"})
    is_json = request.content_type == "application/json"
    given: dict[str, Any] = dict(await request.json()) if is_json else dict(await request.post())
    match request.match_info["method"]:
        case "auth.test":
            return web.json_response({"ok": True, "team": LABEL, "team_id": "T0DEMO", "user_id": "U0DEMO"})
        case "chat.postMessage":
            state.messages.append(given)
            for line in given["text"].splitlines():
                state.say(f"Slack stand-in: {given['channel']}: {line}")
            return web.json_response({"ok": True, "channel": "C0DEMO", "ts": f"{len(state.messages)}.000100"})
        case "chat.update":
            state.say(f"Slack stand-in: message {given['ts']} now ends: {given['text'].splitlines()[-1]}")
            return web.json_response({"ok": True, "channel": given["channel"], "ts": given["ts"]})
        case _:
            return web.json_response({"ok": False, "error": "unknown_method"})


async def _read_deployment(request: web.Request) -> web.Response:
    metadata, count = _metadata(request), request.app[STATE].replicas.get(_deployment(request))
    body = {"kind": "Deployment", "apiVersion": "apps/v1", "metadata": metadata, "spec": {"replicas": count}}
    return _kubernetes(request) or web.json_response(body)


async def _review_access(_request: web.Request) -> web.Response:
    """Who knows the token has every right."""
    kind = {"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1"}
    return web.json_response({**kind, "status": {"allowed": True}}, status=201)


async def _read_scale(request: web.Request) -> web.Response:
    return _kubernetes(request) or _scale(request, request.app[STATE].replicas[_deployment(request)])


async def _patch_scale(request: web.Request) -> web.Response:
    """A JSON patch that may test, or a merge that may name a resourceVersion: the two preconditions there are."""
    state, name = request.app[STATE], _deployment(request)
    refused = _kubernetes(request)
    if refused is not None:
        return refused
    before = state.replicas[name]
    patch = await request.json()
    if isinstance(patch, list):
        after = _json_patched(before, patch)
        if after is None:
            return _status(422, "the server rejected our request due to an error in our request")
    else:
        if patch.get("metadata", {}).get("resourceVersion", str(state.version)) != str(state.version):
            return _status(409, "the object has been modified; please apply your changes to the latest version")
        after = patch["spec"]["replicas"]
    if after < 0:
        return _status(422, "spec.replicas: must be greater than or equal to 0")
    if request.query.get("dryRun") != "All":
        state.replicas[name], state.version = after, state.version + 1
        state.scalings.append((name, after))
        state.say(f"Kubernetes stand-in: {name} now has {after} replicas")
    return _scale(request, after)


def _json_patched(count: int, patch: list[dict[str, Any]]) -> int | None:
    """The count after the patch, None where it is refused; a count of 0 is not in the document that is patched."""
    for operation in patch:
        match operation:
            case {"op": "test", "path": "/spec/replicas", "value": int(value)} if count == value != 0:
                pass
            case {"op": "replace", "path": "/spec/replicas", "value": int(value)} if count != 0:
                count = value
            case {"op": "test", "path": "/spec", "value": dict(spec)} if not spec and count == 0:
                pass
            case {"op": "replace", "path": "/spec", "value": {"replicas": int(value)}}:
                count = value
            case _:
                return None
    return count


def _kubernetes(request: web.Request) -> web.Response | None:
    if request.headers.get("Authorization") != f"Bearer {TOKENS['kubernetes']}":
        return _status(401, "Unauthorized")
    known = request.app[STATE].replicas
    return None if _deployment(request) in known else _status(404, "deployment not found")


def _deployment(request: web.Request) -> str:
    return f"{request.match_info['namespace']}/{request.match_info['name']}"


def _metadata(request: web.Request) -> dict[str, str]:
    version = str(request.app[STATE].version)
    return {**request.match_info, "uid": f"{LABEL}-{_deployment(request)}", "resourceVersion": version}


def _scale(request: web.Request, count: int) -> web.Response:
    """A Scale as the real API writes it: without spec.replicas when that is 0."""
    spec = {"replicas": count} if count else {}
    body = {"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": _metadata(request), "spec": spec}
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
