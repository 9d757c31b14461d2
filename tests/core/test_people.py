import pytest

from app.core.errors import ConfigurationError
from app.core.people import read_slack_users

ANN = {"team": "T1", "user": "U1", "subject": "ann", "roles": ["approver"]}


def test_who_is_known_and_what_they_may():
    people = read_slack_users({"users": [ANN, {**ANN, "team": "T2", "subject": "bob", "roles": ["viewer"]}]}, "f")
    assert people.find("T1", "U1").subject == "ann"
    assert people.find("T1", "U2") is None
    assert people.find("T1", "U1").why_not("default") is None
    assert people.find("T1", "U1").why_not("other") == "ann has no part in this tenant"
    assert people.find("T2", "U1").why_not("default") == "bob has not the role approver"
    assert (people.reach("bob"), people.reach("cy")) == ("U1", None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"users": [{**ANN, "rolls": []}]}, r"f: users\[0\].rolls: unknown field \(did you mean 'roles'\?\)"),
        ({"users": [ANN, {**ANN, "subject": "eve"}]}, "f: users mapped more than once: T1/U1"),
    ],
)
def test_a_mapping_that_cannot_be_taken(content, message):
    with pytest.raises(ConfigurationError, match=message):
        read_slack_users(content, "f")
