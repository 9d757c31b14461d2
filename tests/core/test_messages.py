"""What stands on the topics reads back as it was written, and nothing else reads."""

from typing import ClassVar

import pytest
from building import T0, http, plan, requested, slack, story

from app.core.anomaly import anomaly_of
from app.core.commands import read_command, write_command
from app.core.decisions import ApprovalDecision, read_decision, why_not_signed
from app.core.errors import Problem, RecordRefused, TemporaryError
from app.core.events import read_event, write_event
from app.core.ids import command_id, execution_id_for_anomaly, execution_id_for_key, first_attempt
from app.core.planning import Prepared
from app.core.rollback import derive_rollback, rollback_status
from app.core.scheduling import schedule


def test_events_round_trip():
    anomaly = anomaly_of({"service_id": "s", "metric_name": "m", "x": None}, anomaly_id="a", received_at=T0)
    request = requested(http(body={"a": None})).model_copy(update={"anomaly": anomaly})
    s = story(slack())
    for event in (request, s.start_event()):
        assert read_event(write_event(event)) == event
    assert read_event(write_event(request)).runbook.digest() == request.runbook_digest


def test_commands_round_trip():
    s = story(http(body={"a": None}))
    assert read_command(write_command(s.command)) == s.command
    check = {"metric_name": "c", "check_after_minutes": 1, "rollback_if_value_exceeds": 1}
    checking = story(slack(), rollback_metric_check=check).does().at(60).timer()
    assert read_command(write_command(checking.command)) == checking.command
    assert checking.command.command_id == "e/1/1/metric/1"


@pytest.mark.parametrize("read", [read_event, read_command, read_decision])
@pytest.mark.parametrize("raw", [None, b"", b"{", b"[]", b'{"type": "x"}', b'{"type": "timer_fired"}'])
def test_what_cannot_be_read_is_refused(read, raw):
    with pytest.raises(RecordRefused):
        read(raw)


class TestDecisions:
    DECISION = ApprovalDecision(
        tenant="default", execution_id="e", step=1, decision="approve", by="ann", source="api", at=T0
    )
    KEYS: ClassVar = {"old": b"o" * 32, "new": b"n" * 32}

    def test_a_signature_holds_under_any_known_key(self):
        for key_id, key in self.KEYS.items():
            signed = self.DECISION.signed(key_id, key)
            assert why_not_signed(read_decision(signed.model_dump_json().encode()), self.KEYS) is None

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"signature": None}, "not signed"),
            ({"key_id": None}, "not signed"),
            ({"key_id": "gone"}, "not known"),
            ({"key_id": "old"}, "does not hold"),
            ({"decision": "reject"}, "does not hold"),
            ({"by": "eve"}, "does not hold"),
            ({"signature": "ä"}, "does not hold"),
        ],
    )
    def test_anything_changed_breaks_it(self, change, said):
        signed = self.DECISION.signed("new", self.KEYS["new"]).model_copy(update=change)
        assert said in why_not_signed(signed, self.KEYS)

    def test_it_becomes_an_event(self):
        event = self.DECISION.event("not signed")
        assert (event.by, event.step, event.refusal) == ("ann", 1, "not signed")


def test_ids_are_derived_and_apart():
    assert execution_id_for_anomaly("t", "a", "r") == execution_id_for_anomaly("t", "a", "r")
    ids = {
        execution_id_for_anomaly("t", "a", "r"),
        execution_id_for_anomaly("t", "ar", ""),
        execution_id_for_key("t", "a"),
    }
    assert len(ids) == 3


def test_a_plans_digest_is_of_all_it_says():
    assert Prepared.of("a").digest == Prepared.of("a").digest
    assert len({Prepared.of("a").digest, Prepared.of("b").digest, Prepared.of("a", before=1).digest}) == 3


@pytest.mark.parametrize(
    ("waiting", "holding", "started"),
    [
        ([], 0, ()),
        ([("a", 3), ("b", 3)], 0, ("a", "b")),
        ([("a", 3), ("b", 3)], 2, ("a",)),
        ([("a", 1), ("b", 9)], 1, ()),
        ([("a", 2), ("b", 2), ("c", 2)], 0, ("a", "b")),
    ],
)
def test_first_come_first_served_within_the_limit(waiting, holding, started):
    assert schedule(waiting, holding) == started


def test_one_word_for_the_way_back():
    back = {"rollback_on_failure": True}
    assert rollback_status(derive_rollback(story(slack()).state, "x", "failure")) == "not_needed"
    manual = story(slack(), slack(), **back).does().does("failed", "x")
    assert rollback_status(manual.state.rollback) == "manual"
    mixed = story(slack(), slack(), slack(), **back).does().does(inverse=True).does("failed", "x")
    assert rollback_status(mixed.state.rollback) == "running"
    assert rollback_status(mixed.does().state.rollback) == "partial"
    one = story(slack(), slack(), **back).does(inverse=True).does("failed", "x")
    assert rollback_status(one.does().state.rollback) == "done"
    bad = story(slack(), slack(), **back).does(inverse=True).does("failed", "x").does("failed", "y")
    assert rollback_status(bad.state.rollback) == "failed"


def test_a_step_given_up_before_its_plan_was_known_is_manual():
    s = story(slack(on_unknown="fail"), rollback_on_failure=True)
    s.finished(s.command, "unknown", "x")
    assert s.state.rollback.steps[0].reason == "what it changed was not recorded"


def test_problems_and_delays_say_what_they_know():
    assert str(Problem("", "broken")) == "broken"
    assert str(Problem("a.b", "broken", "c")) == "a.b: broken (did you mean 'c'?)"
    assert TemporaryError("busy", 3.0).delay_s == 3.0
    assert plan().manual_reason


def test_all_attempts_at_a_step_have_their_first_one_in_common():
    ids = [command_id("e", 7, 2, "apply", attempt) for attempt in (1, 2, 13)]
    assert {first_attempt(one) for one in ids} == {ids[0]}
