"""Kubernetes, through kubernetes_asyncio: every write carries its precondition, every request a time limit."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from kubernetes_asyncio import client, config
from kubernetes_asyncio.client.exceptions import ApiException

from app.clients.foreign_text import legible
from app.clients.http import retry_after_s
from app.core.errors import OutcomeUnknown, PermanentError, TemporaryError

NOT_CONFIGURED = "Kubernetes is not configured: set RUNBOOKS_KUBERNETES__KUBECONFIG or RUNBOOKS_KUBERNETES__IN_CLUSTER"
CONNECT_TIMEOUT_S = 5.0
NAMES = {
    "namespace": re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"),  # RFC 1123 label
    "deployment": re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?"),  # RFC 1123 subdomain
}


@dataclass(frozen=True, slots=True)
class Scale:
    """A deployment's scale: how many replicas are asked for, and the version of the object that said so."""

    replicas: int
    resource_version: str


class KubernetesClient:
    """One cluster; off when neither a kubeconfig nor in_cluster is given."""

    def __init__(
        self,
        *,
        kubeconfig: Path | None = None,
        context: str | None = None,
        in_cluster: bool = False,
        timeout_s: float = 10.0,
    ) -> None:
        """Nothing connects yet; timeout_s bounds every request."""
        self._kubeconfig = kubeconfig
        self._context = context
        self._in_cluster = in_cluster
        self._timeout_s = timeout_s
        self._api: client.ApiClient | None = None
        self._opening = asyncio.Lock()

    async def close(self) -> None:
        """Close the session."""
        if self._api is not None:
            await self._api.close()
            self._api = None

    async def read_scale(self, namespace: str, deployment: str) -> Scale:
        """The scale as it is now.

        Raises PermanentError (no such deployment, no right) or TemporaryError.
        """
        what = _checked(namespace, deployment)
        apps = client.AppsV1Api(await self._open())
        return await self._ask(
            lambda: apps.read_namespaced_deployment_scale(deployment, namespace, _request_timeout=self._limits),
            what=what,
            right="get deployments/scale",
            writes=False,
        )

    async def set_scale(
        self, namespace: str, deployment: str, *, replicas: int, expected_replicas: int, dry_run: bool = False
    ) -> Scale:
        """Set the replica count if it still is expected_replicas: tested and replaced by the API in one request.

        Raises PermanentError naming both counts when it is another one, and as read_scale; OutcomeUnknown when no
        answer came.
        """
        what = _checked(namespace, deployment)
        apps = client.AppsV1Api(await self._open())
        patch = await self._patch(namespace, deployment, replicas, expected_replicas)
        dry = {"dry_run": "All"} if dry_run else {}
        try:
            return await self._ask(
                lambda: apps.patch_namespaced_deployment_scale(
                    deployment, namespace, patch, _request_timeout=self._limits, **dry
                ),
                what=what,
                right="patch deployments/scale",
                writes=not dry_run,
            )
        except PermanentError as error:
            if not _is_refused_content(error):
                raise
            _check_count(what, (await self.read_scale(namespace, deployment)).replicas, expected_replicas)
            raise

    async def _patch(self, namespace: str, deployment: str, replicas: int, expected_replicas: int) -> Any:
        """The patch that holds its own precondition.

        A scale of 0 has no /spec/replicas to test (the field is left out when it is zero), so there the version of
        the object is the precondition.
        """
        if expected_replicas != 0:
            return [
                {"op": "test", "path": "/spec/replicas", "value": expected_replicas},
                {"op": "replace", "path": "/spec/replicas", "value": replicas},
            ]
        found = await self.read_scale(namespace, deployment)
        _check_count(f"deployment {namespace}/{deployment}", found.replicas, expected_replicas)
        return {"metadata": {"resourceVersion": found.resource_version}, "spec": {"replicas": replicas}}

    async def _ask(self, call: Callable[[], Awaitable[Any]], *, what: str, right: str, writes: bool) -> Scale:
        try:
            return _scale(await call())
        except ApiException as error:
            raise _translated(error, what, right) from error
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
        except ValueError as error:
            said = f"the Kubernetes API's answer about {what} is not a Scale: {error}"
            raise (OutcomeUnknown(said) if writes else TemporaryError(said)) from error

    @property
    def _limits(self) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=min(CONNECT_TIMEOUT_S, self._timeout_s))

    async def _open(self) -> client.ApiClient:
        async with self._opening:
            if self._api is None:
                self._api = await self._connected()
            return self._api

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
        # a proxy is the kubeconfig's to name, in proxy-url; kubernetes_asyncio offers no setting for this
        api.rest_client.pool_manager._trust_env = False  # noqa: SLF001
        return api


def _checked(namespace: str, deployment: str) -> str:
    """How a deployment is called in messages; raises PermanentError for what would be another path of the API."""
    for field, value in (("namespace", namespace), ("deployment", deployment)):
        if not NAMES[field].fullmatch(value):
            raise PermanentError(f"{field} {value!r} is not a Kubernetes name")
    return f"deployment {namespace}/{deployment}"


def _scale(answer: Any) -> Scale:
    """A Scale that says it is one: kubernetes_asyncio makes an empty one of any other answer, which is no 0.

    Raises ValueError.
    """
    if answer.kind != "Scale" or answer.spec is None or answer.metadata is None:
        raise ValueError("its kind, spec or metadata is missing")
    return Scale(replicas=answer.spec.replicas or 0, resource_version=str(answer.metadata.resource_version))


def _check_count(what: str, found: int, expected: int) -> None:
    if found != expected:
        raise PermanentError(f"{what} was not changed: it has {found} replicas, and {expected} were expected")


def _is_refused_content(error: PermanentError) -> bool:
    return isinstance(error.__cause__, ApiException) and error.__cause__.status == 422


def _translated(error: ApiException, what: str, right: str) -> PermanentError | TemporaryError:
    said = _message(error)
    match error.status:
        case 401:
            return PermanentError("the Kubernetes API does not know who we are: renew the credentials")
        case 403:
            return PermanentError(f"the right to {right} is missing for {what}: {said}")
        case 404:
            return PermanentError(f"{what} does not exist")
        case 422:
            return PermanentError(f"{what} was not changed, the API refused the request or its precondition: {said}")
        case 409 | 429:
            return TemporaryError(f"{what}: {said}", _delay(error))
        case status if status is not None and status >= 500:
            return TemporaryError(f"the Kubernetes API failed with {status}: {said}", _delay(error))
        case _:
            return PermanentError(f"the Kubernetes API refused {what}: {said}")


def _delay(error: ApiException) -> float | None:
    value = error.headers.get("Retry-After") if error.headers else None
    return retry_after_s(value, datetime.now(UTC))


def _message(error: ApiException) -> str:
    """The message of the API's Status object, else the reason."""
    try:
        body = json.loads(error.body or "{}")
    except (ValueError, RecursionError):
        return str(error.reason)
    message = body.get("message") if isinstance(body, dict) else None
    return legible(str(message or error.reason))
