"""Secrets by name: resolved where they are used, masked wherever anything comes back (design §7)."""

import contextlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import JsonValue

from app.clients.secret_forms import Form, begun_at_end, forms_of, pattern_of
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

    def remember(self, tenant: str, names: Iterable[str]) -> None:
        """Know the values of those that can be resolved, so that they are masked; another worker may have sent them."""
        for name in names:
            with contextlib.suppress(PermanentError):
                self._value(tenant, name)

    def resolve(self, tenant: str, text: str) -> str:
        """The text with every ``$NAME`` and ``${NAME}`` filled in; ``$$`` is a dollar sign.

        Raises PermanentError naming a secret that is missing, is no UTF-8 or is too short to be masked.
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
        """The same for every string and number inside a JSON value, keys included."""
        match value:
            case str():
                return self.mask(tenant, value)
            case dict():
                return {self.mask(tenant, key): self.mask_json(tenant, inner) for key, inner in value.items()}
            case list():
                return [self.mask_json(tenant, inner) for inner in value]
            case int() | float() if (masked := self.mask(tenant, str(value))) != str(value):
                return masked
            case _:
                return value

    def _value(self, tenant: str, name: str | None) -> str:
        if name is None:
            return "$"
        value = self._from_folder(tenant, name)
        if value is None and name in self._allowed:
            value = self._from_environment(name)
        if value is None:
            raise PermanentError(
                f"the secret ${name} is missing: put it into {tenant}/{name} in the secrets folder, "
                f"or list it in RUNBOOKS_SECRETS__ENVIRONMENT and set it"
            )
        if len(value) < MIN_LENGTH:
            raise PermanentError(f"the secret ${name} is shorter than {MIN_LENGTH} characters and could not be masked")
        self._seen.setdefault(tenant, _Seen()).add(name, value)
        return value

    def _from_environment(self, name: str) -> str | None:
        """The variable's text; Python keeps bytes that are no UTF-8 as lone surrogates, which cannot be sent."""
        value = self._environment.get(name)
        try:
            (value or "").encode()
        except UnicodeEncodeError:  # it holds the value
            raise PermanentError(
                f"the secret ${name} is no UTF-8: set the environment variable {name} to text in UTF-8"
            ) from None
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
        self._values: set[str] = set()
        self._forms: list[tuple[Form, str, re.Pattern[str]]] = []
        self._pattern: re.Pattern[str] | None = None

    def add(self, name: str, value: str) -> None:
        """Know the value; it counts as known once all of its forms are, so that a failure leaves none usable."""
        if value in self._values:
            return
        new = [(form, name, re.compile(pattern_of(form))) for form in forms_of(value)]
        forms = sorted([*self._forms, *new], key=lambda one: len(one[0]), reverse=True)
        pattern = re.compile("|".join(pattern.pattern for _, _, pattern in forms))
        self._forms, self._pattern = forms, pattern
        self._values.add(value)

    def mask(self, text: str) -> str:
        """Replace in one pass, so that no mask is masked again."""
        return self._pattern.sub(lambda found: f"***{self._name(found[0])}***", text) if self._pattern else text

    def _name(self, found: str) -> str:
        return next(name for _, name, pattern in self._forms if pattern.fullmatch(found))

    def without_beginning(self, text: str) -> str:
        longest = max((begun_at_end(form, text) for form, _, _ in self._forms), default=0)
        return text[: len(text) - longest]
