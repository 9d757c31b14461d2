import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from app.core.errors import TemplateError
from app.core.metric_queries import DEFAULT_QUERY, QueryTemplate, is_selector

ATTACK = '"} or vector(0) or up{a="'


def query(template, service_id="payment-api", metric_name="cpu"):
    return QueryTemplate.parse(template).query(metric_name, service_id)


@pytest.mark.parametrize(
    ("template", "rendered"),
    [
        ('{{ metric_name }}{service="{{service_id}}"}', 'cpu{service="payment-api"}'),
        ("{__name__='{{ metric_name }}'}", "{__name__='cpu'}"),
        (
            'sum by (pod) (rate({{ metric_name }}_total{s=~"{{ service_id }}-.+"}[5m])) # {{ of pods',
            'sum by (pod) (rate(cpu_total{s=~"payment\\x5c-api-.+"}[5m])) # {{ of pods',
        ),
        (
            'x{a!~ # why\n "{{ service_id }}", b="{{ service_id }}"}',
            'x{a!~ # why\n "payment\\x5c-api", b="payment-api"}',
        ),
        ('x{a="#{{ metric_name }}\\"(", b=`\\`}', 'x{a="#cpu\\"(", b=`\\`}'),
        ('x{a="it\'s {{ service_id }}"}', 'x{a="it\'s payment-api"}'),
        ("vector(1)", "vector(1)"),
    ],
)
def test_a_template_is_filled_in(template, rendered):
    assert query(template) == rendered


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("", "the query is empty"),
        ("x" * 4097, "the query has more than 4096 characters"),
        ("x{a={{ service_id }}}", '{{ service_id }} must stand in quotes: service_id="{{ service_id }}"'),
        ('x{a="{{ service }}"}', "{{ service }} is not known: there are {{ metric_name }} and {{ service_id }}"),
        ("x{a=`{{ service_id }}`}", "{{ service_id }} cannot stand between backticks"),
        ('x{a="{{ service_id"}', "a {{ is not closed"),
        ('x{a="b}', 'a " is not closed'),
        ("sum(x", "a ( is not closed"),
        ("sum(x]", "a ] closes nothing"),
        ("x}", "a } closes nothing"),
    ],
)
def test_what_does_not_parse_is_refused(template, said):
    with pytest.raises(TemplateError, match=f"^{re.escape(said)}"):
        QueryTemplate.parse(template)


def test_in_a_model_a_template_is_a_text():
    adapter = TypeAdapter(QueryTemplate)
    assert adapter.validate_python("vector(1)").query("m", "s") == "vector(1)"
    with pytest.raises(ValidationError, match=r"a \( is not closed"):
        adapter.validate_python("sum(")


@pytest.mark.parametrize("name", ["cpu usage", "cpu.usage", "1cpu", "cpu}", ATTACK, "cpü", "cpu\n"])
def test_a_name_that_is_none_in_promql_stands_nowhere_outside_of_quotes(name):
    with pytest.raises(TemplateError, match="is no metric's name in PromQL"):
        query(DEFAULT_QUERY, metric_name=name)
    assert query('{__name__="{{ metric_name }}"}', metric_name=name)


def test_nothing_is_asked_about_no_service():
    with pytest.raises(TemplateError, match="there is no service_id to ask about: set it in rollback_metric_check"):
        query('x{service_id="{{ service_id }}"}', service_id="")
    assert query("x", service_id="") == "x"


@given(st.text(min_size=1), st.sampled_from("\"'"), st.sampled_from(["=", "=~"]))
def test_whatever_a_service_is_called_it_stays_within_its_quotes(name, quote, operator):
    begin, end = f"m{{s{operator}{quote}", f"{quote}}}"
    rendered = query(begin + "{{ service_id }}" + end, name)
    assert rendered.startswith(begin)
    assert rendered.endswith(end)
    inside = rendered[len(begin) : -len(end)]
    assert re.fullmatch(r"(?:[ -~]|\\[xuU][0-9a-f]+)*", inside)
    assert not set("\"'\n") & set(inside)
    literal = re.sub(r"\\(?:x(..)|u(.{4})|U(.{8}))", lambda code: chr(int(code[1] or code[2] or code[3], 16)), inside)
    assert re.fullmatch(literal, name) if operator == "=~" else literal == name


@pytest.mark.parametrize(
    ("text", "selects"),
    [
        ('cpu{a="b", c=~"d\\"}"}', True),
        ("cpu", True),
        (" cpu { a='b' , c=`d` }\n", True),
        ('{__name__="cpu"}', True),
        ("", False),
        (" ", False),
        ("max(cpu)", False),
        ("cpu[5m]", False),
        ("cpu offset 5m", False),
        ("cpu / 2", False),
        ("cpu # {", False),
        ("1", False),
    ],
)
def test_what_only_selects_series(text, selects):
    assert is_selector(text) is selects
