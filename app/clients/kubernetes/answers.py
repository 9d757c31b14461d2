"""What the Kubernetes API answers: each kind's fields that we need, checked before anything is made of them.

kubernetes_asyncio's own models make an empty object of any answer, which is no count of 0, and drop fields that are
newer than they are: a pod template that went through them would lose these. So templates stay JSON here.
"""

from typing import Annotated, ClassVar, Literal, assert_never

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

Identity = Annotated[str, Field(min_length=1)]


class Answer(BaseModel):
    """Part of an object of the API; unknown fields are passed over.

    A whole object is a subclass with ``kind: Literal[...]``, so that no other kind is taken for it.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel)


class Owner(Answer):
    """One of an object's ownerReferences."""

    kind: str
    name: str
    uid: Identity
    controller: bool = False


class Metadata(Answer):
    """Who an object is; resource_version changes with every write to it, its status included."""

    name: Identity
    uid: Identity
    resource_version: Identity
    namespace: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    owner_references: tuple[Owner, ...] = ()
    deletion_timestamp: AwareDatetime | None = None

    def controlled_by(self, uid: str) -> bool:
        """Whether the object with this uid is its controller."""
        return any(owner.controller and owner.uid == uid for owner in self.owner_references)


class Selector(Answer):
    """A label selector: all of its requirements hold."""

    class Requirement(Answer):
        """``key In (a, b)``, ``NotIn``, ``Exists`` or ``DoesNotExist``."""

        key: str
        operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
        values: tuple[str, ...] = ()

        def __str__(self) -> str:
            """As the query parameter ``labelSelector`` has it."""
            match self.operator:
                case "In" | "NotIn":
                    return f"{self.key} {self.operator.lower()} ({','.join(self.values)})"
                case "Exists":
                    return self.key
                case "DoesNotExist":
                    return f"!{self.key}"
                case _ as never:
                    assert_never(never)

    match_labels: dict[str, str] = Field(default_factory=dict)
    match_expressions: tuple[Requirement, ...] = ()

    def __str__(self) -> str:
        """As the query parameter ``labelSelector``."""
        return ",".join(
            [*(f"{key}={value}" for key, value in self.match_labels.items()), *map(str, self.match_expressions)]
        )


class Page(Answer):
    """The metadata of a list: where the next page goes on; empty on the last one."""

    continue_: Annotated[str, Field(alias="continue")] = ""
