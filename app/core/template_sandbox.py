"""Jinja's immutable sandbox, with a closed grammar and every operation charged for (app/core/template_work.py).

What a template cannot have: macros, recursion, inclusion, blocks, and the capture of output into a variable. So its
cost is that of its loops, and loops are charged for.
"""

from types import FunctionType
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateSyntaxError
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from app.core.template_work import (
    NODE,
    bounded_call,
    bounded_filter,
    charged,
    counted,
    joined,
    work_of,
)

MAX_EXPONENT = 64
MAX_BITS = 4096  # of a whole number; those of 64-bit values to the power of 64 fit in
MAX_NESTED = 12  # blocks within blocks; Python takes 20
NOT_AVAILABLE = (
    nodes.Macro,
    nodes.CallBlock,
    nodes.Import,
    nodes.FromImport,
    nodes.Include,
    nodes.Extends,
    nodes.Block,
    nodes.AssignBlock,
    nodes.FilterBlock,
    nodes.NSRef,
)
COUNTED, CHARGED, JOINED = "counted values", "charged value", "joined values"
"""Names of our own filters; no template can write them."""


class _Guards(NodeTransformer):
    """Refuses what is not available, and puts our filters around what costs."""

    def __init__(self) -> None:
        self._nested = 0

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        """Refuse the node, or go on inside it."""
        if isinstance(node, NOT_AVAILABLE):
            raise TemplateSyntaxError(f"{type(node).__name__.lower()} is not available", node.lineno)
        block = isinstance(node, nodes.For | nodes.If | nodes.With)
        self._nested += block
        if self._nested > MAX_NESTED:
            raise TemplateSyntaxError(f"blocks are nested deeper than {MAX_NESTED}", node.lineno)
        visited: nodes.Node = super().generic_visit(node, *args, **kwargs)
        self._nested -= block
        return visited

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - Jinja's name
        """Each step of a loop is charged for; a loop cannot call itself."""
        if node.recursive:
            raise TemplateSyntaxError("recursive loops are not available", node.lineno)
        self.generic_visit(node)
        node.iter = _through(COUNTED, node.iter)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - Jinja's name
        """What ``~`` makes is judged before it is made."""
        self.generic_visit(node)
        return _through(JOINED, nodes.List(node.nodes, lineno=node.lineno))

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802 - Jinja's name
        """Both sides may be looked at to their last entry."""
        self.generic_visit(node)
        node.expr = _through(CHARGED, node.expr)
        for operand in node.ops:
            operand.expr = _through(CHARGED, operand.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802 - Jinja's name
        """A slice is a copy."""
        self.generic_visit(node)
        return _through(CHARGED, node) if isinstance(node.arg, nodes.Slice) else node


def _through(name: str, value: Any) -> nodes.Filter:
    return nodes.Filter(value, name, [], [], None, None, lineno=value.lineno)


class Sandbox(ImmutableSandboxedEnvironment):
    """A sandbox in which nothing is free, and an object's own keys come first."""

    intercepted_binops = frozenset({"*", "**", "%", "+", "-", "/", "//"})

    def __init__(self, **options: Any) -> None:
        """Without globals, and every filter and test charged for."""
        super().__init__(optimized=False, autoescape=False, keep_trailing_newline=True, **options)
        self.globals.clear()
        self.filters = {name: bounded_filter(name, one) for name, one in self.filters.items() if name not in LEFT_OUT}
        tests: dict[str, Any] = self.tests
        self.tests = {name: bounded_filter(name, one) for name, one in tests.items()}
        self.filters |= {COUNTED: counted, CHARGED: charged, JOINED: joined}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = Parser(self, source, name, filename).parse()
        _Guards().visit(tree)
        tree.set_environment(self)
        return tree

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An operator between two values, judged by what it would make of them.

        Raises SecurityError.
        """
        work = work_of(context)
        work.charge(NODE)
        if operator == "%" and isinstance(left, str):
            raise SecurityError("formatting with % is not available")
        if operator == "**" and not (isinstance(right, int | float) and abs(right) <= MAX_EXPONENT):
            raise SecurityError(f"the exponent is over {MAX_EXPONENT}")
        sides = [side for side in (left, right) if isinstance(side, str | list | tuple)]
        times = next((side for side in (left, right) if isinstance(side, int)), 1) if operator == "*" else 1
        for side in sides:
            before = work.left
            work.charge_for(side)
            work.charge((before - work.left) * max(times - 1, 0))
        result = super().call_binop(context, operator, left, right)
        if isinstance(result, int) and result.bit_length() > MAX_BITS:
            raise SecurityError(f"a whole number has more than {MAX_BITS} bits")
        return result

    def call(self, context: Context, called: Any, /, *args: Any, **kwargs: Any) -> Any:
        """A call: of a value's own method, or of what says why it cannot be called."""
        if isinstance(called, FunctionType):  # as which the sandbox gives str.format
            raise SecurityError(f"the method {called.__name__} is not available")
        owner = getattr(called, "__self__", None)
        if owner is None or isinstance(owner, LoopContext):
            return super().call(context, called, *args, **kwargs)
        given = {name: one for name, one in kwargs.items() if name not in {"_loop_vars", "_block_vars"}}  # Jinja's own
        return bounded_call(work_of(context), called, args, given)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """``body.items`` is the JSON field of that name where there is one, not the method."""
        return obj[attribute] if isinstance(obj, dict) and attribute in obj else super().getattr(obj, attribute)


LEFT_OUT = frozenset({"pprint", "xmlattr", "urlize", "random", "center", "indent", "striptags"})
"""random: the same step must give the same plan. The others make much of little, or nothing for a step."""
