"""Template values in shell commands, read by the real /bin/sh."""

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.errors import TemplateError
from app.core.shell_words import MAX_WORDS, render_command, shown


def said(command, arguments):
    """What /bin/sh makes of it."""
    done = subprocess.run(["/bin/sh", "-c", command, "sh", *arguments], capture_output=True, check=True)
    return done.stdout.decode()


@pytest.mark.parametrize(
    ("source", "command"),
    [
        ("systemctl restart {{ x }}", 'systemctl restart "${1}"'),
        ('echo "a {{ x }} b"', 'echo "a ${1} b"'),
        ("echo 'it' {{ x }} 'is' {{ x }}", "echo 'it' \"${1}\" 'is' \"${2}\""),
        ('echo \\" {{ x }}', 'echo \\" "${1}"'),
        ("{% if x %}echo {{ x }}{% endif %}", 'echo "${1}"'),
        ("uptime", "uptime"),
        ("{{ x }}{{ x }}", '"${1}""${2}"'),
    ],
)
def test_an_expression_becomes_a_parameter(source, command):
    got, arguments = render_command(source, {"x": "v w"}, (), "command")
    assert got == command
    assert set(arguments) <= {"v w"}


HOSTILE = [
    "$(echo pwned)",
    "`echo pwned`",
    "; echo pwned",
    "' ; echo pwned ; '",
    '" ; echo pwned ; "',
    "a b  c",
    "*",
    "-n",
]


@pytest.mark.parametrize("value", [*HOSTILE, "\n", "", "ä€", "${1}", "\x02a\x03", "\\"])
@pytest.mark.parametrize("source", ["printf '[%s]' {{ x }}", 'printf "[%s]" "{{ x }}"', 'printf %s "[{{ x }}]"'])
def test_a_value_is_one_word_whatever_stands_in_it(source, value):
    command, arguments = render_command(source, {"x": value}, (), "command")
    assert said(command, arguments) == f"[{value}]".replace("\x02", "").replace("\x03", "")


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize(
    "source",
    [
        "cat <<EOF\n{{ x }}\nEOF\n",
        'echo "$(echo "{{ x }}")"',
        "# don't\necho {{ x }} # isn't",
        "echo `echo {{ x }}`",
        "echo $(( 1 + 1 )) {{ x }}",
    ],
)
def test_nowhere_in_a_command_is_a_value_read_as_one(source, value):
    try:
        command, arguments = render_command(source, {"x": value}, (), "command")
    except TemplateError:
        return  # refused is as good
    assert "pwned" not in said(command, arguments).replace(value, "")


@given(st.text(alphabet=st.characters(exclude_characters="\x00\x02\x03", exclude_categories=["Cs"]), max_size=50))
@settings(max_examples=50, deadline=None)
def test_any_text_arrives_as_it_is(value):
    command, arguments = render_command("printf %s {{ x }}", {"x": value}, (), "command")
    assert said(command, arguments).replace("\r\n", "\n") == value.replace("\r\n", "\n")


def test_values_come_after_the_given_arguments():
    command, arguments = render_command('echo "$1" {{ x }}', {"x": "b"}, ("a",), "command")
    assert (command, arguments) == ('echo "$1" "${2}"', ("a", "b"))
    assert said(command, arguments) == "a b\n"


@pytest.mark.parametrize(
    ("source", "value", "message"),
    [
        ("echo '{{ x }}'", "v", "command: a template stands in single quotes"),
        ("echo {{ x }}", "a\x00b", "command: a value holds a NUL"),
        ("echo {{ nope }}", "v", "command: 'nope' is undefined"),
        ("{{ x }}" * (MAX_WORDS + 1), "v", "command: more than 99 arguments"),
    ],
)
def test_what_cannot_be_filled_in(source, value, message):
    with pytest.raises(TemplateError, match=message):
        render_command(source, {"x": value}, (), "command")


def test_a_person_reads_the_values_in_their_places():
    command, arguments = render_command('a {{ x }} "b {{ x }}" {{ y }}', {"x": "v w", "y": "z"}, (), "command")
    assert shown(command, arguments) == "a 'v w' \"b v w\" z"
    assert shown('echo "${7}"', ("a",)) == 'echo "${7}"'
