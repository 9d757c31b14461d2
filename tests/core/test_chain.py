"""The running hash over a partition does not depend on how its records came, only on what they are."""

from itertools import pairwise

import pytest

from app.core.chain import NO_RECORD, SHORT, Anchor, extended, record_digest


def anchors_of(digests, cuts=(), every=10):
    """The anchors when the records come in batches that are cut at these places."""
    found, last = {}, Anchor.beginning(0)
    for start, end in pairwise([0, *cuts, len(digests)]):
        for anchor in extended(last, digests[start:end], every):
            found[anchor.first_offset] = last = anchor
    return list(found.values())


DIGESTS = [(offset, record_digest(0, offset, b"k", b"%d" % offset)) for offset in range(25)]


@pytest.mark.parametrize("cuts", [(), (1,), (3, 10, 11), (10, 20)])
def test_anchors_are_the_same_however_the_records_come(cuts):
    found = anchors_of(DIGESTS, cuts)
    assert [(one.first_offset, one.next_offset) for one in found] == [(0, 10), (10, 20), (20, 25)]
    assert found == anchors_of(DIGESTS)
    assert found[1].short(12) == DIGESTS[12][1][:SHORT]


def test_an_offset_without_a_record_has_a_digest_of_zeros():
    (anchor,) = anchors_of([(0, b"a" * 32), (3, b"b" * 32)])
    assert [anchor.short(offset) for offset in range(4)] == [b"a" * SHORT, NO_RECORD, NO_RECORD, b"b" * SHORT]


def test_a_long_hole_costs_nothing():
    found = anchors_of([(5_000_000, b"a" * 32), (5_000_001, b"b" * 32), (9_000_000, b"c" * 32)])
    assert [(one.first_offset, one.next_offset) for one in found] == [
        (5_000_000, 5_000_002),
        (9_000_000, 9_000_001),
    ]
    assert sum(len(one.digests) for one in found) == 3 * SHORT


@pytest.mark.parametrize("other", [(1, 0, b"k", b"v"), (0, 1, b"k", b"v"), (0, 0, b"kv", b""), (0, 0, b"k", None)])
def test_every_part_of_a_record_counts(other):
    assert record_digest(*other) != record_digest(0, 0, b"k", b"v")
