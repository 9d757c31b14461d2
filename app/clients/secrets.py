"""Secrets by name: resolved where they are used, masked wherever anything comes back (design §7)."""

import base64
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote, quote_plus

from pydantic import JsonValue

from app.core.anomaly import TENANT_PATTERN
from app.core.errors import PermanentError
from app.core.secret_references import REFERENCE

FOLDER_NAME = re.compile(TENANT_PATTERN)  # one folder below the secrets folder, never a way out of it
MIN_LENGTH = 4


class Secrets:
    """A tenant's secrets.

    folder: holds ``<tenant>/<NAME>`` files; None means there are none. allowed_environment: the only environment
    variables that may be read. environment: where they are read from, by default the process's own.
    """

    def __init__(
        self,
        folder: Path | None = None,
        allowed_environment: frozenset[str] = frozenset(),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Nothing is read yet."""
        self._folder = folder
        self._allowed = allowed_environment
        self._environment = os.environ if environment is None else environment
        self._seen: dict[str, _Seen] = {}

    def check(self, tenant: str, names: Iterable[str]) -> None:
        """Whether every one of them can be resolved.

        Raises PermanentError naming the first that cannot.
        """
        for name in names:
            self._value(tenant, name)

    def resolve(self, tenant: str, text: str) -> str:
        """The text with every ``$NAME`` and ``${NAME}`` filled in; ``$$`` is a dollar sign.

        Raises PermanentError naming a secret that is missing or too short to be masked.
        """
        return REFERENCE.sub(lambda found: self._value(tenant, found[1] or found[2]), text)

    def resolve_json(self, tenant: str, value: JsonValue) -> JsonValue:
        """The same for every string inside a JSON value; keys stay as they are."""
        match value:
            case str():
                return self.resolve(tenant, value)
            case dict():
                return {key: self.resolve_json(tenant, inner) for key, inner in value.items()}
            case list():
                return [self.resolve_json(tenant, inner) for inner in value]
            case _:
                return value

    def mask(self, tenant: str, text: str) -> str:
        """The text with every value ever resolved for the tenant replaced by ``***NAME***``."""
        seen = self._seen.get(tenant)
        return seen.mask(text) if seen else text

    def mask_cut(self, tenant: str, text: str) -> str:
        """The same for a text that was cut off: an end that may be the beginning of a value is dropped."""
        seen = self._seen.get(tenant)
        return seen.without_beginning(seen.mask(text)) if seen else text

    def mask_any(self, text: str) -> str:
        """The same for the values of all tenants: for logs."""
        for tenant in tuple(self._seen):
            text = self.mask(tenant, text)
        return text

    def mask_json(self, tenant: str, value: JsonValue) -> JsonValue:
        """The same for every string inside a JSON value, keys included."""
        match value:
            case str():
                return self.mask(tenant, value)
            case dict():
                return {self.mask(tenant, key): self.mask_json(tenant, inner) for key, inner in value.items()}
            case list():
                return [self.mask_json(tenant, inner) for inner in value]
            case _:
                return value

    def _value(self, tenant: str, name: str | None) -> str:
        if name is None:
            return "$"
        value = self._from_folder(tenant, name)
        if value is None and name in self._allowed:
            value = self._environment.get(name)
        if value is None:
            raise PermanentError(
                f"the secret ${name} is missing: put it into {tenant}/{name} in the secrets folder, "
                f"or list it in RUNBOOKS_SECRETS__ENVIRONMENT and set it"
            )
        if len(value) < MIN_LENGTH:
            raise PermanentError(f"the secret ${name} is shorter than {MIN_LENGTH} characters and could not be masked")
        self._seen.setdefault(tenant, _Seen()).add(name, value)
        return value

    def _from_folder(self, tenant: str, name: str) -> str | None:
        """The file's text without its last newline."""
        if self._folder is None or not FOLDER_NAME.fullmatch(tenant):
            return None
        path = self._folder / tenant / name
        try:
            return path.read_text(encoding="utf-8").removesuffix("\n") if path.is_file() else None
        except (OSError, UnicodeDecodeError) as error:
            raise PermanentError(f"the secret ${name} cannot be read: {type(error).__name__}") from None


class _Seen:
    """Every value that was resolved for one tenant, in every form it may come back in.

    A value that was replaced in the folder stays: the old one may still stand in an answer.
    """

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._pattern: re.Pattern[str] | None = None

    def add(self, name: str, value: str) -> None:
        if value in self._names:
            return
        for form in _forms(value):
            self._names.setdefault(form, name)
        longest_first = sorted(self._names, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    def mask(self, text: str) -> str:
        """Replace in one pass, so that no mask is masked again."""
        return self._pattern.sub(lambda found: f"***{self._names[found[0]]}***", text) if self._pattern else text

    def without_beginning(self, text: str) -> str:
        longest = max((_shared(text, form) for form in self._names), default=0)
        return text[: len(text) - longest]


def _shared(text: str, form: str) -> int:
    """How many characters at the text's end are the form's beginning."""
    most = min(len(text), len(form) - 1)
    return next((length for length in range(most, 0, -1) if text.endswith(form[:length])), 0)


def _forms(value: str) -> set[str]:
    """How a value may stand in an output: plain, in JSON, in a URL, in base64."""
    raw = value.encode()
    return {
        value,
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        quote(value, safe=""),
        quote(value),
        quote_plus(value),
        base64.b64encode(raw).decode(),
        base64.b64encode(raw).decode().rstrip("="),
        base64.urlsafe_b64encode(raw).decode(),
        base64.urlsafe_b64encode(raw).decode().rstrip("="),
    }
