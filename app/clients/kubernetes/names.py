"""Names of Kubernetes objects: what is none would be another path of the API."""

import re

from app.core.errors import PermanentError

LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # RFC 1123 label
SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")  # RFC 1123 subdomain


def checked(field: str, value: str) -> str:
    """The name of a namespace (field ``namespace``) or of any other object; raises PermanentError when it is none."""
    allowed = LABEL if field == "namespace" else SUBDOMAIN
    if not allowed.fullmatch(value):
        raise PermanentError(f"{field} {value!r} is not a Kubernetes name")
    return value


def deployment_path(namespace: str, deployment: str) -> str:
    """Where a deployment is in the API; raises PermanentError."""
    return f"{apps_path(namespace)}/deployments/{checked('deployment', deployment)}"


def apps_path(namespace: str) -> str:
    """Where the group apps of a namespace is in the API; raises PermanentError."""
    return f"/apis/apps/v1/namespaces/{checked('namespace', namespace)}"
