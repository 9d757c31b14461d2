"""Against a real OpenSSH server."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path

import asyncssh
import psutil
import pytest
from parts import missing_part
from sshd import command_lines, inventory, running_sshd
from waiting import until

from app.clients.ssh import SshClient
from app.clients.ssh_script import Script
from app.core.errors import PermanentError, TemporaryError
from app.core.planning import OUTPUT_LIMIT

ODD_WORDS = ("", "a b", "it's", '"', "$(id)", "`id`", "${HOME}", "two\nlines\n", "*", "-n", "\\", "ü — 🚀", "; exit 9")
OTHER_KEY = "it does not show the key that its known_hosts holds"


@contextlib.asynccontextmanager
async def a_client(folder, environment=None, **hosts):
    client = SshClient(inventory(folder, **hosts), environment or {})
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture
async def client(sshd, tmp_path):
    """A client that knows the server twice: as root's and as the account's."""
    async with a_client(tmp_path, root=sshd.entry("root"), account=sshd.entry()) as ready:
        yield ready


@pytest.fixture
def run(client):
    """Run a text as one of the two, the account by default."""

    async def start(text, *arguments, host="account", timeout_s=20.0, **fields):
        return await client.run("acme", host, Script(text, arguments, **fields), timeout_s)

    return start


@pytest.fixture
def marker():
    """A word that stands in the command lines of what a test starts, and nowhere else."""
    return f"marker-{uuid.uuid4().hex}"


@pytest.mark.parametrize("host", ["root", "account"])
@pytest.mark.parametrize(
    ("text", "exit_status", "signal"),
    [
        ("true", 0, None),
        ("exit 3", 3, None),
        ("exit 255", 255, None),
        ("exit 124", 124, None),
        ("exit 137", 137, None),
        ("no-such-program", 127, None),
        ("kill -TERM $$", None, "TERM"),
        ("kill -KILL $$", None, "KILL"),
    ],
)
async def test_how_a_command_ends_is_told_as_it_is(run, host, text, exit_status, signal):
    ran = await run(text, host=host)
    assert (ran.exit_status, ran.signal, ran.doubt) == (exit_status, signal, None)


async def test_both_streams_are_kept_apart_and_no_utf8_is_replaced(run):
    ran = await run(r"printf 'a\377b'; printf 'c\n' >&2")
    assert (ran.stdout.text, ran.stderr.text) == ("a\ufffdb", "c\n")
    assert not ran.stdout.truncated
    assert not ran.stderr.truncated


@pytest.mark.parametrize("environment", [{}, {"ANY": "thing"}])
async def test_arguments_arrive_as_they_are(run, environment):
    ran = await run(r'printf "%s\0" "$@"', *ODD_WORDS, environment=environment)
    assert tuple(ran.stdout.text.split("\0")[:-1]) == ODD_WORDS


@pytest.mark.parametrize("sudo_user", [None, "root"])
async def test_the_environment_and_stdin_arrive_as_they_are(run, sudo_user):
    odd = {f"ODD_{index}": word for index, word in enumerate(ODD_WORDS)}
    said = "lines\nwithout $(an) end '"
    text = r'env -0 | grep -z ^ODD_ | sort -z; cat; test "$(id -un)" = "${AS:-$(id -un)}"'
    ran = await run(text, environment={**odd, "AS": sudo_user or ""}, stdin=said, sudo_user=sudo_user)
    assert ran.exit_status == 0
    *found, rest = ran.stdout.text.split("\0")
    assert (dict(one.split("=", 1) for one in found), rest) == (odd, said)


async def test_without_stdin_a_command_finds_its_end_at_once(run):
    assert (await run("cat; echo end")).stdout.text == "end\n"


async def test_what_is_secret_stands_on_no_command_line(run, marker, sshd):
    released = sshd.folder / marker  # a folder that the account may look into
    text = f'read -r line; : {marker}; while [ ! -e "$1" ]; do sleep 0.02; done; echo "$TOKEN $line"'
    secret, said = f"in-environment-{uuid.uuid4().hex}", f"on-stdin-{uuid.uuid4().hex}"
    running = asyncio.create_task(run(text, str(released), environment={"TOKEN": secret}, stdin=f"{said}\n"))

    async def shows():
        return [line for line in command_lines() if marker in line]

    await until(shows)
    lines = command_lines()
    released.touch()
    assert (await running).stdout.text == f"{secret} {said}\n"
    assert not [line for line in lines if secret in line or said in line]


async def test_200_mb_are_read_to_their_end_and_64_kib_kept(run):
    before = psutil.Process().memory_info().rss
    ran = await run("yes | head -c 200000000; yes | head -c 1000000 >&2; exit 4", timeout_s=60)
    assert ran.exit_status == 4
    for output in (ran.stdout, ran.stderr):
        assert (len(output.text), output.truncated) == (OUTPUT_LIMIT, True)
    assert psutil.Process().memory_info().rss - before < 64 * 1024 * 1024


@pytest.mark.parametrize(
    ("host", "sudo_user"), [("root", None), ("account", None), ("account", "root"), ("root", "nobody")]
)
async def test_a_command_that_is_stopped_leaves_nothing_and_keeps_what_it_said(run, marker, host, sudo_user):
    ran = await run(f"(yes {marker}) & yes {marker}", host=host, sudo_user=sudo_user, timeout_s=0.5)
    assert ran.doubt == "the command was stopped at its time limit"
    assert ran.stdout.text.startswith(marker)
    assert ran.stdout.truncated
    assert not [line for line in command_lines() if marker in line]


async def test_one_that_does_not_want_to_stop_is_killed(run, marker):
    ran = await run(f"trap '' TERM; while :; do sleep 0.1; : {marker}; done", sudo_user="root", timeout_s=0.3)
    assert ran.doubt == "the command was stopped at its time limit"
    assert not [line for line in command_lines() if marker in line]


async def test_what_a_command_leaves_running_does_not_hold_it_up(run):
    ran = await run("echo started; sleep 20 & exit 5")
    assert (ran.exit_status, ran.stdout.text, ran.doubt) == (5, "started\n", None)


async def test_a_user_that_sudo_does_not_know_fails_as_sudo_says(run):
    ran = await run("true", sudo_user="no-such-user")
    assert ran.exit_status == 1
    assert "unknown user no-such-user" in ran.stderr.text


async def test_commands_share_connections(run, sshd):
    before = sshd.logins
    for _ in range(3):
        await run("true")
    assert sshd.logins == before + 1
    ran = await asyncio.gather(*(run('echo "$1"', str(number)) for number in range(20)))
    assert [int(one.stdout.text) for one in ran] == list(range(20))
    assert sshd.logins <= before + 3


@pytest.fixture
def own_sshd():
    """Servers that a test may stop."""
    with contextlib.ExitStack() as stack:
        yield lambda more="": stack.enter_context(running_sshd(more))


@pytest.fixture
async def own(own_sshd, tmp_path):
    """A server that the test may stop, and a client of it."""
    server = own_sshd()
    async with a_client(tmp_path, it=server.entry()) as client:
        yield server, client


async def test_a_server_that_was_started_again_is_connected_to_again(own):
    server, client = own
    script = Script("echo here")
    await client.check("acme", "it", script)
    server.kill()
    server.start()
    assert (await client.run("acme", "it", script, 20)).stdout.text == "here\n"
    server.kill()
    with pytest.raises(TemporaryError, match="it cannot be reached"):
        await client.run("acme", "it", script, 20)


async def test_a_server_that_dies_meanwhile_leaves_the_outcome_unknown(own, marker):
    server, client = own
    running = asyncio.create_task(client.run("acme", "it", Script(f"echo begun; sleep 30; : {marker}"), 30))

    async def shows():
        return [line for line in command_lines() if marker in line]

    await until(shows)
    server.kill()
    ran = await running
    assert (ran.exit_status, ran.signal, ran.stdout.truncated) == (None, None, True)
    assert ran.doubt.startswith("the connection broke while the command ran")


async def test_a_host_that_allows_few_sessions_gets_more_connections(own_sshd, tmp_path):
    server = own_sshd("MaxSessions 2")
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        together = f"touch {name}/$$; until [ $(ls {name} | wc -l) -ge 6 ]; do sleep 0.05; done"
        async with a_client(tmp_path, it=server.entry()) as client:
            ran = await asyncio.gather(*(client.run("acme", "it", Script(together), 60) for _ in range(6)))
    assert [one.exit_status for one in ran] == [0] * 6
    assert server.logins >= 3


async def test_a_host_that_opens_no_session_has_run_nothing(own_sshd, tmp_path):
    server = own_sshd("MaxSessions 0")
    async with a_client(tmp_path, it=server.entry()) as client:
        await client.check("acme", "it", Script("true"))
        with pytest.raises(TemporaryError, match="it opens no session, nothing was run"):
            await client.run("acme", "it", Script("true"), 20)
    assert server.logins == 2


async def test_a_host_of_which_the_inventory_says_something_else_is_logged_in_to_anew(sshd, tmp_path, client, run):
    assert (await run("id -un", host="root")).stdout.text == "root\n"
    inventory(tmp_path, root=sshd.entry(), account=sshd.entry())
    assert (await run("id -un", host="root")).stdout.text == f"{sshd.account}\n"
    inventory(tmp_path, account=sshd.entry())
    with pytest.raises(PermanentError, match="no host 'root' for the tenant acme"):
        await run("id -un", host="root")


def write_key(path):
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(path)
    return str(path)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (lambda _, sshd: {"known_hosts": sshd.known_hosts("client_key")}, OTHER_KEY),
        (lambda *_: {"known_hosts": "/dev/null"}, OTHER_KEY),
        (lambda *_: {"known_hosts": "# nobody is known"}, OTHER_KEY),
        (lambda *_: {"known_hosts": "missing"}, "the known_hosts of it cannot be read: No such file or directory"),
        (
            lambda *_: {"known_hosts": "@nonsense a b"},
            "the known_hosts of it cannot be read: Invalid",
        ),
        (lambda folder, _: {"key_file": write_key(folder / "other")}, "it lets {account} not in"),
        (lambda *_: {"user": "no-such-user"}, "it lets no-such-user not in"),
        (lambda *_: {"key_file": "missing"}, "the key_file of it cannot be read: No such file or directory"),
        (lambda *_: {"key_file": "inventory.yaml"}, "the key_file of it cannot be read"),
        (
            lambda *_: {"key_file": None, "agent": True},
            "it wants the SSH agent's keys: start the worker with",
        ),
    ],
)
async def test_a_login_that_may_not_be_is_known_before_anything_is_run(sshd, tmp_path, monkeypatch, fields, said):
    home = tmp_path / ".ssh"  # all that would open the door, if only it were looked at
    home.mkdir()
    shutil.copy(sshd.key_file, home / "id_ed25519")
    (home / "known_hosts").write_text(sshd.known_hosts("host_key"))
    (home / "config").write_text("StrictHostKeyChecking no\nUserKnownHostsFile none\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    async with a_client(tmp_path, it={**sshd.entry(), **fields(tmp_path, sshd)}) as client:
        with pytest.raises(PermanentError) as caught:
            await client.check("acme", "it", Script("true"))
    assert said.format(account=sshd.account) in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("alive", [False, True])
async def test_where_no_ssh_server_listens_is_no_host(sshd, tmp_path, unused_tcp_port, alive):
    async def greet(_reader, writer):
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", unused_tcp_port)
    if not alive:
        server.close()
    async with server, a_client(tmp_path, it=sshd.entry(port=unused_tcp_port)) as client:
        with pytest.raises(TemporaryError, match="it cannot be reached"):
            await client.check("acme", "it", Script("true"))


async def test_all_who_wait_for_a_host_are_told_together_that_it_is_not_there(sshd, tmp_path):
    connections = 0

    async def refuse(_reader, writer):
        nonlocal connections
        connections += 1
        await asyncio.sleep(0.1)
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, a_client(tmp_path, it=sshd.entry(port=port)) as client:
        checks = [client.check("acme", "it", Script("true")) for _ in range(10)]
        told = await asyncio.gather(*checks, return_exceptions=True)
    assert {type(one) for one in told} == {TemporaryError}
    assert connections == 1


@pytest.fixture
def agent(sshd, tmp_path):
    """The socket of a real agent that has the key."""
    if shutil.which("ssh-agent") is None:
        missing_part("ssh-agent")
    path = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
    environment = {**os.environ, "SSH_AUTH_SOCK": str(path)}
    try:
        while not path.exists():
            assert process.poll() is None
        yield (
            path,
            lambda *arguments: subprocess.run(
                ["ssh-add", *arguments], env=environment, check=True, capture_output=True
            ),
        )
    finally:
        process.terminate()
        process.wait()


async def test_the_agents_keys_are_used_only_where_the_inventory_says_so(sshd, tmp_path, agent):
    path, add = agent
    hosts = {
        "agents": sshd.entry(key_file=None, agent=True),
        "others": sshd.entry(key_file=write_key(tmp_path / "other")),
    }
    async with a_client(tmp_path, {"SSH_AUTH_SOCK": str(path)}, **hosts) as client:
        with pytest.raises(PermanentError, match="the SSH agent has no key for agents"):
            await client.check("acme", "agents", Script("true"))
        add(str(sshd.key_file))
        ran = await client.run("acme", "agents", Script('echo "[$SSH_AUTH_SOCK]"'), 20)
        assert ran.stdout.text == "[]\n"
        with pytest.raises(PermanentError, match="others lets"):
            await client.check("acme", "others", Script("true"))
    async with a_client(tmp_path, {"SSH_AUTH_SOCK": str(tmp_path / "gone")}, **hosts) as client:
        with pytest.raises(TemporaryError, match="the SSH agent cannot be reached for agents: No such file"):
            await client.check("acme", "agents", Script("true"))


async def test_an_authority_can_vouch_for_a_host(own_sshd, tmp_path):
    server = own_sshd("HostCertificate {folder}/certificate")
    async with a_client(tmp_path, it=server.entry(known_hosts=server.authority())) as client:
        assert (await client.run("acme", "it", Script("true"), 20)).exit_status == 0


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (Script("true", sudo_user="root"), "does not allow the sudo_user root on it"),
        (Script("echo \0"), "command holds a NUL"),
        (Script("true", ("a", "\0")), "argument 2 holds a NUL"),
        (Script("true", environment={"A": "\0"}), "environment.A holds a NUL"),
        (Script("true", ("x" * 60_000, "x" * 60_000)), "over 120000 bytes: give long text on stdin"),
        (Script("true", environment={"A": "x" * 120_000}), "the environment is over 120000 bytes"),
    ],
)
async def test_a_script_that_may_not_be_is_refused_before_connecting(sshd, tmp_path, script, said):
    before = sshd.logins
    async with a_client(tmp_path, it=sshd.entry(sudo_users=["postgres"])) as client:
        for attempt in (client.check("acme", "it", script), client.run("acme", "it", script, 20)):
            with pytest.raises(PermanentError, match=said):
                await attempt
    assert sshd.logins == before


async def test_the_longest_line_is_taken(run):
    longest = "x" * 119_000
    assert (await run('echo "${#1} ${#A}"', longest, environment={"A": "y" * 119_000})).stdout.text == "119000 119000\n"


async def test_a_client_without_an_inventory_is_off():
    with pytest.raises(PermanentError, match="set RUNBOOKS_SSH__INVENTORY"):
        await SshClient().check("acme", "it", Script("true"))


async def test_one_can_be_closed_in_the_middle_and_used_again(client, run):
    running = asyncio.create_task(run("echo begun; sleep 30"))
    await run("true")
    await client.close()
    await client.close()
    assert (await running).doubt == "the session ended, and the host did not say how the command ended"
    assert (await run("true")).exit_status == 0
