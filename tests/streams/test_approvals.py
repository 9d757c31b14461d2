"""Decisions on their way into the log: which of them count, and under which keys."""

import json
from types import SimpleNamespace

import pytest
from building import T0
from prometheus_client import CollectorRegistry

from app.core.decisions import ApprovalDecision
from app.streams.approvals import ApprovalRecorder
from app.streams.figures import Figures

KEYS = {"new": b"n" * 32, "old": b"o" * 32}
SAID = ApprovalDecision(tenant="default", execution_id="e", step=0, decision="approve", by="ann", source="api", at=T0)


class FakeLog:
    """Keeps what was recorded, and what was put aside."""

    def __init__(self) -> None:
        self.events, self.letters = [], []

    async def send_event(self, event):
        self.events.append(event)

    async def send_dead_letter(self, source, error):
        self.letters.append(str(error))


async def recorded(decision: ApprovalDecision | bytes, *, trust_topic: bool = False) -> FakeLog:
    log = FakeLog()
    recorder = ApprovalRecorder(log, KEYS, Figures(CollectorRegistry()), trust_topic=trust_topic)
    value = decision if isinstance(decision, bytes) else decision.model_dump_json().encode()
    message = SimpleNamespace(topic="approval-decisions", partition=0, offset=0, key=None)
    await recorder._handle(SimpleNamespace(message=message, value=value))
    return log


@pytest.mark.parametrize("key", ["new", "old"])
async def test_a_decision_that_is_signed_with_a_known_key_counts(key):
    (event,) = (await recorded(SAID.signed(key, KEYS[key]))).events
    assert (event.refusal, event.by) == (None, "ann")


@pytest.mark.parametrize(
    ("decision", "why"),
    [
        (SAID, "the decision is not signed"),
        (SAID.signed("gone", b"g" * 32), "the decision is signed with a key that is not known"),
        (SAID.signed("new", KEYS["old"]), "the decision's signature does not hold"),
        (SAID.signed("new", KEYS["new"]).model_copy(update={"by": "eve"}), "the decision's signature does not hold"),
        (SAID.signed("new", KEYS["new"]).model_copy(update={"tenant": "b"}), "the decision's signature does not hold"),
    ],
)
async def test_any_other_is_recorded_and_does_not_count(decision, why):
    (event,) = (await recorded(decision)).events
    assert event.refusal == why


async def test_where_the_topic_is_trusted_an_unsigned_one_counts_and_a_wrong_signature_does_not():
    (event,) = (await recorded(SAID, trust_topic=True)).events
    assert event.refusal is None
    (event,) = (await recorded(SAID.signed("new", KEYS["old"]), trust_topic=True)).events
    assert event.refusal == "the decision's signature does not hold"


async def test_what_whoever_checked_the_person_refused_stays_refused():
    refused = SAID.model_copy(update={"refusal": "not an approver"}).signed("new", KEYS["new"])
    (event,) = (await recorded(refused)).events
    assert event.refusal == "not an approver"


async def test_what_is_no_decision_is_put_aside():
    log = await recorded(json.dumps({"tenant": "default"}).encode())
    assert (log.events, len(log.letters)) == ([], 1)
