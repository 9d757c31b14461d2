"""Which broker a command means: one rule for all of them, and nobody is led to another one in silence."""

import asyncio
import os
import re

import pytest
from command_line import run_main
from processes import run_command

from app.history.database import open_database

DEFINITION = "examples/demo/runbooks/scale-out-payment-api.json"
ASK_KAFKA = [
    ("topics", "check"),
    ("topics", "apply"),
    ("publish-anomaly", "-"),
    ("dead-letters", "list"),
    ("dead-letters", "show", "0"),
    ("dead-letters", "requeue", "0"),
    ("pause-everybody", "freeze"),
    ("resume-everybody", "freeze"),
    ("backtest", DEFINITION),
    ("audit", "verify"),
    ("audit", "replay", "--as-of", "0"),
    ("audit", "export", "some-id"),
    ("drill", "rebuild"),
]
EVERY_ONE = pytest.mark.parametrize("arguments", ASK_KAFKA, ids=" ".join)


@pytest.fixture
def said(tmp_path, unused_tcp_port_factory):
    """Which of three brokers, none of which is there, a command names beside a ``runbooks run``."""
    ports = {name: str(unused_tcp_port_factory()) for name in ("of run", "set", "given")}
    written = {"API_URL": "http://127.0.0.1:1", "KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{ports['of run']}"}
    written["RUNBOOKS_KAFKA__BOOTSTRAP_SERVERS"] = written["KAFKA_BOOTSTRAP_SERVERS"]
    (tmp_path / "env").write_text("".join(f"{name}={value}\n" for name, value in written.items()))
    asyncio.run(empty_history(tmp_path))  # an audit looks for it first

    def named(arguments, **environment):
        places = {name: f"127.0.0.1:{ports[of]}" for name, of in environment.items()}
        ended = run_main(tmp_path, *(one.format(**ports) for one in arguments), stdin=b"{}", **places)
        assert ended.status, ended
        return [name for name, port in ports.items() if re.search(rf"\b{port}\b", ended.err)]

    return named


async def empty_history(folder):
    engine = await open_database(f"sqlite:///{folder / 'history.db'}")
    await engine.dispose()


@EVERY_ONE
def test_the_one_that_was_set_is_asked_whatever_run_wrote(said, arguments):
    assert said(arguments, RUNBOOKS_KAFKA__BOOTSTRAP_SERVERS="set") == ["set"]


@EVERY_ONE
def test_beside_a_run_its_broker_serves_them_all(said, arguments):
    assert said(arguments) == ["of run"]


def test_the_settings_name_comes_before_kafkas_own(said):
    environment = {"RUNBOOKS_KAFKA__BOOTSTRAP_SERVERS": "set", "KAFKA_BOOTSTRAP_SERVERS": "given"}
    assert said(["dead-letters", "list"], **environment) == ["set"]
    assert said(["dead-letters", "list"], KAFKA_BOOTSTRAP_SERVERS="given") == ["given"]


def test_the_command_line_comes_before_all(said):
    option = ["publish-anomaly", "-", "--bootstrap-servers", "127.0.0.1:{given}"]
    assert said(option, RUNBOOKS_KAFKA__BOOTSTRAP_SERVERS="set") == ["given"]


def test_who_says_which_api_is_meant_is_led_nowhere(tmp_path):
    (tmp_path / "env").write_text("KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:1\n")
    ended = run_main(tmp_path, "topics", "check", API_URL="http://127.0.0.1:1")
    assert (ended.status, "no Kafka broker is named" in ended.err) == (1, True)


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path):
    (tmp_path / "env").write_bytes(b"\xff")
    ended = run_main(tmp_path, "history")
    said = f"runbooks: {tmp_path / 'env'}: cannot be read: "
    assert (ended.status, ended.err.startswith(said), ended.err.count("\n")) == (1, True, 1)


async def test_a_worker_goes_where_its_settings_say_only(tmp_path):
    (tmp_path / "env").write_text("KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:1\n")
    environment = {"RUNBOOKS_DATA_DIR": str(tmp_path), "RUNBOOKS_KAFKA__BOOTSTRAP_SERVERS": ""}
    assert "API_URL" not in os.environ
    status, said = await run_command(environment, "worker")
    assert (status, "no Kafka broker is named" in said) == (1, True)
