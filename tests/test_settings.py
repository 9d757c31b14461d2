import os
import subprocess
import sys

import orjson
import pytest
from pydantic import ValidationError

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
