"""What the commands print can be read, by people and by programs, and does nothing else."""

import json

from app.backtest_cli import told
from app.printing import complain, say, say_json

EVIL = "x\n\x1b[2J\x7f\x9b\N{RIGHT-TO-LEFT OVERRIDE}é"


def test_each_line_stays_one(capsys):
    say("first", EVIL)
    assert capsys.readouterr().out == "first\nx\\n\\x1b[2J\\x7f\\x9b\\u202eé\n"


def test_a_complaint_has_the_lines_we_gave_it_and_goes_where_errors_go(capsys):
    complain("first\nsecond \x1b[2J")
    assert capsys.readouterr() == ("", "first\nsecond \\x1b[2J\n")


def test_json_is_the_same_for_a_program_and_plain_for_a_terminal(capsys):
    say_json({"a": EVIL})
    text = capsys.readouterr().out
    assert text.rstrip("\n").isprintable()
    assert json.loads(text) == {"a": EVIL}


def test_a_report_of_what_others_wrote(capsys):
    answer = {"result": "runs", "guard": None, "reason": EVIL}
    one = {"at": "2026", "anomaly_id": EVIL, "would": answer, "did": answer, "waits_for": EVIL}
    counts = dict.fromkeys(("differing", "decided", "same", "unknown", "would_first_wait", "assumed_runs"), 0)
    report = {"differences": [one], "others": [], "counts": [], "reasons": [], "version_in_force": 1, "complete": True}
    say(*told({**report, **counts, "same_as_in_force": True}))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(r"2026  x\n\x1b[2J")
    assert all(line.isprintable() for line in lines)
