"""Which metric server a tenant's metrics are on, and by which query: the settings and the operator's queries file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import yaml
from pydantic import Field, StrictStr, ValidationError, field_validator, model_validator

from app.clients.operator_files import read_content
from app.clients.prometheus import MetricServer
from app.core.anomaly import Name, TenantId
from app.core.errors import ConfigurationError, PermanentError
from app.core.metric_queries import DEFAULT_QUERY, QueryTemplate
from app.core.model import Frozen, problems_of

HeaderName = Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$")]
HeaderValue = Annotated[str, Field(strict=True, pattern=r"^[\x20-\x7e]{1,4096}$")]
ServerUrl = Annotated[str, Field(pattern=r"^https?://[^\s/@?#]+(/[^\s?#]*)?$")]


class QueryPair(Frozen):
    """A query, and the one that says when what it judges by was measured, in epoch seconds.

    Without measured_at a query that only selects series is asked with ``timestamp()``; of others nobody can say.
    """

    query: QueryTemplate
    measured_at: QueryTemplate | None = None


DEFAULT = QueryPair.model_validate({"query": DEFAULT_QUERY})


class _Queries(Frozen):
    """Queries by metric name, and the one for all other metrics."""

    query: QueryPair | None = None
    queries: dict[Name, QueryPair] = Field(default_factory=dict)

    @field_validator("query", mode="before")
    @classmethod
    def _one(cls, given: object) -> object:
        return _as_pair(given)

    @field_validator("queries", mode="before")
    @classmethod
    def _each(cls, given: object) -> object:
        return {name: _as_pair(one) for name, one in given.items()} if isinstance(given, dict) else given

    def find(self, metric_name: str) -> QueryPair | None:
        """The query for a metric."""
        return self.queries.get(metric_name, self.query)


def _as_pair(given: object) -> object:
    """A text alone is a query."""
    return {"query": given} if isinstance(given, str) else given


class TenantMetrics(_Queries):
    """One tenant's: a server of its own is asked with its own headers and credentials and nobody else's."""

    url: ServerUrl | None = None
    headers: dict[HeaderName, HeaderValue] = Field(default_factory=dict)
    bearer_token_file: Path | None = None
    username: StrictStr | None = None
    password_file: Path | None = None

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        if (self.username is None) != (self.password_file is None):
            raise ValueError("needs username and password_file together")
        if self.username is not None and self.bearer_token_file is not None:
            raise ValueError("bearer_token_file and username exclude each other")
        return self

    def server(self, folder: Path, common: MetricServer | None) -> MetricServer | None:
        """Its server; on the common one its headers are added, and its credentials replace the common ones."""
        own = self.bearer_token_file is not None or self.username is not None
        base = common if self.url is None else None
        if self.url is None and base is None:
            return None
        theirs = (base.bearer_token_file, base.username, base.password_file) if base and not own else (None,) * 3
        return MetricServer(
            url=self.url or (base.url if base else ""),
            headers={**(base.headers if base else {}), **self.headers},
            bearer_token_file=folder / self.bearer_token_file if self.bearer_token_file else theirs[0],
            username=self.username or theirs[1],
            password_file=folder / self.password_file if self.password_file else theirs[2],
        )


class _File(_Queries):
    """What the file holds."""

    tenants: dict[TenantId, TenantMetrics] = Field(default_factory=dict)


class MetricTarget(NamedTuple):
    """Where a metric is asked for, and how."""

    server: MetricServer
    queries: QueryPair


class MetricTargets:
    """Finds the target of a tenant's metric."""

    def __init__(self, common: MetricServer | None, queries_file: Path | None = None) -> None:
        """Read the file; common is the server of tenants without one. Raises ConfigurationError."""
        self._common = common
        self._file = _File() if queries_file is None else _read_file(queries_file)
        folder = Path() if queries_file is None else queries_file.absolute().parent
        self._servers: Mapping[str, MetricServer | None] = {
            name: tenant.server(folder, common) for name, tenant in self._file.tenants.items()
        }

    def find(self, tenant: str, metric_name: str) -> MetricTarget:
        """The tenant's server, and the most special query: its own come before those of all.

        Raises PermanentError when the tenant has no server.
        """
        server = self._servers.get(tenant, self._common)
        if server is None:
            raise PermanentError(
                f"the tenant {tenant} has no metric server: set RUNBOOKS_METRICS__URL, or its url in the queries file"
            )
        own = self._file.tenants.get(tenant)
        found = (own.find(metric_name) if own else None) or self._file.find(metric_name)
        return MetricTarget(server, found or DEFAULT)


def _read_file(path: Path) -> _File:
    """Raises ConfigurationError: a line for every problem, naming the file and the field."""
    try:
        content: Any = read_content(path)
        return _File.model_validate({} if content is None else content)
    except ValidationError as error:
        raise ConfigurationError("\n".join(f"{path}: {one}" for one in problems_of(error, _File))) from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path}: the metric queries cannot be read: {error}") from error
