"""Kubernetes, through kubernetes_asyncio: every write carries its precondition, every request a time limit."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from kubernetes_asyncio import client, config
from kubernetes_asyncio.client.exceptions import ApiException

from app.clients.http import retry_after_s
from app.core.errors import OutcomeUnknown, PermanentError, TemporaryError

NOT_CONFIGURED = "Kubernetes is not configured: set RUNBOOKS_KUBERNETES__KUBECONFIG or RUNBOOKS_KUBERNETES__IN_CLUSTER"


@dataclass(frozen=True, slots=True)
class Scale:
    """A deployment's scale: how many replicas are asked for."""

    replicas: int


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

    async def close(self) -> None:
        """Close the session."""
        if self._api is not None:
            await self._api.close()
            self._api = None

    async def read_scale(self, namespace: str, deployment: str) -> Scale:
        """The scale as it is now.

        Raises PermanentError (no such deployment, no right) or TemporaryError.
        """
        apps = client.AppsV1Api(await self._open())
        what = f"deployment {namespace}/{deployment}"
        found = await self._ask(
            lambda: apps.read_namespaced_deployment_scale(deployment, namespace, _request_timeout=self._timeout_s),
            what=what,
            right="get deployments/scale",
            writes=False,
        )
        return Scale(replicas=found.spec.replicas or 0)

    async def set_scale(
        self, namespace: str, deployment: str, *, replicas: int, expected: int, dry_run: bool = False
    ) -> Scale:
        """Set the replica count if it still is ``expected``: a JSON patch tests and replaces in one request.

        Raises PermanentError when the count is another one, and as read_scale; OutcomeUnknown when no answer came.
        """
        apps = client.AppsV1Api(await self._open())
        what = f"deployment {namespace}/{deployment}"
        patch = [
            {"op": "test", "path": "/spec/replicas", "value": expected},
            {"op": "replace", "path": "/spec/replicas", "value": replicas},
        ]
        dry = {"dry_run": "All"} if dry_run else {}
        done = await self._ask(
            lambda: apps.patch_namespaced_deployment_scale(
                deployment, namespace, patch, _request_timeout=self._timeout_s, **dry
            ),
            what=what,
            right="patch deployments/scale",
            writes=not dry_run,
        )
        return Scale(replicas=done.spec.replicas or 0)

    async def _ask(self, call: Callable[[], Awaitable[Any]], *, what: str, right: str, writes: bool) -> Any:
        try:
            return await call()
        except ApiException as error:
            raise _translated(error, what, right) from error
        except aiohttp.ClientConnectorError as error:
            raise TemporaryError(f"the Kubernetes API cannot be reached: {error}") from error
        except (TimeoutError, aiohttp.ClientError) as error:
            said = f"the Kubernetes API did not answer about {what}: {type(error).__name__}"
            raise (OutcomeUnknown(said) if writes else TemporaryError(said)) from error

    async def _open(self) -> client.ApiClient:
        if self._api is None:
            self._api = client.ApiClient(await self._configuration())
        return self._api

    async def _configuration(self) -> client.Configuration:
        configuration = client.Configuration()
        try:
            if self._in_cluster:
                config.load_incluster_config(client_configuration=configuration)
            elif self._kubeconfig is not None:
                await config.load_kube_config(str(self._kubeconfig), self._context, configuration)
            else:
                raise PermanentError(NOT_CONFIGURED)
        except (config.ConfigException, OSError) as error:
            raise PermanentError(f"the Kubernetes configuration cannot be read: {error}") from error
        return configuration


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
    except ValueError:
        return str(error.reason)
    return str(body.get("message") or error.reason) if isinstance(body, dict) else str(error.reason)
