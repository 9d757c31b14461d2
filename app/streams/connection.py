"""How every Kafka client of ours connects."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faust
from aiokafka.errors import KafkaConnectionError, KafkaError
from faust.types.auth import AuthProtocol, SASLMechanism

from app.core.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class KafkaConnection:
    """Where the broker is and how to be let in.

    bootstrap_servers: ``host:port,…``. protocol: Kafka's security protocol. password is never shown.
    """

    bootstrap_servers: str
    protocol: str = "PLAINTEXT"
    sasl_mechanism: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ssl_ca_file: Path | None = None

    def client_arguments(self) -> dict[str, Any]:
        """Keyword arguments for an aiokafka consumer, producer or admin client.

        Raises ConfigurationError when the authorities' file cannot be read.
        """
        arguments: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap_servers,
            "security_protocol": self.protocol,
        }
        if self.protocol.endswith("SSL"):
            arguments["ssl_context"] = self._ssl_context()
        if self.protocol.startswith("SASL"):
            arguments |= {
                "sasl_mechanism": self.sasl_mechanism or "PLAIN",
                "sasl_plain_username": self.username,
                "sasl_plain_password": self.password,
            }
        return arguments

    def not_made(self, error: KafkaError) -> ConfigurationError:
        """What to say when it could not be made: where no broker answers, or what the one that does refuses."""
        if isinstance(error, KafkaConnectionError):
            said = f"no Kafka broker answers at {self.bootstrap_servers}: check RUNBOOKS_KAFKA__BOOTSTRAP_SERVERS"
            return ConfigurationError(said)
        return ConfigurationError(f"the Kafka broker at {self.bootstrap_servers} refuses: {error!r}")

    def faust_arguments(self) -> dict[str, Any]:
        """Keyword arguments for the Faust application."""
        brokers = [f"kafka://{address.strip()}" for address in self.bootstrap_servers.split(",")]
        return {"broker": brokers, "broker_credentials": self._credentials()}

    def _credentials(self) -> Any:
        context = self._ssl_context() if self.protocol.endswith("SSL") else None
        if self.protocol.startswith("SASL"):
            credentials = faust.SASLCredentials(
                username=self.username,
                password=self.password,
                ssl_context=context,
                mechanism=SASLMechanism(self.sasl_mechanism or "PLAIN"),
            )
            credentials.protocol = AuthProtocol(self.protocol)
            return credentials
        return None if context is None else faust.SSLCredentials(context)

    def _ssl_context(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=None if self.ssl_ca_file is None else str(self.ssl_ca_file))
        except OSError as error:  # ssl.SSLError, of a file that holds no certificate, is one too
            raise ConfigurationError(f"RUNBOOKS_KAFKA__SSL_CA_FILE: {self.ssl_ca_file}: {error}") from error
