"""A reference to a secret is what a runbook's author wrote, and nothing that came with an event."""

import pytest
from building import http, scale, slack, story
from hypothesis import given
from hypothesis import strategies as st

from app.core.lifecycle import decide
from app.core.secret_references import REFERENCE, as_written, names_in
from app.core.templating import render

DOLLARS = st.text(alphabet="$AB_{}a1 ", max_size=12)


def resolved(text, values):
    return REFERENCE.sub(lambda found: values.get(found[1] or found[2], "$" if found[0] == "$$" else "?"), text)


def test_names_stand_in_strings_at_any_depth_and_not_in_keys():
    assert tuple(names_in({"$K": ["$A ${B}", 1, None, {"x": "$$C $A"}]})) == ("A", "B", "A")


@pytest.mark.parametrize(
    ("source", "event", "sent"),
    [
        ("Token $T {{ x }}", "$T ${T} $$", "Token secret $T ${T} $$"),
        ("${{ x }}", "T", "$T"),
        ("${{ x }}", "{T}", "${T}"),
        ("$T{{ x }}", "OTHER", "secretOTHER"),
        ("{{ x }}T $$T", "$", "$T $T"),
        ("{% if x %}$T{% endif %}{{ '$T' }}", "1", "secret$T"),
    ],
)
def test_an_event_names_no_secret(source, event, sent):
    assert resolved(render(source, {"x": event}, with_secrets=True), {"T": "secret", "TOTHER": "other"}) == sent


@given(before=DOLLARS.filter(lambda text: "{{" not in text), event=DOLLARS, after=DOLLARS)
def test_whatever_an_event_holds_it_arrives_as_it_is(before, event, after):
    before, after = before.replace("{", ""), after.replace("{", "")
    source = f"{before}{{{{ x }}}}{after}"
    asked = set(names_in(as_written(before))) | set(names_in(as_written(after)))
    rendered = render(source, {"x": event}, with_secrets=True)
    assert set(names_in(rendered)) == asked
    assert event in resolved(rendered, {})


def test_all_secrets_are_asked_for_before_anything_is_done():
    steps = [slack(), http(headers={"A": "$ONE"}), http(url="$TWO/x", body={"k": ["$ONE"]}, name="$NOT")]
    told = story(*steps)
    assert decide(told.state)[0].secrets_needed == ("ONE", "TWO")
    assert decide(told.does().state)[0].secrets_needed == ()


def test_a_dry_run_asks_for_them_step_by_step():
    assert decide(story(http(headers={"A": "$ONE"}), dry_run=True).state)[0].secrets_needed == ()


def test_every_command_names_the_secrets_of_all_steps_so_that_they_are_masked():
    told = story(http(headers={"A": "$ONE"}), scale(), http(url="https://$TWO/"), rollback_on_failure=True)
    assert decide(told.state)[0].secrets_named == ("ONE", "TWO")
    assert decide(told.does().state)[0].secrets_named == ("ONE", "TWO")
    told.does(inverse=True).does("failed", "no")
    assert (told.command.phase, told.command.secrets_named) == ("rollback", ("ONE", "TWO"))
