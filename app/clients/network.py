"""Which addresses an http step may reach: judged on the resolved address, when it connects (design §7).

A name is resolved once and the connection goes to the very address that was judged, so that a second answer of the
name server changes nothing.
"""

import ipaddress
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from app.core.errors import ConfigurationError, PermanentError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

NEVER = "are never reached"
NO_LOOPBACK = "loopback addresses are not allowed (RUNBOOKS_NETWORK__ALLOW_LOOPBACK)"
NO_PRIVATE = "private addresses are not allowed (RUNBOOKS_NETWORK__ALLOW_PRIVATE)"


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(map(ipaddress.ip_network, texts))


NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
PRIVATE = _networks("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
METADATA = _networks(  # where clouds keep credentials outside the link-local ranges
    "100.100.100.200/32",  # Alibaba
    "168.63.129.16/32",  # Azure
    "192.0.0.192/32",  # Oracle
    "fd00:ec2::/32",  # AWS
    "fd20:ce::254/128",  # Google
)
RESERVED = _networks(
    "64:ff9b:1::/48",  # RFC 8215: may carry any IPv4 address, and at which bits is not known
    "fec0::/10",  # RFC 3879: site-local, deprecated, which Python does not count among the reserved
)


class AddressRefused(OSError):
    """The policy does not allow this address."""


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """What is allowed besides public addresses."""

    allow_loopback: bool = False
    allow_private: bool = False

    def why_not(self, text: str) -> str | None:
        """Why an address may not be reached; None when it may."""
        address = _inner(ipaddress.ip_address(text.split("%", maxsplit=1)[0]))
        if address.is_link_local or _within(address, METADATA):
            return f"link-local and metadata addresses {NEVER}"
        if address.is_multicast or address.is_unspecified:
            return f"multicast and unspecified addresses {NEVER}"
        if address.is_loopback:
            return None if self.allow_loopback else NO_LOOPBACK
        if _within(address, PRIVATE):
            return None if self.allow_private else NO_PRIVATE
        # Python calls "private" whatever is not global; what is left of it here is reserved for something else
        reserved = address.is_reserved or not address.is_global or _within(address, RESERVED)
        return f"reserved addresses {NEVER}" if reserved else None

    def check_literal(self, host: str) -> None:
        """Judge a host that is an address itself.

        Raises PermanentError.
        """
        try:
            reason = self.why_not(host.strip("[]"))
        except ValueError:
            return
        if reason is not None:
            raise PermanentError(f"{host} is refused: {reason}")


def _within(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address in network for network in networks)


def _inner(address: Address) -> Address:
    """The IPv4 address that an IPv6 form carries, else the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address.teredo is not None:
        return address.teredo[1]
    return address


class JudgingResolver(AbstractResolver):
    """A resolver that gives only addresses the policy allows."""

    def __init__(self, policy: NetworkPolicy, inner: AbstractResolver | None = None) -> None:
        """Resolve with ``inner``, by default the system's resolver in a thread."""
        self._policy = policy
        self._inner = inner or ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The allowed addresses, at least one; raises OSError without any, AddressRefused without an allowed one."""
        found = await self._inner.resolve(host, port, family)
        allowed = [one for one in found if self._policy.why_not(one["host"]) is None]
        if not found:
            raise OSError(f"{host} has no address")
        if not allowed:
            raise AddressRefused(f"{host} is {found[0]['host']}: {self._policy.why_not(found[0]['host'])}")
        return allowed

    async def close(self) -> None:
        """Close the inner resolver."""
        await self._inner.close()


def trust_in(ca_file: Path | None, setting: str = "RUNBOOKS_NETWORK__CA_FILE") -> ssl.SSLContext:
    """How servers' certificates are verified: by the system's authorities and those in a PEM file.

    Raises ConfigurationError, naming the setting, when the file holds none.
    """
    context = ssl.create_default_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"{setting}: {ca_file} holds no PEM certificates that can be read: {error}"
            ) from error
    return context


class JudgingConnector(aiohttp.TCPConnector):
    """A connector that judges every address once more when its socket is made: an address in a URL needs no resolver.

    No connection is used twice: one that the server is just closing would make an outcome unknown without need.
    """

    def __init__(
        self,
        policy: NetworkPolicy,
        resolver: AbstractResolver | None = None,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        """Connect under the policy; names are never cached beyond one connection. trust: see ``trust_in``."""
        super().__init__(
            resolver=JudgingResolver(policy, resolver),
            ssl=trust or True,
            use_dns_cache=False,
            limit=128,
            force_close=True,
            socket_factory=lambda where: _socket(policy, where),
        )


def send_once(session: aiohttp.ClientSession) -> None:
    """Keep aiohttp from sending an idempotent request again by itself when its connection breaks.

    The log would know of one attempt, and the target of two; whether to try again is the step's to say. There is no
    public setting for it.
    """
    session._retry_connection = False  # noqa: SLF001


def _socket(policy: NetworkPolicy, where: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, _, address = where
    reason = policy.why_not(str(address[0]))
    if reason is not None:
        raise AddressRefused(f"{address[0]} is refused: {reason}")
    return socket.socket(family, kind, protocol)
