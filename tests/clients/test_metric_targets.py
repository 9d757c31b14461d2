import re
import textwrap
from pathlib import Path

import pytest
import yaml

from app.clients.metric_targets import MetricTargets
from app.clients.prometheus import MetricServer
from app.core.errors import ConfigurationError, PermanentError

COMMON = MetricServer("http://common:9090", {"A": "common"}, bearer_token_file="/common/token")


@pytest.fixture
def targets(tmp_path):
    """Targets of a file with this content."""

    def read(content, common=COMMON):
        path = tmp_path / "queries.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return MetricTargets(common, path)

    return read


def asked(targets, tenant, metric="cpu"):
    """The query that is asked of the tenant's server."""
    return targets.find(tenant, metric).queries.query.query(metric, "s")


def test_without_a_file_the_metric_is_selected_by_its_name_and_the_service(targets):
    assert asked(MetricTargets(COMMON), "any") == 'cpu{service_id="s"}'
    assert asked(targets(""), "any") == 'cpu{service_id="s"}'
    assert MetricTargets(COMMON).find("any", "cpu").server is COMMON


def test_the_example_of_the_documentation_is_read_as_it_says(targets):
    page = Path("docs/operations.md").read_text()
    (example,) = re.findall(r"^    query: 'max.*?(?=^\S)", page, re.MULTILINE | re.DOTALL)
    found = targets(textwrap.dedent(example))
    assert asked(found, "any") == 'max(cpu{service="s"})'
    assert asked(found, "any", "queue_depth") == 'max(queue_depth{app=~"s-.*"})'
    assert asked(found, "acme", "cpu_usage_percent") == 'cpu{svc="s"}'
    assert found.find("acme", "error_rate").server.headers == {"X-Scope-OrgID": "acme"}


def test_the_most_special_query_is_taken(targets):
    found = targets(
        {
            "query": "all",
            "queries": {"cpu": "all_cpu", "errors": {"query": "all_errors", "measured_at": "when"}},
            "tenants": {"acme": {"queries": {"cpu": "acme_cpu"}}, "zoo": {"query": "zoo"}},
        }
    )
    assert [asked(found, "other", name) for name in ("cpu", "errors", "x")] == ["all_cpu", "all_errors", "all"]
    assert [asked(found, "acme", name) for name in ("cpu", "errors", "x")] == ["acme_cpu", "all_errors", "all"]
    assert [asked(found, "zoo", name) for name in ("cpu", "errors", "x")] == ["zoo", "zoo", "zoo"]
    assert found.find("acme", "errors").queries.measured_at.query("m", "s") == "when"


def test_a_tenants_own_server_is_not_given_the_credentials_of_the_common_one(targets, tmp_path):
    found = targets(
        {
            "tenants": {
                "own": {"url": "https://own/mimir", "headers": {"X-Scope-OrgID": "own"}},
                "locked": {"url": "https://own", "username": "ann", "password_file": "secrets/ann"},
                "shares": {"headers": {"X-Scope-OrgID": "shares"}},
                "replaces": {"bearer_token_file": "/replaced/token"},
            }
        }
    )
    assert found.find("own", "m").server == MetricServer("https://own/mimir", {"X-Scope-OrgID": "own"})
    locked = found.find("locked", "m").server
    assert (locked.username, locked.password_file, locked.headers) == ("ann", tmp_path / "secrets/ann", {})
    shares = found.find("shares", "m").server
    assert (shares.url, shares.headers) == (COMMON.url, {"A": "common", "X-Scope-OrgID": "shares"})
    assert shares.bearer_token_file == COMMON.bearer_token_file
    assert str(found.find("replaces", "m").server.bearer_token_file) == "/replaced/token"


def test_a_tenant_without_any_server_is_told_so(targets):
    found = targets({"tenants": {"acme": {"url": "http://acme"}, "zoo": {}}}, None)
    assert found.find("acme", "m").server.url == "http://acme"
    for tenant in ("zoo", "other"):
        with pytest.raises(
            PermanentError, match=f"the tenant {tenant} has no metric server: set RUNBOOKS_METRICS__URL"
        ):
            found.find(tenant, "m")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"query": "sum({{ metric_name }}"}, "query.query: a ( is not closed"),
        (
            {"queries": {"cpu": {"query": "x{a={{ service_id }}}"}}},
            'queries.cpu.query: {{ service_id }} must stand in quotes: service_id="{{ service_id }}"',
        ),
        (
            {"tenants": {"acme": {"queries": {"cpu": "x{"}}}},
            "tenants.acme.queries.cpu.query: a { is not closed",
        ),
        ({"tenants": {"acme": {"urll": "http://x"}}}, "tenants.acme.urll: unknown field (did you mean 'url'?)"),
        ({"tenants": {"acme": {"url": "ftp://x"}}}, "tenants.acme.url: string should match pattern"),
        ({"tenants": {"acme": {"url": "http://a:b@x"}}}, "tenants.acme.url: string should match pattern"),
        ({"tenants": {"../x": {}}}, "tenants.../x"),
        ({"tenants": {"acme": {"headers": {"A": "b\r\nC: d"}}}}, "tenants.acme.headers.A: string should match"),
        ({"tenants": {"acme": {"username": "ann"}}}, "tenants.acme: needs username and password_file together"),
        (
            {"tenants": {"acme": {"username": "a", "password_file": "p", "bearer_token_file": "t"}}},
            "tenants.acme: bearer_token_file and username exclude each other",
        ),
        ({"queries": ["x"]}, "queries: input should be"),
        ("a: [", "the metric queries cannot be read"),
        ("query: a\nquery: b", "'query' stands there twice: remove one of them"),
        ("text", "input should be"),
    ],
)
def test_a_mistake_is_told_with_the_file_and_the_field(targets, content, said):
    with pytest.raises(ConfigurationError) as refused:
        targets(content)
    assert str(refused.value).startswith(str(refused.value).split("queries.yaml", maxsplit=1)[0] + "queries.yaml: ")
    assert said in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"none\.yaml: the metric queries cannot be read"):
        MetricTargets(None, tmp_path / "none.yaml")
