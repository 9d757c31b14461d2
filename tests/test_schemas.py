import json
from pathlib import Path

import jsonschema
import pytest

from app.operating import schemas

FOLDER = Path("schemas")


def test_the_schemas_in_the_folder_are_those_of_the_models():
    assert {path.name: path.read_text() for path in FOLDER.glob("*.json")} == schemas(), "run: make schemas"


@pytest.mark.parametrize("path", [*Path("runbooks").glob("*.json"), *Path("examples/demo/runbooks").glob("*.json")])
def test_the_definitions_we_ship_hold_to_the_schema(path):
    jsonschema.validate(json.loads(path.read_text()), json.loads((FOLDER / "runbook.json").read_text()))


def test_the_demos_anomaly_holds_to_the_schema_once_it_is_placed():
    event = json.loads(Path("examples/demo/anomaly.json").read_text())
    placed = event | {"anomaly_id": "a", "timestamp": "2026-01-01T00:00:00Z"}
    jsonschema.validate(placed, json.loads((FOLDER / "anomaly-event.json").read_text()))
