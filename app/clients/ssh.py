"""Commands on named hosts, over SSH: connections are shared, output is bounded, foreign errors translated."""

import asyncio
import functools
import os
from collections.abc import Mapping
from pathlib import Path

import asyncssh

from app.clients.foreign_text import legible
from app.clients.ssh_connections import Connection, Connections
from app.clients.ssh_inventory import Host, Inventory
from app.clients.ssh_login import connect
from app.clients.ssh_script import Script
from app.clients.ssh_session import Ran, Session
from app.core.errors import PermanentError, TemporaryError

NOT_CONFIGURED = "SSH is not configured: set RUNBOOKS_SSH__INVENTORY to a file that names the hosts"
OPEN_TIMEOUT_S = 5.0
GRACE_S = 10.0  # the host kills 5 s after its first try, and the runner waits 15
CHECK_TIMEOUT_S = 30.0


class _NotOpenedError(Exception):
    """No session was opened; nothing was sent."""


class SshClient:
    """The hosts of an inventory; off without one."""

    def __init__(
        self,
        inventory: Path | None = None,
        environment: Mapping[str, str] | None = None,
        *,
        open_timeout_s: float = OPEN_TIMEOUT_S,
        grace_s: float = GRACE_S,
    ) -> None:
        """Read the inventory; nothing connects yet.

        environment: where SSH_AUTH_SOCK is, by default the process's. open_timeout_s: how long a host may take to open
        a session on a connection that is there. grace_s: how long after a command's time limit it may take to tell
        that the command was stopped. Raises ConfigurationError.
        """
        self._inventory = None if inventory is None else Inventory(inventory)
        self._environment = os.environ if environment is None else environment
        self._open_timeout_s = open_timeout_s
        self._grace_s = grace_s
        self._connections: dict[tuple[str, Host], Connections] = {}

    async def close(self) -> None:
        """Close every connection."""
        await asyncio.gather(*(one.close() for one in self._connections.values()))
        self._connections.clear()

    async def check(self, tenant: str, name: str, script: Script) -> Host:
        """The host, after a connection to it is there: nothing is run.

        Raises PermanentError (no such host for the tenant, a user or a script that may not be, a login that is
        refused) or TemporaryError (not reached).
        """
        host = self._host(tenant, name, script)
        await self._to(name, host).free(asyncio.get_running_loop().time() + CHECK_TIMEOUT_S)
        return host

    async def run(self, tenant: str, name: str, script: Script, timeout_s: float) -> Ran:
        """Run it; the host stops it when timeout_s are over, and what became of it is told at most 10 s later.

        Raises as check; nothing was run then.
        """
        host = self._host(tenant, name, script)
        connections = self._to(name, host)
        began = asyncio.get_running_loop().time()
        deadline = began + timeout_s
        async with connections.place(deadline):
            while True:
                connection = await connections.free(deadline)
                with connection.used():
                    try:
                        return await self._carried_out(connection, script, deadline)
                    except _NotOpenedError as error:
                        others = connection.opened_none()
                        if not others and not connection.has_served and connection.opened_at >= began:
                            raise TemporaryError(f"{name} opens no session, nothing was run: {error}") from error
                    except asyncssh.ChannelOpenError as error:
                        raise TemporaryError(f"{name} refused to run a command, nothing was run") from error

    async def _carried_out(self, connection: Connection, script: Script, deadline: float) -> Ran:
        """Run it in a session of its own.

        Raises _NotOpenedError when there was none, asyncssh.ChannelOpenError when the host refused to run it.
        """
        allowed_s = round(deadline - asyncio.get_running_loop().time(), 2)
        if allowed_s <= 0:
            raise TemporaryError("the time was over before the command could be sent: nothing was run")
        limit = asyncio.timeout(min(self._open_timeout_s, allowed_s))

        def sent() -> None:
            connection.has_served = True
            limit.reschedule(deadline + self._grace_s)

        session = Session(when_sent=sent)
        try:
            async with limit:
                await _spoken(connection, session, script, allowed_s)
        except TimeoutError:
            if not session.sent:
                raise _NotOpenedError("it did not answer in time") from None
        finally:
            session.drop()
        return session.ran(allowed_s)

    def _host(self, tenant: str, name: str, script: Script) -> Host:
        if self._inventory is None:
            raise PermanentError(NOT_CONFIGURED)
        host = self._inventory.host(tenant, name)
        user = script.sudo_user
        if user is not None and host.sudo_users is not None and user not in host.sudo_users:
            raise PermanentError(f"the SSH inventory does not allow the sudo_user {user} on {name}")
        script.check()
        return host

    def _to(self, name: str, host: Host) -> Connections:
        found = self._connections.get((name, host))
        if found is None:
            for (other, _), connections in self._connections.items():
                if other == name:  # the inventory says something else about it now
                    connections.retire()
            login = functools.partial(connect, name, host, self._environment.get("SSH_AUTH_SOCK"))
            found = self._connections[name, host] = Connections(name, login)
        return found


async def _spoken(connection: Connection, session: Session, script: Script, allowed_s: float) -> None:
    """Say it all and hear it all, as far as the connection holds."""
    line = script.line(allowed_s)
    try:
        await connection.ssh.create_session(lambda: session, line, request_pty=False, encoding=None)
    except (asyncssh.Error, OSError) as error:
        if not session.sent:
            raise _NotOpenedError(legible(str(error))) from error
        if isinstance(error, asyncssh.ChannelOpenError) and not session.closed:
            raise  # a clear no; on a session that is over, asyncssh says the same of no answer at all
        return
    session.feed(script.input())
    await session.over()
