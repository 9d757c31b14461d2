"""A shell script on its way to a host: what stands on the remote command line, and what is said on its stdin.

Everybody on the host can read a command line. The environment and stdin may hold secrets, so they never stand there:
the environment goes ahead of stdin, and a small wrapper takes it from there.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from app.core.errors import PermanentError

MAX_LINE = 120_000  # bytes; Linux takes 128 KiB for one argument, and the login shell gets the whole line as one
KILL_AFTER_S = 5
WRAPPER = 'eval "$(dd bs=1 count="$1" 2>/dev/null)" && runbooks_environment && shift && exec /bin/sh -c "$@"'
"""Reads exactly as many bytes as its first argument says, a function, and calls it.

A connection that breaks in the middle leaves no whole function, and then nothing is run. dd with single bytes is the
one reader that takes nothing of what follows.
"""


@dataclass(frozen=True, slots=True)
class Script:
    """What ``/bin/sh`` is to run.

    arguments: ``$1``, ``$2`` and on. environment, stdin: may hold secrets. sudo_user: who runs it, through sudo.
    """

    text: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    stdin: str = field(default="", repr=False)
    sudo_user: str | None = None

    def check(self) -> None:
        """Whether it can be sent at all; raises PermanentError naming what cannot."""
        texts = {"command": self.text, **{f"argument {n}": one for n, one in enumerate(self.arguments, 1)}}
        texts |= {f"environment.{name}": value for name, value in self.environment.items()}
        for what, text in texts.items():
            if "\x00" in text:
                raise PermanentError(f"{what} holds a NUL, and no command line or environment can")
        if len(self.line(1).encode()) > MAX_LINE:
            raise PermanentError(f"the command with its arguments is over {MAX_LINE} bytes: give long text on stdin")
        if len(self._exports()) > MAX_LINE:
            raise PermanentError(f"the environment is over {MAX_LINE} bytes: give long text on stdin")

    def line(self, timeout_s: float) -> str:
        """The command line for the login shell; ends by itself after timeout_s, with all that it started.

        The time limit is set on the host, so that nothing goes on there when the connection is gone. It stands inside
        sudo: who is not root cannot stop what root runs.
        """
        limit = ("timeout", "-k", str(KILL_AFTER_S), f"{max(timeout_s, 0.01):.2f}")
        shell = ("/bin/sh", "-c")
        wrapped = (*shell, WRAPPER, "sh", str(len(self._exports()))) if self.environment else shell
        sudo = ("sudo", "-n", "-u", self.sudo_user, "--") if self.sudo_user else ()
        return "exec " + shlex.join((*sudo, *limit, *wrapped, self.text, "sh", *self.arguments))

    def input(self) -> bytes:
        """What is sent on stdin."""
        return self._exports() + _bytes(self.stdin)

    def _exports(self) -> bytes:
        """The environment as a shell function that exports it; nothing when there is none."""
        if not self.environment:
            return b""
        exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in self.environment.items())
        return _bytes(f"runbooks_environment() {{\n{exports}}}")


def _bytes(text: str) -> bytes:
    """The text in UTF-8; bytes of an environment variable that were none stay what they were."""
    return text.encode("utf-8", errors="surrogateescape")
