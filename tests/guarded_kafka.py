"""A real broker that lets nobody do more than ACLs allow, and the ACLs that are written as ``kafka-acls`` commands.

Who connects without a name may do everything; users connect on a listener of their own, their name is the password.
"""

import argparse
import itertools
import shlex
import socket
from collections.abc import Iterator
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Int8, Int16, Int32, Schema, String

from app.broker.kafka import EmbeddedKafka
from app.streams.connection import KafkaConnection

TYPES = {"topic": 2, "group": 3}
PATTERNS = {"literal": 3, "prefixed": 4}
OPERATIONS = {"Read": 3, "Write": 4, "Create": 5, "Describe": 8, "DescribeConfigs": 10}
DENY, ALLOW = 2, 3
LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"


class GuardedKafka(EmbeddedKafka):
    """The embedded broker with an authorizer, and these users."""

    def __init__(self, *, users: tuple[str, ...], **fields: Any) -> None:
        super().__init__(**fields)
        self._users = users
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._users_port = probe.getsockname()[1]

    def connection(self, user: str) -> KafkaConnection:
        """How a user connects."""
        servers = f"127.0.0.1:{self._users_port}"
        return KafkaConnection(servers, "SASL_PLAINTEXT", "PLAIN", user, user)

    def _write_configuration(self) -> None:
        super()._write_configuration()
        path = self._dir / "server.properties"
        lines = dict(line.split("=", 1) for line in path.read_text().splitlines())
        for name in ("listeners", "advertised.listeners"):
            lines[name] += f",USERS://127.0.0.1:{self._users_port}"
        lines["listener.security.protocol.map"] += ",USERS:SASL_PLAINTEXT"
        lines["listener.name.users.sasl.enabled.mechanisms"] = "PLAIN"
        known = " ".join(f'user_{user}="{user}"' for user in self._users)
        lines["listener.name.users.plain.sasl.jaas.config"] = f"{LOGIN} {known};"
        lines["authorizer.class.name"] = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
        lines["super.users"] = "User:ANONYMOUS"
        path.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))


def acls_of(command: str) -> Iterator[tuple[Any, ...]]:
    """The rules that one ``kafka-acls --add`` makes, as Kafka's protocol has them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--add", action="store_true", required=True)
    parser.add_argument("--allow-principal")
    parser.add_argument("--deny-principal")
    parser.add_argument("--operation", action="append", choices=OPERATIONS, required=True)
    parser.add_argument("--resource-pattern-type", choices=PATTERNS, default="literal")
    for kind in TYPES:
        parser.add_argument(f"--{kind}", action="append", default=[])
    program, *arguments = shlex.split(command)
    assert program == "kafka-acls"
    given = parser.parse_args(arguments)
    named = [(TYPES[kind], name) for kind in TYPES for name in getattr(given, kind)]
    assert named
    pattern = PATTERNS[given.resource_pattern_type]
    for (kind, name), operation in itertools.product(named, given.operation):
        who, effect = (given.allow_principal, ALLOW) if given.allow_principal else (given.deny_principal, DENY)
        yield kind, name, pattern, who, "*", OPERATIONS[operation], effect


class CreateAclsResponse_v1(Response):  # noqa: N801 - as aiokafka names them
    API_KEY, API_VERSION = 30, 1
    SCHEMA = Schema(
        ("throttle_time_ms", Int32), ("results", Array(("error_code", Int16), ("error_message", String("utf-8"))))
    )


class CreateAclsRequest_v1(RequestStruct):  # noqa: N801
    API_KEY, API_VERSION = 30, 1
    RESPONSE_TYPE = CreateAclsResponse_v1
    SCHEMA = Schema(
        (
            "creations",
            Array(
                ("resource_type", Int8),
                ("resource_name", String("utf-8")),
                ("resource_pattern_type", Int8),
                ("principal", String("utf-8")),
                ("host", String("utf-8")),
                ("operation", Int8),
                ("permission_type", Int8),
            ),
        )
    )


class CreateAclsRequest(Request[CreateAclsRequest_v1]):
    """aiokafka has none."""

    API_KEY = 30

    def __init__(self, rules: list[tuple[Any, ...]]) -> None:
        self._rules = rules

    def build(self, request_struct_class):
        return request_struct_class(self._rules)


async def create_acls(servers: str, commands: list[str]) -> None:
    """Make the rules of these commands."""
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        rules = [rule for command in commands for rule in acls_of(command)]
        answer = await admin._send_request(CreateAclsRequest(rules))
        assert {code for code, _ in answer.results} == {0}, answer
    finally:
        await admin.close()
