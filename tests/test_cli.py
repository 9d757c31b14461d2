"""What the commands say of the files that they are given: one sentence each, and exit status 1."""

import json

import pytest
from command_line import run_main

from app.core.errors import ConfigurationError
from app.wiring import read_users

NO_BROKER = {"RUNBOOKS_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"}
UNREADABLE = [
    ("latin.json", b'{"name": "caf\xe9"}', "'utf-8' codec can't decode"),
    ("latin.yaml", b"name: caf\xe9", "'utf-8' codec can't decode"),
    ("no-day.yaml", b"name: 2026-13-45", "month must be in 1..12"),
    ("broken.json", b"{", "unexpected end of data"),
]


@pytest.mark.parametrize(("name", "content", "why"), UNREADABLE, ids=[one[0] for one in UNREADABLE])
def test_a_definition_that_cannot_be_read(tmp_path, name, content, why):
    path = tmp_path / name
    path.write_bytes(content)
    for arguments in (("validate", path), ("backtest", path)):
        ended = run_main(tmp_path, *arguments, **NO_BROKER)
        assert (ended.status, ended.out, ended.err.count("\n")) == (1, "", 1)
        assert ended.err.startswith(f"runbooks: {path}: cannot be read: {why}")


def test_people_that_cannot_be_read(tmp_path):
    path = tmp_path / "users.yaml"
    path.write_bytes(b"users: {caf\xe9: x}")
    with pytest.raises(ConfigurationError, match=r"users\.yaml: cannot be read: 'utf-8' codec"):
        read_users(path)


def test_topics_that_cannot_be_read(tmp_path):
    ended = run_main(tmp_path, "topics", "check", RUNBOOKS_KAFKA__TOPICS_FILE=str(tmp_path), **NO_BROKER)
    said = f"runbooks: {tmp_path} is not a list of topic declarations: IsADirectoryError"
    assert (ended.status, ended.err.startswith(said), ended.err.count("\n")) == (1, True, 1)


def test_anomalies_that_cannot_be_read(tmp_path):
    latin = tmp_path / "latin.json"
    latin.write_bytes(b'{"service_id": "caf\xe9"}')
    for file, why in (("none.json", "[Errno 2]"), (tmp_path, "[Errno 21]"), (latin, "'utf-8' codec can't decode")):
        ended = run_main(tmp_path, "publish-anomaly", file, **NO_BROKER)
        said = f"runbooks: {file}: cannot be read: {why}"
        assert (ended.status, ended.err.startswith(said), ended.err.count("\n")) == (1, True, 1), ended
    ended = run_main(tmp_path, "publish-anomaly", "-", stdin=latin.read_bytes(), **NO_BROKER)
    assert (ended.status, ended.err.startswith("runbooks: -: cannot be read: 'utf-8' codec")) == (1, True)


def test_every_problem_of_every_file_is_told(tmp_path):
    good = {
        "name": "one",
        "trigger": {"service_id": "s"},
        "steps": [{"type": "slack", "channel": "#c", "message": "m"}],
    }
    contents = {"a": {**good, "stepz": 1}, "b": good, "d": {**good, "steps": [{"type": "slack", "chanel": "#c"}]}}
    for name, content in contents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    paths = {name: tmp_path / f"{name}.json" for name in "abcd"}
    ended = run_main(tmp_path, "validate", *paths.values())
    assert (ended.status, ended.out) == (1, f"{paths['b']}: one is valid, 1 steps\n")
    lines = ended.err.removeprefix("runbooks: ").splitlines()
    assert lines[0] == f"{paths['a']}: stepz: unknown field (did you mean 'steps'?)"
    assert lines[1].startswith(f"{paths['c']}: cannot be read: [Errno 2]")
    assert len(lines[2:]) > 1
    for line in lines[2:]:
        assert line.startswith(f"{paths['d']}: steps[0].")
    assert run_main(tmp_path, "validate", paths["b"]).status == 0
