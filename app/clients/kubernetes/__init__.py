"""Kubernetes, through kubernetes_asyncio: every write carries its precondition, every request a time limit."""

from app.clients.kubernetes.client import KubernetesClient
from app.clients.kubernetes.connection import NOT_CONFIGURED
from app.clients.kubernetes.deployments import Deployment, ReplicaSet
from app.clients.kubernetes.nodes import Node, Nodes, check_same
from app.clients.kubernetes.pods import Held, Pod, Pods
from app.clients.kubernetes.rights import Right
from app.clients.kubernetes.rollouts import Rollout, check_not_restarted
from app.clients.kubernetes.scales import Scale

__all__ = [
    "NOT_CONFIGURED",
    "Deployment",
    "Held",
    "KubernetesClient",
    "Node",
    "Nodes",
    "Pod",
    "Pods",
    "ReplicaSet",
    "Right",
    "Rollout",
    "Scale",
    "check_not_restarted",
    "check_same",
]
