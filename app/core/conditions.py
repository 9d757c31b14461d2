"""Conditions in CEL (https://cel.dev), through Google's implementation, behind this one module.

Names are bound when a condition runs, not when it compiles: an anomaly event may carry fields of its own.
A condition that fails at run time is never a match (design §2).
"""

import re
from collections.abc import Mapping
from functools import lru_cache

from cel_expr_python import cel
from pydantic import JsonValue

from app.core.condition_cost import shape_of
from app.core.errors import ConditionError

MAX_CONDITION_BYTES = 4096

_ENVIRONMENT = cel.NewEnv(variables={})


class Condition:
    """One compiled condition."""

    def __init__(self, source: str, program: cel.Expression) -> None:
        """Keep the text beside the program."""
        self.source = source
        self._program = program
        self._shape = shape_of(source)

    def holds(self, variables: Mapping[str, JsonValue]) -> bool:
        """Whether it is true of the variables.

        Raises ConditionError when a name is absent, an operation fails, the result is no boolean, or it would cost more
        than a condition may (app/core/condition_cost.py).
        """
        why_not = self._shape.why_too_costly(variables)
        if why_not is not None:
            raise ConditionError(why_not)
        try:
            result = self._program.eval(data=variables)
        except RuntimeError as error:  # its own bound on the steps of loops
            raise ConditionError(_readable(str(error))) from error
        kind = result.type()
        if kind == cel.Type.BOOL:
            return bool(result.value())
        if kind == cel.Type.ERROR:
            raise ConditionError(_readable(str(result.value())))
        raise ConditionError(f"gives {kind.name()}, not a boolean")


@lru_cache(maxsize=16384)
def compile_condition(source: str) -> Condition:
    """Compile a condition, at most 4 KiB of text.

    Raises ConditionError with the place of the mistake.
    """
    try:
        size = len(source.encode())
    except UnicodeEncodeError as error:
        raise ConditionError("holds a lone surrogate, which is no character") from error
    if size > MAX_CONDITION_BYTES:
        raise ConditionError(f"longer than {MAX_CONDITION_BYTES} bytes")
    try:
        program = _ENVIRONMENT.compile(source, disable_check=True)
    except RuntimeError as error:
        raise ConditionError(_readable(str(error))) from error
    return Condition(source, program)


def checked_condition(source: str | None) -> str | None:
    """The source itself, for a model's field.

    Raises ValueError when it does not compile.
    """
    if source is not None:
        try:
            compile_condition(source)
        except ConditionError as error:
            raise ValueError(f"is not a condition: {error}") from error
    return source


def _readable(message: str) -> str:
    """The first line of the library's message, without its status words."""
    first = message.splitlines()[0]
    for prefix in ("INTERNAL: ", "CANCELLED: ", "INVALID_ARGUMENT: ", "UNKNOWN: ", "NOT_FOUND: ", "ERROR: "):
        first = first.removeprefix(prefix)
    return re.sub(r" \[[A-Z_]+\]$", "", first)
