"""Call an HTTP endpoint."""

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime

from pydantic import JsonValue

from app.actions.scene import Scene
from app.clients.http import HttpAnswer
from app.clients.traces import Call
from app.core.ids import first_attempt
from app.core.planning import ActionFailure, Outcome, Prepared, fitted, size_of
from app.core.spans import TRACEPARENT
from app.core.steps import HttpStep

MANUAL = "an HTTP call cannot be taken back"
KEPT_HEADERS = ("Content-Type", "Location", "Retry-After", "X-Request-Id", "X-Stand-In")
TRY_LATER = frozenset({408, 425, 429})
NO_ANSWER = frozenset({502, 504, 520, 524})
"""A gateway says that it has no answer from the server behind it (RFC 9110 section 15.6; 520 and 524 are
Cloudflare's): the request may have been carried out."""


class HttpAction:
    """Prepare checks the secrets and the address; apply sends the request."""

    async def prepare(self, step: HttpStep, scene: Scene) -> Prepared:
        """What will be sent, secrets by name; raises PermanentError when one is missing."""
        secrets, tenant = scene.clients.secrets, scene.tenant
        url = secrets.resolve(tenant, step.url)
        secrets.resolve_json(tenant, dict(step.headers))
        secrets.resolve_json(tenant, step.body)
        secrets.resolve_json(tenant, dict(step.form or {}))
        scene.clients.http.check_url(url)
        params: dict[str, JsonValue] = {
            "method": step.method,
            "url": step.url,
            "headers": dict(step.headers),
            **({"body": step.body} if step.form is None else {"form": dict(step.form)}),
        }
        return Prepared.of(f"{step.method} {step.url}", params=params, manual_reason=MANUAL)

    async def apply(self, step: HttpStep, plan: Prepared, scene: Scene) -> Outcome:  # noqa: ARG002 - the protocol's
        """Send it, with an Idempotency-Key unless the step gives one: the id of the step's first command.

        Every attempt at a step sends the same key. An attempt is made again only when nobody knows whether the one
        before took effect, or when an answer said that it did not; with a key of its own, a server that carried out
        the first could not tell, and would do it twice.
        """
        secrets, tenant = scene.clients.secrets, scene.tenant
        headers = {name: secrets.resolve(tenant, value) for name, value in step.headers.items()}
        if not any(name.lower() == "idempotency-key" for name in headers):
            headers["Idempotency-Key"] = first_attempt(scene.command_id)
        url, body = secrets.resolve(tenant, step.url), secrets.resolve_json(tenant, step.body)
        form = None if step.form is None else {name: secrets.resolve(tenant, one) for name, one in step.form.items()}
        with _traced(step, headers, scene) as call:
            answer = await scene.clients.http.request(
                step.method, url, headers=headers, body=body, form=form, timeout_s=step.timeout_seconds
            )
            if call is not None:
                call.status = answer.status
        return _outcome(step, answer, scene)


@contextlib.contextmanager
def _traced(step: HttpStep, headers: dict[str, str], scene: Scene) -> Iterator[Call | None]:
    """The call as a span, where one is told of; its ``traceparent`` is added where targets are sent one."""
    if scene.attempt is None:
        yield None
        return
    with scene.attempt.calling(step.method, step.url) as call:
        if call.header is not None and not any(name.lower() == TRACEPARENT for name in headers):
            headers[TRACEPARENT] = call.header
        yield call


def _outcome(step: HttpStep, answer: HttpAnswer, scene: Scene) -> Outcome:
    """What was expected succeeded; a gateway without an answer is unknown; all else failed.

    An answered 500 or 503 is failed, not unknown: the server spoke. It is temporary whatever the method, because every
    attempt carries the same Idempotency-Key; nothing is tried again unless the runbook asks for it.
    """
    output, truncated = _output(answer, scene)
    if step.is_success(answer.status):
        return Outcome(outcome="succeeded", output=output, truncated=truncated)
    if answer.status in NO_ANSWER:
        lost = ActionFailure(message=f"a gateway answered {answer.status}: it has no answer from the server behind it")
        return Outcome(outcome="unknown", output=output, error=lost, truncated=truncated)
    temporary = answer.status in TRY_LATER or answer.status >= 500
    said = "redirects are not followed" if 300 <= answer.status < 400 else "not a success"
    error = ActionFailure(
        message=f"the server answered {answer.status}: {said}",
        temporary=temporary,
        delay_s=answer.retry_after_s(datetime.now(UTC)) if temporary else None,
    )
    return Outcome(outcome="failed", output=output, error=error, truncated=truncated)


def _output(answer: HttpAnswer, scene: Scene) -> tuple[JsonValue, bool]:
    """What is kept of an answer, masked and within the scene's room, and whether something was dropped."""
    secrets, tenant = scene.clients.secrets, scene.tenant
    kept = {name: value for name in KEPT_HEADERS if (value := answer.headers.get(name)) is not None}
    headers = secrets.mask_json(tenant, {**kept})
    cut = answer.truncated and isinstance(answer.body, str)
    body = secrets.mask_cut(tenant, str(answer.body)) if cut else secrets.mask_json(tenant, answer.body)
    around = size_of({"status": answer.status, "headers": headers, "body": ""})
    body, shortened = fitted(body, max(0, scene.room - around))
    return {"status": answer.status, "headers": headers, "body": body}, answer.truncated or shortened
