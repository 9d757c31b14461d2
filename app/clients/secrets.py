"""Secrets by name: resolved where they are used, masked wherever anything comes back (design §7)."""

import base64
import json
import os
import re
from pathlib import Path
from urllib.parse import quote

from pydantic import JsonValue

from app.core.errors import PermanentError

NAME = re.compile(r"\$(?:\$|\{([A-Z_][A-Z0-9_]*)\}|([A-Z_][A-Z0-9_]*))")
MIN_LENGTH = 4


class Secrets:
    """A tenant's secrets.

    folder: holds ``<tenant>/<NAME>`` files; None means there are none. allowed_environment: the only environment
    variables that may be read.
    """

    def __init__(self, folder: Path | None = None, allowed_environment: frozenset[str] = frozenset()) -> None:
        """Nothing is read yet."""
        self._folder = folder
        self._allowed = allowed_environment
        self._seen: dict[str, dict[str, str]] = {}

    @staticmethod
    def names(text: str) -> tuple[str, ...]:
        """The secrets a text asks for, in the order they stand."""
        return tuple(name for found in NAME.finditer(text) if (name := found[1] or found[2]))

    def resolve(self, tenant: str, text: str) -> str:
        """The text with every ``$NAME`` and ``${NAME}`` filled in; ``$$`` is a dollar sign.

        Raises PermanentError naming a secret that is missing or too short to be masked.
        """
        return NAME.sub(lambda found: self._value(tenant, found[1] or found[2]), text)

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
        for name, value in self._longest_first(self._seen.get(tenant, {})):
            for form in _forms(value):
                text = text.replace(form, f"***{name}***")
        return text

    def mask_any(self, text: str) -> str:
        """The same for the values of all tenants: for logs."""
        for tenant in self._seen:
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
            value = os.environ.get(name)
        if value is None:
            raise PermanentError(
                f"the secret ${name} is missing: put it into {tenant}/{name} in the secrets folder, "
                f"or list it in RUNBOOKS_SECRETS__ENVIRONMENT and set it"
            )
        if len(value) < MIN_LENGTH:
            raise PermanentError(f"the secret ${name} is shorter than {MIN_LENGTH} characters and could not be masked")
        self._seen.setdefault(tenant, {})[name] = value
        return value

    def _from_folder(self, tenant: str, name: str) -> str | None:
        """The file's text without its last newline; tenant and name are patterns without any slash."""
        if self._folder is None:
            return None
        path = self._folder / tenant / name
        try:
            return path.read_text().removesuffix("\n") if path.is_file() else None
        except (OSError, UnicodeDecodeError) as error:
            raise PermanentError(f"the secret ${name} cannot be read: {type(error).__name__}") from None

    @staticmethod
    def _longest_first(seen: dict[str, str]) -> list[tuple[str, str]]:
        return sorted(seen.items(), key=lambda item: -len(item[1]))


def _forms(value: str) -> set[str]:
    """How a value may stand in an output: plain, in JSON, in a URL, in base64."""
    return {
        value,
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        quote(value, safe=""),
        base64.b64encode(value.encode()).decode(),
    }
