"""Opening an SSH connection: only with a host key that is known, and with no key but the one that is named."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import asyncssh

from app.clients.foreign_text import legible
from app.clients.ssh_inventory import Host
from app.core.errors import PermanentError, TemporaryError

CONNECT_TIMEOUT_S = 10.0  # from the first packet to the end of the login
KEEPALIVE_INTERVAL_S = 10
KEEPALIVE_COUNT = 3  # so that a host that went silent is noticed after 40 s
NEVER = (
    asyncssh.KeyExchangeFailed,
    asyncssh.ProtocolError,
    asyncssh.ProtocolNotSupported,
    asyncssh.IllegalUserName,
)
"""Refusals that the same login would meet again."""


async def connect(name: str, host: Host, agent_path: str | None) -> asyncssh.SSHClientConnection:
    """A connection to the host of this name; agent_path: the SSH agent's socket, for a host that wants its keys.

    Raises PermanentError (its key is not known, the login is refused, a file is missing) or TemporaryError.
    """
    known_hosts = await asyncio.to_thread(_known_hosts, name, host)
    async with _keys(name, host, agent_path) as keys:
        try:
            return await asyncssh.connect(
                host.address,
                host.port,
                username=host.user,
                client_keys=keys,
                known_hosts=known_hosts,
                config=None,  # neither ~/.ssh/config nor SSH_AUTH_SOCK decides
                agent_path=None,
                agent_forwarding=False,
                x11_forwarding=False,
                x509_trusted_certs=None,  # else ~/.ssh/ca-bundle.crt would vouch for hosts, too
                gss_kex=False,
                gss_auth=False,
                preferred_auth="publickey",
                connect_timeout=CONNECT_TIMEOUT_S,
                login_timeout=CONNECT_TIMEOUT_S,
                keepalive_interval=KEEPALIVE_INTERVAL_S,
                keepalive_count_max=KEEPALIVE_COUNT,
            )
        except asyncssh.HostKeyNotVerifiable as error:
            raise PermanentError(
                f"{name} does not show the key that its known_hosts holds: nothing was run, find out who answers there"
            ) from error
        except asyncssh.PermissionDenied as error:
            raise PermanentError(f"{name} lets {host.user} not in: authorise the worker's key there") from error
        except NEVER as error:
            raise PermanentError(f"{name} refuses the connection: {legible(error.reason)}") from error
        except (asyncssh.Error, OSError) as error:
            raise TemporaryError(f"{name} cannot be reached: {legible(str(error)) or 'no answer in time'}") from error
        except ValueError as error:  # asyncssh wants to know the name of the worker's own user, for one
            raise PermanentError(f"the connection to {name} cannot be set up: {legible(str(error))}") from error


class _KnownHosts(asyncssh.SSHKnownHosts):
    """The host keys of lines for a host's address, as asyncssh looks them up, and of those for its inventory name.

    asyncssh's own setting for a name, host_key_alias, would put it in the place of the address, in certificates too.
    """

    def __init__(self, name: str, lines: str) -> None:
        super().__init__(lines)
        self._name = name

    def _match(self, host: str, addr: str, port: int | None = None) -> Any:
        """Both; asked with the port first and, only where no line of either kind has it, without."""
        by_address = super()._match(host, addr, port)
        by_name = super()._match(self._name, addr, port)
        return tuple([*one, *other] for one, other in zip(by_address, by_name, strict=True))


def _known_hosts(name: str, host: Host) -> asyncssh.SSHKnownHosts:
    """The host keys to trust: an object even when there are none, for asyncssh takes the user's own for an empty text.

    Raises PermanentError.
    """
    file = host.known_hosts_file
    try:
        return _KnownHosts(name, host.known_hosts if file is None else file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PermanentError(f"the known_hosts of {name} cannot be read: {_why(error)}") from error


@contextlib.asynccontextmanager
async def _keys(name: str, host: Host, agent_path: str | None) -> AsyncIterator[Sequence[asyncssh.SSHKeyPair]]:
    """The keys to log in with, at least one: with none, asyncssh would take those in the user's folder."""
    if host.key_file is not None:
        yield await asyncio.to_thread(_keys_in, name, host.key_file)
        return
    if not agent_path:
        raise PermanentError(f"{name} wants the SSH agent's keys: start the worker with SSH_AUTH_SOCK")
    try:
        agent = await asyncssh.connect_agent(agent_path)
    except OSError as error:
        raise TemporaryError(f"the SSH agent cannot be reached for {name}: {_why(error)}") from error
    try:
        try:
            keys = await agent.get_keys()
        except ValueError as error:
            raise TemporaryError(f"the SSH agent shows no keys for {name}: {legible(str(error))}") from error
        if not keys:
            raise PermanentError(f"the SSH agent has no key for {name}: add one with ssh-add")
        yield keys
    finally:
        agent.close()
        await agent.wait_closed()


def _keys_in(name: str, file: Path) -> Sequence[asyncssh.SSHKeyPair]:
    try:
        keys = asyncssh.load_keypairs(str(file))
    except (OSError, ValueError) as error:
        raise PermanentError(f"the key_file of {name} cannot be read: {_why(error)}") from error
    if not keys:
        raise PermanentError(f"the key_file of {name} holds no private key")
    return keys


def _why(error: OSError | ValueError) -> str:
    """What is wrong, without the path: the message goes into the history."""
    return str(error.strerror) if isinstance(error, OSError) else legible(str(error))
