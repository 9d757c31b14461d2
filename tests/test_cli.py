"""What the commands say of the files that they are given: one sentence each, and exit status 1."""

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
