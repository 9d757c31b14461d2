import pytest
from aiohttp import web

from app.core.errors import OutcomeUnknown, PermanentError, TemporaryError

NAMED = "production/payment-api"
PLACE = ("production", "payment-api")


def read(client):
    return client.read_scale(*PLACE)


def write(client):
    return client.set_scale(*PLACE, replicas=5, expected_replicas=3)


async def test_the_count_is_read(clients):
    assert (await clients.kubernetes.read_scale(*PLACE)).replicas == 3


async def test_the_count_is_set_if_it_is_as_expected(clients, stand_ins):
    assert (await write(clients.kubernetes)).replicas == 5
    assert stand_ins.replicas == {NAMED: 5}
    assert stand_ins.scalings == [(NAMED, 5)]


async def test_another_count_is_left_alone_and_both_are_named(clients, stand_ins):
    stand_ins.replicas[NAMED] = 7
    with pytest.raises(PermanentError, match=r"production/payment-api was not changed: it has 7 replicas, and 3 were"):
        await write(clients.kubernetes)
    assert stand_ins.scalings == []


async def test_a_dry_run_is_answered_and_changes_nothing(clients, stand_ins):
    done = await clients.kubernetes.set_scale(*PLACE, replicas=5, expected_replicas=3, dry_run=True)
    assert (done.replicas, stand_ins.replicas, stand_ins.scalings) == (5, {NAMED: 3}, [])


async def test_down_to_nothing_and_up_again(clients, stand_ins):
    kubernetes = clients.kubernetes
    assert (await kubernetes.set_scale(*PLACE, replicas=0, expected_replicas=3)).replicas == 0
    assert (await kubernetes.read_scale(*PLACE)).replicas == 0
    assert (await kubernetes.set_scale(*PLACE, replicas=4, expected_replicas=0)).replicas == 4
    assert stand_ins.scalings == [(NAMED, 0), (NAMED, 4)]


async def test_up_from_nothing_holds_its_precondition_too(clients, stand_ins):
    with pytest.raises(PermanentError, match="it has 3 replicas, and 0 were expected"):
        await clients.kubernetes.set_scale(*PLACE, replicas=4, expected_replicas=0)
    assert stand_ins.scalings == []


async def test_a_refused_count_gives_the_apis_reason(clients):
    with pytest.raises(PermanentError, match="must be greater than or equal to 0"):
        await clients.kubernetes.set_scale(*PLACE, replicas=-1, expected_replicas=3)


async def test_a_deployment_that_is_not_there_is_named(clients):
    with pytest.raises(PermanentError, match=r"^deployment staging/other does not exist$"):
        await clients.kubernetes.read_scale("staging", "other")


@pytest.mark.parametrize(
    ("namespace", "deployment", "field"),
    [
        ("..", "x", "namespace"),
        ("a/b", "x", "namespace"),
        ("", "x", "namespace"),
        ("a", "..", "deployment"),
        ("a", "../../secrets", "deployment"),
        ("a", "UPPER", "deployment"),
        ("a", "b\n", "deployment"),
        ("n" * 64, "x", "namespace"),
    ],
)
async def test_a_name_that_would_be_another_path_is_refused(connect, namespace, deployment, field):
    client = connect("http://127.0.0.1:9")
    for ask in (
        client.read_scale(namespace, deployment),
        client.set_scale(namespace, deployment, replicas=1, expected_replicas=2),
    ):
        with pytest.raises(PermanentError, match=f"^{field} .* is not a Kubernetes name$"):
            await ask


def status(code, message="because", **headers):
    body = {"kind": "Status", "status": "Failure", "code": code, "message": message}
    return lambda: web.json_response(body, status=code, headers=headers)


@pytest.mark.parametrize("ask", [read, write])
@pytest.mark.parametrize(
    ("answer", "kind", "said", "delay_s"),
    [
        (status(401), PermanentError, "renew the credentials", None),
        (status(404), PermanentError, "deployment production/payment-api does not exist", None),
        (status(400), PermanentError, "because", None),
        (status(409), TemporaryError, "production/payment-api: because", None),
        (status(429, **{"Retry-After": "7"}), TemporaryError, "because", 7.0),
        (status(500), TemporaryError, "failed with 500: because", None),
        (status(503, **{"retry-after": "2"}), TemporaryError, "failed with 503", 2.0),
        (lambda: web.Response(status=502, text="<html>"), TemporaryError, "failed with 502: Bad Gateway", None),
        (lambda: web.Response(status=500, text='"text"'), TemporaryError, "Internal Server Error", None),
        (status(500, "odd \ud800"), TemporaryError, "odd ?", None),
    ],
)
async def test_the_apis_refusals_are_translated(answering, ask, answer, kind, said, delay_s):
    with pytest.raises(kind) as caught:
        await ask(await answering(answer))
    assert said in str(caught.value)
    assert getattr(caught.value, "delay_s", None) == delay_s


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (504, "Timeout: request did not complete within requested timeout - context deadline exceeded"),
        (500, "rpc error: code = Unavailable desc = error reading from server: read: connection reset by peer"),
        (500, "etcdserver: request timed out"),
    ],
)
async def test_what_the_api_itself_does_not_know_is_unknown(answering, code, message):
    """Seen of an API whose etcd was stopped, and killed, in the middle of a write."""
    client = await answering(status(code, message))
    with pytest.raises(TemporaryError, match=message):
        await read(client)
    with pytest.raises(OutcomeUnknown, match=message):
        await write(client)
    with pytest.raises(TemporaryError, match=message):
        await client.set_scale(*PLACE, replicas=5, expected_replicas=3, dry_run=True)


async def test_what_a_webhook_denies_is_no_missing_right(answering):
    denial = 'admission webhook "quota.example.com" denied the request: too many'
    with pytest.raises(PermanentError, match=f"^deployment {NAMED} was not changed: {denial}$"):
        await write(await answering(status(403, denial)))


@pytest.mark.parametrize(("ask", "right"), [(read, "get deployments/scale"), (write, "patch deployments/scale")])
async def test_a_missing_right_is_named(answering, ask, right):
    with pytest.raises(PermanentError, match=f"the right to {right} is missing for deployment {NAMED}: no"):
        await ask(await answering(status(403, "no")))


@pytest.mark.parametrize("ask", [read, write])
async def test_an_api_that_starts_may_not_know_our_rights_yet(answering, ask):
    said = f"^the Kubernetes API is not ready, and may not know our rights yet: the right to .* deployment {NAMED}: no"
    with pytest.raises(TemporaryError, match=said):
        await ask(await answering(status(403, "no"), ready=False))


NO_SCALE = [
    b"",
    b"not json",
    b"{}",
    b"[1]",
    b'{"kind":"Scale"}',
    b'{"kind":"Scale","spec":{"replicas":"many"}}',
    b"\xff",
]


@pytest.mark.parametrize("body", [*NO_SCALE, b'{"kind":"Status","metadata":{},"spec":{}}', b"<html>Sign in</html>"])
async def test_an_answer_that_is_no_scale_is_not_taken_for_a_count(answering, body):
    client = await answering(lambda: web.Response(body=body, content_type="application/json"))
    with pytest.raises(TemporaryError, match="is not a Scale"):
        await read(client)
    with pytest.raises(OutcomeUnknown, match="is not a Scale"):
        await write(client)


async def test_no_answer_to_a_read_is_temporary_and_to_a_write_unknown(connect, hanging):
    client = connect(hanging.url, timeout_s=0.2)
    with pytest.raises(TemporaryError, match="did not answer about deployment production/payment-api: TimeoutError"):
        await read(client)
    with pytest.raises(OutcomeUnknown, match="TimeoutError"):
        await write(client)
    with pytest.raises(TemporaryError, match="TimeoutError"):
        await client.set_scale(*PLACE, replicas=5, expected_replicas=3, dry_run=True)


async def test_a_reset_of_a_write_is_unknown(connect, raw, scripts):
    async with raw(scripts["reset"]) as server:
        with pytest.raises(OutcomeUnknown, match="did not answer"):
            await write(connect(server.url))
    assert len(server.seen) == 1


@pytest.mark.parametrize("ask", [read, write])
async def test_nothing_listens_then_nothing_was_sent(connect, unused_tcp_port, ask):
    with pytest.raises(TemporaryError, match="the Kubernetes API cannot be reached"):
        await ask(connect(f"http://127.0.0.1:{unused_tcp_port}"))
