"""What is told of settings that are wrong: the variable and how it must be, never its value."""

import os
import subprocess
import sys

import orjson
import pytest
from command_line import run_main
from pydantic import ValidationError

from app import settings
from app.core import events
from app.settings import Settings
from app.wiring import signing_keys

LONG = "k" * 32


def read(monkeypatch, **keys):
    monkeypatch.setenv("RUNBOOKS_APPROVALS__SIGNING_KEYS", orjson.dumps(keys).decode())
    return Settings()


def test_signing_keys_of_32_bytes_are_taken_in_their_order(monkeypatch):
    keys = signing_keys(read(monkeypatch, k2="ü" * 16, k1=LONG))
    assert list(keys.items()) == [("k2", "ü".encode() * 16), ("k1", LONG.encode())]


@pytest.mark.parametrize("secret", ["", "guess-me", "guess-me".ljust(31, "!")])
def test_a_shorter_signing_key_is_refused_by_its_id_and_not_shown(monkeypatch, secret):
    with pytest.raises(ValidationError, match="the secret of 'k1' in signing_keys is shorter than 32 bytes") as caught:
        read(monkeypatch, k2=LONG, k1=secret)
    assert "make a longer one" in str(caught.value)
    assert "guess-me" not in str(caught.value)
    assert LONG not in str(caught.value)


def test_a_worker_with_a_short_signing_key_does_not_start():
    keys = {"RUNBOOKS_APPROVALS__SIGNING_KEYS": '{"k1": "guess-me"}'}
    command = [sys.executable, "-m", "app.cli", "worker"]
    ended = subprocess.run(command, env={**os.environ, **keys}, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("runbooks: the settings are wrong: approvals: Value error, the secret of 'k1' in ")
    assert "guess-me" not in ended.stderr


SECRET = "hunter2-hunter2"
NOT_JSON = [
    ("RUNBOOKS_SECRETS__ENVIRONMENT", "A,B", 'list such as ["A","B"]'),
    ("RUNBOOKS_WORKER__ACTIONS", "shell", 'list such as ["A","B"]'),
    ("RUNBOOKS_APPROVALS__SIGNING_KEYS", f"k1={SECRET}", 'object such as {"A":"B"}'),
    ("RUNBOOKS_METRICS__HEADERS", f"X: {SECRET}", 'object such as {"A":"B"}'),
    ("RUNBOOKS_METRICS", SECRET, 'object such as {"A":"B"}'),
]


@pytest.mark.parametrize(("name", "value", "kind"), NOT_JSON, ids=[one[0] for one in NOT_JSON])
def test_a_list_or_a_table_that_is_no_json(tmp_path, name, value, kind):
    ended = run_main(tmp_path, "topics", "check", **{name: value})
    assert ended == (1, "", f"runbooks: the settings are wrong: {name} must be a JSON {kind}\n")
    ended = run_main(tmp_path, "audit", "verify", **{name: value})
    said = f"runbooks: the audit could not be made: the settings are wrong: {name} must be a JSON {kind}\n"
    assert ended == (2, "", said)


def test_a_secret_that_is_too_short_is_not_shown(tmp_path):
    for status, arguments in ((1, ("topics", "check")), (2, ("audit", "verify"))):
        ended = run_main(tmp_path, *arguments, RUNBOOKS_API__JWT_SECRET=SECRET)
        assert (ended.status, SECRET in ended.err, ended.err.count("\n")) == (status, False, 1)
        assert "jwt_secret is shorter than 32 bytes" in ended.err


def test_what_is_json_is_read_and_one_key_of_a_table_may_stand_alone(monkeypatch):
    monkeypatch.setenv("RUNBOOKS_SECRETS__ENVIRONMENT", '["A","B"]')
    monkeypatch.setenv("RUNBOOKS_APPROVALS__SIGNING_KEYS__K1", LONG)
    settings = Settings(log_level="ERROR")
    assert settings.secrets.environment == {"A", "B"}
    assert settings.approvals.signing_keys["k1"].get_secret_value() == LONG
    assert settings.log_level == "ERROR"


def test_the_longest_dedup_window_is_the_one_that_events_count():
    assert settings.MAX_DEDUP_WINDOW_S == events.MAX_DEDUP_WINDOW_S
