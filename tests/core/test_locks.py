"""Who may act on what: one at a time, nobody overtaken, nobody waiting in a circle."""

from hypothesis import given
from hypothesis import strategies as st

from app.core.locks import TargetLocks


def ready(locks: TargetLocks) -> list[str]:
    return list(locks.ready())


def test_one_at_a_time_in_the_order_they_came():
    locks = TargetLocks()
    for place, name in enumerate(("a", "b", "c")):
        locks.wait(name, place, ("host/x",))
    assert ready(locks) == ["a"]
    assert locks.holder_before("b") == ("host/x", "a")
    locks.take("a", ("host/x",))
    assert ready(locks) == []
    assert locks.holder_before("b") == ("host/x", "a")
    locks.leave("a")
    assert ready(locks) == ["b"]
    locks.leave("b")
    assert ready(locks) == ["c"]
    locks.leave("c")
    assert not locks


def test_nobody_is_overtaken_by_who_needs_less():
    locks = TargetLocks()
    locks.take("w", ("host/y",))
    locks.wait("both", 1, ("host/x", "host/y"))
    locks.wait("one", 2, ("host/x",))
    locks.wait("other", 3, ("host/z",))
    locks.wait("none", 4, ())
    assert ready(locks) == ["other", "none"]
    assert locks.holder_before("both") == ("host/y", "w")
    assert locks.holder_before("one") == ("host/x", "both")
    assert locks.holder_before("nobody") is None
    locks.leave("w")
    assert ready(locks) == ["both", "other", "none"]


def test_told_again_it_changes_nothing():
    locks = TargetLocks()
    for _ in range(2):
        locks.wait("a", 1, ("host/x",))
    assert ready(locks) == ["a"]
    for _ in range(2):
        locks.take("a", ("host/x",))
    locks.leave("a")
    locks.leave("a")
    assert not locks


def test_a_rollback_holds_beside_whoever_does_and_who_was_ready_waits_for_it():
    locks = TargetLocks()
    locks.wait("a", 1, ("host/x",))
    locks.take("back", ("host/x",))
    assert ready(locks) == []
    locks.take("a", ("host/x",))  # its command was on its way
    locks.wait("b", 2, ("host/x",))
    locks.leave("back")
    assert ready(locks) == []
    locks.leave("a")
    assert ready(locks) == ["b"]


TARGETS = st.lists(st.sampled_from("xyz"), max_size=3, unique=True).map(tuple)


@given(st.lists(TARGETS, min_size=1, max_size=12), st.data())
def test_everybody_gets_a_turn_and_no_two_hold_one_target(wanted, data):
    locks, holding, started = TargetLocks(), {}, []
    for place, targets in enumerate(wanted):
        locks.wait(str(place), place, targets)
    while len(started) < len(wanted) or holding:
        may = ready(locks)
        assert may == sorted(may, key=int)
        assert may or holding
        if may and (not holding or data.draw(st.booleans())):
            name = data.draw(st.sampled_from(may))
            targets = wanted[int(name)]
            assert not any(set(targets) & set(held) for held in holding.values())
            earlier = (int(other) for other in map(str, range(int(name))) if other not in started)
            assert not any(set(targets) & set(wanted[other]) for other in earlier)
            locks.take(name, targets)
            holding[name] = targets
            started.append(name)
        else:
            name = data.draw(st.sampled_from(sorted(holding)))
            locks.leave(name)
            del holding[name]
    assert not locks
