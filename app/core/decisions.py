"""A decision on its way to the log: signed by whoever checked the person (design §7)."""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import Field, TypeAdapter

from app.core.anomaly import TenantId
from app.core.events import ApprovalDecided, Decision, Source
from app.core.model import Frozen, Instant, canonical, read_record

GroupName = Annotated[str, Field(min_length=1, max_length=200)]


class ApprovalDecision(Frozen):
    """One record of ``approval-decisions``.

    step: counted from 0. groups: the decider's. run, request, digest: what was decided on, None for whatever waits.
    refusal: why whoever checked the person did not let it count; it is recorded all the same.
    key_id, signature: which key signed it, and HMAC-SHA256 in hex over all other fields; None when unsigned.
    """

    tenant: TenantId
    execution_id: Annotated[str, Field(min_length=1, max_length=200)]
    step: Annotated[int, Field(ge=0)]
    decision: Decision
    by: Annotated[str, Field(min_length=1, max_length=200)]
    groups: Annotated[tuple[GroupName, ...], Field(max_length=200)] = ()
    source: Source
    comment: Annotated[str, Field(max_length=4096)] = ""
    run: int | None = None
    request: int | None = None
    digest: Annotated[str, Field(max_length=200)] | None = None
    refusal: Annotated[str, Field(max_length=1024)] | None = None
    at: Instant
    key_id: Annotated[str, Field(max_length=200)] | None = None
    signature: Annotated[str, Field(max_length=200)] | None = None

    def signed(self, key_id: str, key: bytes) -> Self:
        """The same decision with its signature."""
        named = self.model_copy(update={"key_id": key_id})
        return named.model_copy(update={"signature": named.expected_signature(key)})

    def expected_signature(self, key: bytes) -> str:
        """What the signature must be under a key."""
        said = canonical(self.model_dump(mode="json", exclude={"signature"}))
        return hmac.new(key, said.encode(), hashlib.sha256).hexdigest()

    def event(self, refusal: str | None) -> ApprovalDecided:
        """The event that records it; refusal says why it does not count, for a reason besides its own."""
        fields = self.model_dump(exclude={"key_id", "signature", "refusal"})
        return ApprovalDecided(**fields, refusal=self.refusal or refusal)


DECISIONS: TypeAdapter[ApprovalDecision] = TypeAdapter(ApprovalDecision)


def why_not_signed(decision: ApprovalDecision, keys: Mapping[str, bytes]) -> str | None:
    """Why the signature does not hold under the known keys; None when it does."""
    if decision.signature is None or decision.key_id is None:
        return "the decision is not signed"
    key = keys.get(decision.key_id)
    if key is None:
        return "the decision is signed with a key that is not known"
    if not hmac.compare_digest(decision.signature.encode(), decision.expected_signature(key).encode()):
        return "the decision's signature does not hold"
    return None


def read_decision(raw: bytes | None) -> ApprovalDecision:
    """Read one record of the topic.

    Raises RecordRefused.
    """
    decision: ApprovalDecision = read_record(raw, DECISIONS)
    return decision
