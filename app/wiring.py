"""What the settings say, as the parts take it."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import yaml

from app.actions.scene import Clients
from app.clients.http import HttpClient
from app.clients.kubernetes import KubernetesClient
from app.clients.network import NetworkPolicy, trust_in
from app.clients.secrets import Secrets
from app.clients.slack import SlackClient
from app.clients.ssh import SshClient
from app.core.errors import ConfigurationError, RunbookRefused
from app.core.events import Limits
from app.core.people import SlackUsers, read_slack_users
from app.core.runbook import Runbook, read_runbook
from app.history.signed_anchors import AnchorSigner, read_private_key
from app.history.store import Store
from app.settings import HistorySettings, KafkaSettings, Settings
from app.streams.app import (
    StreamSettings,
)
from app.streams.connection import KafkaConnection
from app.streams.topics import METRIC_SAMPLES
from app.web.parts import SlackRules

try:
    from yaml import CSafeLoader as SafeLoader  # seven times as fast: a folder may hold a thousand definitions
except ImportError:  # PyYAML was built without libyaml
    from yaml import SafeLoader  # type: ignore[assignment]

SERVER = re.compile(r"(\[[^\[\]\s]+\]|[^\[\]\s:/]+)(:(?P<port>\d{1,5}))?")


def now() -> datetime:
    """The wall clock, aware UTC."""
    return datetime.now(UTC)


def connection_of(kafka: KafkaSettings) -> KafkaConnection:
    """How the settings say to reach Kafka.

    Raises ConfigurationError when they name no broker, or what cannot be one.
    """
    servers = kafka.bootstrap_servers
    if servers is None:
        raise ConfigurationError("no Kafka broker is named: set RUNBOOKS_KAFKA__BOOTSTRAP_SERVERS")
    found = [SERVER.fullmatch(one.strip()) for one in servers.split(",")]
    if not all(one and int(one["port"] or 0) < 2**16 for one in found):
        raise ConfigurationError(f"a Kafka broker is named as host:port,host:port, and not as {servers!r}")
    return KafkaConnection(
        bootstrap_servers=servers,
        protocol=kafka.security_protocol,
        sasl_mechanism=kafka.sasl_mechanism,
        username=kafka.sasl_username,
        password=kafka.sasl_password.get_secret_value() if kafka.sasl_password else None,
        ssl_ca_file=kafka.ssl_ca_file,
    )


def clients_of(settings: Settings, secrets: Secrets) -> Clients:
    """The clients that the settings describe.

    Raises ConfigurationError when the SSH inventory or the CA file is not as it must be.
    """
    network, slack, kubernetes = settings.network, settings.slack, settings.kubernetes
    return Clients(
        http=HttpClient(NetworkPolicy(network.allow_loopback, network.allow_private), trust=trust_in(network.ca_file)),
        slack=SlackClient(slack.bot_token.get_secret_value() if slack.bot_token else None, slack.base_url),
        kubernetes=KubernetesClient(
            kubeconfig=kubernetes.kubeconfig,
            context=kubernetes.context,
            in_cluster=kubernetes.in_cluster,
            timeout_s=kubernetes.request_timeout_s,
        ),
        secrets=secrets,
        ssh=SshClient(settings.ssh.inventory),
    )


def read_definitions(folder: Path) -> list[Runbook]:
    """The definitions in a folder's ``*.json``, ``*.yaml`` and ``*.yml`` files, by file name.

    Raises ConfigurationError naming the file and every problem in it.
    """
    found = sorted(path for path in folder.iterdir() if path.suffix in {".json", ".yaml", ".yml"})
    return [read_definition(path) for path in found]


def read_definition(path: Path) -> Runbook:
    """The definition in one JSON or YAML file.

    Raises ConfigurationError naming the file and every problem in it.
    """
    content = _content(path)
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}: must be an object with the fields of a runbook")
    try:
        return read_runbook(content)
    except RunbookRefused as error:
        raise ConfigurationError("\n".join(f"{path}: {problem}" for problem in error.problems)) from error


def _content(path: Path) -> Any:
    """What a JSON or YAML file holds.

    Raises ConfigurationError.
    """
    try:  # ValueError: bytes that are no UTF-8, what is no JSON, and a YAML date like 2026-13-45
        text = path.read_text(encoding="utf-8")
        return orjson.loads(text) if path.suffix == ".json" else yaml.load(text, SafeLoader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path}: cannot be read: {error}") from error


def stream_settings(settings: Settings, group_id: str, partitions: int) -> StreamSettings:
    """What Faust needs to know."""
    return StreamSettings(
        group_id=group_id,
        data_dir=settings.data_dir / "faust",
        session_timeout_s=settings.worker.session_timeout_s,
        partitions=partitions,
    )


def command_topics(settings: Settings) -> list[str]:
    """The topics of the commands that this worker carries out."""
    return [f"step-commands.{kind}" for kind in sorted(settings.worker.kinds)]


def topics_of_kinds(settings: Settings) -> list[str]:
    """All topics that go with the kinds of steps that this worker carries out."""
    return [*command_topics(settings), *([METRIC_SAMPLES] if "metric" in settings.worker.kinds else [])]


def limits_of(settings: Settings) -> Limits:
    """The limits that are pinned into requests."""
    limits = settings.limits
    return Limits(
        max_concurrent_runbooks=limits.max_concurrent_runbooks,
        dedup_window_s=limits.dedup_window_s,
        approval_channel=settings.slack.approval_channel,
    )


def slack_rules(settings: Settings, users: SlackUsers) -> SlackRules | None:
    """How people may answer in Slack; None where they may not."""
    slack = settings.slack
    if slack.bot_token is None or (slack.signing_secret is None and slack.app_token is None):
        return None
    return SlackRules(
        users=users,
        bot_token=slack.bot_token.get_secret_value(),
        base_url=slack.base_url,
        signing_secret=slack.signing_secret.get_secret_value() if slack.signing_secret else None,
        app_token=slack.app_token.get_secret_value() if slack.app_token else None,
    )


def read_users(path: Path | None) -> SlackUsers:
    """Who Slack's people are; nobody where no file is named. Raises ConfigurationError."""
    if path is None:
        return SlackUsers()
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}: must be an object with the field users")
    return read_slack_users(content, str(path))


def signer_of(history: HistorySettings, store: Store, topic: str) -> AnchorSigner | None:
    """What signs anchors, where the settings name a file and a key. Raises ConfigurationError."""
    if history.anchors_file is None or history.anchors_key_file is None:
        return None
    return AnchorSigner(history.anchors_file, read_private_key(history.anchors_key_file), store, topic)


def signing_keys(settings: Settings) -> Mapping[str, bytes]:
    """The configured keys; without any, one derived from the API's secret, so that one worker can approve."""
    given = settings.approvals.signing_keys
    if given:
        return {name: key.get_secret_value().encode() for name, key in given.items()}
    secret = settings.api.jwt_secret
    if secret is None:
        return {}
    return {"api": b"approval decisions\x00" + secret.get_secret_value().encode()}
