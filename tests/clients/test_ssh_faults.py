"""Against servers that misbehave, made with asyncssh's own: what OpenSSH cannot be brought to do."""

import asyncio
import contextlib

import asyncssh
import pytest
from sshd import inventory

from app.clients.ssh import SshClient
from app.clients.ssh_script import Script
from app.core.errors import TemporaryError


class Faulty(asyncssh.SSHServer):
    """A server that lets everybody in and opens sessions that misbehave; an open one is refused when there is none."""

    def __init__(self, made_session):
        self._made_session = made_session

    def begin_auth(self, username):
        return False

    def session_requested(self):
        return self._made_session()


class Talking(asyncssh.SSHServerSession):
    """A session that runs nothing: it says what its behaviour says, once the command is accepted.

    accepted: what is answered to the command; None is no answer.
    """

    def __init__(self, behave=lambda channel: None, *, accepted=True, at_once=lambda channel: None):
        self._behave, self._accepted, self._at_once = behave, accepted, at_once

    def connection_made(self, chan):
        self._channel = chan

    def eof_received(self):
        return True  # else asyncssh would end the output, too

    def exec_requested(self, command):
        self._at_once(self._channel)
        return self._accepted

    def session_started(self):
        self._behave(self._channel)


@pytest.fixture
async def faulty(tmp_path):
    """Serve these sessions, the last one for ever; gives what runs a command there."""
    async with contextlib.AsyncExitStack() as stack:

        async def serve(*sessions):
            left = list(sessions)
            key = asyncssh.generate_private_key("ssh-ed25519")
            server = await asyncssh.create_server(
                lambda: Faulty(lambda: left.pop(0)() if len(left) > 1 else left[0]()),
                "127.0.0.1",
                0,
                server_host_keys=[key],
                encoding=None,
            )
            stack.callback(server.close)
            key.write_private_key(tmp_path / "key")
            entry = {
                "address": "127.0.0.1",
                "port": server.get_port(),
                "user": "any",
                "key_file": "key",
                "known_hosts": f"* {key.export_public_key().decode()}",
            }
            client = SshClient(inventory(tmp_path, it=entry), {}, open_timeout_s=0.2, grace_s=0.2)
            stack.push_async_callback(client.close)
            return lambda timeout_s=5.0: client.run("acme", "it", Script("true"), timeout_s)

        yield serve


def no_session():
    return False


async def silent():
    await asyncio.Event().wait()


def says_and_exits(channel):
    channel.write(b"done\n")
    channel.exit(0)


def good():
    return Talking(says_and_exits)


def says_and_breaks_off(channel):
    channel.write(b"begun\n")
    asyncio.get_running_loop().call_later(0.1, channel.get_connection().abort)


def says_and_closes(channel):
    channel.write(b"begun\n")
    channel.close()


def says_and_hangs(channel):
    channel.write(b"begun\n")


async def test_a_server_that_opens_no_session_has_run_nothing(faulty):
    run = await faulty(no_session)
    with pytest.raises(TemporaryError, match="it opens no session, nothing was run"):
        await run()


async def test_a_connection_on_which_no_session_opens_any_more_is_replaced(faulty):
    run = await faulty(good, silent, good, no_session, good)
    for _ in range(3):
        assert (await run()).stdout.text == "done\n"


async def test_a_command_that_is_clearly_refused_was_not_run(faulty):
    run = await faulty(lambda: Talking(accepted=False))
    with pytest.raises(TemporaryError, match="it refused to run a command, nothing was run"):
        await run()


@pytest.mark.parametrize(
    ("session", "doubt"),
    [
        (lambda: Talking(accepted=None), "the time limit passed, and the host did not say how the command ended"),
        (lambda: Talking(at_once=lambda channel: channel.get_connection().abort()), "the connection broke while"),
        (lambda: Talking(at_once=lambda channel: channel.close()), "the session ended, and the host did not say"),
        (lambda: Talking(at_once=lambda channel: channel.get_connection().close()), "the session ended, and the host"),
    ],
)
async def test_no_answer_to_a_command_that_was_sent_is_unknown(faulty, session, doubt):
    run = await faulty(session)
    ran = await run(0.3)
    assert (ran.exit_status, ran.signal) == (None, None)
    assert ran.doubt.startswith(doubt)


@pytest.mark.parametrize(
    ("behave", "doubt"),
    [
        (says_and_breaks_off, "the connection broke while the command ran"),
        (says_and_closes, "the session ended, and the host did not say how the command ended"),
        (says_and_hangs, "the time limit passed, and the host did not say how the command ended"),
    ],
)
async def test_a_command_of_which_no_end_is_told_is_unknown_and_keeps_what_it_said(faulty, behave, doubt):
    run = await faulty(lambda: Talking(behave))
    ran = await run(0.3)
    assert ran.doubt.startswith(doubt)
    assert (ran.stdout.text, ran.stdout.truncated) == ("begun\n", True)


async def test_an_end_that_was_told_counts_though_the_connection_breaks_after_it(faulty):
    def ends_and_breaks_off(channel):
        channel.write(b"begun\n")
        channel._send_request(b"exit-status", (7).to_bytes(4, "big"))
        asyncio.get_running_loop().call_later(0.1, channel.get_connection().abort)

    run = await faulty(lambda: Talking(ends_and_breaks_off))
    ran = await run()
    assert (ran.exit_status, ran.doubt) == (7, None)
    assert (ran.stdout.text, ran.stdout.truncated) == ("begun\n", True)
