"""All settings: read from ``RUNBOOKS_*`` environment variables, grouped by subsystem (``RUNBOOKS_API__PORT``)."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict, SettingsError
from pydantic_settings.sources import PydanticBaseSettingsSource

Kind = Literal["kubernetes", "http", "shell", "slack", "metric"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MAX_DEDUP_WINDOW_S = 366 * 24 * 3600.0  # as app/core/events.py, which takes more for so much
MIN_SECRET_BYTES = 32  # RFC 7518 section 3.2: an HS256 key is at least as long as its hash, as one of decisions is here


class Group(BaseModel):
    """A group of settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class KafkaSettings(Group):
    """The broker.

    bootstrap_servers: ``host:port,…``; None starts the embedded Apache Kafka in ``run``.
    port: the embedded broker's, 0 picks a free one and keeps it.
    """

    bootstrap_servers: str | None = None
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    group_id: str = "infrasage-runbooks"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ssl_ca_file: Path | None = None
    topics_file: Path = Path("topics.yaml")

    @model_validator(mode="after")
    def _known_to_the_broker(self) -> Self:
        if self.security_protocol.startswith("SASL") and (self.sasl_username is None or self.sasl_password is None):
            raise ValueError("sasl_username and sasl_password are needed with SASL: set both")
        return self


class ApiSettings(Group):
    """The HTTP API.

    jwt_secret: HS256, at least 32 bytes. jwks_url: RS256 or ES256 keys instead; the two exclude each other.
    jwt_audience: what a token's ``aud`` must be, or name among others; None refuses tokens that have one.
    jwt_issuer: what ``iss`` must be; None looks at none. jwt_leeway_s: how far clocks may differ, in seconds.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    jwt_secret: SecretStr | None = None
    jwks_url: str | None = None
    jwt_audience: str | None = None
    jwt_issuer: str | None = None
    jwt_leeway_s: Annotated[float, Field(ge=0, le=300)] = 30.0
    max_body_bytes: Annotated[int, Field(ge=1024)] = 1024 * 1024

    @model_validator(mode="after")
    def _one_way_to_trust(self) -> Self:
        if self.jwt_secret is not None and self.jwks_url is not None:
            raise ValueError("jwt_secret and jwks_url exclude each other: unset one of them")
        if self.jwt_secret is not None and len(self.jwt_secret.get_secret_value().encode()) < MIN_SECRET_BYTES:
            raise ValueError(f"jwt_secret is shorter than {MIN_SECRET_BYTES} bytes: make a longer one")
        return self


class HistorySettings(Group):
    """The read model: an SQLAlchemy URL; None is an SQLite file in the data folder.

    decisions_kept_days: how long it is kept which runbook an anomaly started, and why others not, in days.
    anchor_records: how many records of the log one anchor of tamper evidence covers. anchors_file: where whole anchors
    are appended, signed with the Ed25519 key in anchors_key_file (PEM, PKCS#8); None keeps them in the database only.
    """

    url: SecretStr | None = None
    decisions_kept_days: Annotated[float, Field(gt=0)] = 30.0
    anchor_records: Annotated[int, Field(ge=1, le=100_000)] = 1000
    anchors_file: Path | None = None
    anchors_key_file: Path | None = None

    @model_validator(mode="after")
    def _signed_or_not(self) -> Self:
        if (self.anchors_file is None) != (self.anchors_key_file is None):
            raise ValueError("anchors_file and anchors_key_file are needed together: set both or none")
        return self


class KubernetesSettings(Group):
    """How the cluster is reached: a kubeconfig file and context, or from inside the cluster; off when neither."""

    kubeconfig: Path | None = None
    context: str | None = None
    in_cluster: bool = False
    request_timeout_s: Annotated[float, Field(gt=0)] = 10.0


class SlackSettings(Group):
    """Slack is off without a token; base_url is for a proxy or a stand-in.

    signing_secret: opens POST /slack/interactions. app_token: opens Socket Mode instead; the two exclude each other.
    users_file: who Slack's people are. approval_channel: where approvals are asked for when a runbook does not say.
    """

    bot_token: SecretStr | None = None
    base_url: str = "https://slack.com/api/"
    signing_secret: SecretStr | None = None
    app_token: SecretStr | None = None
    users_file: Path | None = None
    approval_channel: Annotated[str, Field(min_length=1, max_length=1024)] | None = None

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        if self.signing_secret is not None and self.app_token is not None:
            raise ValueError("signing_secret and app_token exclude each other: unset one of them")
        if self.bot_token is None and (self.signing_secret is not None or self.app_token is not None):
            raise ValueError("bot_token is needed where Slack may answer: set RUNBOOKS_SLACK__BOT_TOKEN")
        return self


class SshSettings(Group):
    """Shell steps are off without an inventory: a YAML or JSON file of the hosts they may name."""

    inventory: Path | None = None


class SecretSettings(Group):
    """Where ``$NAME`` is looked up: files ``<folder>/<tenant>/<NAME>``, then these environment variables only."""

    folder: Path | None = None
    environment: frozenset[str] = frozenset()


class NetworkSettings(Group):
    """Which targets an http step may reach; link-local and metadata addresses never.

    ca_file: PEM certificates of authorities that are trusted besides the system's, for servers with private ones.
    """

    allow_loopback: bool = False
    allow_private: bool = False
    ca_file: Path | None = None


class MetricSettings(Group):
    """Where the metric of a ``rollback_metric_check`` is read.

    url: the base of a Prometheus HTTP API, with any path before ``/api/v1``. queries_file: queries, and servers of
    single tenants. With neither, the topic metric-samples is read. headers: sent with every query, as X-Scope-OrgID.
    bearer_token_file, or username and password_file: how the server lets us in; read for every query. ca_file:
    authorities trusted besides the system's, None for those of RUNBOOKS_NETWORK__CA_FILE. timeout_s: for one query.
    max_age_s: what was measured longer ago is no data. concurrency: readings at once.
    """

    url: Annotated[str, Field(pattern=r"^https?://[^\s/@?#]+(/[^\s?#]*)?$")] | None = None
    queries_file: Path | None = None
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    bearer_token_file: Path | None = None
    username: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    timeout_s: Annotated[float, Field(gt=0, le=20)] = 10.0
    max_age_s: Annotated[float, Field(gt=0)] = 300.0
    concurrency: Annotated[int, Field(ge=1)] = 16

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and password_file are needed together: set both or none")
        if self.username is not None and self.bearer_token_file is not None:
            raise ValueError("bearer_token_file and username exclude each other: unset one of them")
        if self.url is None and (self.headers or self.bearer_token_file is not None or self.username is not None):
            raise ValueError("headers and credentials are for a server: set RUNBOOKS_METRICS__URL")
        return self


class ApprovalSettings(Group):
    """Keys that sign decisions, ``key_id -> secret`` of 32 bytes or more; the first one signs, all verify.

    trust_topic: take unsigned decisions because the topic's ACLs decide who may write it.
    """

    signing_keys: dict[str, SecretStr] = Field(default_factory=dict)
    trust_topic: bool = False

    @model_validator(mode="after")
    def _long_enough(self) -> Self:
        """Anybody could sign with an empty key, and guess a short one."""
        keys = self.signing_keys.items()
        short = [repr(key_id) for key_id, key in keys if len(key.get_secret_value().encode()) < MIN_SECRET_BYTES]
        if short:
            named = f"the secret of {', '.join(short)} in signing_keys is shorter than {MIN_SECRET_BYTES} bytes"
            raise ValueError(f"{named}: make a longer one, as with `openssl rand -base64 32`")
        return self


class LimitSettings(Group):
    """Limits pinned into every execution that is requested.

    dedup_window_s: how long an ended execution stays the answer to a repeated request, in seconds; a year at most.
    """

    max_concurrent_runbooks: Annotated[int, Field(ge=1, le=10_000)] = 3
    dedup_window_s: Annotated[float, Field(ge=0, le=MAX_DEDUP_WINDOW_S)] = 24 * 3600.0


class WorkerSettings(Group):
    """One worker.

    lease_s: how long a started step may go without a sign of life. heartbeat_s: how often it gives one.
    concurrency: steps of one kind at once. shutdown_grace_s: how long a stopping worker lets its steps finish.
    actions: carry out steps of these kinds and do nothing else, in a consumer group of their own; empty is a whole
    worker. elsewhere: the kinds that a whole worker leaves to such ones.
    """

    lease_s: Annotated[float, Field(gt=1)] = 15.0
    heartbeat_s: Annotated[float, Field(gt=0)] = 5.0
    concurrency: Annotated[int, Field(ge=1)] = 64
    shutdown_grace_s: Annotated[float, Field(ge=0)] = 20.0
    session_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    actions: frozenset[Kind] = frozenset()
    elsewhere: frozenset[Kind] = frozenset()

    @model_validator(mode="after")
    def _one_side(self) -> Self:
        if self.actions and self.elsewhere:
            raise ValueError("actions and elsewhere exclude each other: a worker is whole, or carries out some kinds")
        return self

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of steps that this worker carries out."""
        return frozenset(self.actions or set(KINDS) - self.elsewhere)


class TraceSettings(Group):
    """OpenTelemetry traces: off, or over OTLP/HTTP to where the standard ``OTEL_EXPORTER_OTLP_…`` variables say.

    send_to_targets: http steps send a ``traceparent`` header, so that their targets can go on with the trace.
    """

    enabled: bool = False
    send_to_targets: bool = False


class _Variables(EnvSettingsSource):
    """The environment. Of what must be JSON and is not, the variable is named and its value, perhaps a key, is not."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """The value as JSON; raises ValueError, which the caller makes a SettingsError of where it has to be JSON."""
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            named = [name for name, text in self.env_vars.items() if text == value and name.endswith(field_name)]
            kind = get_origin(field.annotation) if field else dict
            example = 'list such as ["A","B"]' if kind is frozenset else 'object such as {"A":"B"}'
            raise ValueError(f"{', '.join(named or [field_name]).upper()} must be a JSON {example}") from None


class Settings(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(
        env_prefix="RUNBOOKS_",
        env_nested_delimiter="__",
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        hide_input_in_errors=True,  # it may hold secrets
    )

    data_dir: Path = Path(".run")
    runbooks_dir: Path | None = Path("runbooks")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    kafka: KafkaSettings = KafkaSettings()
    api: ApiSettings = ApiSettings()
    history: HistorySettings = HistorySettings()
    kubernetes: KubernetesSettings = KubernetesSettings()
    slack: SlackSettings = SlackSettings()
    ssh: SshSettings = SshSettings()
    secrets: SecretSettings = SecretSettings()
    network: NetworkSettings = NetworkSettings()
    metrics: MetricSettings = MetricSettings()
    approvals: ApprovalSettings = ApprovalSettings()
    limits: LimitSettings = LimitSettings()
    worker: WorkerSettings = WorkerSettings()
    traces: TraceSettings = TraceSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What the caller gives, and then the environment."""
        return init_settings, _Variables(settings_cls)

    @property
    def history_url(self) -> str:
        """The read model's SQLAlchemy URL."""
        if self.history.url is not None:
            return self.history.url.get_secret_value()
        return f"sqlite+aiosqlite:///{self.data_dir.absolute() / 'history.db'}"


def wrong_settings(error: ValidationError | SettingsError) -> str:
    """What is wrong with the settings, in one sentence without any of their values."""
    if isinstance(error, SettingsError):
        return f"the settings are wrong: {error.__cause__ or error}"
    problems = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_url=False))
    return "the settings are wrong: " + "; ".join(problems)
