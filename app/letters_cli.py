"""The commands ``runbooks dead-letters``: thin, like all commands."""

import asyncio
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from app import operating
from app.printing import say, say_json
from app.streams.dead_letters import DeadLetters, Letter, told_time
from app.whereabouts import kafka_settings
from app.wiring import connection_of

letters_cli = typer.Typer(no_args_is_help=True, help="Records that could not be read.")
Offset = Annotated[int, typer.Argument(min=0, help="Where it stands on dead-letters.")]


@letters_cli.command("list")
def list_letters(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, the newest ones.")] = 50,
) -> None:
    """Show the newest records that could not be read, one JSON object a line, with the beginning of each."""
    for letter in asyncio.run(_newest(limit)):
        say_json(as_listed(letter))


async def _newest(limit: int) -> list[Letter]:
    async with DeadLetters.opened(connection_of(kafka_settings())) as letters:
        return await letters.newest(limit)


@letters_cli.command()
def show(offset: Offset) -> None:
    """Show one record: where it stood, why it was put aside, and all of its text on one line."""
    say(*as_shown(asyncio.run(_letter(offset))))


async def _letter(offset: int) -> Letter:
    async with DeadLetters.opened(connection_of(kafka_settings())) as letters:
        return await letters.letter(offset)


@letters_cli.command()
def requeue(
    offset: Offset,
    *,
    again: Annotated[bool, typer.Option("--again", help="Also one that was requeued before.")] = False,
) -> None:
    """Put one record back on the topic it came from, and note that."""
    place = asyncio.run(operating.requeue(kafka_settings(), offset, again=again))
    say(f"recorded at {place.topic}/{place.partition}/{place.offset}")


def as_listed(letter: Letter) -> dict[str, Any]:
    """A letter as it is listed: bytes as text, what is no text replaced."""
    note = letter.requeued
    return {
        "offset": letter.offset,
        "arrived": letter.arrived and letter.arrived.isoformat(),
        **letter.headers,
        "requeued": note and {"by": note.by, "at": note.at and note.at.isoformat(), "to": note.to},
        "bytes": letter.size,
        "value": letter.value.decode(errors="replace"),
    }


def as_shown(letter: Letter) -> Iterator[str]:
    """A letter as a person reads it, in lines; bytes that are no text are written as escapes."""
    headers, note = letter.headers, letter.requeued
    place = "/".join(headers.get(f"source-{name}", "?") for name in ("topic", "partition", "offset"))
    told = [
        ("arrived", told_time(letter.arrived)),
        ("from", place),
        ("why", headers.get("error", "")),
        ("key", "" if letter.key is None else _text(letter.key)),
        ("cut", f"only {letter.size} of its {headers['cut']} bytes were kept" if "cut" in headers else ""),
        ("requeued", f"by {note.by} at {told_time(note.at)}; it stands at {note.to}" if note else ""),
        ("bytes", str(letter.size)),
        ("record", _text(letter.value)),
    ]
    yield f"offset {letter.offset}"
    yield from (f"  {name:9} {text}" for name, text in told if text)


def _text(given: bytes) -> str:
    return given.decode(errors="backslashreplace")
