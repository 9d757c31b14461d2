"""How many requests of a tenant that has enough waiting are ahead of the fold: as many as are folded in good time."""

import pytest

from app.streams.pacing import AHEAD, IN_GOOD_TIME_S, SUPPLY, Pace


class Bench:
    """A pace whose requests take a time of the test's choice to be folded."""

    def __init__(self):
        self.now, self.waiting, self.count = 0.0, SUPPLY, 0
        self.pace = Pace(lambda: self.now, lambda _: self.waiting)

    def write(self, tenant="busy", **more):
        """As many as there is room for; which ones."""
        written = []
        while self.pace.has_room(tenant, **more):
            self.count += 1
            self.pace.written(tenant, str(self.count))
            written.append(str(self.count))
        return written

    def rounds(self, count, took):
        """Write what there is room for and have it folded after so long, several times; how many the last time."""
        for _ in range(count):
            self.now += 0.001
            written = self.write()
            self.now += took
            for name in written:
                self.pace.folded("busy", name)
        return len(written)


@pytest.fixture
def bench():
    return Bench()


def test_few_are_ahead_while_the_fold_is_slow_and_many_when_it_is_quick_again(bench):
    assert bench.rounds(20, 5 * IN_GOOD_TIME_S) == 1
    assert bench.rounds(100, IN_GOOD_TIME_S) == AHEAD


def test_one_slow_round_halves_it_once(bench):
    assert bench.rounds(1, 5 * IN_GOOD_TIME_S) == AHEAD
    assert bench.rounds(1, 0.001) == AHEAD // 2


def test_who_has_not_enough_waiting_may_be_as_far_ahead_as_ever(bench):
    bench.rounds(20, 5 * IN_GOOD_TIME_S)
    bench.waiting = SUPPLY - 1
    assert len(bench.write()) == AHEAD


def test_nor_does_it_matter_when_others_wait_for_it(bench):
    bench.rounds(20, 5 * IN_GOOD_TIME_S)
    assert len(bench.write(hurried=True)) == AHEAD


def test_a_broker_that_always_takes_long_is_not_taken_for_a_busy_worker(bench):
    slow = 10 * IN_GOOD_TIME_S
    bench.rounds(400, slow)
    assert bench.rounds(100, slow) == AHEAD
    assert bench.rounds(20, 5 * slow) < AHEAD / 4


def test_what_counts_as_folded_says_nothing_of_time(bench):
    bench.write()
    bench.now += 10
    assert len(bench.write()) == AHEAD
    bench.pace.folded("busy", "1")  # was it after all, but nobody waits for it any more
    assert bench.write() == []
