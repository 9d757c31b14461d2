"""The API under schemathesis, from its own OpenAPI document: what fits the document and what does not, over a socket.

No answer is a 5xx, and every answer is as the document says.
"""

import asyncio
import logging

import pytest
import schemathesis
from aiohttp import web
from building import scale, slack, story
from conftest import loop_in_a_thread
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from app.web.app import build_web
from app.web.openapi import describe
from app.web.routes import ROUTES

CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance]
OPERATIONS = {
    operation.ok().definition.raw["operationId"]: operation.ok()
    for operation in schemathesis.openapi.from_dict(describe(ROUTES)).get_all_operations()
}
KNOWN = {"execution_id": "e", "name": "scale-out-payment-api"}
SPOILT_ELSEWHERE = {"put_runbook", "validate"}
"""Spoiling the runbook's recursive schema takes schemathesis minutes a request; test_bad_requests.py does it."""


WITHOUT_PARTS = {"backtest", "coverage", "decisions"}
"""Over these fakes they answer 503, which is the truth; test_decisions.py has their parts."""


def _worth_spoiling(name: str) -> bool:
    """Whether there is something in the request that can be spoilt."""
    one = OPERATIONS[name]
    return name not in SPOILT_ELSEWHERE and bool(one.body or list(one.iter_parameters()))


CASES = [
    (name, mode, known)
    for name, one in sorted(OPERATIONS.items())
    if name not in WITHOUT_PARTS
    for mode in GenerationMode
    for known in (False, True)
    if (not known or "{" in one.path) and (mode is GenerationMode.POSITIVE or _worth_spoiling(name))
]
EXAMPLES = 12  # for each operation, mode and kind of path: all together about half a minute


@pytest.fixture
def served(world):
    """The URL of an API over the fakes, with executions that run, wait and have ended."""
    waiting = story(scale(require_approval=True), slack()).prepared()
    world.history.executions["e"] = waiting.state
    world.history.executions["ended"] = (
        story(slack())
        .does()
        .state.model_copy(update={"request": waiting.state.request.model_copy(update={"execution_id": "ended"})})
    )

    async def serve() -> tuple[web.AppRunner, str]:
        runner = web.AppRunner(build_web(world.parts()), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"

    with loop_in_a_thread() as loop:
        runner, url = asyncio.run_coroutine_threadsafe(serve(), loop).result(30)
        yield url
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)


@pytest.mark.parametrize(("name", "mode", "known"), CASES)
def test_no_request_breaks_the_api(served, token, name, mode, known, caplog):
    operation = OPERATIONS[name]
    wanted = {one: value for one, value in KNOWN.items() if f"{{{one}}}" in operation.path}
    headers = {"Authorization": f"Bearer {token(roles=['admin'])}"}
    caplog.set_level(logging.ERROR)

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(mode, **({"path_parameters": wanted} if known else {})))
    def request(case):
        response = case.call(base_url=served, headers=headers, timeout=10)
        case.validate_response(response, checks=CHECKS)

    request()
    assert not caplog.records
