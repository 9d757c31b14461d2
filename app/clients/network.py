"""Which addresses an http step may reach: judged on the resolved address, when it connects (design §7).

A name is resolved once and the connection goes to the very address that was judged, so that a second answer of the
name server changes nothing.
"""

import ipaddress
import socket
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from app.core.errors import PermanentError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
NAT64 = ipaddress.ip_network("64:ff9b::/96")
SHARED = ipaddress.ip_network("100.64.0.0/10")
METADATA = frozenset(map(ipaddress.ip_address, ("169.254.169.254", "fd00:ec2::254", "100.100.100.200", "192.0.0.192")))


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
        if address in METADATA or address.is_link_local:
            return "link-local and metadata addresses are never reached"
        if address.is_loopback:
            return (
                None if self.allow_loopback else "loopback addresses are not allowed (RUNBOOKS_NETWORK__ALLOW_LOOPBACK)"
            )
        if address.is_multicast or address.is_unspecified:
            return "multicast and unspecified addresses are never reached"
        if address.is_private or (address.version == 4 and address in SHARED):
            return None if self.allow_private else "private addresses are not allowed (RUNBOOKS_NETWORK__ALLOW_PRIVATE)"
        return "reserved addresses are never reached" if address.is_reserved else None

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
        """The allowed addresses; raises AddressRefused when there is none."""
        found = await self._inner.resolve(host, port, family)
        allowed = [one for one in found if self._policy.why_not(one["host"]) is None]
        if found and not allowed:
            raise AddressRefused(f"{host} is {found[0]['host']}: {self._policy.why_not(found[0]['host'])}")
        return allowed

    async def close(self) -> None:
        """Close the inner resolver."""
        await self._inner.close()


class JudgingConnector(aiohttp.TCPConnector):
    """A connector that also judges hosts given as addresses, which need no resolver."""

    def __init__(self, policy: NetworkPolicy, resolver: AbstractResolver | None = None) -> None:
        """Connect under the policy; names are never cached beyond one connection."""
        super().__init__(resolver=JudgingResolver(policy, resolver), use_dns_cache=False, limit=128)
        self._policy = policy

    async def _resolve_host(self, host: str, port: int, traces: Any = None) -> list[ResolveResult]:
        try:
            reason = self._policy.why_not(host)
        except ValueError:
            reason = None
        if reason is not None:
            raise AddressRefused(f"{host} is refused: {reason}")
        return await super()._resolve_host(host, port, traces)
