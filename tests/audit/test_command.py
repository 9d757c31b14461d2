"""The exit status says whether the audit could be made at all."""

from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from app.audit.findings import Difference
from app.audit.reading import Progress
from app.audit.verifying import Result
from app.audit_cli import told
from app.backtest_cli import moment
from app.cli import cli
from app.core.errors import RunbooksError


def test_without_a_broker_the_audit_could_not_be_made(tmp_path, unused_tcp_port):
    environment = {
        "RUNBOOKS_DATA_DIR": str(tmp_path),
        "RUNBOOKS_KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{unused_tcp_port}",
    }
    answer = CliRunner().invoke(cli, ["audit", "verify", "--log-only"], env=environment)
    assert answer.exit_code == 2
    assert "the audit could not be made" in answer.output


@pytest.mark.parametrize("command", [["audit", "verify"], ["drill", "rebuild"]])
def test_without_a_database_there_is_nothing_to_compare_with_and_none_is_made(tmp_path, command):
    data = tmp_path / "data"
    answer = CliRunner().invoke(cli, command, env={"RUNBOOKS_DATA_DIR": str(data)})
    assert answer.exit_code == 2
    assert "there is no history database" in answer.output
    assert "RUNBOOKS_HISTORY__URL, or for SQLite RUNBOOKS_DATA_DIR, says where it is" in answer.output
    assert not data.exists()


def test_what_is_told_cannot_give_a_terminal_orders():
    result = Result(records=2, seconds=1.0, count=1, differences=[Difference(0, 1, "ids", "e", "bad \x1b[2J\nid")])
    first, last = told(result)
    assert first == "0/1 ids e: bad \\x1b[2J\\nid"
    assert last == "2 records in 1.0 s (2/s): 1 differences"


def test_progress_has_rate_and_time_left():
    assert Progress(50, 200, 2.0).told() == " 25.0 %  50 of 200 records  25/s  6 s left"


@pytest.mark.parametrize(
    ("text", "said"),
    [("tomorrow", "tomorrow is neither a span"), ("999999d", "999999d is further back than the year 1")],
)
def test_a_time_that_is_none_could_not_be_replayed(tmp_path, unused_tcp_port, text, said):
    environment = {
        "RUNBOOKS_DATA_DIR": str(tmp_path),
        "RUNBOOKS_KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{unused_tcp_port}",
    }
    answer = CliRunner().invoke(cli, ["audit", "replay", "--as-of", text], env=environment)
    assert answer.exit_code == 2
    assert said in answer.output


def test_a_span_that_is_longer_than_the_calendar_is_refused():
    with pytest.raises(RunbooksError, match="999999d is further back than the year 1"):
        moment("999999d", datetime(2026, 3, 1, tzinfo=UTC))
