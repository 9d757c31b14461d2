"""The exit status says whether the audit could be made at all."""

from typer.testing import CliRunner

from app.audit.findings import Difference
from app.audit.reading import Progress
from app.audit.verifying import Result
from app.audit_cli import told
from app.cli import cli


def test_without_a_broker_the_audit_could_not_be_made(tmp_path, unused_tcp_port):
    environment = {
        "RUNBOOKS_DATA_DIR": str(tmp_path),
        "RUNBOOKS_KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{unused_tcp_port}",
    }
    answer = CliRunner().invoke(cli, ["audit", "verify"], env=environment)
    assert answer.exit_code == 2
    assert "the audit could not be made" in answer.output


def test_what_is_told_cannot_give_a_terminal_orders():
    result = Result(records=2, seconds=1.0, count=1, differences=[Difference(0, 1, "ids", "e", "bad \x1b[2J\nid")])
    first, last = told(result)
    assert first == "0/1 ids e: bad \\x1b[2J\\nid"
    assert last == "2 records in 1.0 s (2/s): 1 differences"


def test_progress_has_rate_and_time_left():
    assert Progress(50, 200, 2.0).told() == " 25.0 %  50 of 200 records  25/s  6 s left"


def test_a_time_that_is_none_could_not_be_replayed(tmp_path, unused_tcp_port):
    environment = {
        "RUNBOOKS_DATA_DIR": str(tmp_path),
        "RUNBOOKS_KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{unused_tcp_port}",
    }
    answer = CliRunner().invoke(cli, ["audit", "replay", "--as-of", "tomorrow"], env=environment)
    assert answer.exit_code == 2
    assert "tomorrow is neither a span" in answer.output
