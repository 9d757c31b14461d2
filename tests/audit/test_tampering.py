"""The log on a broker is not the one that was recorded: what was done to it is told, and at which offset first."""

import pytest
import sqlalchemy as sa
from audited import Audited
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.audit.anchors import READ_AHEAD, AnchorCheck, AnchorsAhead
from app.core.chain import NOTHING, SHORT, Anchor, extended, record_digest
from app.core.errors import RunbooksError
from app.history.database import open_database
from app.history.schema import ANCHORS
from app.history.signed_anchors import AnchorSigner, SignedAnchors
from app.history.store import Store

AT = 33
KEY = Ed25519PrivateKey.generate()


def untouched(records):
    return records


def altered(records):
    key, value = records[AT]
    return [*records[:AT], (key, value.replace(b'"run":', b'"run": ')), *records[AT + 1 :]]


def another_key(records):
    return [*records[:AT], (b"other", records[AT][1]), *records[AT + 1 :]]


def removed(records):
    return [*records[:AT], *records[AT + 1 :]]


def several_removed(records):
    return [*records[:AT], *records[AT + 3 :]]


def inserted(records):
    return [*records[:AT], records[0], *records[AT:]]


def truncated(records):
    return records[:AT]


CASES = [
    (untouched, None),
    (altered, "the record is not the one that was recorded at this offset"),
    (another_key, "the record is not the one that was recorded at this offset"),
    (removed, "record 33 removed: what stands here was recorded at 34"),
    (several_removed, "records 33 to 35 removed: what stands here was recorded at 36"),
    (inserted, "inserted: what was recorded at this offset stands at 34"),
    (truncated, "records 33 to 43 were recorded and are gone from the end"),
]


@pytest.fixture
async def audited(kafka, tmp_path, log):
    """A log of 44 records in a history database, and a topic that is still empty."""
    engine = await open_database(f"sqlite:///{tmp_path / 'history.db'}")
    for number in range(11):
        log.request(f"e{number:02}")
        log.succeed(f"e{number:02}")
        log.cancel(f"e{number:02}")
    made = Audited(kafka, engine, log)
    await made.create()
    yield made
    await engine.dispose()


def chain(found):
    return [(offset, detail) for offset, rule, detail in found if rule == "chain"]


@pytest.mark.parametrize("every", [10, 1000])
@pytest.mark.parametrize(("tamper", "told"), CASES)
async def test_the_first_bad_offset_is_named(audited, tamper, told, every):
    await audited.project(anchor_every=every)
    await audited.publish(audited.topic, tamper(audited.log.records))
    _, found = await audited.verify()
    assert chain(found) == ([] if told is None else [(AT, told)])


def signer_of(audited, path):
    return AnchorSigner(path, KEY, Store(audited.engine, audited.topic), audited.topic)


@pytest.mark.parametrize(("tamper", "told"), CASES[:-1])
async def test_a_signed_file_shows_it_when_the_database_agrees_with_the_new_log(audited, tmp_path, tamper, told):
    path = tmp_path / "anchors.jsonl"
    await audited.project(anchor_every=10, signer=signer_of(audited, path))
    await audited.change(sa.delete(ANCHORS))
    await audited.change(sa.text("DELETE FROM executions"))
    await audited.change(sa.text("DELETE FROM offsets"))
    audited.log.records = tamper(audited.log.records)
    await audited.project(anchor_every=10)
    await audited.publish(audited.topic, audited.log.records)
    audited.sources = audited.sources._replace(signed=SignedAnchors([path], KEY.public_key(), audited.topic))
    _, found = await audited.verify()
    assert chain(found) == ([] if told is None else [(AT, f"signed file: {told}")])


async def anchors(audited):
    async with audited.engine.connect() as connection:
        rows = await connection.execute(sa.select(ANCHORS).where(ANCHORS.c.topic == audited.topic))
    return rows.mappings().all()


@pytest.mark.parametrize(
    ("change", "at", "told"),
    [
        (
            lambda _: sa.delete(ANCHORS).where(ANCHORS.c.first_offset == 40),
            40,
            "the anchors end here, and the history goes on to 43",
        ),
        (
            lambda _: sa.delete(ANCHORS).where(ANCHORS.c.first_offset == 20),
            20,
            "no anchor tells of this record, though later and earlier ones are there",
        ),
        (
            lambda _: sa.delete(ANCHORS).where(ANCHORS.c.first_offset == 0),
            19,
            "the running hash of the log up to here is not the one that was recorded",
        ),
        (
            lambda old: sa.update(ANCHORS).where(ANCHORS.c.first_offset == 10).values(head=old[0]["head"]),
            19,
            "the running hash of the log up to here is not the one that was recorded",
        ),
        (
            lambda old: (
                sa.update(ANCHORS).where(ANCHORS.c.first_offset == 10).values(digests=old[1]["digests"][:SHORT] * 10)
            ),
            11,
            "the record is not the one that was recorded at this offset",
        ),
    ],
)
async def test_anchors_that_were_tampered_with_do_not_fit_the_log(audited, change, at, told):
    await audited.project(anchor_every=10)
    await audited.publish(audited.topic, audited.log.records)
    await audited.change(change(await anchors(audited)))
    _, found = await audited.verify()
    assert chain(found) == [(at, told)]


@pytest.mark.parametrize("from_offset", [0, 25])
async def test_a_history_that_is_projected_again_keeps_its_anchors(audited, from_offset):
    await audited.project(anchor_every=10)
    await audited.publish(audited.topic, audited.log.records)
    before = await anchors(audited)
    await audited.change(sa.text(f"UPDATE offsets SET next_offset = {from_offset}"))
    await audited.project(anchor_every=10)
    assert await anchors(audited) == before
    assert chain((await audited.verify())[1]) == []


async def test_what_begins_late_or_has_no_anchors_is_noted(audited):
    await audited.project(anchor_every=10)
    await audited.publish(audited.topic, audited.log.records)
    await audited.change(sa.delete(ANCHORS))
    result, found = await audited.verify()
    assert chain(found) == []
    assert result.notes[0] == "partition 0 has no anchors: that nothing was altered is not shown"


@pytest.mark.parametrize(("tamper", "told"), [(untouched, []), (altered, [(AT, CASES[1][1])])])
async def test_a_beginning_that_retention_removed_is_noted_and_the_rest_is_checked(audited, tamper, told):
    await audited.project(anchor_every=10)
    await audited.publish(audited.topic, tamper(audited.log.records))
    await audited.forget_before(15)
    result, found = await audited.verify()
    assert [(offset, detail) for offset, rule, detail in found if rule != "table"] == told
    assert "partition 0 begins at 15: what was before is gone" in result.notes


class Kept:
    """A record as a consumer gives it."""

    def __init__(self, offset, key, value):
        self.offset, self.key, self.value = offset, key, value


async def told_of(audited, offsets):
    found = []
    check = AnchorCheck(Store(audited.engine, audited.topic), 0, found.append)
    await check.begin()
    await check.take([Kept(offset, *audited.log.records[offset]) for offset in offsets], 44)
    return [(one.offset, one.detail) for one in found]


@pytest.mark.parametrize("goes_on", [10, 13, 40])
async def test_a_hole_that_the_recorded_log_had_not_is_named_at_its_beginning(audited, goes_on):
    await audited.project(anchor_every=10)
    told = f"record 9 removed: the log goes on at {goes_on}"
    assert await told_of(audited, [*range(9), *range(goes_on, 44)]) == [(9, told)]


async def test_an_anchor_that_was_read_ahead_is_the_one_that_is_there(audited):
    await audited.project(anchor_every=2)
    store = Store(audited.engine, audited.topic)
    ahead = AnchorsAhead(store)
    end = len(audited.log.records)
    assert end > 2 * READ_AHEAD
    for offset in (*range(end + 2), 3, end, 3):
        assert await ahead.anchor_at(0, offset) == await store.anchor_at(0, offset)


async def test_a_signed_file_is_caught_up_with_and_an_altered_one_is_refused(audited, tmp_path):
    path, late = tmp_path / "anchors.jsonl", tmp_path / "late.jsonl"
    await audited.project(anchor_every=10, signer=signer_of(audited, path))
    await signer_of(audited, late).sign(0)
    assert late.read_bytes() == path.read_bytes()
    with late.open("ab") as file:
        file.write(b'{"cut')
    await signer_of(audited, late).sign(0)
    assert late.read_bytes() == path.read_bytes()
    SignedAnchors([path, late], KEY.public_key(), audited.topic)

    late.write_bytes(path.read_bytes().replace(b'"next_offset":30', b'"next_offset":29'))
    with pytest.raises(RunbooksError, match="is not signed with this key"):
        SignedAnchors([late], KEY.public_key(), audited.topic)
    with pytest.raises(RunbooksError, match="is not signed with this key"):
        SignedAnchors([path], Ed25519PrivateKey.generate().public_key(), audited.topic)


async def test_an_anchor_that_was_taken_out_of_a_signed_file_leaves_a_hole(audited, tmp_path):
    path = tmp_path / "anchors.jsonl"
    await audited.project(anchor_every=10, signer=signer_of(audited, path))
    await audited.publish(audited.topic, audited.log.records)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:1], *lines[2:]]))
    audited.sources = audited.sources._replace(signed=SignedAnchors([path], KEY.public_key(), audited.topic))
    _, found = await audited.verify()
    told = "signed file: no anchor tells of this record, though later and earlier ones are there"
    assert chain(found) == [(10, told)]


@pytest.mark.parametrize("missing", [1, 3])
@pytest.mark.parametrize("is_altered", [False, True])
async def test_lines_missing_from_the_beginning_of_a_signed_file_hide_nothing(audited, tmp_path, missing, is_altered):
    path = tmp_path / "anchors.jsonl"
    await audited.project(anchor_every=10, signer=signer_of(audited, path))
    await audited.change(sa.delete(ANCHORS))
    key, value = audited.log.records[4]
    if is_altered:
        audited.log.records[4] = (key, value.replace(b"{", b"{ ", 1))
    await audited.publish(audited.topic, audited.log.records)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[missing:]))
    audited.sources = audited.sources._replace(signed=SignedAnchors([path], KEY.public_key(), audited.topic))
    result, found = await audited.verify()
    told = "signed file: the running hash of the log up to here is not the one that was recorded"
    assert chain(found) == ([(10 * missing - 1, told)] if is_altered else [])
    assert f"signed file: partition 0 has no anchors before {10 * missing}" in result.notes


async def told_in_two_parts(source, records, stops_at):
    """What is told when the check is stopped before some record, and goes on from what it had saved."""
    found = []
    checks = [AnchorCheck(source, 0, found.append) for _ in range(2)]
    for check, part in zip(checks, (records[:stops_at], records[stops_at:]), strict=True):
        await check.begin()
        if check is checks[1]:
            check.go_on(checks[0].point())
        check.projected(44)
        await check.take(part, 44)
    checks[1].finish(len(records))
    return [(one.offset, one.detail) for one in found]


@pytest.mark.parametrize("without", [None, 0, 20, 40])
@pytest.mark.parametrize("tamper", [tamper for tamper, _ in CASES])
async def test_a_check_that_was_stopped_anywhere_tells_what_a_whole_one_tells(audited, tmp_path, tamper, without):
    path = tmp_path / "anchors.jsonl"
    await audited.project(anchor_every=10, signer=signer_of(audited, path))
    await audited.change(sa.delete(ANCHORS).where(ANCHORS.c.first_offset == without))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(line for line in lines if f'"first_offset":{without},'.encode() not in line))
    signed = SignedAnchors([path], KEY.public_key(), audited.topic)
    records = [Kept(offset, *record) for offset, record in enumerate(tamper(audited.log.records))]
    for source in (Store(audited.engine, audited.topic), signed):
        whole = await told_in_two_parts(source, records, 0)
        for stops_at in (1, 9, 10, 11, 20, 25, 33, 35, 40):  # what became of a record, the ones after it say
            if stops_at < len(records):
                in_parts = await told_in_two_parts(source, records, stops_at)
                assert in_parts == whole, stops_at


class Growing:
    """The anchors of so many of a log's records, ten in each; whole: without the one that is not full."""

    def __init__(self, records, upto, *, whole):
        digests = [(one.offset, record_digest(0, one.offset, one.key, one.value)) for one in records[:upto]]
        anchors = extended(Anchor.beginning(0), digests, every=10)
        self.anchors = [one for one in anchors if not whole or one.next_offset - one.first_offset == 10]

    async def last_anchor(self, partition):
        return self.anchors[-1] if self.anchors else None

    async def anchor_at(self, partition, offset):
        return next((one for one in self.anchors if one.next_offset > offset), None)

    async def head_before(self, partition, offset):
        return next((one.head for one in reversed(self.anchors) if one.next_offset <= offset), NOTHING)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(("recorded", "stopped_at"), [(40, 60), (25, 27), (38, 39), (0, 10), (90, 45), (44, 44)])
async def test_anchors_that_have_grown_since_a_check_was_stopped_raise_no_alarm(whole, recorded, stopped_at):
    records = [Kept(offset, b"t", b"%d" % offset) for offset in range(90)]
    found = []
    first = AnchorCheck(Growing(records, recorded, whole=whole), 0, found.append)
    await first.begin()
    await first.take(records[:stopped_at], 80)
    second = AnchorCheck(Growing(records, 90, whole=whole), 0, found.append)
    await second.begin()
    second.go_on(first.point())
    third = AnchorCheck(Growing(records, 90, whole=whole), 0, found.append)
    await second.take(records[stopped_at:65], 80)
    await third.begin()
    third.go_on(second.point())  # it goes by how far the first one's reached, too
    await third.take(records[65:], 80)
    third.finish(90)
    assert found == []


async def test_a_file_that_cannot_be_written_stops_nobody(audited, tmp_path):
    await audited.project(anchor_every=10, signer=signer_of(audited, tmp_path / "no folder" / "anchors.jsonl"))
    assert await Store(audited.engine, audited.topic).next_offset(0) == len(audited.log.records)
