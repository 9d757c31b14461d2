"""Commands that ask what a definition would have done, and why nothing was."""

import asyncio
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError

from app.calling import address, call
from app.collecting import collect_rarely
from app.core.anomaly import DEFAULT_TENANT
from app.core.backtest_report import Question
from app.core.errors import RunbooksError
from app.core.model import Instant
from app.printing import say, say_json
from app.settings import Settings
from app.streams.backtesting import Backtester, Progress
from app.whereabouts import kafka_settings
from app.wiring import connection_of, limits_of, read_definition

backtest_cli = typer.Typer()
SPAN = re.compile(r"(\d{1,6})([smhd])")
SPAN_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
TELL_EVERY_S = 1.0
SHOWN_DIFFERENCES = 50
Url = Annotated[str, typer.Option(envvar="API_URL", help="Where the API is.")]
Token = Annotated[str, typer.Option(envvar=["RUNBOOKS_TOKEN", "ADMIN_JWT", "VIEWER_JWT"], help="A JWT.")]
INSTANT: TypeAdapter[datetime] = TypeAdapter(Instant)


@backtest_cli.command()
def backtest(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The definition, JSON or YAML.")],
    *,
    since: Annotated[str, typer.Option(help="How far back: 7d, 12h, 30m; or an RFC 3339 time.")] = "7d",
    until: Annotated[str | None, typer.Option(help="The same; none: what the workers have read.")] = None,
    tenant: Annotated[str, typer.Option(help="Whose anomalies.")] = DEFAULT_TENANT,
    assume_seconds: Annotated[
        float | None,
        typer.Option(min=0, help="How long a run lasts that was none; none: the median of those that were."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also what does not differ, at most 1,000.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show what a definition would have done with the recorded anomalies, beside what was done; nothing is started."""
    kafka, now = kafka_settings(), datetime.now(UTC)
    question = Question(
        tenant=tenant,
        runbook=read_definition(file),
        since=moment(since, now),
        until=None if until is None else moment(until, now),
        assume=None if assume_seconds is None else timedelta(seconds=assume_seconds),
        everything=everything,
    )
    backtester = Backtester(connection_of(kafka), limits_of(Settings()), kafka.group_id)
    collect_rarely()
    shown = asyncio.run(backtester.run(question, progress=Teller())).shown()
    if as_json:
        say_json(shown, indent=2)
    else:
        say(*told(shown))


@backtest_cli.command()
def explain(anomaly_id: str, url: Url, token: Token) -> None:
    """Show why each runbook that is about an anomaly was started by it, or was not."""
    found = call("GET", address(url, "anomalies", anomaly_id, "decisions"), token)
    say(f"{found['anomaly_id']}: {found['service_id']}, {found['metric_name']}")
    for item in found["items"]:
        named = f", execution {item['execution_id']}" if item["execution_id"] else ""
        say(f"  {item['runbook_name']} version {item['runbook_version']}{named}: {item['told']}")


@backtest_cli.command()
def coverage(
    url: Url,
    token: Token,
    since: Annotated[str, typer.Option(help="How far back: 7d, 12h, 30m; or an RFC 3339 time.")] = "7d",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,  # noqa: FBT002 - an option
) -> None:
    """Show which anomalies no runbook handles, and which runbooks never fire, are mostly rejected or do not help."""
    start = moment(since, datetime.now(UTC)).isoformat()
    found = call("GET", address(url, "coverage", since=start), token)
    if as_json:
        say_json(found, indent=2)
    else:
        say(*covered(found))


def covered(found: dict[str, Any]) -> Iterator[str]:
    """The coverage as lines of text."""
    yield f"{found['anomalies']:,} anomalies since {found['since']}" + ("" if found["complete"] else ", not all read")
    for title, name in (("no runbook is about", "uncovered"), ("runbooks looked at and none took", "unhandled")):
        for place in found[name]:
            yield f"  {title} {place['service_id']}, {place['metric_name']}: {place['anomalies']:,}"
    for one in found["runbooks"]:
        runs = ", ".join(f"{count:,} {status}" for status, count in sorted(one["runs"].items()))
        yield f"{one['runbook_name']} version {one['runbook_version']}: {runs or 'no runs'}"
        if one["shadow"] is not None:
            would = ", ".join(f"{count:,} {what}" for what, count in sorted(one["shadow"].items()))
            yield f"  shadow, as far as can be judged: {would or 'nothing'}"
        yield from (f"  {remark}" for remark in one["remarks"])


def moment(text: str, now: datetime) -> datetime:
    """``7d`` before now, or an RFC 3339 time.

    Raises RunbooksError.
    """
    span = SPAN.fullmatch(text)
    if span is not None:
        try:
            return now - timedelta(**{SPAN_UNITS[span[2]]: int(span[1])})
        except OverflowError:
            raise RunbooksError(f"{text} is further back than the year 1") from None
    try:
        return INSTANT.validate_strings(text)
    except ValidationError:
        raise RunbooksError(
            f"{text} is neither a span like 7d, 12h or 30m nor an RFC 3339 time with an offset"
        ) from None


class Teller:
    """Says on standard error how far it is, how fast, and how long it will take."""

    def __init__(self) -> None:
        """Begin now."""
        self._begun = self._told = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        """Say it, once a second."""
        now = time.monotonic()
        last = progress.read >= progress.total
        if now - self._told < TELL_EVERY_S and not last:
            return
        self._told = now
        rate = progress.read / max(now - self._begun, 1e-3)
        left_s = (progress.total - progress.read) / rate
        share = progress.read / max(progress.total, 1)
        typer.echo(
            f"{share:4.0%}  {progress.read:,} of {progress.total:,} records  {rate:,.0f}/s  {left_s:.0f} s left",
            err=True,
        )


def told(shown: dict[str, Any]) -> Iterator[str]:
    """A report as lines of text: the differences first."""
    for one in shown["differences"][:SHOWN_DIFFERENCES]:
        waits = f"; first waits: {one['waits_for']}" if one["waits_for"] else ""
        yield f"{one['at']}  {one['anomaly_id']}  would: {_answer(one['would'])}{waits}; did: {_answer(one['did'])}"
    for one in shown["others"]:
        yield f"{one['at']}  {one['anomaly_id']}  {_answer(one['would'])}, as it was"
    if shown["differing"] > SHOWN_DIFFERENCES:
        yield f"and {shown['differing'] - SHOWN_DIFFERENCES:,} more differences"
    if not shown["differing"]:
        yield "no differences"
    yield ""
    version = shown["version_in_force"]
    compared = "no version is in force" if version is None else f"version {version} is in force"
    yield compared + (", and this is it" if shown["same_as_in_force"] else "")
    counts = f"{shown['decided']:,} anomalies: {shown['differing']:,} differ, {shown['same']:,} do not"
    yield counts + (f", of {shown['unknown']:,} the log does not tell" if shown["unknown"] else "")
    for one in shown["counts"]:
        yield f"  would: {one['would']:10} did: {one['did']:10} {one['anomalies']:>10,}"
    for one in shown["reasons"]:
        yield f"  {one['reason']}: {one['anomalies']:,}"
    if shown["would_first_wait"]:
        yield f"  {shown['would_first_wait']:,} would first wait for a target or a slot"
    if shown["assumed_runs"]:
        yield f"  {shown['assumed_runs']:,} runs were assumed to last {shown['assumed_seconds']:g} s"
    if not shown["complete"]:
        yield f"not all was read: only up to {shown['read_until']}"


def _answer(answer: dict[str, Any]) -> str:
    parts = [answer["result"], f"({answer['guard']})" if answer["guard"] else "", answer["reason"]]
    return " ".join(part for part in parts if part)
