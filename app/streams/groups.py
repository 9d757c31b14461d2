"""Which consumer groups carry out which commands: two groups on one topic would do everything twice."""

from collections.abc import Iterable

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from aiokafka.errors import KafkaError
from aiokafka.protocol.admin import DescribeGroupsRequest_v3, DescribeGroupsResponse_v3

from app.core.errors import ConfigurationError
from app.streams.connection import KafkaConnection

DescribeGroupsRequest_v3.RESPONSE_TYPE = DescribeGroupsResponse_v3  # aiokafka 0.14 reads the answer as version 2's


def group_of(group_id: str, kinds: frozenset[str]) -> str:
    """The group of workers that carry out some kinds of steps and do nothing else."""
    return "-".join([group_id, *sorted(kinds)])


def is_of(family: str, group_id: str) -> bool:
    """Whether a group is that of the whole workers or, by its name, of workers for some kinds beside them."""
    return group_id == family or group_id.startswith(f"{family}-")


async def refuse_other_readers(connection: KafkaConnection, topics: Iterable[str], own_group: str, family: str) -> None:
    """Make sure that no other group of the family with members reads any of the topics.

    family: the group of whole workers; those of workers for some kinds begin with its name.

    Raises ConfigurationError naming the group, the topic and the remedy.
    """
    wanted = set(topics)
    admin = AIOKafkaAdminClient(**connection.client_arguments())
    try:
        await admin.start()
        known = [name for name, kind in await admin.list_consumer_groups() if kind == "consumer" and name != own_group]
        groups = [name for name in known if is_of(family, name)]
        described = [group for answer in await admin.describe_consumer_groups(groups) for group in answer.groups]
    except KafkaError as error:
        raise ConfigurationError(f"the broker does not say who reads the commands: {error!r}") from error
    finally:
        await admin.close()
    for group in described:
        _, name, _, _, _, members, *_ = group
        both = wanted & {topic for member in members for topic in subscription_of(member[3])}
        if both:
            raise ConfigurationError(
                f"the consumer group {name} reads {', '.join(sorted(both))} too, and such steps would be done twice: "
                "stop its workers, or give the kind to one side with --actions and tell the other with --elsewhere"
            )


def subscription_of(metadata: bytes) -> list[str]:
    """The topics that a member of a group reads, as the broker has it from that member."""
    return ConsumerProtocolMemberMetadata.decode(metadata).subscription if metadata else []
