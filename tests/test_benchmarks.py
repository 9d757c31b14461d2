"""The suite behind `make bench`: what it makes of figures, and of parts that go wrong."""

import json

import psutil
import pytest
from figures import Figure, table
from suite import Ran, run_part, written

ABOUT = {
    "date": "2026-01-02",
    "commit": "abc",
    "cores": 2,
    "memory_gb": 8.0,
    "load_average_at_the_beginning": [0.0, 0.0, 0.0],
    "system": "Linux",
    "python": "3.11",
    "packages": {"orjson": "3"},
}
GIVES = """
import sys
sys.path.insert(0, {benchmarks!r})
from figures import Figure, part_arguments, report
given = part_arguments("a part")
report(given, [Figure(f"rounds {{given.rounds}} {{given.short}}", "ms", {{"ours": [1.0]}})])
"""
HANGS = """
import subprocess, sys, time
child = subprocess.Popen(["sleep", "1000"])
open({told!r}, "w").write(str(child.pid))
time.sleep(1000)
"""


@pytest.mark.parametrize(
    ("bounds", "met"),
    [({"at_most": 0.5}, True), ({"at_most": 0.4}, False), ({"at_least": 0.6}, False), ({}, None)],
)
def test_a_goal_is_about_the_ratio_of_the_medians(bounds, met):
    figure = Figure("a", "ms", {"ours": [1, 9, 2], "theirs": [4, 3, 9], "another": [1]}, **bounds)
    assert (figure.ratio, figure.met) == (0.5, met)


def test_without_another_side_a_goal_is_about_our_median():
    figure = Figure("a", "ms", {"ours": [1, 9, 2]}, at_most=2)
    assert (figure.ratio, figure.met) == (None, True)


@pytest.mark.parametrize("sides", [{"ours": [1.0], "theirs": []}, {"ours": [], "theirs": [1.0]}, {"ours": []}])
def test_what_could_not_be_measured_has_no_verdict(sides):
    figure = Figure("a", "ms", sides, at_most=2, at_least=0)
    assert (figure.ratio, figure.met) == (None, None)
    assert table([figure]).splitlines()[-1].endswith("| not measured |")


def test_the_table_has_every_side_and_every_failure():
    figure = Figure("a", "ms", {"ours": [1, 2, 3], "x": [2000, 2000], "y": [4.5]}, ">= 1", at_least=1)
    *_, row, failed = table([figure], ["storm: exit status 1"]).splitlines()
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["a (ms)", "2 [1..3]", "x 2,000 [2,000..2,000]; y 4.5 [4.5..4.5]", "0.001", ">= 1", "**no**"]
    assert failed.startswith("| storm: exit status 1 ")
    assert failed.endswith("| **failed** |")


def test_a_part_is_asked_and_gives_its_figures(tmp_path, pytestconfig):
    (tmp_path / "one.py").write_text(GIVES.format(benchmarks=str(pytestconfig.rootpath / "benchmarks")))
    ran = run_part("one", ["--short", "--rounds", "7"], 60, tmp_path)
    assert (ran.failure, [figure.name for figure in ran.figures]) == (None, ["rounds 7 True"])


@pytest.mark.parametrize(
    ("text", "failure"), [("raise SystemExit(3)", "exit status 3"), ("pass", "no figures"), (None, "missing: ")]
)
def test_a_part_that_fails_says_how(tmp_path, text, failure):
    if text is not None:
        (tmp_path / "one.py").write_text(text)
    ran = run_part("one", [], 60, tmp_path)
    assert ran.failure.startswith(failure)
    assert ran.figures == []


def test_a_part_that_hangs_is_ended_with_what_it_started(tmp_path):
    told = tmp_path / "child"
    (tmp_path / "one.py").write_text(HANGS.format(told=str(told)))
    assert run_part("one", [], 10, tmp_path).failure == "not ended after 10 s"
    child = int(told.read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_the_results_are_written_for_people_and_for_machines(tmp_path):
    figure = Figure("a", "ms", {"ours": [1.0], "theirs": [2.0]}, note="read it so")
    text = written([Ran("one", 1.0, [figure]), Ran("two", 2.0, [], "exit status 1")], ABOUT, tmp_path / "results" / "x")
    assert text == (tmp_path / "results" / "x.md").read_text()
    assert "| a (ms)" in text
    assert "- a: read it so" in text
    assert "two: exit status 1" in text
    parts = json.loads((tmp_path / "results" / "x.json").read_text())["parts"]
    assert [(part["part"], part["failure"]) for part in parts] == [("one", None), ("two", "exit status 1")]
