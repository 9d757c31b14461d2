"""What an action is given besides its step."""

from dataclasses import dataclass

from pydantic import JsonValue

from app.clients.http import HttpClient
from app.clients.kubernetes import KubernetesClient
from app.clients.secrets import Secrets
from app.clients.slack import SlackClient
from app.clients.ssh import SshClient
from app.clients.traces import Attempt
from app.core.model import JsonObject
from app.core.planning import OUTPUT_LIMIT, Prepared


@dataclass(frozen=True, slots=True)
class Clients:
    """The clients of a worker."""

    http: HttpClient
    slack: SlackClient
    kubernetes: KubernetesClient
    secrets: Secrets
    ssh: SshClient

    async def close(self) -> None:
        """Close all."""
        await self.http.close()
        await self.slack.close()
        await self.kubernetes.close()
        await self.ssh.close()


@dataclass(frozen=True, slots=True)
class Scene:
    """One command's surroundings.

    expected: what a rollback must still find, None otherwise. begun: the plan that an earlier attempt of this very
    step began to apply, None on a first attempt. earlier: what templates see of the steps before. room: how many
    bytes the step's output may have as JSON. attempt: tells of the command's calls as spans, None where nobody asks.
    """

    tenant: str
    command_id: str
    expected: JsonValue
    clients: Clients
    begun: Prepared | None = None
    earlier: tuple[JsonObject, ...] = ()
    room: int = OUTPUT_LIMIT
    attempt: Attempt | None = None
