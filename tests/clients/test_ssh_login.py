"""Whose key is taken for a host's, against a real OpenSSH server: of lines for its name and for its address."""

import base64
import contextlib
import hmac

import pytest
from sshd import inventory, running_sshd

from app.clients.ssh import SshClient
from app.clients.ssh_script import Script
from app.core.errors import PermanentError

NAME = "prod-host-01"
KEY_FILES = {"key": "host_key.pub", "other": "client_key.pub"}
REFUSED = "does not show the key that its known_hosts holds"


def hashed(pattern: str) -> str:
    """A pattern as OpenSSH writes it with HashKnownHosts."""
    salt = b"salt" * 5
    parts = (salt, hmac.digest(salt, pattern.encode(), "sha1"))
    return "|1|" + "|".join(base64.b64encode(part).decode() for part in parts)


@pytest.fixture
def lines(sshd):
    """Lines of known_hosts with {key} for the server's key, {other} for one that it does not have, and {port}."""

    def of(*texts: str) -> str:
        keys = {name: (sshd.folder / file).read_text() for name, file in KEY_FILES.items()}
        return "\n".join(text.format(port=sshd.port, **keys) for text in texts)

    return of


@contextlib.asynccontextmanager
async def a_client(folder, **hosts):
    client = SshClient(inventory(folder, **hosts), {})
    try:
        yield client
    finally:
        await client.close()


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize(
    "known",
    [
        (NAME + " {key}",),
        (f"[{NAME}]:{{port}} {{key}}",),
        ("prod-* {key}",),
        (f"any,{NAME} {{key}}",),
        (hashed(NAME) + " {key}",),
        ("127.0.0.1 {key}",),
        ("[127.0.0.1]:{port} {key}",),
        ("any {other}", f"{NAME} {{other}}", f"{NAME} {{key}}"),
        (f"{NAME} {{other}}", "127.0.0.1 {key}"),
    ],
)
async def test_a_line_for_the_hosts_name_or_its_address_counts(sshd, tmp_path, lines, address, known):
    entry = sshd.entry(address=address, known_hosts=lines(*known))
    async with a_client(tmp_path, prod_host_01=entry) as client:
        assert (await client.run("acme", NAME, Script("echo in"), 20)).stdout.text == "in\n"


async def test_a_line_for_an_address_that_is_a_name_counts_too(sshd, tmp_path, lines):
    entry = sshd.entry(address="localhost", known_hosts=lines("localhost {key}"))
    async with a_client(tmp_path, prod_host_01=entry) as client:
        await client.check("acme", NAME, Script("true"))


@pytest.mark.parametrize(
    "known",
    [
        (NAME + " {other}",),
        (f"[{NAME}]:{{port}} {{other}}",),
        ("prod-host-02 {key}",),
        ("prod-host-02, {key}",),
        (f"{NAME}.example.com {{key}}",),
        (f"{NAME} {{other}}", "prod-host-02 {key}"),
        (f"[{NAME}]:1 {{key}}",),
        (f"[{NAME}]:{{port}} {{other}}", f"{NAME} {{key}}"),
        (f"[{NAME}]:{{port}} {{other}}", "127.0.0.1 {key}"),
        ("[127.0.0.1]:{port} {other}", f"{NAME} {{key}}"),
        (f"prod-*,!{NAME} {{key}}",),
        ("prod-*,!127.0.0.1 {key}",),
        (f"@revoked {NAME} {{key}}", "127.0.0.1 {key}"),
        ("@revoked 127.0.0.1 {key}", f"{NAME} {{key}}"),
        (hashed("prod-host-02") + " {key}",),
    ],
)
async def test_a_key_that_is_neither_the_names_nor_the_addresss_is_refused(sshd, tmp_path, lines, known):
    async with a_client(tmp_path, prod_host_01=sshd.entry(known_hosts=lines(*known))) as client:
        with pytest.raises(PermanentError, match=f"{NAME} {REFUSED}"):
            await client.check("acme", NAME, Script("true"))


async def test_the_key_of_one_host_does_not_open_another(sshd, tmp_path, lines):
    """Two hosts of one known_hosts file, and the server of the one answers at the address of the other."""
    file = tmp_path / "known_hosts"
    file.write_text(lines(f"{NAME} {{key}}", "prod-host-02 {other}"))
    hosts = dict.fromkeys(("prod_host_01", "prod_host_02"), sshd.entry(known_hosts=str(file)))
    async with a_client(tmp_path, **hosts) as client:
        await client.check("acme", NAME, Script("true"))
        with pytest.raises(PermanentError, match=f"prod-host-02 {REFUSED}"):
            await client.check("acme", "prod-host-02", Script("true"))


async def test_an_authority_can_vouch_for_a_name(tmp_path):
    with running_sshd("HostCertificate {folder}/certificate") as server:
        known = server.authority(NAME)
        hosts = dict.fromkeys(("prod_host_01", "prod_host_02"), server.entry(known_hosts=known))
        async with a_client(tmp_path, **hosts) as client:
            await client.check("acme", NAME, Script("true"))
            with pytest.raises(PermanentError, match=f"prod-host-02 {REFUSED}"):
                await client.check("acme", "prod-host-02", Script("true"))
