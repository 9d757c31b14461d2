"""What the commands print: text of others can steer no terminal and forge no line."""

import json
from typing import Any

import typer

from app.core.plain_text import one_line


def say(*lines: str) -> None:
    """Print lines, each on one line: what does not print is written as an escape."""
    typer.echo("\n".join(map(one_line, lines)))


def complain(message: str) -> None:
    """Print a message of one or more lines on standard error, where errors go."""
    typer.echo("\n".join(map(one_line, message.splitlines())), err=True)


def say_json(value: Any, *, indent: int | None = None) -> None:
    """Print JSON for a program to read, in ASCII: a terminal that shows it is safe too."""
    typer.echo(json.dumps(value, indent=indent).replace("\x7f", "\\u007f"))
