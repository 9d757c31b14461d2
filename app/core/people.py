"""Who the people of a Slack workspace are to us."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from app.core.anomaly import TenantId
from app.core.errors import ConfigurationError
from app.core.model import Frozen, problems_of

ROLES_THAT_DECIDE = frozenset({"approver", "admin"})
Label = Annotated[str, Field(min_length=1, max_length=200)]


class SlackUser(Frozen):
    """One person: a Slack user id of one team, and the subject, roles, groups and tenants it stands for."""

    team: Label
    user: Label
    subject: Label
    roles: tuple[Literal["viewer", "operator", "approver", "author", "publisher", "admin"], ...] = ()
    groups: tuple[Label, ...] = ()
    tenants: Annotated[tuple[TenantId, ...], Field(min_length=1)] = ("default",)

    def why_not(self, tenant: str) -> str | None:
        """Why the person may decide nothing for a tenant; None when it may."""
        if tenant not in self.tenants:
            return f"{self.subject} has no part in this tenant"
        if ROLES_THAT_DECIDE.isdisjoint(self.roles):
            return f"{self.subject} has not the role approver"
        return None


class SlackUsers(Frozen):
    """All that are known. Names in Slack can be changed by whoever bears them: only ids are looked at."""

    users: tuple[SlackUser, ...] = ()

    def find(self, team: str, user: str) -> SlackUser | None:
        """The person behind an id of a team; None for one that is not mapped."""
        return next((one for one in self.users if (one.team, one.user) == (team, user)), None)

    def reach(self, subject: str) -> str | None:
        """The Slack id under which a subject can be told something; None for one that is not mapped."""
        return next((one.user for one in self.users if one.subject == subject), None)


def read_slack_users(content: Mapping[str, Any], where: str) -> SlackUsers:
    """Read the mapping.

    Raises ConfigurationError naming the file, every field that is wrong, and ids that are mapped twice.
    """
    try:
        people = SlackUsers.model_validate(content)
    except ValidationError as error:
        told = "; ".join(str(problem) for problem in problems_of(error, SlackUsers))
        raise ConfigurationError(f"{where}: {told}") from error
    ids = [(one.team, one.user) for one in people.users]
    twice = sorted({one for one in ids if ids.count(one) > 1})
    if twice:
        named = ", ".join("/".join(one) for one in twice)
        raise ConfigurationError(f"{where}: users mapped more than once: {named}")
    return people
