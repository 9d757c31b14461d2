"""The alerting rules and the dashboard, held against Prometheus' own checker and what a real worker shows."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from metrics_page import Metrics
from parts import missing_part

ALERTS, DASHBOARD, OPERATIONS = (
    Path("docs", name) for name in ("alerts.yaml", "grafana-dashboard.json", "operations.md")
)
# What is there in the first minute, the alerts that fire 20 minutes later, and those that must not.
SERIES = {
    'runbooks_live_executions{instance="a"}': "0x40",
    'runbooks_consumer_lag_events{instance="a",topic="anomaly-events"}': "4000x40",
    'runbooks_consumer_lag_events{instance="b",topic="anomaly-events"}': "4000x40",
    'runbooks_dead_letters_waiting{instance="a"}': "0x40",
    'runbooks_unknown_outcomes_total{kind="http",reason="lease_ended"}': "0x15 1x25",
    'runbooks_unknown_outcomes_total{kind="http",reason="said"}': "0x15 1x25",
    'runbooks_executions_total{status="failed"}': "0+1x40",
    'runbooks_executions_total{status="succeeded"}': "0x40",
}
FIRING = ("RunbooksBehind", "RunbooksWorkerLost", "RunbooksMostlyFail")
QUIET = ("RunbooksNoWorker", "RunbooksLagUnknown", "RunbooksDeadLetters", "RunbooksOutcomesUnknown")


def rules():
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def panels():
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def queries():
    return [rule["expr"] for rule in rules()] + [one["expr"] for panel in panels() for one in panel["targets"]]


def promtool(*arguments: str) -> None:
    program = shutil.which("promtool")
    if program is None:
        missing_part("promtool")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_rules_and_each_says_what_to_do():
    for rule in rules():
        assert {"summary", "action"} <= rule["annotations"].keys(), rule["alert"]
    promtool("check", "rules", str(ALERTS))


def test_prometheus_takes_the_queries_of_the_dashboard(tmp_path):
    records = [
        {"record": f"q{number}", "expr": re.sub(r"\$__\w+", "5m", query)} for number, query in enumerate(queries())
    ]
    path = tmp_path / "queries.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": records}]}))
    promtool("check", "rules", str(path))


@pytest.mark.parametrize("firing", [True, False])
def test_they_fire_when_they_should_and_only_then(firing, tmp_path):
    annotations = {rule["alert"]: rule for rule in rules()}
    cases = []
    for name in FIRING if firing else QUIET:
        assert name in annotations
        cases.append(
            {"expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}}) or vector(0)', "eval_time": "20m"}
        )
        cases[-1]["exp_samples"] = [{"labels": "{}", "value": 1 if firing else 0}]
    test = {
        "rule_files": [str(ALERTS.absolute())],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in SERIES.items()],
                "promql_expr_test": cases,
            }
        ],
    }
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump(test))
    promtool("test", "rules", str(path))


def test_panels_do_not_overlap_and_read_from_the_chosen_source():
    taken = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    assert {panel["datasource"]["uid"] for panel in panels()} == {"${datasource}"}


async def test_a_worker_shows_every_metric_that_is_named_and_every_one_is_documented(worker, api):
    shown = await Metrics(api).names()
    named = {name for query in queries() for name in re.findall(r"runbooks_\w+", query)}
    assert named - shown == set()
    section = OPERATIONS.read_text().partition("## Metrics")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    documented = {f"runbooks_{name}" for row in rows for name in re.findall(r"`(\w+)(?:\{[\w,]+\})?`", row)}
    families = {re.sub("_(bucket|count|sum)$", "", name) for name in shown if name.startswith("runbooks_")}
    assert documented == {name for name in families if not name.endswith("_created")}
