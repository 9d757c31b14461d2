"""Random runbooks, random answers, duplicates and stale copies: what must hold whatever happens."""

from collections import Counter
from datetime import timedelta

from building import T0, Story, plan, requested
from hypothesis import given
from hypothesis import strategies as st

from app.core.events import ApprovalDecided, StepStarted
from app.core.execution import Execution, Status
from app.core.lifecycle import decide, evolve, wake_at
from app.core.transitions import TRANSITIONS

KINDS = {
    "slack": {"type": "slack", "channel": "#c", "message": "m"},
    "kubernetes": {"type": "kubernetes", "action": "scale", "namespace": "n", "deployment": "d", "replicas": 5},
    "http": {"type": "http", "method": "POST", "url": "https://x.example"},
}
STEPS = st.builds(
    lambda kind, approval, goes_on, attempts, quorum: {
        **KINDS[kind],
        "require_approval": approval,
        "continue_on_failure": goes_on,
        "retries": {"max_attempts": attempts},
        "approvals_required": quorum,
    },
    st.sampled_from(sorted(KINDS)),
    st.booleans(),
    st.booleans(),
    st.integers(1, 2),
    st.integers(1, 2),
)
CHECKS = st.builds(
    lambda samples, policy: {
        "metric_name": "cpu",
        "check_after_minutes": 1,
        "rollback_if_value_exceeds": 90,
        "samples": samples,
        "on_no_data": policy,
    },
    st.integers(1, 4),
    st.sampled_from(["keep", "rollback", "attention"]),
)
REQUESTS = st.builds(
    lambda steps, back, check, dry, guarded: requested(
        *steps,
        rollback_on_failure=back,
        rollback_metric_check=check,
        dry_run=dry,
        cooldown_seconds=60 if guarded else 0,
    ),
    st.lists(STEPS, min_size=1, max_size=4),
    st.booleans(),
    st.none() | CHECKS,
    st.integers(0, 4).map(lambda number: number == 0),
    st.booleans(),
)
CHOICES = st.lists(st.integers(0, 99), min_size=1, max_size=60)


def move(s: Story, choice: int) -> None:
    """Let the outside world answer what is due in one of the ways it may."""
    s.seconds += 1
    if choice % 17 == 16:
        s.cancel()
    elif s.state.awaits_verdict and s.state.cancel_by is None:
        s.judged(["start", "approve", "start", "skip"][choice % 4], "max_runs_per_hour")
    elif s.before_command is not None and choice % 3 == 0:
        s.measured_before([None, 50.0][choice % 2])
    elif s.status == "awaiting_approval":
        [s.decided(by="ann"), s.decided(by="cy"), s.decided("reject"), s.at(s.seconds + 700).timer()][choice % 4 :][:1]
    elif s.status == "attention":
        s.resolved("succeeded" if choice % 2 else "failed")
    elif not decide(s.state):
        wake = wake_at(s.state)
        if wake is not None and choice % 3:
            s.at(max(s.seconds, (wake - T0).total_seconds())).timer()
        elif "started" in {step.status for step in all_steps(s.state)}:
            end(s, s.last_command, choice)
    elif s.command.topic.endswith("metric"):
        s.measured([None, 1.0, 99.0][choice % 3])
    else:
        begin(s, choice)


def all_steps(state: Execution):
    return (*state.steps, *(state.rollback.steps if state.rollback else ()))


def begin(s: Story, choice: int) -> None:
    command = s.last_command = s.command
    if command.revoked or choice % 11 == 10:
        s.interrupted()
    elif command.phase == "prepare" or command.plan_only or (command.expected_digest and choice % 7 == 6):
        s.prepared(plan(f"plan {choice}", inverse=choice % 2 == 0))
    elif choice % 13 == 12:
        s.finished(command, "failed", "cannot be planned", temporary=choice % 2 == 0)
    else:
        approved = s.state.standing.step(s.state).plan if command.expected_digest else None
        s.started(approved or plan(inverse=choice % 2 == 0), command)


def end(s: Story, command, choice: int) -> None:
    outcome = ["succeeded", "succeeded", "failed", "unknown"][choice % 4]
    s.finished(command, outcome, None if outcome == "succeeded" else "x", temporary=choice % 5 == 0)


def told(request, choices) -> Story:
    s = Story(request)
    s.last_command = None
    for choice in choices:
        before = s.state.status
        if s.state.terminal:
            if choice % 3:
                break
            s.seconds += 1
            s.back()
        else:
            move(s, choice)
        if s.refusal is None:
            assert s.state.status in TRANSITIONS[before].values()
    return s


def folded(events) -> Execution:
    state = None
    for offset, event in events:
        state = evolve(state, event, offset).execution
    return state


@given(REQUESTS, CHOICES)
def test_it_is_never_stuck_and_never_busy_after_its_end(request, choices):
    s = told(request, choices)
    state = s.state
    if state.terminal:
        assert state.finished_at is not None
        assert (decide(state), wake_at(state)) == ((), None)
    elif state.status != Status.attention and not state.awaits_verdict:
        assert decide(state) or wake_at(state) is not None


@given(REQUESTS, CHOICES, st.data())
def test_duplicates_and_stale_copies_change_nothing(request, choices, data):
    s = told(request, choices)
    events = list(enumerate(s.events, start=1))
    noisy = []
    for place, (offset, event) in enumerate(events):
        noisy.append((offset, event))
        again = data.draw(st.lists(st.integers(0, place), max_size=2))
        # A person's word said again later may count anew: of those only a copy at once is stale.
        noisy += [
            (offset, events[earlier][1])
            for earlier in again
            if earlier == place or isinstance(events[earlier][1], StepStarted)
        ]
    assert folded(noisy) == s.state


@given(REQUESTS, CHOICES)
def test_any_prefix_folds_and_decides_the_same_after_a_recovery(request, choices):
    s = told(request, choices)
    state = None
    for offset, event in enumerate(s.events, start=1):
        state = evolve(state, event, offset).execution
        recovered = Execution.model_validate_json(state.model_dump_json())
        assert recovered == state
        assert decide(recovered) == decide(state)
        assert wake_at(recovered) == wake_at(state)
        state = recovered
    assert state == s.state


@given(REQUESTS, CHOICES)
def test_a_fold_that_keeps_markers_or_forgets_gives_the_same_commands(request, choices):
    s = told(request, choices)
    whole = marked = forgetful = None
    for offset, event in enumerate(s.events, start=1):
        whole = evolve(whole, event, offset).execution
        marked = evolve(marked, event, offset).execution
        forgetful = evolve(forgetful, event, offset).execution
        if not whole.terminal:
            assert whole == marked == forgetful
        elif isinstance(marked, Execution):
            marked, forgetful = marked.marker(), None


@given(REQUESTS, CHOICES)
def test_nothing_that_needs_approval_starts_without_it(request, choices):
    s = told(request, choices)
    state = None
    for offset, event in enumerate(s.events, start=1):
        before = state
        state, refusal = evolve(state, event, offset)
        if isinstance(event, StepStarted) and refusal is None:
            step = state.runbook.steps[event.step]
            nobody = all(one.approval is None for one in before.steps[: event.step])
            guarded = event.phase == "apply" and nobody and before.verdict and before.verdict.effect == "approve"
            if guarded or (step.require_approval and (event.phase == "apply" or before.rollback.by is not None)):
                approval = before.standing.step(before).approval
                voters = {vote.by for vote in approval.votes if vote.decision == "approve"}
                assert approval.state == "approved"
                assert approval.digest == event.plan.digest
                assert len(voters) >= step.approvals_required


@given(REQUESTS, CHOICES)
def test_every_applied_step_has_one_rollback_record_in_reverse_order(request, choices):
    state = told(request, choices).state
    if state.rollback is not None:
        taken_back = [step.index for step in state.rollback.steps]
        applied = {index for index, step in enumerate(state.steps) if step.status in {"succeeded", "unknown"}}
        midway = {index for index, step in enumerate(state.steps) if step.status == "failed" and step.begun}
        assert taken_back == sorted(set(taken_back), reverse=True)
        assert applied <= set(taken_back) <= applied | midway
        if state.terminal:
            ends = {step.status for step in state.rollback.steps}
            assert ends <= {"succeeded", "manual", "drifted", "failed", "unknown", "halted"}


@given(REQUESTS, CHOICES)
def test_no_attempt_starts_twice(request, choices):
    s = told(request, choices)
    state, accepted = None, Counter()
    for offset, event in enumerate(s.events, start=1):
        state, refusal = evolve(state, event, offset)
        if isinstance(event, StepStarted) and refusal is None:
            accepted[event.command_id] += 1
    assert not accepted or max(accepted.values()) == 1


@given(REQUESTS, st.lists(st.sampled_from(["approve", "reject", "expire", "cancel", "again"]), max_size=8))
def test_one_outcome_whatever_the_order_of_clicks_expiry_and_cancel(request, clicks):
    s = Story(request)
    s.last_command = None
    if request.runbook.guarded and not request.dry_run:
        s.judged()
    if not decide(s.state) or s.command.phase != "prepare" or request.dry_run:
        return
    s.prepared()
    ends = 0
    for place, click in enumerate(clicks):
        before = s.state
        s.seconds += 1
        match click:
            case "expire":
                s.at(s.seconds + 601).timer()
            case "cancel":
                s.cancel()
            case "again":
                s.tell(s.events[-1])
            case _:
                s.decided(click, by=f"person {place}")
        ends += s.state.terminal and not before.terminal
    assert ends <= 1
    approved = [event for event in s.events if isinstance(event, ApprovalDecided) and event.decision == "approve"]
    if s.status == "running":
        assert len(approved) >= request.runbook.steps[0].approvals_required
    assert timedelta(0) <= s.now - T0
