import base64
import html
import json
import os
import traceback
from urllib.parse import quote

import pytest

from app.clients.secrets import Secrets
from app.core.errors import PermanentError
from app.core.secret_references import names_in

VALUE = 'p/ss "wörd"+1'


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "TOKEN").write_text(VALUE + "\n", encoding="utf-8")
    (tmp_path / "acme" / "TOKEN_2").write_text("second-value")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "THEIRS").write_text("not-acmes")
    return tmp_path


@pytest.fixture
def secrets(folder):
    return Secrets(folder)


@pytest.mark.parametrize(
    ("text", "resolved"),
    [
        ("Token $TOKEN", f"Token {VALUE}"),
        ("${TOKEN}s", f"{VALUE}s"),
        ("$TOKEN_2/$TOKEN", f"second-value/{VALUE}"),
        ("$$TOKEN", "$TOKEN"),
        ("$$$TOKEN_2", "$second-value"),
        ("5 $ or 5$", "5 $ or 5$"),
        ("$lower ${lower} $1", "$lower ${lower} $1"),
        ("", ""),
    ],
)
def test_names_are_resolved(secrets, text, resolved):
    assert secrets.resolve("acme", text) == resolved


def test_names_are_listed_in_order():
    assert tuple(names_in("$B ${A_1} $$C $d")) == ("B", "A_1")


def test_strings_inside_json_are_resolved(secrets):
    found = secrets.resolve_json("acme", {"$TOKEN_2": ["$TOKEN_2", 1, None, {"a": "$TOKEN_2"}]})
    assert found == {"$TOKEN_2": ["second-value", 1, None, {"a": "second-value"}]}


def test_a_value_is_not_resolved_again(folder):
    (folder / "acme" / "NESTED").write_text("$TOKEN_2")
    assert Secrets(folder).resolve("acme", "$NESTED") == "$TOKEN_2"


def test_only_one_newline_is_taken_off(folder):
    (folder / "acme" / "LINES").write_text("line\n\n")
    assert Secrets(folder).resolve("acme", "$LINES") == "line\n"


def test_a_missing_secret_is_named_with_the_remedy(secrets):
    with pytest.raises(PermanentError, match=r"\$MISSING is missing: put it into acme/MISSING .*SECRETS__ENVIRONMENT"):
        secrets.resolve("acme", "$TOKEN $MISSING")


@pytest.mark.parametrize("value", ["", "abc"])
def test_what_could_not_be_masked_is_refused(folder, value):
    (folder / "acme" / "SHORT").write_text(value)
    with pytest.raises(PermanentError, match=r"\$SHORT is shorter than 4") as caught:
        Secrets(folder).resolve("acme", "$SHORT")
    assert not value or value not in str(caught.value)


def test_a_secret_that_cannot_be_read_is_named_without_its_bytes(folder):
    (folder / "acme" / "BINARY").write_bytes(b"\xff\xfe\xfd\xfc")
    with pytest.raises(PermanentError, match=r"\$BINARY cannot be read: UnicodeDecodeError$"):
        Secrets(folder).resolve("acme", "$BINARY")


@pytest.mark.parametrize("tenant", ["acme", "../other", "acme/../other", "..", ".", "", "/", "other\n"])
def test_another_tenants_secret_is_out_of_reach(secrets, tenant):
    with pytest.raises(PermanentError, match=r"\$THEIRS is missing"):
        secrets.resolve(tenant, "$THEIRS")


def test_only_listed_variables_of_the_environment_are_read():
    secrets = Secrets(None, frozenset({"LISTED"}), {"LISTED": "from-environment", "UNLISTED": "never"})
    assert secrets.resolve("acme", "$LISTED") == "from-environment"
    with pytest.raises(PermanentError, match="UNLISTED is missing"):
        secrets.resolve("acme", "$UNLISTED")


def test_a_variable_that_is_no_utf8_is_refused_each_time_with_the_remedy_and_without_its_bytes():
    value = b"p\xe9ssword".decode("utf-8", "surrogateescape")  # as os.environ holds Latin-1
    secrets = Secrets(None, frozenset({"TOKEN", "OTHER"}), {"TOKEN": value, "OTHER": "other-value"})
    said = r"^the secret \$TOKEN is no UTF-8: set the environment variable TOKEN to text in UTF-8$"
    for attempt in (secrets.resolve, secrets.resolve, lambda tenant, _: secrets.check(tenant, ["TOKEN"])):
        with pytest.raises(PermanentError, match=said) as caught:
            attempt("acme", "$TOKEN")
        assert "ssword" not in "".join(traceback.format_exception(caught.value))
    secrets.remember("acme", ["TOKEN", "OTHER"])
    assert secrets.mask("acme", "other-value") == "***OTHER***"


class Unformed(str):
    """A value whose forms cannot be made."""

    __slots__ = ()

    def splitlines(self, _keepends=None):
        raise MemoryError


def test_a_value_that_cannot_be_masked_is_usable_at_no_attempt():
    secrets = Secrets(None, frozenset({"TOKEN", "OTHER"}), {"TOKEN": Unformed("the-value"), "OTHER": "other-value"})
    secrets.resolve("acme", "$OTHER")
    for _ in range(2):
        with pytest.raises(MemoryError):
            secrets.resolve("acme", "$TOKEN")
    assert secrets.mask("acme", "other-value") == "***OTHER***"


def test_the_environment_is_the_processes_own():
    with pytest.raises(PermanentError, match="PATH is missing"):
        Secrets(None).resolve("acme", "$PATH")
    assert Secrets(None, frozenset({"PATH"})).resolve("acme", "$PATH") == os.environ["PATH"]


def test_the_tenants_folder_wins_over_the_environment(folder):
    secrets = Secrets(folder, frozenset({"TOKEN_2"}), {"TOKEN_2": "from-environment"})
    assert secrets.resolve("acme", "$TOKEN_2") == "second-value"


@pytest.mark.parametrize(
    "form",
    [
        VALUE,
        json.dumps(VALUE)[1:-1],
        json.dumps(VALUE, ensure_ascii=False)[1:-1],
        quote(VALUE, safe=""),
        quote(VALUE),
        quote(VALUE).replace("%20", "+").replace("/", "%2F"),
        quote(VALUE, safe="/+").lower(),
        VALUE.replace(" ", "%20").replace('"', "%22").replace("ö", "%C3%B6"),
        json.dumps(json.dumps(VALUE))[3:-3],
        json.dumps(VALUE)[1:-1].replace("/", "\\/").replace("\\u00f6", "\\u00F6"),
        html.escape(VALUE),
        repr(VALUE.encode())[2:-1],
        VALUE.encode().decode("latin-1"),
        base64.b64encode(VALUE.encode()).decode(),
        base64.urlsafe_b64encode(VALUE.encode()).decode().rstrip("="),
    ],
)
def test_every_form_of_a_value_is_masked(secrets, form):
    assert secrets.mask("acme", f"before {form} after") == f"before {form} after"
    secrets.resolve("acme", "$TOKEN")
    masked = secrets.mask("acme", f"before {form} after")
    assert masked in {"before ***TOKEN*** after", "before ***TOKEN***= after", "before ***TOKEN***== after"}


@pytest.mark.parametrize("user", ["", "u:", "us:", "user:"])
def test_a_value_inside_of_base64_is_masked_wherever_it_begins(secrets, user):
    secrets.resolve("acme", "$TOKEN_2")
    text = base64.b64encode(f"{user}second-value:and more".encode()).decode()
    masked = secrets.mask("acme", f"Basic {text}")
    assert "***TOKEN_2***" in masked
    left = masked.removeprefix("Basic ").split("***TOKEN_2***")
    assert sum(map(len, left)) <= len(base64.b64encode(f"{user}:and more".encode())) + 4


def test_the_lines_of_a_value_are_masked_one_by_one_and_without_the_blanks_around_them(folder):
    (folder / "acme" / "KEY").write_text("-----BEGIN KEY-----\n  c2VjcmV0IGtleQ  \nab\n\n")
    secrets = Secrets(folder)
    secrets.resolve("acme", "$KEY")
    assert secrets.mask("acme", "line 2 is c2VjcmV0IGtleQ, line 3 is ab") == "line 2 is ***KEY***, line 3 is ab"


def test_a_value_that_comes_back_as_a_number_is_masked(folder):
    (folder / "acme" / "PIN").write_text("90210")
    secrets = Secrets(folder)
    secrets.resolve("acme", "$PIN")
    found = secrets.mask_json("acme", {"pin": 90210, "price": 902101.5, "n": 7, "yes": True})
    assert found == {"pin": "***PIN***", "price": "***PIN***1.5", "n": 7, "yes": True}


def test_what_another_worker_sent_is_remembered_and_what_is_missing_is_no_error(secrets):
    secrets.remember("acme", ["MISSING", "TOKEN_2"])
    assert secrets.mask("acme", "second-value") == "***TOKEN_2***"


def test_keys_and_values_inside_json_are_masked(secrets):
    secrets.resolve("acme", "$TOKEN_2")
    found = secrets.mask_json("acme", {"second-value": ["x second-value", 7, True, None, {"deep": "second-value"}]})
    assert found == {"***TOKEN_2***": ["x ***TOKEN_2***", 7, True, None, {"deep": "***TOKEN_2***"}]}


def test_the_longer_of_two_values_is_masked_first_and_no_mask_is_masked_again(folder):
    (folder / "acme" / "PART").write_text("TOKEN")
    (folder / "acme" / "WHOLE").write_text("TOKEN-and-more")
    secrets = Secrets(folder)
    secrets.resolve("acme", "$PART $WHOLE $TOKEN")
    assert secrets.mask("acme", f"TOKEN-and-more TOKEN {VALUE}") == "***WHOLE*** ***PART*** ***TOKEN***"


def test_a_value_that_was_replaced_stays_masked(folder):
    secrets = Secrets(folder)
    secrets.resolve("acme", "$TOKEN_2")
    (folder / "acme" / "TOKEN_2").write_text("rotated-value")
    assert secrets.resolve("acme", "$TOKEN_2") == "rotated-value"
    assert secrets.mask("acme", "second-value rotated-value") == "***TOKEN_2*** ***TOKEN_2***"


def test_the_beginning_of_a_value_at_a_cut_is_dropped(secrets):
    secrets.resolve("acme", "$TOKEN_2")
    assert secrets.mask_cut("acme", "second-value then second-val") == "***TOKEN_2*** then "
    assert secrets.mask_cut("acme", "nothing of it") == "nothing of it"
    secrets.resolve("acme", "$TOKEN")
    assert secrets.mask_cut("acme", "then p%2fss+%22w%C3") == "then "
    assert secrets.mask_cut("other", "second-val") == "second-val"


def test_one_tenants_values_mean_nothing_to_another_but_logs_mask_all(secrets):
    secrets.resolve("acme", "$TOKEN_2")
    secrets.resolve("other", "$THEIRS")
    assert secrets.mask("other", "second-value") == "second-value"
    assert secrets.mask_any("second-value not-acmes") == "***TOKEN_2*** ***THEIRS***"
