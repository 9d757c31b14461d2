import json
import logging
import os

import pytest
import yaml

from app.clients.ssh_inventory import Inventory, read_inventory
from app.core.errors import ConfigurationError, PermanentError

HOST = {"address": "10.0.0.5", "user": "runbooks", "key_file": "keys/id", "known_hosts": "known_hosts"}
LINES = "prod-host-01 ssh-ed25519 AAAA"


@pytest.fixture
def write(tmp_path):
    """Write the inventory's text; each is newer than the one before."""
    path = tmp_path / "inventory.yaml"

    def to(content):
        before = path.stat().st_mtime_ns if path.exists() else 0
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        os.utime(path, ns=(before + 1_000_000_000, before + 1_000_000_000))
        return path

    return to


def test_a_hosts_paths_start_from_the_inventorys_folder(write, tmp_path):
    host = read_inventory(write({"hosts": {"prod-host-01": HOST}}))["prod-host-01"]
    assert (host.port, host.agent, host.tenants, host.sudo_users) == (22, False, None, None)
    assert host.key_file == tmp_path / "keys/id"
    assert host.known_hosts_file == tmp_path / "known_hosts"


def test_known_hosts_may_be_the_lines_themselves(write):
    host = read_inventory(write({"hosts": {"a": {**HOST, "known_hosts": LINES, "key_file": "/keys/id"}}}))["a"]
    assert (host.known_hosts, host.known_hosts_file, str(host.key_file)) == (LINES, None, "/keys/id")


def test_json_is_read_too(tmp_path):
    path = tmp_path / "inventory.json"
    path.write_text(json.dumps({"hosts": {"a": HOST}}, indent="\t"))
    assert list(read_inventory(path)) == ["a"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"adress": "x"}, "hosts.a.adress: unknown field (did you mean 'address'?)"),
        ({"known_hosts": None}, "hosts.a.known_hosts: field is required"),
        ({"known_hosts": ""}, "hosts.a.known_hosts: string should have at least 1 character"),
        ({"key_file": None}, "hosts.a: needs either key_file or agent: true"),
        ({"agent": True}, "hosts.a: needs either key_file or agent: true"),
        ({"port": 70_000}, "hosts.a.port: input should be less than or equal to 65535"),
        ({"tenants": "acme"}, "hosts.a.tenants: input should be a valid tuple"),
        ({"sudo_users": ["-u root"]}, "hosts.a.sudo_users[0]: string should match"),
        ({"address": "two words"}, "hosts.a.address: string should match"),
    ],
)
def test_what_is_wrong_with_a_host_is_said_with_file_host_and_field(write, fields, said):
    entry = {name: value for name, value in {**HOST, **fields}.items() if value is not None}
    path = write({"hosts": {"a": entry}})
    with pytest.raises(ConfigurationError) as caught:
        read_inventory(path)
    assert str(caught.value).startswith(f"{path}: {said}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "input should be a valid dictionary"),
        ("hosts: [", "the SSH inventory cannot be read"),
        ("hosts: {a: {port: 1}, a: {port: 2}}", "'a' stands there twice: remove one of them"),
        ("hosts: {'-o x': {}}", "string should match pattern"),
        ("host: {}", "unknown field (did you mean 'hosts'?)"),
    ],
)
def test_a_file_that_is_no_inventory_is_refused(write, text, said):
    with pytest.raises(ConfigurationError) as caught:
        read_inventory(write(text))
    assert said in str(caught.value)
    assert "inventory.yaml: " in str(caught.value)


def test_a_name_that_stands_twice_in_json_is_refused(tmp_path):
    path = tmp_path / "inventory.json"
    path.write_text('{"hosts": {"a": {}, "a": {}}}')
    with pytest.raises(ConfigurationError, match="'a' stands there twice"):
        read_inventory(path)


def test_a_missing_file_is_said_by_its_name(tmp_path):
    with pytest.raises(ConfigurationError, match=r"nowhere\.yaml: the SSH inventory cannot be read: .*No such file"):
        Inventory(tmp_path / "nowhere.yaml")


def test_a_tenant_sees_its_own_hosts_and_everybodys(write):
    hosts = {"prod-host-01": HOST, "prod-host-02": {**HOST, "tenants": ["acme"]}, "none": {**HOST, "tenants": []}}
    inventory = Inventory(write({"hosts": hosts}))
    assert inventory.host("acme", "prod-host-02").address == "10.0.0.5"
    assert inventory.host("other", "prod-host-01").address == "10.0.0.5"
    for name in ("prod-host-02", "prod-host-2"):  # another tenant's host is no host at all
        with pytest.raises(PermanentError) as caught:
            inventory.host("other", name)
        said = f"the SSH inventory has no host '{name}' for the tenant other (did you mean prod-host-01?)"
        assert str(caught.value) == said
    with pytest.raises(PermanentError, match=r"no host 'none' for the tenant acme$"):
        inventory.host("acme", "none")


def test_the_file_is_read_again_when_it_changed(write):
    inventory = Inventory(write({"hosts": {"a": HOST}}))
    write({"hosts": {"b": HOST}})
    assert inventory.host("acme", "b")
    with pytest.raises(PermanentError, match="no host 'a'"):
        inventory.host("acme", "a")


@pytest.mark.parametrize("breaks", [lambda path, write: write("hosts: ["), lambda path, _: path.unlink()])
def test_a_broken_file_keeps_the_hosts_that_were_known_and_is_logged_once(write, caplog, breaks):
    inventory = Inventory(path := write({"hosts": {"a": HOST}}))
    breaks(path, write)
    with caplog.at_level(logging.ERROR):
        assert inventory.host("acme", "a")
        assert inventory.host("acme", "a")
    assert [record.message for record in caplog.records] == ["ssh_inventory_refused"]
    write({"hosts": {"b": HOST}})
    assert inventory.host("acme", "b")
