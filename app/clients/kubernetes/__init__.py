"""Kubernetes, through kubernetes_asyncio: every write carries its precondition, every request a time limit."""

from app.clients.kubernetes.client import KubernetesClient
from app.clients.kubernetes.connection import NOT_CONFIGURED
from app.clients.kubernetes.deployments import Deployment, ReplicaSet
from app.clients.kubernetes.rights import Right
from app.clients.kubernetes.scales import Scale

__all__ = ["NOT_CONFIGURED", "Deployment", "KubernetesClient", "ReplicaSet", "Right", "Scale"]
