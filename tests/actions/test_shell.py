import asyncio
from dataclasses import replace

import pytest
from sshd import inventory

from app.actions.shell import ShellAction
from app.clients.secrets import Secrets
from app.clients.ssh import SshClient
from app.core.errors import ConfigurationError, PermanentError, TemporaryError
from app.core.model import canonical
from app.core.planning import OUTPUT_LIMIT
from app.core.shell_words import render_command
from app.core.steps import ShellStep
from app.settings import Settings, SshSettings
from app.wiring import clients_of

ACTION = ShellAction()
TOKEN = "a token that nobody may see"


def step(command, **fields) -> ShellStep:
    return ShellStep(**{"type": "shell", "host": "prod-host-01", "command": command, **fields})


@pytest.fixture
async def there(sshd, tmp_path, with_client):
    """A scene in which prod-host-01 is the real server."""
    hosts = {"prod_host_01": sshd.entry(), "prod_host_02": sshd.entry(tenants=["other"], sudo_users=["nobody"])}
    client = SshClient(inventory(tmp_path, **hosts), {})
    scene = with_client(ssh=client)
    (tmp_path / "secrets" / "default" / "DB_TOKEN").write_text(TOKEN)
    yield scene
    await client.close()


async def applied(one, scene):
    return await ACTION.apply(one, await ACTION.prepare(one, scene), scene)


async def test_a_plan_says_what_will_be_run_where_and_holds_secrets_by_name(there, sshd):
    one = step("systemctl restart payment-api", environment={"TOKEN": "$DB_TOKEN"}, stdin="$DB_TOKEN")
    plan = await ACTION.prepare(one, there)
    assert plan.summary == "Run `systemctl restart payment-api` on prod-host-01"
    assert plan.params == {
        "host": "prod-host-01",
        "address": f"{sshd.account}@127.0.0.1:{sshd.port}",
        "command": "systemctl restart payment-api",
        "arguments": [],
        "environment": {"TOKEN": "$DB_TOKEN"},
        "stdin": "$DB_TOKEN",
        "sudo_user": None,
    }
    assert (plan.inverse, plan.manual_reason) == (None, "a command cannot be taken back")
    assert await ACTION.prepare(one, replace(there, begun=plan)) == plan
    assert (await ACTION.prepare(step("id"), there)).digest != plan.digest


@pytest.mark.parametrize(
    ("command", "fields", "summary"),
    [
        ("restart {{ name }} now", {}, "Run `restart 'it'\"'\"'s' now` on prod-host-01"),
        (
            "restart {{ name }}",
            {"sudo_user": "postgres"},
            "Run `restart 'it'\"'\"'s'` on prod-host-01 as postgres via sudo",
        ),
        (
            'kill "$1" {{ name }}',
            {"arguments": ["-9 1"]},
            "Run `kill \"$1\" 'it'\"'\"'s'` on prod-host-01, where $1 = '-9 1'",
        ),
        ("echo {{ hidden }}", {}, r"Run `echo 'a\u202eb\x1b'` on prod-host-01"),
    ],
)
async def test_a_summary_shows_every_value_and_nothing_that_hides(there, command, fields, summary):
    variables = {"name": "it's", "hidden": "a\u202eb\x1b"}
    text, arguments = render_command(command, variables, fields.get("arguments", ()), "command")
    plan = await ACTION.prepare(step(text, **{**fields, "arguments": arguments}), there)
    assert plan.summary == summary


async def test_what_an_event_says_is_never_a_command(there):
    says = "$(id); `id`\n'\" && id ${1} \\"
    text, arguments = render_command('printf "%s|" {{ says }} "<{{ says }}>"', {"says": says}, (), "command")
    assert (await applied(step(text, arguments=arguments), there)).output["stdout"] == f"{says}|<{says}>|"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"host": "prod-host-1"}, r"no host 'prod-host-1' for the tenant default \(did you mean prod-host-01\?\)"),
        ({"host": "prod-host-02"}, r"no host 'prod-host-02' for the tenant default"),
        ({"environment": {"A": "$NOWHERE"}}, r"\$NOWHERE is missing"),
        ({"stdin": "$NOWHERE"}, r"\$NOWHERE is missing"),
        ({"arguments": ["\0"]}, "argument 1 holds a NUL"),
    ],
)
async def test_what_cannot_be_run_is_found_out_when_planning(there, fields, said):
    with pytest.raises(PermanentError, match=said):
        await ACTION.prepare(step("true", **fields), there)


async def test_a_sudo_user_must_be_allowed_where_the_inventory_lists_them(there):
    theirs = replace(there, tenant="other")
    with pytest.raises(PermanentError, match="does not allow the sudo_user root on prod-host-02"):
        await ACTION.prepare(step("id", host="prod-host-02", sudo_user="root"), theirs)
    outcome = await applied(step("id -un", host="prod-host-02", sudo_user="nobody"), theirs)
    assert outcome.output["stdout"] == "nobody\n"


async def test_a_host_that_is_away_is_found_out_when_planning(sshd, tmp_path, with_client, unused_tcp_port):
    client = SshClient(inventory(tmp_path, prod_host_01=sshd.entry(port=unused_tcp_port)), {})
    with pytest.raises(TemporaryError, match="prod-host-01 cannot be reached"):
        await ACTION.prepare(step("true"), with_client(ssh=client))
    await client.close()


async def test_planning_runs_nothing(there, tmp_path):
    await ACTION.prepare(step(f"touch {tmp_path}/ran", sudo_user="root"), there)
    assert not (tmp_path / "ran").exists()
    assert (await applied(step(f"touch {tmp_path}/ran", sudo_user="root"), there)).outcome == "succeeded"
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("command", "outcome", "exit_status", "signal", "message"),
    [
        ("echo out; echo err >&2", "succeeded", 0, None, None),
        ("echo out; echo err >&2; exit 3", "failed", 3, None, "the command exited with status 3"),
        ("echo out; echo err >&2; kill $$", "failed", None, "TERM", "the command was killed by signal TERM"),
    ],
)
async def test_how_a_command_ended_is_the_outcome(there, command, outcome, exit_status, signal, message):
    found = await applied(step(command), there)
    assert found.outcome == outcome
    assert found.output == {"exit_status": exit_status, "signal": signal, "stdout": "out\n", "stderr": "err\n"}
    assert (found.error and found.error.message, found.truncated) == (message, False)
    assert found.error is None or not found.error.temporary


async def test_a_command_that_was_stopped_is_unknown_and_keeps_what_it_said(there):
    found = await applied(step("echo begun; sleep 30", timeout_seconds=0.5), there)
    assert found.outcome == "unknown"
    assert found.output["stdout"] == "begun\n"
    assert found.error.message == "the command was stopped at its time limit: its effect is unknown"


async def test_secrets_reach_the_command_and_come_back_masked(there):
    one = step('cat; echo "$TOKEN" | tee /dev/stderr', environment={"TOKEN": "$DB_TOKEN"}, stdin="${DB_TOKEN}, $$5\n")
    output = (await applied(one, there)).output
    assert (output["stdout"], output["stderr"]) == ("***DB_TOKEN***, $5\n***DB_TOKEN***\n", "***DB_TOKEN***\n")
    assert (
        await applied(step('test "$TOKEN" = "$1"', arguments=[TOKEN], environment={"TOKEN": "$DB_TOKEN"}), there)
    ).outcome == "succeeded"


@pytest.mark.parametrize(
    "command",
    [
        "yes | head -c 1000000",
        "yes | head -c 1000000 >&2",
        "yes | head -c 1000000 | tee /dev/stderr",
        r"head -c 50000 /dev/zero | tee /dev/stderr",
    ],
)
async def test_no_output_is_larger_than_the_limit(there, command):
    found = await applied(step(command), there)
    size = len(canonical(found.output).encode())
    assert (found.outcome, found.truncated) == ("succeeded", True)
    assert OUTPUT_LIMIT - 200 < size <= OUTPUT_LIMIT


async def test_a_long_stdout_leaves_room_for_what_stderr_says(there):
    found = await applied(step("yes | head -c 1000000; echo why >&2; exit 1"), there)
    assert found.output["stderr"] == "why\n"
    assert len(found.output["stdout"]) > 40_000


async def test_a_secret_that_the_cut_falls_into_does_not_show_its_beginning(there):
    command = f'head -c {OUTPUT_LIMIT - 5} /dev/zero | tr "\\0" -; cat; yes'
    found = await applied(step(command, stdin="$DB_TOKEN", timeout_seconds=0.5), there)
    assert found.output["stdout"].strip("-") == ""


def test_a_worker_with_a_broken_inventory_does_not_start(tmp_path):
    settings = Settings(ssh=SshSettings(inventory=inventory(tmp_path, prod_host_01={"adress": "10.0.0.5"})))
    with pytest.raises(ConfigurationError, match=r"hosts\.prod-host-01\.adress: unknown field"):
        clients_of(settings, Secrets())


async def test_many_commands_run_at_once(there):
    outcomes = await asyncio.gather(*(applied(step("echo", arguments=[str(n)]), there) for n in range(40)))
    assert {one.outcome for one in outcomes} == {"succeeded"}
