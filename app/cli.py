"""The command ``runbooks``: thin, each command a call of something that can be tested without it.

What only calls the API is there at once: the parts of a worker take seconds to load, so who needs them imports them.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
import uvloop
from pydantic import ValidationError
from pydantic_settings import SettingsError

from app.calling import address
from app.calling import call as _call
from app.collecting import collect_rarely
from app.core.errors import ConfigurationError, NotAcknowledged, RunbooksError
from app.late_commands import LateGroup
from app.printing import complain, say, say_json
from app.settings import Settings, wrong_settings
from app.timelines import request_lines, timeline
from app.whereabouts import kafka_settings, take_what_run_wrote

if TYPE_CHECKING:
    from app.main import Worker
    from app.step_worker import StepWorker

cli = typer.Typer(cls=LateGroup, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
topics_cli = typer.Typer(no_args_is_help=True, help="Compare the topics with topics.yaml, or create what is missing.")
cli.add_typer(topics_cli, name="topics")
SWITCH_INTERVAL_S = 0.0005
"""SQLite has threads of its own: with Python's 5 ms a record would wait for them (docs/performance.md)."""
Url = Annotated[str, typer.Option(envvar="API_URL", help="Where the API is.")]
Token = Annotated[str, typer.Option(envvar=["RUNBOOKS_TOKEN", "ADMIN_JWT", "OPERATOR_JWT"], help="A JWT.")]

Digest = Annotated[
    str | None, typer.Option(help="Of the plan you looked at; without it the plan is shown, and a terminal asks you.")
]
Decider = Annotated[
    str, typer.Option(envvar=["RUNBOOKS_TOKEN", "APPROVER_JWT", "ADMIN_JWT"], help="An approver's JWT.")
]


Reason = Annotated[str, typer.Option(help="Told wherever a runbook does not start.")]
Window = Annotated[
    str | None,
    typer.Option(help="START/END in RFC 3339, either may be left out; none: from now on, until it is resumed."),
]


def main() -> None:
    """Run the command; an error of ours is one sentence and exit status 1."""
    try:
        take_what_run_wrote()
        cli()
    except RunbooksError as error:
        complain(f"runbooks: {error}")
        sys.exit(1)
    except (ValidationError, SettingsError) as error:
        complain(f"runbooks: {wrong_settings(error)}")
        sys.exit(1)


@cli.command("run")
def run_command() -> None:
    """Start the broker, a worker, the API and the demo, until Ctrl-C (DEMO=0 leaves the demo out)."""
    from app.development import run

    settings = Settings()
    demo = os.environ.get("DEMO", "1") != "0"
    _until_stopped(run(settings, lambda line: print(line, flush=True), demo=demo))


@cli.command()
def worker(
    actions: Annotated[
        list[str] | None, typer.Option(help="Carry out steps of this kind and do nothing else; may be repeated.")
    ] = None,
    elsewhere: Annotated[
        list[str] | None, typer.Option(help="Leave steps of this kind to such workers; may be repeated.")
    ] = None,
) -> None:
    """Start one worker against the configured broker."""
    from app.main import Worker
    from app.step_worker import StepWorker
    from app.streams.structured_logs import configure_logging

    for name, given in (("ACTIONS", actions), ("ELSEWHERE", elsewhere)):
        if given:
            os.environ[f"RUNBOOKS_WORKER__{name}"] = orjson.dumps(given).decode()
    settings = Settings()
    one = StepWorker(settings) if settings.worker.actions else Worker(settings)
    configure_logging(settings.log_level, one.secrets.mask_any)
    _until_stopped(_work(one))


async def _work(one: "Worker | StepWorker") -> None:
    async with one.running() as running:
        collect_rarely()
        error = await running.failure
        raise RunbooksError(f"the worker stopped: {error!r}")


@cli.command()
def validate(files: list[Path]) -> None:
    """Check definitions; every problem of every file is told with its path."""
    from app.wiring import read_definition

    problems: list[str] = []
    for path in files:
        try:
            runbook = read_definition(path)
        except ConfigurationError as error:
            problems.append(str(error))
        else:
            say(f"{path}: {runbook.name} is valid, {len(runbook.steps)} steps")
    if problems:
        raise ConfigurationError("\n".join(problems))


@cli.command()
def apply(folder: Annotated[Path, typer.Argument(exists=True, file_okay=False)], url: Url, token: Token) -> None:
    """Bring all definitions of a folder into force."""
    from app.wiring import read_definitions

    for runbook in read_definitions(folder):
        done = _call("PUT", address(url, "runbooks", runbook.name), token, runbook.content())
        say(f"{done['name']}: version {done['version']} is in force")


@cli.command()
def execute(
    name: str,
    url: Url,
    token: Token,
    context: Annotated[str, typer.Option(help="A JSON object.")] = "{}",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
) -> None:
    """Start a runbook by hand, or show what it would do."""
    try:
        given = orjson.loads(context)
    except orjson.JSONDecodeError as error:
        raise RunbooksError(f"--context is not JSON: {error}") from error
    body = {"runbook_name": name, "context": given, **({"dry_run": True} if dry_run else {})}
    item = _call("POST", address(url, "runbooks", "execute"), token, body)
    say(*(timeline(item) if "steps" in item else [f"execution {item['execution_id']} is requested"]))


@cli.command()
def history(
    url: Url,
    token: Token,
    service_id: Annotated[str | None, typer.Option()] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show the latest executions."""
    query = {"service_id": service_id} if service_id else {}
    for item in _call("GET", address(url, "runbooks", "history", limit=limit, **query), token)["items"]:
        if as_json:
            say_json(item)
        else:
            say(*timeline(item))


@cli.command()
def approvals(
    url: Url,
    token: Decider,
    everything: Annotated[bool, typer.Option("--all", help="Also what waits for others.")] = False,
) -> None:
    """Show what waits for your approval, the nearest deadline first, with the plan and its digest."""
    found = _waiting(url, token, {"all": "true"} if everything else {})
    for item in found:
        say(*request_lines(item))
    if not found:
        print("nothing waits for you")


def _waiting(url: str, token: str, query: dict[str, str]) -> list[dict[str, Any]]:
    """What waits, of all pages."""
    page = _call("GET", address(url, "approvals", limit=200, **query), token)
    items: list[dict[str, Any]] = page["items"]
    while page["next_cursor"] is not None:
        page = _call("GET", address(url, "approvals", limit=200, cursor=page["next_cursor"], **query), token)
        items += page["items"]
    return items


@cli.command()
def approve(execution_id: str, url: Url, token: Decider, comment: str = "", digest: Digest = None) -> None:
    """Approve the step that waits."""
    _decide(execution_id, {"decision": "approve", "comment": comment, "digest": digest}, url, token)


@cli.command()
def reject(execution_id: str, url: Url, token: Decider, comment: str = "", digest: Digest = None) -> None:
    """Reject the step that waits: the execution halts."""
    _decide(execution_id, {"decision": "reject", "comment": comment, "digest": digest}, url, token)


def _decide(execution_id: str, body: dict[str, Any], url: str, token: str) -> None:
    """Decide on the plan that was named, or on the one that is shown now: never on one that nobody looked at."""
    wanted = {"all": "true", "execution_id": execution_id}
    for item in _waiting(url, token, wanted) if body["digest"] is None else ():
        say(*request_lines(item))
        if sys.stdin.isatty():
            typer.confirm(f"{body['decision']} this?", abort=True)
        body = body | {"digest": item["approval"]["digest"]}
    item = _call("POST", address(url, "executions", execution_id, "approvals"), token, body)
    say(*(timeline(item) if "steps" in item else ["the decision is recorded"]))


@cli.command()
def rollback(execution_id: str, url: Url, token: Token, comment: str = "") -> None:
    """Take back what an execution that has ended did."""
    item = _call("POST", address(url, "executions", execution_id, "rollback"), token, {"comment": comment})
    say(*timeline(item))


@cli.command()
def pause(
    name: str,
    url: Url,
    token: Token,
    reason: Reason = "",
    runbook: Annotated[str | None, typer.Option(help="Only this one.")] = None,
    service_id: Annotated[str | None, typer.Option(help="Only for this one.")] = None,
    window: Window = None,
) -> None:
    """Keep runbooks from starting: the kill switch of a tenant, or a maintenance window."""
    given = {"runbook": runbook, "service_id": service_id, "reason": reason, **_window(window)}
    item = _call("PUT", address(url, "pauses", name), token, {field: value for field, value in given.items() if value})
    say(f"{item['name']}: paused from {item['starts_at']}" + (f" until {item['ends_at']}" if item["ends_at"] else ""))


@cli.command()
def resume(name: str, url: Url, token: Token) -> None:
    """End a pause: what it kept from starting goes on."""
    _call("DELETE", address(url, "pauses", name), token)
    say(f"{name}: resumed")


@cli.command("pause-everybody")
def pause_everybody(name: str, reason: Reason = "", window: Window = None) -> None:
    """Keep the runbooks of all tenants from starting: written to Kafka, by whoever may write the topic."""
    from app import operating
    from app.wiring import connection_of

    try:
        connection = connection_of(kafka_settings())
        place = asyncio.run(operating.pause_everybody(connection, name, reason, _window(window)))
    except NotAcknowledged as error:
        raise RunbooksError(f"perhaps nothing was paused: {error}; pause again, it does no harm") from error
    except RunbooksError as error:
        raise RunbooksError(f"nothing was paused: {error}") from error
    print(f"recorded at {place.topic}/{place.partition}/{place.offset} of {connection.bootstrap_servers}")


@cli.command("resume-everybody")
def resume_everybody(name: str) -> None:
    """End a pause of all tenants."""
    from app import operating
    from app.wiring import connection_of

    connection = connection_of(kafka_settings())
    place = asyncio.run(operating.resume_everybody(connection, name))
    print(f"recorded at {place.topic}/{place.partition}/{place.offset} of {connection.bootstrap_servers}")


def _window(given: str | None) -> dict[str, str]:
    start, _, end = (given or "").partition("/")
    return {name: value for name, value in (("starts_at", start), ("ends_at", end)) if value}


@cli.command()
def pauses(url: Url, token: Token) -> None:
    """Show what is paused, or will be."""
    found = _call("GET", address(url, "pauses"), token)["items"]
    for item in found:
        what = item["runbook"] or "every runbook"
        where = f" for {item['service_id']}" if item["service_id"] else ""
        until = f" until {item['ends_at']}" if item["ends_at"] else ""
        whose = " of every tenant" if item["everybody"] else ""
        say(f"{item['name']}: {what}{whose}{where} from {item['starts_at']}{until}, by {item['by']}: {item['reason']}")
    if not found:
        print("nothing is paused")


@cli.command("publish-anomaly")
def publish_anomaly(
    file: Annotated[Path, typer.Argument(help="A JSON file, - for standard input.")] = Path("-"),
    bootstrap_servers: Annotated[
        str | None, typer.Option(help="host:port,…; none: RUNBOOKS_KAFKA__BOOTSTRAP_SERVERS, or that of a make run.")
    ] = None,
) -> None:
    """Publish anomaly events to Kafka: one JSON object, or one a line, in UTF-8."""
    from app import operating
    from app.wiring import connection_of

    text = _text_of(file)
    places = asyncio.run(operating.publish_anomalies(connection_of(kafka_settings(bootstrap_servers)), text))
    for place in places:
        print(f"recorded at {place.topic}/{place.partition}/{place.offset}")


def _text_of(file: Path) -> str:
    try:
        return (sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise RunbooksError(f"{file}: cannot be read: {error}") from error


@topics_cli.command("check")
def topics_check() -> None:
    """Compare the broker with topics.yaml; exit status 1 when a topic is missing or different."""
    missing = _topics(create=False)
    print("\n".join(f"missing: {name}" for name in missing) or "all topics are as declared")
    if missing:
        raise typer.Exit(1)


@topics_cli.command("apply")
def topics_apply() -> None:
    """Create the topics that are missing."""
    print("\n".join(f"created: {name}" for name in _topics(create=True)) or "all topics are as declared")


def _topics(*, create: bool) -> list[str]:
    from app.streams.topics import ensure_topics, read_topics
    from app.wiring import connection_of

    kafka = kafka_settings()
    specs = read_topics(kafka.topics_file, kafka.group_id)
    return asyncio.run(ensure_topics(connection_of(kafka), specs, create=create))


@cli.command()
def token(
    role: Annotated[list[str], typer.Option()],
    subject: str = "developer",
    tenant: str = "default",
) -> None:
    """Make a token with RUNBOOKS_API__JWT_SECRET (development only)."""
    from app.development import make_token

    secret = Settings().api.jwt_secret
    if secret is None:
        raise RunbooksError("set RUNBOOKS_API__JWT_SECRET: the token is signed with it")
    print(make_token(secret.get_secret_value(), subject, role, tenant))


@cli.command(hidden=True)
def schemas(folder: Path = Path("schemas")) -> None:
    """Write the JSON Schemas of all messages."""
    from app import operating

    for name, text in operating.schemas().items():
        (folder / name).write_text(text)


def _until_stopped(work: Coroutine[Any, Any, None]) -> None:
    """Run until it ends or a signal asks to stop; stopping is no error."""

    async def watched() -> None:
        task = asyncio.ensure_future(work)
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await task

    sys.setswitchinterval(SWITCH_INTERVAL_S)
    uvloop.run(watched())


if __name__ == "__main__":
    main()
