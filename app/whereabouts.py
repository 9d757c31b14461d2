"""Where the API and the broker are that a command means: what was said of them, or those of a ``runbooks run``."""

import os
from pathlib import Path

from app.core.errors import ConfigurationError
from app.settings import KafkaSettings, Settings


def take_what_run_wrote() -> None:
    """Where nothing says which API is meant, the one of ``runbooks run``: its address, tokens and broker.

    They stand in ``env`` in the data folder. What was set stays; of the settings, whose names begin with ``RUNBOOKS_``,
    none is taken: they are a worker's too, and no worker goes where a file in its folder leads it.

    Raises ConfigurationError when the file cannot be read.
    """
    path = Path(os.environ.get("RUNBOOKS_DATA_DIR") or ".run") / "env"
    if "API_URL" in os.environ or not path.is_file():
        return
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot be read: {error}; with API_URL set it need not be") from error
    for line in lines:
        name, _, value = line.partition("=")
        if not name.startswith("RUNBOOKS_"):
            os.environ.setdefault(name, value)


def kafka_settings(servers: str | None = None) -> KafkaSettings:
    """The settings of the broker that a command means, by one rule for all that read or write Kafka themselves.

    It is the first of: servers, which the command line gave; RUNBOOKS_KAFKA__BOOTSTRAP_SERVERS; and
    KAFKA_BOOTSTRAP_SERVERS, which ``take_what_run_wrote`` sets beside a ``runbooks run``.
    """
    kafka = Settings().kafka
    meant = servers or kafka.bootstrap_servers or os.environ.get("KAFKA_BOOTSTRAP_SERVERS") or None
    return kafka.model_copy(update={"bootstrap_servers": meant})
