"""What the logs look like whatever is logged."""

import json
import logging

import pytest

from app.streams.structured_logs import MAX_SAID, MAX_TEXT, configure_logging
from app.timelines import timeline

FORGED = (
    '\n{"level": "INFO", "event": "forged"}\r\n\x1b[2J\x1b]0;x\x07\x9b31m'
    '\u2028\u2029\u202e\u200b\ud800 é 漢 "quoted" \\ end'
)


@pytest.fixture
def lines(tmp_path):
    """The lines of a log that was written to as a worker does."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    path = tmp_path / "log"
    configure_logging("INFO", lambda text: text.replace("hidden value", "***"), path)
    yield lambda: path.read_text().split("\n")[:-1]
    for handler in root.handlers:
        handler.close()
    root.handlers[:], root.level = before, level


def test_no_value_forges_a_line_or_steers_a_terminal(lines):
    logger = logging.getLogger("app.tests")
    logger.warning("event_name", extra={"service_id": FORGED, FORGED: {"inner": [FORGED]}})
    (line,) = lines()
    assert line.isprintable()
    read = json.loads(line)
    assert (read["event"], read["service_id"], read[FORGED]) == ("event_name", FORGED, {"inner": [FORGED]})
    assert "é 漢" in line


def test_a_name_of_ours_cannot_be_taken_and_a_traceback_is_one_line(lines):
    error = ValueError(FORGED)
    logging.getLogger("app.tests").error("broke", extra={"at": "x", "level": "y"}, exc_info=error)
    (line,) = lines()
    read = json.loads(line)
    assert (read["level"], FORGED in read["traceback"]) == ("ERROR", True)


def test_secrets_are_masked_and_long_texts_cut(lines):
    logging.getLogger("app.tests").warning("hidden value", extra={"text": "x" * 10_000_000, "said": "a hidden value"})
    (line,) = lines()
    assert "hidden value" not in line
    assert len(line) < MAX_TEXT + 500
    assert "(10000000 characters)" in line


class TestWhatIsRepeated:
    @pytest.fixture
    def clock(self):
        """The time of the records, which a test sets."""
        times = [1000.0]
        made = logging.getLogRecordFactory()

        def record(*args, **kwargs):
            one = made(*args, **kwargs)
            one.created = times[0]
            return one

        logging.setLogRecordFactory(record)
        yield times
        logging.setLogRecordFactory(made)

    def test_libraries_say_the_same_a_few_times_and_then_how_often_it_was_left_out(self, lines, clock):
        logger = logging.getLogger("aiokafka")
        for number in range(50):
            logger.error("Unable connect to node with id %s: %s", number, "refused")
        logger.error("Another")
        clock[0] += 9.9
        logger.error("Unable connect to node with id %s: %s", 50, "refused")
        clock[0] += 0.1
        for number in range(51, 54):
            logger.error("Unable connect to node with id %s: %s", number, "refused")
        read = [json.loads(line) for line in lines()]
        assert [one["event"].split()[-2] for one in read if one["event"] != "Another"] == [
            *("0:", "1:", "2:"),
            *("51:", "52:", "53:"),
        ]
        assert [one.get("left_out") for one in read] == [None, None, None, None, 48, None, None]

    def test_what_is_all_different_is_said_and_not_remembered_for_ever(self, lines):
        logger = logging.getLogger("faust")
        for number in range(3 * MAX_SAID):
            logger.warning(f"told {number}")  # noqa: G004 - as Faust does
        assert len(lines()) == 3 * MAX_SAID
        (sparing,) = logging.getLogger().handlers[0].filters
        assert len(sparing._said) <= MAX_SAID

    def test_the_application_says_all(self, lines):
        for _ in range(20):
            logging.getLogger("app.tests").warning("event_name")
        assert len(lines()) == 20


STEP = {
    **dict.fromkeys(("started_at", "finished_at", "type", "summary", "reason", "error"), FORGED),
    "index": 0,
    "status": FORGED,
    "approval": {"by": [FORGED], "ended": None},
}


def test_what_the_command_line_prints_of_an_execution_is_what_it_says_it_is():
    item = {
        **dict.fromkeys(("execution_id", "runbook_name", "trigger_anomaly_id", "status", "reason"), FORGED),
        "runbook_version": 1,
        "duration_seconds": 1.5,
        "steps": [STEP],
        "rollback": {"status": FORGED, "steps": [STEP]},
    }
    said = timeline(item)
    assert all(line.isprintable() for line in said)
    assert len(said) == 9
