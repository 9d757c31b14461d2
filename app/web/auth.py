"""Who calls, and whether they may: JSON Web Tokens, their claims and roles.

aiohttp-jwt checks a token's signature, audience, issuer and times (app/web/keys.py). Outside of it, because it has them
not: the scheme must be exactly ``Bearer``; routes are public by name, not by a prefix pattern; ``exp``, ``sub`` and
``tenant`` are required; roles are compared whole; a token that does not verify is a 401 that does not say why.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from aiohttp import web

from app.core.anomaly import TENANT_PATTERN
from app.web.keys import Keys, TokenRefused
from app.web.problems import ApiProblem, Handler

Role = Literal["viewer", "operator", "approver", "author", "publisher", "admin"]
ROLES: frozenset[str] = frozenset(get_args(Role))
MAX_GROUPS = 200
MAX_SUBJECT = 200  # characters; longer ones are refused, as a cut one could be somebody else's


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a token names; groups are those that a step's approvers may name as ``group:NAME``."""

    subject: str
    tenant: str
    roles: frozenset[str]
    groups: tuple[str, ...] = ()

    def may(self, roles: tuple[Role, ...]) -> bool:
        """Whether the caller has one of these roles; an admin has every one."""
        return "admin" in self.roles or not self.roles.isdisjoint(roles)


CALLER: web.RequestKey[Caller] = web.RequestKey("caller", Caller)


def caller_of(request: web.Request) -> Caller:
    """Who sent a request that was let in."""
    return request[CALLER]


def auth_middleware(keys: Keys, required: Mapping[str, tuple[Role, ...]]) -> Any:
    """The middleware.

    keys: whoever made them stops them, too. required: by a route's name the roles of which one is needed; empty is
    public. A route that is not in it breaks.
    """

    @web.middleware
    async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.match_info.http_exception is not None:
            return await handler(request)
        roles = required[str(request.match_info.route.name)]
        if not roles:
            return await handler(request)
        caller = await _caller(request, keys)
        if not caller.may(roles):
            held = ", ".join(sorted(caller.roles)) or "none"
            raise ApiProblem(403, f"this needs the role {' or '.join(roles)}; the token's roles: {held}")
        request[CALLER] = caller
        return await handler(request)

    return authenticate


async def _caller(request: web.Request, keys: Keys) -> Caller:
    given = request.headers.getall("Authorization", [])
    scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    if scheme != "Bearer" or not token:
        raise ApiProblem(
            401, "a token is needed, as in: Authorization: Bearer <token>", headers={"WWW-Authenticate": "Bearer"}
        )
    try:
        return _named(await keys.claims(token))
    except TokenRefused as error:
        challenge = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
        raise ApiProblem(401, str(error), headers=challenge) from error


def _named(claims: dict[str, Any]) -> Caller:
    """The caller of verified claims.

    Raises TokenRefused: a token without an end, a subject or a tenant names nobody.
    """
    subject, tenant, roles = claims.get("sub"), claims.get("tenant"), claims.get("roles", [])
    if "exp" not in claims:
        raise TokenRefused("the token has no exp")
    if not isinstance(subject, str) or not subject.strip() or len(subject) > MAX_SUBJECT or not subject.isprintable():
        raise TokenRefused(f"the token's sub must be 1 to {MAX_SUBJECT} printable characters")
    if not isinstance(tenant, str) or not re.fullmatch(TENANT_PATTERN, tenant):
        raise TokenRefused("the token's tenant must be the name of a tenant")
    if not isinstance(roles, list):
        raise TokenRefused("the token's roles must be a list")
    known = frozenset(role for role in roles if isinstance(role, str)) & ROLES
    return Caller(subject=subject, tenant=tenant, roles=known, groups=_groups(claims.get("groups", [])))


def _groups(claim: object) -> tuple[str, ...]:
    """The claim ``groups``: a list of names.

    Raises TokenRefused.
    """
    names = claim if isinstance(claim, list) else [None]
    if len(names) > MAX_GROUPS or not all(isinstance(one, str) and 0 < len(one) <= MAX_SUBJECT for one in names):
        raise TokenRefused(f"the token's groups must be a list of at most {MAX_GROUPS} names")
    return tuple(names)
