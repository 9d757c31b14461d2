"""Commands whose modules are loaded only when they are called, or when all commands are listed."""

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

GROUPS = {
    "dead-letters": ("app.letters_cli", "letters_cli"),
    "audit": ("app.audit_cli", "audit_cli"),
    "drill": ("app.audit_cli", "drill_cli"),
}
COMMANDS = dict.fromkeys(("backtest", "explain", "coverage"), ("app.backtest_cli", "backtest_cli"))
"""Where the group stands that is the command, or that it is a command of."""


class LateGroup(TyperGroup):
    """The commands that were declared, and the late ones."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Their names, in the order of the help."""
        return [*super().list_commands(ctx), *COMMANDS, *GROUPS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name; None when there is none."""
        if cmd_name in GROUPS:
            group = _group(*GROUPS[cmd_name])
            group.name = cmd_name
            return group
        if cmd_name in COMMANDS:
            return _group(*COMMANDS[cmd_name]).get_command(ctx, cmd_name)
        return super().get_command(ctx, cmd_name)


def _group(module: str, name: str) -> Any:
    return typer.main.get_command(getattr(import_module(module), name))
