"""The hosts that a shell step may name: the operator's file, read again when it changes."""

import difflib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from app.clients.operator_files import read_content
from app.core.errors import ConfigurationError, PermanentError
from app.core.model import Frozen, problems_of
from app.core.steps import UserName

HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$")]
Word = Annotated[str, Field(pattern=r"^\S{1,253}$")]
MAX_NEAREST = 3
logger = logging.getLogger(__name__)


class Host(Frozen):
    """How one host is reached, and for whom.

    user: the account that commands run as. key_file: a private key without a passphrase; agent: the keys of the agent
    at SSH_AUTH_SOCK instead. known_hosts: a known_hosts file, or its lines: a text with a blank in it is lines; those
    for the host's name in the inventory and for its address count. Paths start from the inventory's folder. tenants:
    whose runbooks may name the host; None means everybody's. sudo_users: whom a step's sudo_user may be; None leaves it
    to the host's sudoers.
    """

    address: Word
    port: Annotated[int, Field(ge=1, le=65535)] = 22
    user: Word
    key_file: Path | None = None
    agent: bool = False
    known_hosts: Annotated[str, Field(min_length=1)]
    tenants: tuple[str, ...] | None = None
    sudo_users: tuple[UserName, ...] | None = None

    @model_validator(mode="after")
    def _one_kind_of_key(self) -> Self:
        if self.agent == (self.key_file is not None):
            raise ValueError("needs either key_file or agent: true")
        return self

    @property
    def known_hosts_file(self) -> Path | None:
        """The known_hosts file; None when known_hosts holds the lines themselves."""
        return None if any(char.isspace() for char in self.known_hosts) else Path(self.known_hosts)

    def below(self, folder: Path) -> Self:
        """The same host with its paths starting from the folder."""
        file = self.known_hosts_file
        paths = {
            "key_file": self.key_file and folder / self.key_file,
            "known_hosts": self.known_hosts if file is None else str(folder / file),
        }
        return self.model_copy(update=paths)


class _File(Frozen):
    """What the file holds."""

    hosts: dict[HostName, Host]


def read_inventory(path: Path) -> Mapping[str, Host]:
    """The hosts of a YAML or JSON file, by name.

    Raises ConfigurationError: a line for every problem, naming the file, the host and the field.
    """
    try:
        content = read_content(path)
        hosts = _File.model_validate(content).hosts
    except ValidationError as error:
        raise ConfigurationError("\n".join(f"{path}: {one}" for one in problems_of(error, _File))) from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path}: the SSH inventory cannot be read: {error}") from error
    return {name: host.below(path.absolute().parent) for name, host in hosts.items()}


class Inventory:
    """The hosts of a file as it is now; one that broke since leaves those that were known before."""

    def __init__(self, path: Path) -> None:
        """Read it; raises ConfigurationError."""
        self._path = path
        self._stamp = _stamp(path)
        self._hosts = read_inventory(path)

    def host(self, tenant: str, name: str) -> Host:
        """The host of this name that is there for the tenant.

        Raises PermanentError naming the nearest ones that are; another tenant's host answers as if there were none.
        """
        allowed = {key: host for key, host in self._now().items() if host.tenants is None or tenant in host.tenants}
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, n=MAX_NEAREST, cutoff=0.5)
            hint = f" (did you mean {', '.join(near)}?)" if near else ""
            raise PermanentError(f"the SSH inventory has no host {name!r} for the tenant {tenant}{hint}")
        return allowed[name]

    def _now(self) -> Mapping[str, Host]:
        stamp = _stamp(self._path)
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._hosts = read_inventory(self._path)
            except ConfigurationError as error:
                logger.error("ssh_inventory_refused", extra={"error": str(error)})  # noqa: TRY400 - it is all there is
        return self._hosts


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes when the file does; None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
