import pytest

from app.core.errors import NotKnownYet, TemplateError
from app.core.templating import MAX_RENDERED, Unknown, check_template, render

VARIABLES = {"anomaly": {"service_id": "s", "labels": {"a": "1"}}, "steps": [{"output": {"ts": "9"}}]}


def test_every_string_inside_is_rendered_and_keys_are_not():
    given = {"{{ k }}": ["{{ anomaly.service_id }}", 1, None, {"x": "{{ steps[0].output.ts }}!"}], "p": "plain $NAME"}
    assert render(given, VARIABLES) == {"{{ k }}": ["s", 1, None, {"x": "9!"}], "p": "plain $NAME"}


def test_an_undefined_name_is_an_error_with_its_path():
    with pytest.raises(TemplateError, match=r"^a\[1\]: 'nope' is undefined"):
        render({"a": ["x", "{{ nope }}"]}, VARIABLES)


def test_what_a_dry_run_cannot_know_shows_its_path():
    text = render("{{ steps[0].output.id }} {{ steps[0]['x'] }}", {"steps": [Unknown("steps[0]")]})
    assert text == "<<steps[0].output.id: known after it runs>> <<steps[0]['x']: known after it runs>>"
    with pytest.raises(AttributeError):
        Unknown("x").__wrapped__  # noqa: B018


@pytest.mark.parametrize(
    "source",
    [
        "{% for one in later.body %}{% endfor %}",
        "{{ later.body | join(',') }}",
        "{{ later.body | length }}",
        "{{ later.count + 1 }}",
        "{{ 2 * later.count }}",
        "{{ later.body | tojson }}",
        "{{ {'a': later} | tojson }}",
        "{{ later.body.name.upper() }}",
        "{{ later.n | int }}",
        "{% if later.n > 5 %}a{% endif %}",
        "{% if later.n == 5 %}a{% endif %}",
        "{{ later.n or 'b' }}",
        "{{ 'x' in later.body }}",
    ],
)
@pytest.mark.parametrize("with_secrets", [False, True])
def test_what_would_have_to_look_into_an_unknown_value_says_so_and_does_not_guess(source, with_secrets):
    with pytest.raises(NotKnownYet, match="known after it runs>> decides"):
        render(source, {"later": Unknown("steps[0].output")}, with_secrets=with_secrets)


@pytest.mark.parametrize("with_secrets", [False, True])
def test_a_field_is_the_field_even_where_a_method_has_its_name(with_secrets):
    given = {"body": {"items": [1, 2], "count": 2, "values": "v"}}
    source = "{{ body.items | length }} {{ body.values }} {% for k in body.keys() %}{{ k }},{% endfor %}"
    assert render(source, given, with_secrets=with_secrets) == "2 v items,count,values,"


@pytest.mark.parametrize("source", ["{{ body.items }}", "{{ anomaly.service_id.upper }}"])
@pytest.mark.parametrize("with_secrets", [False, True])
def test_a_method_is_no_value(source, with_secrets):
    with pytest.raises(TemplateError, match="gives a method, not a value"):
        render(source, {"body": {}, **VARIABLES}, with_secrets=with_secrets)


def test_json_of_what_is_known():
    assert render("{{ anomaly.labels | tojson }}", VARIABLES) == '{"a": "1"}'
    with pytest.raises(TemplateError, match="method is no JSON"):
        render("{{ anomaly.service_id.upper | tojson }}", VARIABLES)
    with pytest.raises(TemplateError, match="'nope' is undefined"):
        render("{{ nope | tojson }}", VARIABLES)


def test_strings_without_templates_are_not_compiled():
    check_template("100 % plain { text }")


@pytest.mark.parametrize("source", ["{{ a", "{% if %}", "{{ a | nofilter }}", "{% include 'x' %}{{"])
def test_what_does_not_compile(source):
    with pytest.raises(TemplateError):
        check_template(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__ }}",
        "{{ anomaly.__init__.__globals__ }}",
        "{{ ('a' * 100000000) }}",
        "{{ 100000000 * 'a' }}",
        "{{ [1] * 100000000 }}",
        "{{ 9 ** 99999999 }}",
        "{{ '%999999999d' % 1 }}",
        "{{ 'a' | center(100000000) }}",
        "{{ 'a'.center(100000000) }}",
        "{{ 'a'.ljust(100000000) }}",
        "{{ '{:>99999999}'.format(1) }}",
        "{{ 'a' | format }}{{ '%99999999s' | format('a') }}",
        "{{ 'a' | indent(99999999) }}",
        "{{ 'aa' | wordwrap(1, wrapstring='b' * 99999) }}",
        "{{ range(9) }}",
        "{{ cycler }}",
        "{{ anomaly.update({'x': 1}) }}",
        "{% for a in 'aaaaaaaaaa' * 100 %}{% for b in 'aaaaaaaaaa' * 100 %}xx{% endfor %}{% endfor %}",
        "{{ 1 / 0 }}",
        "{{ [1, 2] | random }}",
        "{{ anomaly.labels.a + 1 }}",
        "{{ [1] | map(attribute='__class__') | list | first.__mro__ }}",
    ],
)
def test_the_sandbox_and_its_limits_hold(source):
    with pytest.raises(TemplateError):
        render(source, VARIABLES)


LIST = "{% set x = [1, 2, 3, 4, 5, 6, 7, 8] * 1000 %}"
DOUBLED = "{% set x = 'abcdefgh' %}" + "{% set x = x ~ x %}" * 40
NESTED = "{% set x = [1, 2] %}" + "{% set x = [x, x] %}" * 40


@pytest.mark.parametrize(
    "source",
    [
        DOUBLED,
        DOUBLED.replace("~", "+"),
        "{% set x = [1] %}" + "{% set x = x + x %}" * 40,
        "{% set x = 99 %}" + "{% set x = x * x %}" * 40,
        "{% set x = 99 %}" + "{% set x = x ** 64 %}" * 10,
        "{% set x = [1] %}" + "{% set x = x * 64 %}" * 10,
        NESTED + "{{ x }}",
        NESTED + "{{ x | tojson }}",
        NESTED + "{{ x | string | length }}",
        NESTED + "{{ x == [] }}",
        NESTED + "{{ 1 in x }}",
        NESTED + "{{ x is eq(x) }}",
        NESTED + "{{ x | join }}",
        NESTED + "{{ [x] | map('string') | list }}",
        "{% set x = [] %}" + "{% set x = [x] %}" * 1100 + "{{ x }}",
        LIST + "{% for a in x %}{% for b in x %}{% endfor %}{% endfor %}",
        LIST + "{% for a in x if a in x %}{% endfor %}",
        LIST + "{{ x | select('in', x) | list | length }}{{ x | reject('in', x) | list | length }}" * 400,
        LIST + "{% for a in x %}{{ x | sort | first }}{% endfor %}",
        LIST + "{% for a in x %}{{ x.index(9) }}{% endfor %}",
        LIST + "{{ x | map('default', x, true) | map('string') | join }}" * 100,
        "{% set s = 'a' * 2000000 %}{{ [none] * 2000 | map('default', s, true) | join }}",
        "{% set s = 'a' * 2000000 %}{{ s.replace('a', s) }}",
        "{% set s = 'a' * 2000000 %}{{ s | replace('a', s) }}",
        "{% set s = 'a' * 2000000 %}{{ s.join(s) }}",
        "{% set s = 'a' * 2000000 %}{{ s | join(s) }}",
        "{% set s = 'a' * 2000000 %}{{ s | join(d=s) }}",
        "{% set s = 'a' * 2000000 %}{{ s | wordwrap(1, wrapstring=s) }}",
        "{% set s = 'a' * 2000000 %}" + "{% set t = s[1:] %}" * 100,
        "{% set s = 'a' * 2000000 %}{{ s ~ s }}{{ (s ~ s) | length }}",
        "{{ [1] | batch(1000000000, 0) | list }}",
        "{{ [1] | batch(linecount=1000000000, fill_with=0) | list }}",
        "{{ [1] | slice(1000000000) | list }}",
        "{{ 1 | round(1000000000, 'ceil') }}",
        "{{ 1 | round(precision=1000000000, method='ceil') }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ '%.1000000000f' | format(1) }}",
        "{{ '%*d' | format(1000000000, 1) }}",
        "{{ '%-*.*f' | format(1000000000, 1000000000, 1) }}",
        "{{ [1] | tojson(indent=1000000000) }}",
        "{{ [[1]] | sum(start=[]) }}",
        "{{ (1).to_bytes(1000000000, 'big') }}",
        "{{ 'a'.zfill(1000000000) }}",
        "{{ '\t'.expandtabs(1000000000) }}",
        "{{ ('a' | e).join(['b']) }}",
        "{{ ('{:999999999}' | e).format(1) }}",
        "{{ [3, 1].sort() }}",
        "{{ loop(1) }}",
    ],
)
def test_nothing_makes_much_of_little(source):
    with pytest.raises(TemplateError):
        render(source, VARIABLES)


@pytest.mark.parametrize(
    "source",
    [
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% call anomaly() %}{% endcall %}",
        "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{% set x %}{% for a in y %}aaaa{% endfor %}{% endset %}",
        "{% filter upper %}a{% endfilter %}",
        "{% block b %}{% endblock %}{{ self.b() }}",
        "{% extends 'x' %}",
        "{% import 'x' as y %}{{ y }}",
        "{% set anomaly.x = 1 %}",
        "{% for a in [1] %}" * 30 + "{% endfor %}" * 30,
        "{% if 1 %}" * 400 + "{% endif %}" * 400,
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{{ " + "[" * 5000 + "]" * 5000 + " }}",
        "{{ " + "not " * 4000 + "1 }}",
        "{{ " + "9" * 6000 + " }}",
        "{{ 1" + " ~ (1" * 3000 + ")" * 3000 + " }}",
    ],
)
def test_what_would_call_itself_or_nests_too_deep_is_no_template(source):
    with pytest.raises(TemplateError):
        check_template(source)


def test_all_templates_of_a_value_share_what_they_may_cost():
    costly = LIST + "{{ x | sort | first }}" * 5
    with pytest.raises(TemplateError, match="more work than one step may"):
        render([costly] * 1000, VARIABLES)


def test_what_an_event_of_full_size_holds_can_be_worked_on():
    numbers = {"n": list(range(30_000)), "rows": [{"id": f"row-{row}", "ok": row % 2 == 0} for row in range(2000)]}
    assert render("{{ n | select('odd') | map('string') | list | length }}", numbers) == "15000"
    assert render("{{ n | sum }} {{ n | max }} {{ (n | tojson)[:9] }}", numbers) == "449985000 29999 [0, 1, 2,"
    source = "{% for row in rows if row.ok and row.id not in ['row-0'] %}{{ loop.index }}:{{ row.id }} {% endfor %}"
    assert render(source, numbers).endswith("999:row-1998 ")
    assert render("{{ rows | groupby('ok') | map('first') | join('/') }}", numbers) == "False/True"


def test_the_usual_tools_are_there():
    source = "{{ '%.2f' | format(1 / 3) }} {{ 'a-b'.split('-') | last }} {{ 'x' is in('xyz') }} {{ 'ab'[1:] ~ 1 }}"
    assert render(source, {}) == "0.33 b True b1"
    source = "{% set n = 2 %}{% with m = n + 1 %}{{ m | float }}{% endwith %}{{ '-'.join(['a', 'b']) }}"
    assert render(source, {}) == "3.0a-b"
    source = "{% for a in 'ab' %}{{ loop.cycle('x', 'y') }}{{ a.replace('a', 'c') }}{% endfor %}"
    assert render(source, {}) == "xcyb"
    assert render("{{ [1, 2] | batch(2) | first | join('+') }}{{ {'a': 1}.get('b', 'no') }}", {}) == "1+2no"
    assert render("{{ 'a b' | wordwrap(1, wrapstring='|') }}{{ [{'a': 1}] | sum('a') }}", {}) == "a|b1"
    assert render("{{ [{'x': 'a'}, {'x': 'b'}] | join('-', attribute='x') }}{{ 2 | string }}", {}) == "a-b2"


def test_an_operator_within_bounds_works():
    assert render("{{ 'ab' * 3 }}{{ 2 ** 10 }}{{ 7 % 4 }}{{ 2 * 3 }}", {}) == "ababab1024" + "3" + "6"
    assert len(render("{{ 'a' * 60000 }}", {})) < MAX_RENDERED
