"""The commands ``runbooks audit``: thin, like all commands."""

import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import uvloop
from aiokafka.errors import KafkaError
from pydantic import ValidationError
from pydantic_settings import SettingsError

from app.audit import drilling, exporting, replaying
from app.audit.drilling import Drilled, Rebuilding
from app.audit.exporting import Exported
from app.audit.reading import Progress
from app.audit.replaying import Replayed, Wanted
from app.audit.verifying import Result, Sources, Verification
from app.backtest_cli import moment
from app.collecting import collect_rarely
from app.core.anomaly import DEFAULT_TENANT
from app.core.errors import ConfigurationError, RunbooksError
from app.history.database import DATABASE_ERRORS, open_to_read
from app.history.signed_anchors import SignedAnchors, read_public_key
from app.printing import complain, say, say_json
from app.settings import Settings, wrong_settings
from app.streams.connection import KafkaConnection
from app.streams.topics import EXECUTION_EVENTS, changelog_name
from app.whereabouts import kafka_settings
from app.wiring import connection_of, now

audit_cli = typer.Typer(no_args_is_help=True, help="Check the log, and what was made of it; ask what it says.")
drill_cli = typer.Typer(no_args_is_help=True)
DIFFERENT, NOT_RUN = 1, 2


@drill_cli.callback()
def drill() -> None:
    """Practise what a disaster would need, beside what is live."""


Found = TypeVar("Found")
JsonFlag = Annotated[bool, typer.Option("--json", help="One JSON object.")]
Tenant = Annotated[str, typer.Option(help="Whose executions.")]


class Form(StrEnum):
    """How an export is written."""

    jsonl = "jsonl"
    csv = "csv"
    report = "report"


FORMS: dict[Form, Callable[[Exported], Iterator[str]]] = {
    Form.jsonl: exporting.as_json_lines,
    Form.csv: exporting.as_csv,
    Form.report: exporting.as_report,
}


@audit_cli.command()
def verify(
    as_json: JsonFlag = False,
    checkpoint: Annotated[Path | None, typer.Option(help="A file to go on from, written while it runs.")] = None,
    log_only: Annotated[bool, typer.Option("--log-only", help="Leave history and live table out.")] = False,
    anchors: Annotated[list[Path] | None, typer.Option(help="A file of signed anchors; may be given again.")] = None,
    public_key: Annotated[Path | None, typer.Option(help="The Ed25519 key they are signed with, PEM.")] = None,
) -> None:
    """Fold the whole log, check every rule, compare history and live table: 0 clean, 1 differences, 2 not run."""
    collect_rarely()
    result = run_or_exit(lambda: _verify(Settings(), checkpoint, (anchors, public_key), log_only=log_only))
    if as_json:
        say_json(result.shown())
    else:
        say(*told(result))
    if result.count:
        raise typer.Exit(DIFFERENT)


@audit_cli.command()
def replay(
    as_of: Annotated[str, typer.Option(help="RFC 3339 time, 7d or 12h ago, or an offset in the tenant's partition.")],
    tenant: Tenant = DEFAULT_TENANT,
    execution: Annotated[str | None, typer.Option(help="Only this one.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show executions as they stood then, folded from the log alone: 0 shown, 1 there were none, 2 not run."""
    replayed = run_or_exit(lambda: _replay(as_of, tenant, execution))
    if as_json:
        say_json(replaying.shown(replayed))
    else:
        say(*replaying.told(replayed))
    if not replayed.executions:
        raise typer.Exit(DIFFERENT)


@audit_cli.command()
def export(
    executions: Annotated[list[str], typer.Argument(help="Their ids.")],
    tenant: Tenant = DEFAULT_TENANT,
    form: Annotated[Form, typer.Option("--format", help="JSON Lines, a table, or a text to read.")] = Form.jsonl,
) -> None:
    """Write all that was recorded of these executions: who, what, why, when, digests, before and after."""
    exported = run_or_exit(lambda: exporting.export(_connection(), EXECUTION_EVENTS, tenant, executions, show_progress))
    for line in FORMS[form](exported):
        print(line)
    begun_before = exported.without_request()
    if begun_before:
        complain(f"runbooks: how {', '.join(begun_before)} began is gone: {exported.why_without()}")
    missing = [name for name in executions if name not in {*exported.executions, *begun_before}]
    if missing:
        complain(f"runbooks: the log has nothing of {', '.join(missing)}")
        raise typer.Exit(DIFFERENT)


@drill_cli.command()
def rebuild(
    folder: Annotated[Path | None, typer.Option(help="Where to; none: a new folder for temporary files.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Rebuild history and live table from the log alone, beside the live ones: 0 the same, 1 differences, 2 not run."""
    where = folder or Path(tempfile.mkdtemp(prefix="runbooks-drill-"))
    drilled = run_or_exit(lambda: _rebuild(Settings(), where))
    if as_json:
        say_json(drilled.shown())
    else:
        say(*drilling.told(drilled))
    if drilled.result.count:
        raise typer.Exit(DIFFERENT)


async def _replay(as_of: str, tenant: str, execution: str | None) -> Replayed:
    wanted = Wanted(tenant, int(as_of) if as_of.isdecimal() else moment(as_of, now()), execution)
    return await replaying.replay(_connection(), EXECUTION_EVENTS, wanted, show_progress)


async def _rebuild(settings: Settings, folder: Path) -> Drilled:
    kafka = kafka_settings()
    engine = await open_to_read(settings.history_url)
    try:
        table = changelog_name(kafka.group_id, "executions")
        sources = Sources(connection_of(kafka), EXECUTION_EVENTS, engine, table, kafka.group_id)
        return await Rebuilding(sources, folder, show_progress).run()
    finally:
        await engine.dispose()


def run_or_exit(work: Callable[[], Coroutine[Any, Any, Found]]) -> Found:
    """Run it; what cannot be run ends the command with a status of its own."""
    try:
        return uvloop.run(work())
    except (ValidationError, SettingsError) as error:
        complain(f"runbooks: the audit could not be made: {wrong_settings(error)}")
        raise typer.Exit(NOT_RUN) from error
    except (RunbooksError, KafkaError, *DATABASE_ERRORS) as error:
        complain(f"runbooks: the audit could not be made: {error}")
        raise typer.Exit(NOT_RUN) from error
    finally:
        if sys.stderr.isatty():
            print(file=sys.stderr)


def show_progress(progress: Progress) -> None:
    """One line on a terminal, written over again."""
    if sys.stderr.isatty():
        print(f"\r{progress.told()}\x1b[K", end="", file=sys.stderr, flush=True)


def _connection() -> KafkaConnection:
    return connection_of(kafka_settings())


async def _verify(
    settings: Settings, checkpoint: Path | None, anchors: tuple[list[Path] | None, Path | None], *, log_only: bool
) -> Result:
    kafka, signed = kafka_settings(), _signed(*anchors)
    engine = None if log_only else await open_to_read(settings.history_url)
    table = None if log_only else changelog_name(kafka.group_id, "executions")
    try:
        sources = Sources(connection_of(kafka), EXECUTION_EVENTS, engine, table, kafka.group_id, signed)
        return await Verification(sources, show_progress, checkpoint).run()
    finally:
        if engine is not None:
            await engine.dispose()


def _signed(files: list[Path] | None, key: Path | None) -> SignedAnchors | None:
    if bool(files) != (key is not None):
        raise ConfigurationError("--anchors and --public-key are needed together")
    return SignedAnchors(files, read_public_key(key), EXECUTION_EVENTS) if files and key else None


def told(result: Result) -> list[str]:
    """What was found, in lines: differences first, notes and the sum at the end."""
    rate = result.records / result.seconds if result.seconds else 0.0
    lines = [*result.told()]
    if result.left_out:
        lines.append(f"note: {result.left_out} rows moved on meanwhile, or were not written yet")
    return [*lines, f"{result.records:,} records in {result.seconds:.1f} s ({rate:,.0f}/s): {result.count} differences"]
