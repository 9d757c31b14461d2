import copy
import json
from pathlib import Path

import pytest
from building import http, scale, slack

from app.core.errors import RunbookRefused
from app.core.model import digest
from app.core.runbook import NO_TEMPLATE, Runbook, read_runbook

PAGE = json.loads(Path("runbooks/scale-out-payment-api.json").read_text())


def refused(change) -> RunbookRefused:
    content = copy.deepcopy(PAGE)
    change(content)
    with pytest.raises(RunbookRefused) as caught:
        read_runbook(content)
    return caught.value


def test_the_product_pages_runbook_reads_as_written():
    runbook = read_runbook(PAGE)
    assert runbook.name == "scale-out-payment-api"
    assert [step.type for step in runbook.steps] == ["slack", "kubernetes", "http"]
    assert [step.action for step in runbook.steps] == ["message", "scale", "POST"]
    assert runbook.steps[1].require_approval
    assert runbook.approval_timeout_s(1) == 600
    assert runbook.rollback_on_failure


def test_the_content_reads_back_and_keeps_its_digest():
    runbook = read_runbook({**PAGE, "steps": [http(body={"a": None, "b": [None, 1.0]})]})
    again = read_runbook(runbook.content())
    assert again == runbook
    assert again.digest() == runbook.digest() == digest(runbook.content())
    assert again.steps[0].body == {"a": None, "b": [None, 1.0]}
    assert runbook.digest() == Runbook.model_validate_json(runbook.model_dump_json()).digest()


@pytest.mark.parametrize(
    ("change", "path", "message", "nearest"),
    [
        (lambda r: r.update(stepz=[]), "stepz", "unknown field", "steps"),
        (lambda r: r["steps"][1].update(replica=3), "steps[1].replica", "unknown field", "replicas"),
        (lambda r: r["steps"][0].update(zzz=3), "steps[0].zzz", "unknown field", None),
        (lambda r: r["trigger"].update(servic_id="x"), "trigger.servic_id", "unknown field", "service_id"),
        (
            lambda r: r["steps"][1].update(retries={"max_attempt": 3}),
            "steps[1].retries.max_attempt",
            "unknown field",
            "max_attempts",
        ),
        (lambda r: r["steps"][1].update(type="kubernets"), "steps[1].type", "is not one of", "kubernetes"),
        (lambda r: r["steps"][1].update(action="scael"), "steps[1].action", "is not one of", "scale"),
        (lambda r: r["steps"][1].pop("type"), "steps[1].type", "field is required", None),
        (lambda r: r["steps"][1].pop("deployment"), "steps[1].deployment", "field is required", None),
        (lambda r: r["steps"][1].update(replicas="five"), "steps[1].replicas", "whole number", None),
        (lambda r: r["steps"][1].update(replicas=-1), "steps[1].replicas", "from 0 to 100000", None),
        (lambda r: r["steps"][2].update(url="ftp://x"), "steps[2].url", "http://", None),
        (lambda r: r["steps"][2]["headers"].update(X=1), "steps[2].headers.X", "valid string", None),
        (lambda r: r["steps"][0].update(message="{{ a"), "steps[0].message", "is not a template", None),
        (lambda r: r["steps"][0].update(when="a >"), "steps[0].when", "is not a condition", None),
        (lambda r: r["trigger"].update(condition="a >"), "trigger.condition", "is not a condition", None),
        (lambda r: r["trigger"].update(condition="a" * 5000), "trigger.condition", "longer than", None),
        (lambda r: r.update(trigger={}), "trigger", "match every anomaly", None),
        (lambda r: r.update(steps=[]), "steps", "at least 1 item", None),
        (lambda r: r.update(name="a b"), "name", "pattern", None),
        (lambda r: r["steps"][0].update(approval_timeout_minutes=0), "steps[0].approval_timeout_minutes", "0", None),
    ],
)
def test_a_refusal_names_path_problem_and_nearest_field(change, path, message, nearest):
    (problem,) = refused(change).problems
    assert problem.path == path
    assert message in problem.message
    assert problem.nearest == nearest


def test_every_problem_is_told():
    error = refused(lambda r: (r.update(stepz=1), r["steps"][0].pop("channel")))
    assert str(error) == "steps[0].channel: field is required; stepz: unknown field (did you mean 'steps'?)"


def test_one_wrong_step_is_one_problem():
    content = {**PAGE, "steps": [{**PAGE["steps"][0], "chanel": "x"}]}
    with pytest.raises(RunbookRefused) as caught:
        read_runbook(content)
    assert str(caught.value) == "steps[0].chanel: unknown field (did you mean 'channel'?)"


def test_a_flood_of_problems_is_counted():
    problems = refused(lambda r: r.update({f"x{number}": 1 for number in range(250)})).problems
    assert len(problems) == 101
    assert str(problems[-1]) == "and 150 more problems"


def test_templates_are_checked_wherever_they_stand():
    error = refused(lambda r: r["steps"][2].update(body={"list": [{"deep": "{% if %}"}]}))
    assert error.problems[0].path == "steps[2].body.list[0].deep"


def test_who_is_asked_is_no_template_and_an_older_record_that_says_so_is_still_read():
    step = scale(require_approval=True, approval_channel="#{{ context.a }}", approvers=["ann", "{{ context.b }}"])
    content = {
        "name": "r",
        "trigger": {"service_id": "s"},
        "notify_channel": "{% if 1 %}#a{% endif %}",
        "steps": [slack(channel="#{{ context.a }}"), {**step, "escalate_to": ["{{ context.c }}"]}],
    }
    with pytest.raises(RunbookRefused) as found:
        read_runbook(content)
    paths = ["notify_channel", "steps[1].approval_channel", "steps[1].approvers[1]", "steps[1].escalate_to[0]"]
    assert [problem.path for problem in found.value.problems] == paths
    assert {problem.message for problem in found.value.problems} == {NO_TEMPLATE}
    assert Runbook.model_validate(content).notify_channel == content["notify_channel"]


def test_depth_is_bounded():
    nested = "x"
    for _ in range(40):
        nested = {"a": nested}
    assert "nested deeper" in str(refused(lambda r: r["steps"][2].update(body=nested)))


def test_numbers_may_come_as_templates_or_digits():
    runbook = read_runbook(
        {**PAGE, "steps": [scale(replicas="{{ 2 + 2 }}"), scale(replicas="7"), scale(replicas="0000000005")]}
    )
    assert [step.replicas for step in runbook.steps] == ["{{ 2 + 2 }}", 7, 5]


def test_a_first_pause_longer_than_the_longest_is_refused_in_a_new_definition_only():
    said = refused(lambda r: r["steps"][1].update(retries={"max_attempts": 3, "backoff_seconds": 300}))
    assert str(said) == ("steps[1].retries.max_backoff_seconds: is 60, and backoff_seconds 300: give at least as much")
    both = {"max_attempts": 3, "backoff_seconds": 300, "max_backoff_seconds": 300}
    assert read_runbook({**PAGE, "steps": [http(retries=both)]}).steps[0].retries.backoff_seconds == 300
    old = {**PAGE, "steps": [http(retries={"backoff_seconds": 300})]}
    assert Runbook.model_validate(old).steps[0].retries.backoff_seconds == 300  # as the log has it


@pytest.mark.parametrize("value", [True, 1.5, None, "", "\u0661", 100_001, "9999999999999", "1000000001", "0" * 5000])
def test_what_is_no_count(value):
    with pytest.raises(RunbookRefused, match="whole number"):
        read_runbook({**PAGE, "steps": [scale(replicas=value)]})


def test_infinity_is_no_body():
    with pytest.raises(RunbookRefused, match="finite"):
        read_runbook({**PAGE, "steps": [http(body={"a": float("inf")})]})


@pytest.mark.parametrize(
    ("step", "policy"),
    [
        (scale(), "retry"),
        (scale(on_unknown="attention"), "attention"),
        (slack(), "attention"),
        (http(), "attention"),
        (http(method="PUT"), "retry"),
    ],
)
def test_what_an_unknown_outcome_leads_to(step, policy):
    assert read_runbook({**PAGE, "steps": [step]}).steps[0].unknown_policy == policy


def test_a_body_and_a_form_are_too_much():
    with pytest.raises(RunbookRefused, match="both body and form"):
        read_runbook({**PAGE, "steps": [http(body="x", form={"a": "b"})]})


@pytest.mark.parametrize(
    ("expected", "good", "bad"), [([], (200, 299), (199, 300, 404)), ([404, 200], (200, 404), (201,))]
)
def test_which_answers_are_a_success(expected, good, bad):
    step = read_runbook({**PAGE, "steps": [http(expected_status=expected)]}).steps[0]
    assert all(step.is_success(status) for status in good)
    assert not any(step.is_success(status) for status in bad)


KINDS = [
    {"type": "kubernetes", "action": "restart", "namespace": "n", "deployment": "d", "strategy": "rollout"},
    {"type": "kubernetes", "action": "rollout-undo", "namespace": "n", "deployment": "d", "to_revision": 3},
    {"type": "kubernetes", "action": "cordon", "node": "w1"},
    {"type": "kubernetes", "action": "uncordon", "node": "w1"},
    {"type": "kubernetes", "action": "drain", "node": "w1", "force": True, "grace_period_seconds": 0},
    {"type": "shell", "command": "systemctl restart payment-api", "host": "prod-host-01", "timeout_seconds": 60},
]


@pytest.mark.parametrize("step", KINDS, ids=lambda step: step.get("action", step["type"]))
def test_every_kind_reads_back_as_written(step):
    (read,) = read_runbook({**PAGE, "steps": [step]}).steps
    assert read.action == step.get("action", "command")
    assert read.harmless_twice is (step["type"] == "kubernetes")
    assert read.model_dump(mode="json", exclude_defaults=True) == step


def test_what_waits_for_pods_gets_more_time():
    seconds = [step.timeout_seconds for step in read_runbook({**PAGE, "steps": KINDS}).steps]
    assert seconds == [300, 30, 30, 30, 300, 60]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({**KINDS[1], "to_template": "abc"}, r"steps\[0\]: holds both to_revision and to_template"),
        ({**KINDS[5], "command": "a\x00b"}, r"steps\[0\].command: holds control characters"),
        ({**KINDS[5], "sudo_user": "-x"}, r"steps\[0\].sudo_user: string should match"),
        ({**KINDS[5], "environment": {"A=B": "x"}}, r"steps\[0\].environment"),
        ({**KINDS[4], "nod": "x"}, r"steps\[0\].nod: unknown field \(did you mean 'node'\?\)"),
        ({"type": "kubernetes", "node": "x"}, r"steps\[0\].action: field is required"),
    ],
)
def test_what_these_kinds_refuse(step, message):
    with pytest.raises(RunbookRefused, match=message):
        read_runbook({**PAGE, "steps": [step]})


def test_the_secrets_of_a_shell_step_stand_in_its_environment_and_stdin():
    step = {**KINDS[5], "command": "echo $HOME", "environment": {"A": "$TOKEN"}, "stdin": "${PASSWORD}"}
    (read,) = read_runbook({**PAGE, "steps": [step]}).steps
    assert set(read.secret_names()) == {"TOKEN", "PASSWORD"}


def test_a_step_may_declare_the_one_that_takes_it_back():
    back = {"type": "shell", "host": "h", "command": "undo", "environment": {"A": "$UNDO_TOKEN"}}
    step = http(headers={"X": "$TOKEN"}, rollback=back)
    (read,) = read_runbook({**PAGE, "steps": [step]}).steps
    assert read.rollback.command == "undo"
    assert read.secret_names() == ("TOKEN", "UNDO_TOKEN")
    assert read_runbook(read_runbook({**PAGE, "steps": [step]}).content()).steps == (read,)


@pytest.mark.parametrize(
    ("back", "message"),
    [
        (http(rollback=http()), "steps[0].rollback: takes a step back and has no rollback of its own"),
        (
            http(require_approval=True, when="true"),
            "steps[0].rollback: takes a step back and has no require_approval, when of its own",
        ),
        (http(ur="x"), "steps[0].rollback.ur: unknown field (did you mean 'url'?)"),
        ({"type": "httpp"}, "steps[0].rollback.type: 'httpp' is not one of kubernetes, http, shell, slack"),
        (http(body="{{ x"), "steps[0].rollback.body: is not a template"),
    ],
)
def test_what_a_declared_rollback_refuses(back, message):
    with pytest.raises(RunbookRefused) as caught:
        read_runbook({**PAGE, "steps": [http(rollback=back)]})
    assert message in str(caught.value)
