"""The keys that tokens are signed with, and the check of one token with one of them, through aiohttp-jwt.

Each key has one verifier of one algorithm, so that no token chooses how it is checked. aiohttp-jwt knows no leeway: a
token that it refuses for its times alone is looked at once more by PyJWT with the same key, algorithm and claims.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import jwt
from aiohttp import web
from aiohttp_jwt import JWTMiddleware
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import BaseModel

from app.ending import cancelled
from app.web.parts import TokenRules
from app.web.problems import ApiProblem

ALGORITHMS = frozenset({"RS256", "ES256"})
MIN_RSA_BITS = 2048
FRESH_S = 300.0  # a key that was withdrawn is let in no longer than this
KEPT_S = 3600.0  # the same while the JWKS cannot be fetched
GRACE_S = 0.5  # how long a call whose key is known waits for newer ones, where the server answered the last time
PAUSE_S = 30.0  # from one fetch to the next, however many unknown keys are named
RETRY_S = 2.0  # the same after one that failed
JWKS_TIMEOUT_S = 5.0
logger = logging.getLogger(__name__)


class KeySet(BaseModel):
    """A JWK set (RFC 7517 section 5)."""

    keys: list[dict[str, Any]]


class TokenRefused(Exception):
    """A token that does not hold."""


class AudienceUnset(TokenRefused):
    """A token that holds but for its audience, where no audience is set."""


class _Presented(dict[str, Any]):
    """A token as aiohttp-jwt wants to see it: in a request, of which it reads no more than this.

    No other method or header of the real request can then change what it does (it lets OPTIONS pass unseen).
    """

    method = "GET"

    def __init__(self, token: str) -> None:
        super().__init__()
        self.headers = {"Authorization": f"Bearer {token}"}


class Verifier:
    """Checks tokens with one key and one algorithm."""

    def __init__(self, key: str, algorithm: str, rules: TokenRules) -> None:
        """key: a secret, or a public key as PEM."""
        self.algorithm = algorithm
        self._key = key
        self._rules = rules
        self._middleware = JWTMiddleware(
            key,
            algorithms=[algorithm],
            audience=rules.audience,
            issuer=rules.issuer,
            request_property="jwt",
            auth_scheme=r"Bearer$",
        )

    async def claims(self, token: str) -> dict[str, Any]:
        """The claims of a token.

        Raises TokenRefused, which says nothing of the token.
        """
        try:
            return await self._claims(token)
        except (web.HTTPException, jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            of_audience = any(isinstance(one, jwt.InvalidAudienceError) for one in (error, error.__context__))
            refused = AudienceUnset if of_audience and self._rules.audience is None else TokenRefused
            raise refused("the token does not hold") from error

    async def _claims(self, token: str) -> dict[str, Any]:
        presented = _Presented(token)
        try:
            await self._middleware(presented, handler=_nothing)
        except web.HTTPUnauthorized as refusal:
            if not isinstance(refusal.__context__, jwt.ExpiredSignatureError | jwt.ImmatureSignatureError):
                raise
            return self._with_leeway(token)
        claims: dict[str, Any] = presented["jwt"]
        return claims

    def _with_leeway(self, token: str) -> dict[str, Any]:
        decoded: dict[str, Any] = jwt.decode(
            token,
            self._key,
            algorithms=[self.algorithm],
            audience=self._rules.audience,
            issuer=self._rules.issuer,
            leeway=self._rules.leeway_s,
        )
        return decoded


async def _nothing(_: _Presented) -> None:
    """The handler that the middleware guards."""


class Keys:
    """The keys that tokens may be signed with."""

    def __init__(self, rules: TokenRules, monotonic: Callable[[], float] = time.monotonic) -> None:
        """With a secret it is the one key; with a JWKS they are fetched when a token first needs one."""
        self._rules = rules
        self._monotonic = monotonic
        self._by_kid: dict[str, Verifier] = {}
        self._next_at = float("-inf")
        self._fetched_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None
        self._answers = True
        self._told_of_audience = False
        self._secret = None if rules.secret is None else Verifier(rules.secret, "HS256", rules)
        # The library logs a traceback for every token that does not hold: anyone could flood the log with them.
        logging.getLogger("aiohttp_jwt.middleware").setLevel(logging.CRITICAL)

    async def stop(self) -> None:
        """End a fetch that is under way."""
        if self._fetching is not None:
            await cancelled(self._fetching)

    async def claims(self, token: str) -> dict[str, Any]:
        """The claims of a token that a key of ours has signed.

        Raises TokenRefused, ApiProblem when the keys cannot be had.
        """
        verifier = await self._verifier_for(token)
        try:
            return await verifier.claims(token)
        except AudienceUnset:
            if not self._told_of_audience:  # once: every token of an issuer that names audiences comes to this
                self._told_of_audience = True
                said = "tokens with an aud are refused: set RUNBOOKS_API__JWT_AUDIENCE to what they name"
                logger.warning("token_audience_unset", extra={"error": said})
            raise

    async def _verifier_for(self, token: str) -> Verifier:
        """What verifies this token.

        Raises TokenRefused when no key of ours can have signed it, ApiProblem when the keys cannot be had.
        """
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise TokenRefused("the token does not hold") from error
        verifier = self._secret or await self._by_name(header.get("kid"))
        if verifier is None or header.get("alg") != verifier.algorithm:
            raise TokenRefused("the token does not hold")
        return verifier

    async def _by_name(self, kid: object) -> Verifier | None:
        if not isinstance(kid, str):
            return None
        if kid not in self._by_kid or self._age_s() > KEPT_S:
            await self._newer_keys(None)
        elif self._age_s() > FRESH_S:
            await self._newer_keys(GRACE_S if self._answers else 0.0)
        if self._age_s() > KEPT_S:
            raise ApiProblem(503, "the keys that tokens are checked with cannot be fetched")
        return self._by_kid.get(kid)

    def _age_s(self) -> float:
        return self._monotonic() - self._fetched_at

    async def _newer_keys(self, within_s: float | None) -> None:
        """Wait for the fetch that is under way, or a new one where one is due: calls share it, and it outlives them.

        within_s: how long is waited at most; None is until it has ended.
        """
        if self._fetching is None or self._fetching.done():
            if self._monotonic() < self._next_at:
                return
            self._fetching = asyncio.create_task(self._refresh(), name="jwks")
        _, pending = await asyncio.wait({self._fetching}, timeout=within_s)
        if pending:
            self._answers = False

    async def _refresh(self) -> None:
        """Fetch the key set; what was fetched before stays when it cannot be had.

        Raises nothing: there may be no call that waits for it.
        """
        try:
            self._by_kid = await self._fetch()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            self._answers = False
            logger.warning("jwks_not_fetched", extra={"error": repr(error)})
        except Exception:
            self._answers = False
            logger.exception("jwks_not_understood")
        else:
            self._answers = True
            self._fetched_at = self._monotonic()
        self._next_at = self._monotonic() + (PAUSE_S if self._answers else RETRY_S)

    async def _fetch(self) -> dict[str, Verifier]:
        timeout = aiohttp.ClientTimeout(total=JWKS_TIMEOUT_S)
        async with (
            aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as session,
            session.get(str(self._rules.jwks_url)) as answer,
        ):
            found = KeySet.model_validate_json(await answer.read())
        usable = (self._usable(key) for key in found.keys)
        return {kid: verifier for kid, verifier in usable if verifier is not None}

    def _usable(self, key: dict[str, Any]) -> tuple[str, Verifier | None]:
        """A public signing key of a known algorithm and enough bits, by its id; None for any other."""
        kid = key.get("kid")
        if not isinstance(kid, str) or key.get("use", "sig") != "sig":
            return "", None
        try:
            parsed = jwt.PyJWK(key)
        except (jwt.PyJWTError, TypeError, ValueError):  # PyJWT looks fields up that may be no text
            return kid, None
        algorithm = str(key.get("alg") or parsed.algorithm_name)
        if algorithm not in ALGORITHMS or not _strong(parsed.key):
            return kid, None
        pem = parsed.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        return kid, Verifier(pem, algorithm, self._rules)


def _strong(key: object) -> bool:
    if isinstance(key, RSAPublicKey):
        return key.key_size >= MIN_RSA_BITS
    return isinstance(key, EllipticCurvePublicKey)
