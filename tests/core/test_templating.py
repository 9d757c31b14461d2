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
        "{{ 'a' | wordwrap(1, wrapstring='b' * 99999) }}",
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


def test_an_operator_within_bounds_works():
    assert render("{{ 'ab' * 3 }}{{ 2 ** 10 }}{{ 7 % 4 }}{{ 2 * 3 }}", {}) == "ababab1024" + "3" + "6"
    assert len(render("{{ 'a' * 60000 }}", {})) < MAX_RENDERED
