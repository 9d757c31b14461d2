"""What may be committed: never past a record that was handed out and not acknowledged."""

from hypothesis import given
from hypothesis import strategies as st

from app.streams.deliveries import Deliveries


def handed_out(*offsets: int) -> Deliveries:
    deliveries = Deliveries()
    for offset in offsets:
        deliveries.deliver(offset)
    return deliveries


def test_nothing_handed_out_commits_nothing():
    assert Deliveries().committable() is None


def test_all_acknowledged_commits_the_next_one():
    deliveries = handed_out(0, 1, 2)
    for offset in (2, 0, 1):
        deliveries.acknowledge(offset)
    assert deliveries.committable() == 3


def test_a_single_record_at_the_head_is_not_passed():
    deliveries = handed_out(68, 69)
    deliveries.acknowledge(69)
    assert deliveries.committable() == 68


def test_the_very_first_record_is_not_passed():
    deliveries = handed_out(0, 1)
    deliveries.acknowledge(1)
    assert deliveries.committable() == 0


def test_a_gap_in_the_log_is_passed_and_the_record_after_it_is_not():
    deliveries = handed_out(5, 9)
    deliveries.acknowledge(5)
    assert deliveries.committable() == 9
    deliveries.acknowledge(9)
    assert deliveries.committable() == 10


def test_a_record_handed_out_again_waits_again():
    deliveries = handed_out(1, 2)
    deliveries.acknowledge(1)
    deliveries.acknowledge(2)
    deliveries.deliver(1)
    assert deliveries.committable() == 1
    deliveries.deliver(1)
    deliveries.acknowledge(1)
    assert deliveries.committable() == 3


def test_an_answer_for_a_record_of_an_earlier_assignment_changes_nothing():
    deliveries = handed_out(7)
    deliveries.acknowledge(3)
    assert deliveries.committable() == 7


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=60))
def test_it_is_the_least_outstanding_record(moves):
    deliveries, outstanding, given_out = Deliveries(), set(), set()
    for is_delivery, offset in moves:
        if is_delivery:
            deliveries.deliver(offset)
            outstanding.add(offset)
            given_out.add(offset)
        else:
            deliveries.acknowledge(offset)
            outstanding.discard(offset)
        expected = min(outstanding) if outstanding else (max(given_out) + 1 if given_out else None)
        assert deliveries.committable() == expected
