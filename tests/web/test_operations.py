import asyncio

from app.web.problems import MAX_DETAIL


async def test_it_is_alive(web):
    assert (await web.plain("GET", "/healthz")).body == {"status": "alive"}


async def test_it_is_ready_when_nothing_speaks_against_it(web, world):
    assert (await web.plain("GET", "/readyz")).body == {"status": "ready", "reasons": [], "warnings": []}
    world.warnings.append("1 record was put on dead-letters")
    answer = await web.plain("GET", "/readyz")
    assert (answer.status, answer.body["warnings"]) == (200, world.warnings)
    world.reasons.append("the projector has stopped")
    answer = await web.plain("GET", "/readyz")
    assert (answer.status, answer.body["reasons"]) == (503, ["the projector has stopped"])


async def metrics(web):
    async with web.client.get("/metrics") as response:
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return (await response.text()).splitlines()


async def test_requests_are_counted_by_route_and_status(web):
    for name in ("x", "y", "z"):
        await web.call("GET", f"/api/v1/runbooks/{name}", roles=["viewer"])
    await web.plain("GET", "/api/v1/runbooks/x")
    await web.plain("GET", "/nowhere")
    await web.plain("PATCH", "/healthz")
    lines = await metrics(web)
    assert 'runbooks_http_requests_total{route="runbook",status="404"} 3.0' in lines
    assert 'runbooks_http_requests_total{route="runbook",status="401"} 1.0' in lines
    assert 'runbooks_http_requests_total{route="none",status="404"} 1.0' in lines
    assert 'runbooks_http_requests_total{route="none",status="405"} 1.0' in lines
    assert 'runbooks_http_seconds_count{route="runbook",status="404"} 3.0' in lines


async def test_every_answer_carries_its_guards(web):
    for path in ("/healthz", "/nowhere", "/api/v1/runbooks", "/metrics"):
        headers = (await web.plain("GET", path)).headers
        assert (headers["X-Content-Type-Options"], headers["Cache-Control"]) == ("nosniff", "no-store")


async def test_nowhere_and_not_so_are_problems_too(web):
    answer = await web.plain("GET", "/nowhere")
    assert (answer.status, answer.body["title"], answer.body["type"]) == (404, "Not Found", "about:blank")
    answer = await web.plain("DELETE", "/api/v1/runbooks/history")
    assert answer.status == 401  # a runbook could be called so: the path is one
    answer = await web.plain("PATCH", "/api/v1/runbooks/history")
    assert (answer.status, answer.body["detail"]) == (405, "this path does not take PATCH")
    assert "GET" in answer.headers["Allow"]


async def test_what_was_sent_is_not_quoted_without_end(web):
    answer = await web.call("POST", "/api/v1/runbooks/execute", {"runbook_name": "x", "y" * 10_000: 1})
    assert answer.status == 400
    assert max(len(answer.body["detail"]), len(answer.body["problems"][0]["path"])) <= MAX_DETAIL + 2


async def test_a_body_over_the_limit_of_the_settings_is_refused(world, serve):
    web = await serve(world.parts(max_body_bytes=2048))
    answer = await web.call("POST", "/api/v1/anomalies", raw=b'{"a": "' + b"x" * 2048 + b'"}')
    assert (answer.status, answer.body["detail"]) == (413, "the body is larger than this API takes")


async def test_a_chunked_body_over_the_limit_is_refused(world, serve):
    web = await serve(world.parts(max_body_bytes=2048))

    async def chunks():
        for _ in range(100):
            yield b"x" * 100
            await asyncio.sleep(0)

    assert (await web.call("POST", "/api/v1/anomalies", raw=chunks())).status == 413
