from datetime import UTC, datetime

import pytest
from building import runbook, slack
from hypothesis import given
from hypothesis import strategies as st

from app.core.anomaly import anomaly_of
from app.core.catalog import Catalog, RunbookDeleted, RunbookPut, Verdict, change_key, read_change
from app.core.errors import RecordRefused
from app.core.matching import Match, Miss, match, why_not

AT = datetime(2026, 1, 1, tzinfo=UTC)


def put(name="r", message="m", tenant="default", expected=None, **trigger):
    definition = runbook(slack(message=message), name=name, trigger=trigger or {"service_id": "s"})
    return RunbookPut(tenant=tenant, runbook=definition, by="ann", at=AT, expected_version=expected)


def deleted(name="r", expected=None):
    return RunbookDeleted(tenant="default", name=name, by="ann", at=AT, expected_version=expected)


def filled(*changes) -> Catalog:
    catalog = Catalog()
    for change in changes:
        catalog.apply(change)
    return catalog


def test_a_version_counts_changes_to_other_content():
    catalog = Catalog()
    versions = [catalog.apply(put(message=text)).definition.version for text in ("a", "a", "b", "a")]
    assert versions == [1, 1, 2, 3]
    assert [one.version for one in catalog.versions("default", "r")] == [1, 2, 3]
    assert catalog.get("default", "r").version == 3
    assert catalog.get("default", "r", 2).runbook.steps[0].message == "b"
    assert catalog.get("default", "r", 9) is None


def test_an_expected_version_must_hold():
    catalog = filled(put(message="a", expected=0))
    assert catalog.apply(put(message="b", expected=7)).refusal == "it is at version 1, not 7"
    assert catalog.apply(put(message="b", expected=0)).refusal == "it is at version 1, not 0"
    assert catalog.apply(put(message="b", expected=1)).definition.version == 2


def test_deleted_it_matches_nothing_and_its_versions_stay():
    catalog = filled(put())
    assert catalog.apply(deleted(expected=9)).refusal
    assert catalog.apply(deleted()) == Verdict(None)
    assert (len(catalog), list(catalog.candidates("default", "s", "m"))) == (0, [])
    assert len(catalog.versions("default", "r")) == 1
    assert catalog.apply(deleted()).refusal == "no such runbook"
    assert catalog.apply(put()).definition.version == 2


def test_tenants_are_apart():
    catalog = filled(put(), put(tenant="other"), put(name="b"))
    assert [one.name for one in catalog.all_of("default")] == ["b", "r"]
    assert [one.tenant for one in catalog.candidates("other", "s", "m")] == ["other"]


def test_records_round_trip_and_unreadable_ones_are_refused():
    for change in (put(), deleted()):
        assert read_change(change.model_dump_json().encode()) == change
        assert change_key(change) == "default/r"
    for raw in (b"{", b'{"type":"runbook_put"}', None):
        with pytest.raises(RecordRefused):
            read_change(raw)


def anomaly(**fields):
    return anomaly_of({"service_id": "s", "metric_name": "m", **fields}, anomaly_id="a", received_at=AT)


def test_one_answer_for_every_candidate():
    catalog = filled(
        put("a", service_id="s", condition="anomaly_score > 0.7"),
        put("b", metric_name="m", condition="labels.zone == 'x'"),
        put("c", condition="anomaly.metric_name == 'm'"),
        put("d", service_id="other"),
        RunbookPut(tenant="default", runbook=runbook(slack(), name="manual", trigger=None), by="ann", at=AT),
    )
    high, low = match(anomaly(anomaly_score=0.9), catalog), match(anomaly(anomaly_score=0.1), catalog)
    assert [type(one) for one in high] == [Match, Miss, Match]
    assert [one.definition.name for one in high] == ["a", "b", "c"]
    assert "labels" in high[1].reason or "zone" in high[1].reason
    assert low[0].reason == "condition `anomaly_score > 0.7` is false"
    assert match(anomaly(tenant_id="other"), catalog) == ()
    assert why_not(high[0].definition.runbook.trigger, {"service_id": "t"}) == "service_id is 't', not 's'"


def test_a_trigger_without_a_condition_holds():
    (answer,) = match(anomaly(), filled(put()))
    assert isinstance(answer, Match)


NAMES = st.sampled_from(["*", "a", "b"])


@given(st.lists(st.tuples(NAMES, NAMES, st.booleans()), max_size=8), st.sampled_from("ab"), st.sampled_from("ab"))
def test_the_index_finds_what_looking_at_all_finds(triggers, service, metric):
    catalog = Catalog()
    for number, (service_id, metric_name, gone) in enumerate(triggers):
        name = f"r{number}"
        catalog.apply(put(name, service_id=service_id, metric_name=metric_name, condition="true"))
        if gone:
            catalog.apply(deleted(name))
    found = [one.name for one in catalog.candidates("default", service, metric)]
    expected = [
        f"r{number}"
        for number, (service_id, metric_name, gone) in enumerate(triggers)
        if service_id in ("*", service) and metric_name in ("*", metric) and not gone
    ]
    assert found == expected
    assert all(isinstance(one, Match) for one in match(anomaly(service_id=service, metric_name=metric), catalog))
