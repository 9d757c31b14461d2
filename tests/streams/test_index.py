"""The index that is made anew after a rebalance judges as the one that has seen everything."""

from datetime import timedelta

import pytest
from building import T0, Story, requested, scale, slack

from app.core.lifecycle import evolve
from app.streams.index import ExecutionIndex


class Tenant:
    """Executions of one runbook, each put into the index as it changes; and what a table would keep of them."""

    def __init__(self, **guards):
        self.guards = guards
        self.live = ExecutionIndex()
        self.kept = {}
        self.offset = 0

    def run(self, name, seconds, *ends):
        """One that is requested and told of what the ends say, in order."""
        story = Story.__new__(Story)
        story.__dict__ = {"offset": self.offset, "events": [], "state": None, "refusal": None, "seconds": seconds}
        story.common = lambda: {"tenant": "default", "execution_id": name, "at": story.now}
        story.tell(self.request(name, seconds))
        self.put(story)
        self.goes_on(story, lambda one: one.judged(), *ends)
        return story

    def goes_on(self, story, *ends):
        story.offset = max(self.offset, story.offset)
        for end in ends:
            end(story)
            assert story.refusal is None
            self.put(story)

    def put(self, story):
        self.offset = story.offset
        state = story.state.marker() if story.state.terminal else story.state
        self.live.put(state)
        self.kept[state.execution_id] = state

    def request(self, name, seconds):
        at = T0 + timedelta(seconds=seconds)
        return requested(scale(), slack(), at=at, **self.guards).model_copy(update={"execution_id": name})

    def verdicts(self, seconds):
        """What the index says of a new request that has seen everything, and one that is made of what is kept."""
        rebuilt = ExecutionIndex()
        rebuilt.rebuild(self.kept.values())
        state, _ = evolve(None, self.request("new", seconds), self.offset + 1)
        for index in (self.live, rebuilt):
            index.put(state)
        return self.live.verdict(state), rebuilt.verdict(state)


def scales(one):
    one.does(inverse=True)


def fails(one):
    one.does("failed", "broken")


def posts(one):
    one.does()


def back(one):
    one.at(one.seconds + 30).back()


@pytest.fixture
def breaker():
    return Tenant(circuit_breaker={"failures": 2, "open_minutes": 60})


def test_failures_that_were_taken_back_by_hand_count(breaker):
    for number in range(2):
        breaker.run(f"e{number}", 100 * number, scales, fails, back, posts)
    live, rebuilt = breaker.verdicts(300)
    assert (live.effect, live.guard) == ("skip", "circuit_breaker")
    assert rebuilt == live


def test_while_the_second_is_being_taken_back_too(breaker):
    breaker.run("e0", 0, scales, fails, back, posts)
    breaker.run("e1", 100, scales, fails, back)
    live, rebuilt = breaker.verdicts(300)
    assert (live.effect, rebuilt) == ("skip", live)


def test_a_good_run_between_an_end_and_its_way_back_clears_what_was_before_it(breaker):
    first = breaker.run("e0", 0, scales, fails)
    breaker.run("e1", 100, scales, posts)
    breaker.goes_on(first.at(200), back, posts)
    breaker.run("e2", 300, scales, fails)
    live, rebuilt = breaker.verdicts(400)
    assert (live.effect, rebuilt) == ("start", live)


@pytest.fixture
def going_back():
    """One that has ended, and is being taken back an hour later."""
    tenant = Tenant(cooldown_seconds=60)
    story = tenant.run("e0", 0, scales, posts)
    tenant.goes_on(story.at(3600), back)
    return tenant, story


def test_what_is_being_taken_back_is_not_at_work(going_back):
    tenant, _ = going_back
    live, rebuilt = tenant.verdicts(7200)
    assert (live.effect, rebuilt) == ("start", live)


def test_nor_is_what_was_taken_back_before_its_first_end_was_kept(going_back):
    tenant, story = going_back
    old = story.state.rollback.model_copy(update={"first_end": None})
    tenant.kept["e0"] = story.state.now(rollback=old)
    assert tenant.verdicts(7200)[1].effect == "start"
