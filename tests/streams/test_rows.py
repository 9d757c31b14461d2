"""The rows of a table in their file: against a dictionary, and what becomes of the file."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import DataFolderError
from app.streams.rows import Outline, Row, Rows

T0 = datetime(2026, 1, 1, tzinfo=UTC)
KEYS = st.sampled_from("abcd")
OUTLINES = st.builds(
    Outline, st.integers(0, 2), st.none() | st.integers(0, 5).map(lambda s: T0 + timedelta(seconds=s)), st.booleans()
)
CHANGES = st.one_of(
    st.tuples(st.just("put"), KEYS, st.binary(max_size=5), OUTLINES),
    st.tuples(st.just("drop"), KEYS),
    st.tuples(st.just("keep_only"), st.frozensets(st.integers(0, 2))),
)


@given(st.lists(CHANGES), st.integers(0, 5))
def test_it_says_what_a_dictionary_would(changes, seconds):
    rows, known, now = Rows(Path(":memory:")), {}, T0 + timedelta(seconds=seconds)
    for name, *arguments in changes:
        getattr(rows, name)(*arguments)
        match name:
            case "put":
                known[arguments[0]] = tuple(arguments[1:])
            case "drop":
                known.pop(arguments[0], None)
            case "keep_only":
                known = {key: row for key, row in known.items() if row[1].partition in arguments[0]}
    expected = {key: Row(outline.partition, key, value) for key, (value, outline) in known.items()}
    assert len(rows) == len(known)
    assert {key: rows.find(key) for key in "abcd"} == dict.fromkeys("abcd") | expected
    assert sorted(rows.indexed()) == sorted(expected[key] for key, (_, outline) in known.items() if outline.indexed)
    for partition in range(3):
        over = [
            (outline.until, expected[key])
            for key, (_, outline) in known.items()
            if outline.partition == partition and outline.until is not None and outline.until < now
        ]
        found = rows.expired(partition, now)
        assert sorted(found) == sorted(row for _, row in over)
        ends = {row: until for until, row in over}
        assert [ends[row] for row in found] == sorted(until for until, _ in over)
        assert rows.expired(partition, now, limit=1) == found[:1]


def test_each_start_begins_with_none_and_whoever_had_the_file_keeps_its_own(tmp_path):
    first = Rows(tmp_path / "tables" / "a.rows")
    first.put("a", b"1", Outline(0, None, indexed=True))
    second = Rows(tmp_path / "tables" / "a.rows")
    assert (len(second), second.find("a")) == (0, None)
    first.put("b", b"2", Outline(0, None, indexed=True))
    assert (len(first), second.find("b")) == (2, None)


def test_a_folder_that_cannot_be_written_is_named_with_the_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataFolderError, match="RUNBOOKS_DATA_DIR"):
        Rows(tmp_path / "file" / "a.rows")
