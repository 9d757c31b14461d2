"""Who calls: JSON Web Tokens through aiohttp-jwt, wrapped so that its known gaps are closed.

Outside of the library, because it has them not: the scheme must be exactly ``Bearer``; routes are public by name, not
by a prefix pattern; ``exp``, ``sub`` and ``tenant`` are required; one algorithm a key, never HS256 beside a JWKS; every
refusal is a 401 that says nothing of the token. Its middleware is only asked whether a token holds, with a handler that
does nothing, so that it never sees what the routes raise.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import jwt
from aiohttp import web
from aiohttp_jwt import JWTMiddleware
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.core.anomaly import TENANT_PATTERN
from app.web.parts import TokenRules
from app.web.problems import ApiProblem, Handler

ROLES = frozenset({"viewer", "operator", "approver", "author", "publisher", "admin"})
ALGORITHMS = frozenset({"RS256", "ES256"})
REFRESH_S = 30.0
JWKS_TIMEOUT_S = 5.0
PUBLIC = frozenset({"healthz", "readyz", "metrics", "openapi"})
Verifier = Callable[
    [web.Request, Callable[[web.Request], Awaitable[web.StreamResponse]]], Awaitable[web.StreamResponse]
]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a token names."""

    subject: str
    tenant: str
    roles: frozenset[str]

    def may(self, role: str) -> bool:
        """Whether the caller has a role; an admin has every one."""
        return role in self.roles or "admin" in self.roles


CALLER = "caller"


def caller_of(request: web.Request) -> Caller:
    """Who sent a request that was let in."""
    caller = request[CALLER]
    assert isinstance(caller, Caller)
    return caller


class Keys:
    """The keys that tokens may be signed with."""

    def __init__(self, rules: TokenRules) -> None:
        """With a secret it is the one key; with a JWKS they are fetched when a token first needs one."""
        self._rules = rules
        self._by_kid: dict[str, tuple[str, Verifier]] = {}
        self._fetched_at = float("-inf")
        self._fetching = asyncio.Lock()
        self._secret = None if rules.secret is None else self._verifier(rules.secret, "HS256")

    async def verifier_for(self, token: str) -> Verifier | None:
        """What verifies this token; None when no key of ours can have signed it."""
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            return None
        if self._secret is not None:
            return self._secret if header.get("alg") == "HS256" else None
        kid = header.get("kid")
        if not isinstance(kid, str):
            return None
        if kid not in self._by_kid and self._rules.jwks_url is not None:
            await self._refresh()
        algorithm, verifier = self._by_kid.get(kid, ("", None))
        return verifier if header.get("alg") == algorithm else None

    def _verifier(self, key: str, algorithm: str) -> Verifier:
        made: Verifier = JWTMiddleware(
            key,
            algorithms=[algorithm],
            audience=self._rules.audience,
            issuer=self._rules.issuer,
            request_property="jwt",
            auth_scheme=r"Bearer$",
        )
        return made

    async def _refresh(self) -> None:
        """Fetch the key set, at most once in 30 s however many unknown keys are named."""
        async with self._fetching:
            if time.monotonic() - self._fetched_at < REFRESH_S:
                return
            self._fetched_at = time.monotonic()
            try:
                found = await self._fetch()
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                raise ApiProblem(503, "the keys that tokens are checked with cannot be fetched") from error
            self._by_kid = dict(found)

    async def _fetch(self) -> list[tuple[str, tuple[str, Verifier]]]:
        timeout = aiohttp.ClientTimeout(total=JWKS_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(str(self._rules.jwks_url)) as answer:
            document: dict[str, Any] = await answer.json(content_type=None)
        return [usable for key in document.get("keys", []) if (usable := self._usable(key)) is not None]

    def _usable(self, key: dict[str, Any]) -> tuple[str, tuple[str, Verifier]] | None:
        """A signing key of a known algorithm, by its id; None for any other."""
        kid = key.get("kid")
        if not isinstance(kid, str) or key.get("use", "sig") != "sig":
            return None
        try:
            parsed = jwt.PyJWK(key)
        except jwt.PyJWTError:
            return None
        algorithm = str(key.get("alg") or parsed.algorithm_name)
        if algorithm not in ALGORITHMS:
            return None
        pem = parsed.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        return kid, (algorithm, self._verifier(pem, algorithm))


def auth_middleware(rules: TokenRules, required: dict[str, str]) -> Any:
    """The middleware; required maps a route's name to the role it needs."""
    keys = Keys(rules)

    @web.middleware
    async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
        route = request.match_info.route.name
        if request.match_info.http_exception is not None or route in PUBLIC:
            return await handler(request)
        caller = await _caller(request, keys)
        role = required[str(route)]
        if not caller.may(role):
            raise ApiProblem(
                403, f"this needs the role {role}, and the token has {', '.join(sorted(caller.roles)) or 'none'}"
            )
        request[CALLER] = caller
        return await handler(request)

    return authenticate


async def _caller(request: web.Request, keys: Keys) -> Caller:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme != "Bearer" or not token:
        raise _unauthorized("a token is needed: Authorization: Bearer …")
    verifier = await keys.verifier_for(token)
    if verifier is None:
        raise _unauthorized("the token does not hold")
    try:
        await verifier(request, _nothing)
    except (web.HTTPException, jwt.PyJWTError) as error:
        raise _unauthorized("the token does not hold") from error
    return _named(request["jwt"])


async def _nothing(_: web.Request) -> web.StreamResponse:
    return web.Response()


def _named(claims: dict[str, Any]) -> Caller:
    """The caller of verified claims; a token without an end, a subject or a tenant names nobody."""
    subject, tenant, roles = claims.get("sub"), claims.get("tenant"), claims.get("roles", [])
    whole = isinstance(subject, str) and subject and isinstance(tenant, str) and re.match(TENANT_PATTERN, tenant)
    if "exp" not in claims or not whole or not isinstance(roles, list):
        raise _unauthorized("the token lacks one of exp, sub, tenant, roles")
    known = frozenset(role for role in roles if isinstance(role, str)) & ROLES
    return Caller(subject=str(subject)[:200], tenant=str(tenant), roles=known)


def _unauthorized(detail: str) -> ApiProblem:
    return ApiProblem(401, detail, headers={"WWW-Authenticate": "Bearer"})
