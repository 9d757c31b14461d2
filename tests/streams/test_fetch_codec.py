"""Our writing and reading of fetches against aiokafka's own."""

from io import BytesIO

import pytest
from aiokafka.protocol.fetch import FetchRequest_v11, FetchResponse_v11
from hypothesis import given
from hypothesis import strategies as st

from app.streams.fetch_codec import read_response, write_request

INT8, INT16, INT32, INT64 = (st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64))
NAMES = st.text(max_size=20)


def lists(*fields):
    return st.lists(st.tuples(*fields), max_size=4)


REQUESTS = st.builds(
    FetchRequest_v11,
    *(INT32, INT32, INT32, INT32, INT8, INT32, INT32),
    lists(NAMES, lists(INT32, INT32, INT64, INT64, INT32)),
    lists(NAMES, st.lists(INT32, max_size=4)),
    NAMES,
)
PARTITIONS = lists(
    INT32, INT16, INT64, INT64, INT64, st.none() | lists(INT64, INT64), INT32, st.none() | st.binary(max_size=50)
)
ANSWERS = st.builds(FetchResponse_v11, INT32, INT16, INT32, lists(NAMES, PARTITIONS))


@given(REQUESTS)
def test_a_request_has_the_bytes_that_aiokafka_writes(request):
    assert write_request(request) == request.SCHEMA.encode([getattr(request, name) for name in request.SCHEMA.names])


@given(ANSWERS)
def test_an_answer_is_read_as_aiokafka_reads_it(answer):
    raw = answer.encode()
    theirs = FetchResponse_v11(*(field.decode(data) for data in [BytesIO(raw)] for field in answer.SCHEMA.fields))
    after_header = BytesIO(b"header" + raw)
    after_header.seek(len(b"header"))
    assert read_response(FetchResponse_v11, after_header) == read_response(FetchResponse_v11, raw) == theirs


@given(ANSWERS, st.data())
def test_an_answer_that_ends_too_early_is_refused_wherever_it_ends(answer, data):
    raw = answer.encode()
    end = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(ValueError, match="ends too early"):
        read_response(FetchResponse_v11, raw[:end])
