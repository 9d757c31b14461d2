"""A real OpenSSH server on loopback, with accounts of its own, and what it does looked up on the machine."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
import psutil
import yaml
from parts import missing_part

SSHD = "/usr/sbin/sshd"
READY_TIMEOUT_S = 10.0
CONFIGURATION = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
PermitRootLogin prohibit-password
LogLevel VERBOSE
{more}
"""


class Sshd:
    """An sshd; account may log in with key_file, and so may root. It can be killed and started again."""

    def __init__(self, account: str, more: str = "") -> None:
        self.account = account
        self.folder = Path(tempfile.mkdtemp(prefix="sshd-"))
        self.folder.chmod(0o755)  # sshd reads authorized_keys as the account
        self.key_file = self.folder / "client_key"
        self._log = self.folder / "log"
        self._process: subprocess.Popen | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        for name in ("host_key", "client_key"):
            key = asyncssh.generate_private_key("ssh-ed25519")
            key.write_private_key(self.folder / name)
            key.write_public_key(self.folder / f"{name}.pub")
            (self.folder / name).chmod(0o600)
        shutil.copy(self.folder / "client_key.pub", self.folder / "authorized_keys")
        (self.folder / "known_hosts").write_text(self.known_hosts("host_key"))
        more = more.format(folder=self.folder)
        (self.folder / "configuration").write_text(CONFIGURATION.format(port=self.port, folder=self.folder, more=more))
        self._authority = asyncssh.generate_private_key("ssh-ed25519")
        host_key = asyncssh.read_public_key(self.folder / "host_key.pub")
        certificate = self._authority.generate_host_certificate(host_key, "tests", principals=["127.0.0.1"])
        certificate.write_certificate(self.folder / "certificate")

    def known_hosts(self, key: str) -> str:
        return f"[127.0.0.1]:{self.port} {(self.folder / f'{key}.pub').read_text()}"

    def authority(self, pattern: str = "127.0.0.1") -> str:
        """A line of known_hosts that trusts who signed the server's certificate."""
        return f"@cert-authority {pattern} {self._authority.export_public_key().decode()}"

    def entry(self, user: str | None = None, **fields: Any) -> dict[str, Any]:
        """An entry of the inventory."""
        entry = {
            "address": "127.0.0.1",
            "port": self.port,
            "user": user or self.account,
            "key_file": str(self.key_file),
            "known_hosts": str(self.folder / "known_hosts"),
            **fields,
        }
        return {name: value for name, value in entry.items() if value is not None}

    def start(self) -> None:
        Path("/run/sshd").mkdir(exist_ok=True)
        with self._log.open("ab") as log:
            command = ["setpriv", "--pdeathsig", "KILL", SSHD, "-D", "-e", "-f", str(self.folder / "configuration")]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + READY_TIMEOUT_S
        while True:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", self.port)):
                return
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, "sshd did not get ready"
            time.sleep(0.02)

    def kill(self) -> None:
        """End the server and every connection to it at once, with what runs over them."""
        if self._process is None:
            return
        while found := self._running():
            for process in found:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(found, 0.05)  # they may stay as zombies for longer
        self._process.wait(READY_TIMEOUT_S)
        self._process = None

    def _running(self) -> list[psutil.Process]:
        """Its processes and all below them; one that it is just forking is known by its end of the connection."""
        ours = {one.pid for one in psutil.net_connections("tcp") if one.laddr and one.laddr.port == self.port}
        found = []
        for pid in ours - {None}:
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                found += [process, *process.children(recursive=True)]
        return found

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.folder)

    @property
    def logins(self) -> int:
        """How many connections were let in since the first start."""
        return self._log.read_text().count("Accepted publickey")


@contextlib.contextmanager
def an_account(*, sudo: bool = False) -> Iterator[str]:
    """A new system account that is removed afterwards; sudo: it may run anything as anybody."""
    if os.geteuid() != 0:
        missing_part("root, for an account of the tests")
    name = f"rb-test-{uuid.uuid4().hex[:8]}"
    rules = Path("/etc/sudoers.d") / name
    subprocess.run(["useradd", "--system", "--home-dir", "/", "--shell", "/bin/sh", name], check=True)
    try:
        subprocess.run(["usermod", "-p", "*", name], check=True)  # sshd refuses an account that is locked with "!"
        if sudo:
            rules.write_text(f"{name} ALL=(ALL) NOPASSWD: ALL\n")
        yield name
    finally:
        rules.unlink(missing_ok=True)
        left = [process for process in psutil.process_iter(["username"]) if process.info["username"] == name]
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, READY_TIMEOUT_S)
        subprocess.run(["userdel", name], check=True)


@contextlib.contextmanager
def running_sshd(more: str = "") -> Iterator[Sshd]:
    """A server of its own with an account that may use sudo."""
    if not Path(SSHD).exists() or shutil.which("setpriv") is None:
        missing_part("openssh-server")
    if shutil.which("sudo") is None:
        missing_part("sudo")
    with an_account(sudo=True) as account:
        server = Sshd(account, more)
        try:
            server.start()
            yield server
        finally:
            server.remove()


def inventory(folder: Path, **hosts: dict[str, Any]) -> Path:
    """Write an inventory of these hosts; an underscore in a name stands for a hyphen."""
    path = folder / "inventory.yaml"
    path.write_text(yaml.safe_dump({"hosts": {name.replace("_", "-"): host for name, host in hosts.items()}}))
    return path


def command_lines() -> list[str]:
    """The command lines of all processes of the machine."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found
