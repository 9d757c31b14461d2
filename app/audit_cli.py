"""The commands ``runbooks audit``: thin, like all commands."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from aiokafka.errors import KafkaError
from pydantic import ValidationError

from app.audit.verifying import Progress, Result, Sources, Verification
from app.core.errors import RunbooksError
from app.history.database import DATABASE_ERRORS, open_database
from app.printing import complain, say, say_json
from app.settings import Settings
from app.streams.topics import EXECUTION_EVENTS, changelog_name
from app.wiring import connection_of

audit_cli = typer.Typer(no_args_is_help=True, help="Check the log, and what was made of it.")
DIFFERENT, NOT_RUN = 1, 2
JsonFlag = Annotated[bool, typer.Option("--json", help="One JSON object.")]


@audit_cli.command()
def verify(
    as_json: JsonFlag = False,
    checkpoint: Annotated[Path | None, typer.Option(help="A file to go on from, written while it runs.")] = None,
    log_only: Annotated[bool, typer.Option("--log-only", help="Leave history and live table out.")] = False,
) -> None:
    """Fold the whole log, check every rule, compare history and live table: 0 clean, 1 differences, 2 not run."""
    try:
        result = uvloop.run(_verify(Settings(), checkpoint, log_only=log_only))
    except (RunbooksError, KafkaError, ValidationError, *DATABASE_ERRORS) as error:
        complain(f"runbooks: the audit could not be made: {error}")
        raise typer.Exit(NOT_RUN) from error
    if as_json:
        say_json(result.shown())
    else:
        say(*told(result))
    if result.count:
        raise typer.Exit(DIFFERENT)


async def _verify(settings: Settings, checkpoint: Path | None, *, log_only: bool) -> Result:
    kafka = settings.kafka
    engine = None if log_only else await open_database(settings.history_url)
    table = None if log_only else changelog_name(kafka.group_id, "executions")
    try:
        sources = Sources(connection_of(kafka), EXECUTION_EVENTS, engine, table, kafka.group_id)
        verification = Verification(sources, _show_progress, checkpoint)
        try:
            return await verification.run()
        except asyncio.CancelledError:
            if checkpoint is not None:
                verification.save()
            raise
    finally:
        if engine is not None:
            await engine.dispose()


def _show_progress(progress: Progress) -> None:
    if sys.stderr.isatty():
        print(f"\r{progress.told()}\x1b[K", end="", file=sys.stderr, flush=True)


def told(result: Result) -> list[str]:
    """What was found, in lines: differences first, notes and the sum at the end."""
    rate = result.records / result.seconds if result.seconds else 0.0
    lines = [one.told() for one in result.differences]
    if result.count > len(lines):
        lines.append(f"and {result.count - len(lines)} more differences")
    lines += [f"note: {note}" for note in result.notes]
    if result.left_out:
        lines.append(f"note: {result.left_out} rows moved on meanwhile, or were not written yet")
    return [*lines, f"{result.records:,} records in {result.seconds:.1f} s ({rate:,.0f}/s): {result.count} differences"]
