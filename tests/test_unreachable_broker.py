"""Where no Kafka broker answers, a command says so in one sentence, and the kill switch that it did nothing."""

import asyncio

import pytest
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaConnectionError,
    KafkaTimeoutError,
    TopicAuthorizationFailedError,
)
from command_line import run_main

from app.core.errors import ConfigurationError, NotAcknowledged, TemporaryError
from app.settings import KafkaSettings
from app.streams.connection import KafkaConnection
from app.streams.dead_letters import DeadLetters
from app.streams.publisher import Publisher
from app.wiring import connection_of

ANOMALY = b'{"service_id": "s", "metric_name": "m"}'
COMMANDS = [
    ("publish-anomaly", "-"),
    ("dead-letters", "list"),
    ("dead-letters", "show", "0"),
    ("dead-letters", "requeue", "0"),
    ("resume-everybody", "freeze"),
    ("topics", "check"),
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_it_is_one_sentence_and_exit_status_1(tmp_path, unused_tcp_port, arguments):
    servers = f"127.0.0.1:{unused_tcp_port}"
    ended = run_main(tmp_path, *arguments, stdin=ANOMALY, RUNBOOKS_KAFKA__BOOTSTRAP_SERVERS=servers)
    said = f"runbooks: no Kafka broker answers at {servers}: check RUNBOOKS_KAFKA__BOOTSTRAP_SERVERS\n"
    assert ended == (1, "", said)


def test_the_kill_switch_says_that_nothing_was_paused(tmp_path, unused_tcp_port):
    servers = f"127.0.0.1:{unused_tcp_port}"
    ended = run_main(tmp_path, "pause-everybody", "freeze", RUNBOOKS_KAFKA__BOOTSTRAP_SERVERS=servers)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith(f"runbooks: nothing was paused: no Kafka broker answers at {servers}: ")
    assert ended.err.count("\n") == 1


def test_also_where_none_is_named_or_the_name_is_wrong(tmp_path):
    ended = run_main(tmp_path, "pause-everybody", "freeze")
    assert (ended.status, ended.err.startswith("runbooks: nothing was paused: no Kafka broker is named: ")) == (1, True)
    ended = run_main(tmp_path, "pause-everybody", " ", RUNBOOKS_KAFKA__BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert (ended.status, ended.err.startswith("runbooks: nothing was paused: name: ")) == (1, True)


NAMED = {"RUNBOOKS_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"}
WRONG = [
    ({"RUNBOOKS_KAFKA__BOOTSTRAP_SERVERS": "there:abc"}, "nothing was paused: a Kafka broker is named as host:port"),
    ({"RUNBOOKS_KAFKA__BOOTSTRAP_SERVERS": "there:99999"}, "nothing was paused: a Kafka broker is named as host:port"),
    (
        {"RUNBOOKS_KAFKA__BOOTSTRAP_SERVERS": "kafka://there"},
        "nothing was paused: a Kafka broker is named as host:port",
    ),
    ({"RUNBOOKS_KAFKA__BOOTSTRAP_SERVERS": "[::1"}, "nothing was paused: a Kafka broker is named as host:port"),
    (
        {**NAMED, "RUNBOOKS_KAFKA__SECURITY_PROTOCOL": "SSL", "RUNBOOKS_KAFKA__SSL_CA_FILE": "/none"},
        "nothing was paused: RUNBOOKS_KAFKA__SSL_CA_FILE: /none: [Errno 2]",
    ),
    (
        {**NAMED, "RUNBOOKS_KAFKA__SECURITY_PROTOCOL": "SSL", "RUNBOOKS_KAFKA__SSL_CA_FILE": __file__},
        f"nothing was paused: RUNBOOKS_KAFKA__SSL_CA_FILE: {__file__}: [",
    ),
    (
        {**NAMED, "RUNBOOKS_KAFKA__SECURITY_PROTOCOL": "SASL_SSL", "RUNBOOKS_KAFKA__SASL_USERNAME": "u"},
        "the settings are wrong: kafka: Value error, sasl_username and sasl_password are needed with SASL",
    ),
]


@pytest.mark.parametrize(("environment", "said"), WRONG)
def test_settings_that_lead_to_no_broker(tmp_path, environment, said):
    ended = run_main(tmp_path, "pause-everybody", "freeze", **environment)
    assert (ended.status, ended.out, ended.err.count("\n")) == (1, "", 1)
    assert ended.err.startswith(f"runbooks: {said}")


@pytest.mark.parametrize("servers", ["there", "there:9092", "a.b:1, c_d:65535", "[::1]:9092", "10.0.0.1:9092,[::1]"])
def test_names_that_may_be_brokers(servers):
    assert connection_of(KafkaSettings(bootstrap_servers=servers)).bootstrap_servers == servers


class FakeProducer:
    """A producer that cannot start, or whose records come to this end; counts how often it was stopped."""

    def __init__(self, *, start=None, end=None):
        self._start = start
        self._end = end
        self.stopped = 0

    async def start(self):
        if self._start is not None:
            raise self._start

    async def send(self, *_, **__):
        sent = asyncio.get_running_loop().create_future()
        sent.set_exception(self._end)
        return sent

    async def stop(self):
        self.stopped += 1


def publisher_of(producer):
    publisher = Publisher(KafkaConnection(bootstrap_servers="there:9092"), "test")
    publisher._producer._closed = True  # the real one is never started
    publisher._producer = producer
    return publisher


async def test_a_producer_that_cannot_start_is_stopped():
    producer = FakeProducer(start=KafkaConnectionError("no"))
    with pytest.raises(ConfigurationError, match="no Kafka broker answers at there:9092"):
        await publisher_of(producer).start()
    assert producer.stopped == 1


async def test_a_broker_that_refuses_is_not_one_that_is_away():
    with pytest.raises(ConfigurationError, match="the Kafka broker at there:9092 refuses: ClusterAuthorization"):
        await publisher_of(FakeProducer(start=ClusterAuthorizationFailedError())).start()


async def test_only_what_may_have_been_written_is_called_not_acknowledged():
    with pytest.raises(NotAcknowledged, match="did not acknowledge a record for t: KafkaTimeout"):
        await publisher_of(FakeProducer(end=KafkaTimeoutError())).publish("t", b"x")
    with pytest.raises(TemporaryError, match="did not take a record for t: TopicAuthorization") as refused:
        await publisher_of(FakeProducer(end=TopicAuthorizationFailedError("t"))).publish("t", b"x")
    assert not isinstance(refused.value, NotAcknowledged)


async def test_dead_letters_whose_broker_goes_away_meanwhile(connection):
    with pytest.raises(TemporaryError, match="dead-letters cannot be read: KafkaTimeoutError"):
        async with DeadLetters.opened(connection):
            raise KafkaTimeoutError
