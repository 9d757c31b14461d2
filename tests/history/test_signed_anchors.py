"""Keys and files of signed anchors are what they must be, or somebody is told."""

import resource
import signal
from contextlib import contextmanager

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from pydantic import ValidationError

from app.core.chain import Anchor
from app.core.errors import ConfigurationError
from app.history.signed_anchors import (
    AnchorSigner,
    SignedAnchors,
    _take_off_cut_end,
    read_private_key,
    read_public_key,
)
from app.history.store import Store
from app.settings import HistorySettings

KEY = Ed25519PrivateKey.generate()


def private(key, encryption=None):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


def public(key):
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_what_one_key_signs_the_other_half_verifies(tmp_path):
    (tmp_path / "key").write_bytes(private(KEY))
    (tmp_path / "pub").write_bytes(public(KEY))
    read_public_key(tmp_path / "pub").verify(read_private_key(tmp_path / "key").sign(b"m"), b"m")


@pytest.mark.parametrize(
    ("read", "content", "told"),
    [
        (read_private_key, private(ec.generate_private_key(ec.SECP256R1())), "must be an Ed25519 key"),
        (read_private_key, private(KEY, BestAvailableEncryption(b"password")), "cannot be read as a private key"),
        (read_private_key, public(KEY), "cannot be read as a private key"),
        (read_public_key, private(KEY), "cannot be read as a public key"),
        (read_public_key, public(ec.generate_private_key(ec.SECP256R1())), "must be an Ed25519 key"),
        (read_public_key, None, "cannot be read as a public key"),
    ],
)
def test_another_key_is_refused(tmp_path, read, content, told):
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=told):
        read(path)


@pytest.mark.parametrize("content", [None, b"no JSON\n", b'{"topic": "t"}\n'])
def test_a_file_that_holds_something_else_is_refused(tmp_path, content):
    path = tmp_path / "anchors.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="cannot be read as signed anchors"):
        SignedAnchors([path], KEY.public_key(), "t")


def anchors(count):
    return [Anchor(10 * number, 10 * number + 10, bytes([number]) * 32, b"digest00" * 10) for number in range(count)]


@pytest.fixture
async def signer(sqlite_engine, tmp_path):
    """Of a store with eight whole anchors, and an open one."""
    store = Store(sqlite_engine, "t")
    await store.write([], {0: (0, 90)}, {0: anchors(9)})
    return AnchorSigner(tmp_path / "anchors.jsonl", KEY, store, "t")


@contextmanager
def disk_of(size):
    """Files take no more than so many bytes."""
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


async def signed(path):
    """The offset that the signed anchors of a file end at."""
    last = await SignedAnchors([path], KEY.public_key(), "t").last_anchor(0)
    return 0 if last is None else last.next_offset


@pytest.mark.parametrize("size", [1, 500, 2500])
async def test_a_full_disk_leaves_no_part_of_a_line_and_is_caught_up_with(signer, tmp_path, caplog, size):
    path = tmp_path / "anchors.jsonl"
    with disk_of(size):
        await signer.sign(0)
    assert "anchors_not_signed" in caplog.messages
    assert path.read_bytes() == b""
    await signer.sign(0)
    assert await signed(path) == 80
    AnchorSigner(path, KEY, signer._store, "t")


async def test_what_could_not_be_taken_off_at_once_is_before_the_next_line(signer, tmp_path, caplog):
    path = tmp_path / "anchors.jsonl"
    path.symlink_to("/dev/full")  # takes nothing, and cannot be truncated
    await signer.sign(0)
    assert "anchors_not_signed" in caplog.messages
    path.unlink()
    path.write_bytes(b'{"cut')
    await signer.sign(0)
    assert await signed(path) == 80


@pytest.mark.parametrize(
    ("content", "left"),
    [
        (b"", 0),
        (b"cut", 0),
        (b"a\n", 2),
        (b"a\ncut", 2),
        (b"a\n" + b"x" * 300_000, 2),
        (b"x" * 200_000 + b"\ncut", 200_001),
    ],
)
async def test_only_whole_lines_are_kept(tmp_path, content, left):
    path = tmp_path / "anchors.jsonl"
    path.write_bytes(content)
    _take_off_cut_end(path)
    assert path.read_bytes() == content[:left]


@pytest.mark.parametrize("half", ["anchors_file", "anchors_key_file"])
def test_a_file_needs_a_key_and_a_key_a_file(half):
    with pytest.raises(ValidationError, match="are needed together"):
        HistorySettings(**{half: "somewhere"})
