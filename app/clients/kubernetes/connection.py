"""One connection to one cluster's API: kept while it knows us, every request bounded, foreign errors translated."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import aiohttp
import yaml
from kubernetes_asyncio import client, config
from kubernetes_asyncio.client.exceptions import ApiException
from pydantic import JsonValue, ValidationError

from app import __version__
from app.clients.kubernetes.answers import Answer
from app.clients.kubernetes.refusals import lacks_right, refused_with, translated
from app.clients.network import send_once
from app.core.errors import ActionError, OutcomeUnknown, PermanentError, TemporaryError

NOT_CONFIGURED = "Kubernetes is not configured: set RUNBOOKS_KUBERNETES__KUBECONFIG or RUNBOOKS_KUBERNETES__IN_CLUSTER"
CONNECT_TIMEOUT_S = 5.0
A = TypeVar("A", bound=Answer)


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    what: the object, as messages name it. right: the one that is needed, as "patch nodes". writes: whether it changes
    something, so that no answer means an unknown outcome; a dry_run changes nothing. body: of a PATCH, a list is a
    JSON patch and an object a merge patch.
    """

    method: Literal["GET", "POST", "PATCH", "DELETE"]
    path: str
    what: str
    right: str
    writes: bool = False
    dry_run: bool = False
    body: JsonValue = None
    query: tuple[tuple[str, str], ...] = ()

    @property
    def content_type(self) -> str:
        """What the body is."""
        if self.method != "PATCH":
            return "application/json"
        return "application/json-patch+json" if isinstance(self.body, list) else "application/merge-patch+json"


@dataclass(eq=False, slots=True)
class _Login:
    """The API with the credentials that were read at one time. users: requests that go through it just now."""

    api: client.ApiClient
    users: int = 0


class Connection:
    """One cluster; off when neither a kubeconfig nor in_cluster is given."""

    def __init__(self, *, kubeconfig: Path | None, context: str | None, in_cluster: bool, timeout_s: float) -> None:
        """Nothing connects yet; timeout_s bounds every request."""
        self._kubeconfig = kubeconfig
        self._context = context
        self._in_cluster = in_cluster
        self._timeout_s = timeout_s
        self._login: _Login | None = None
        self._opening = asyncio.Lock()

    async def close(self) -> None:
        """Close the session."""
        if self._login is not None:
            await self._login.api.close()
            self._login = None

    async def ask(self, request: Request, answer: type[A]) -> A:
        """What the API answers, read as ``answer``.

        An API that does not know us has not looked at the request: with the credentials as they are then, a write is
        sent once more, too. Raises PermanentError, TemporaryError or, of a write that may have taken effect,
        OutcomeUnknown.
        """
        async with self._logged_in() as login:
            try:
                return await self._asked(login.api, request, answer)
            except PermanentError as error:
                if not refused_with(error, 401):
                    raise
            async with self._logged_in(instead_of=login) as renewed:
                return await self._asked(renewed.api, request, answer)

    async def _asked(self, api: client.ApiClient, request: Request, answer: type[A]) -> A:
        what, writes = request.what, request.writes and not request.dry_run
        try:
            async with asyncio.timeout(self._timeout_s):  # the session's own limit leaves out renewing credentials
                return answer.model_validate(await self._call(api, request))
        except ApiException as error:
            refusal = translated(error, what, request.right, writes=writes)
            raise (await self.unless_starting(refusal) if lacks_right(error) else refusal) from error
        except aiohttp.ClientConnectorCertificateError as error:
            raise PermanentError(
                f"the Kubernetes API's certificate does not hold: {error.certificate_error}"
            ) from error
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise TemporaryError(f"the Kubernetes API cannot be reached: {error}") from error
        except (TimeoutError, aiohttp.ClientError) as error:
            said = f"the Kubernetes API did not answer about {what}: {type(error).__name__}"
            raise (OutcomeUnknown(said) if writes else TemporaryError(said)) from error
        except (config.ConfigException, OSError) as error:  # the token's file is read again before each request
            raise TemporaryError(f"the Kubernetes credentials cannot be read: {error}") from error
        except (ValueError, LookupError, RecursionError) as error:
            said = f"the Kubernetes API's answer about {what} is not a {answer.__name__}: {_first(error)}"
            raise (OutcomeUnknown(said) if writes else TemporaryError(said)) from error

    async def unless_starting(self, refusal: ActionError) -> ActionError:
        """The refusal for want of a right, or that it may pass: an API that starts does not know our rights yet."""
        if await self._is_ready():
            return refusal
        return TemporaryError(f"the Kubernetes API is not ready, and may not know our rights yet: {refusal}")

    async def _is_ready(self) -> bool:
        """Whether the API says so at /readyz; one that has not loaded its roles lets nobody look there."""
        options = {"_return_http_data_only": True, "_request_timeout": aiohttp.ClientTimeout(total=self._timeout_s)}
        types = {"response_types_map": {200: "str"}, "auth_settings": ["BearerToken"]}
        async with self._logged_in() as login:
            try:
                await login.api.call_api("/readyz", "GET", **types, **options)
            except (ApiException, aiohttp.ClientError, TimeoutError):
                return False
        return True

    async def _call(self, api: client.ApiClient, request: Request) -> Any:
        limits = aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=min(CONNECT_TIMEOUT_S, self._timeout_s))
        return await api.call_api(
            request.path,
            request.method,
            query_params=[*request.query, *([("dryRun", "All")] if request.dry_run else [])],
            header_params={"Accept": "application/json", "Content-Type": request.content_type},
            body=request.body,
            response_types_map={200: "object", 201: "object", 202: "object"},
            auth_settings=["BearerToken"],
            _return_http_data_only=True,
            _request_timeout=limits,
        )

    @contextlib.asynccontextmanager
    async def _logged_in(self, instead_of: _Login | None = None) -> AsyncIterator[_Login]:
        """The login that there is, else a new one, as instead of one that the API does not know any more.

        One that was replaced is closed by the last request that goes through it.
        """
        async with self._opening:  # who waits here finds what the first one made
            if self._login is None:
                self._login = _Login(await self._connected())
            elif self._login is instead_of:
                self._login = _Login(await self._reconnected())
            login = self._login
            login.users += 1
        try:
            yield login
        finally:
            login.users -= 1
            if login is not self._login and not login.users:
                await login.api.close()

    async def _reconnected(self) -> client.ApiClient:
        """The same again; what could be read once may be just being written, or its plugin's server be away."""
        try:
            return await self._connected()
        except PermanentError as error:
            raise TemporaryError(f"the Kubernetes credentials cannot be renewed: {error}") from error

    async def _connected(self) -> client.ApiClient:
        configuration = client.Configuration()
        try:
            if self._in_cluster:
                config.load_incluster_config(client_configuration=configuration)
            elif self._kubeconfig is not None:
                await config.load_kube_config(str(self._kubeconfig), self._context, configuration)
            else:
                raise PermanentError(NOT_CONFIGURED)
            api = client.ApiClient(configuration)
        except (config.ConfigException, yaml.YAMLError, OSError, LookupError, TypeError, ValueError) as error:
            raise PermanentError(f"the Kubernetes configuration cannot be read: {error}") from error
        api.user_agent = f"infrasage-runbooks/{__version__}"  # the API's audit log and managedFields name us by it
        # a proxy is the kubeconfig's to name, in proxy-url; kubernetes_asyncio offers no setting for this
        api.rest_client.pool_manager._trust_env = False  # noqa: SLF001
        send_once(api.rest_client.pool_manager)
        return api


def _first(error: Exception) -> str:
    """The first thing that is wrong with an answer."""
    if not isinstance(error, ValidationError):
        return str(error)
    found = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, found['loc'])) or 'it'}: {found['msg']}"
