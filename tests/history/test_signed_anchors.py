"""Keys and files of signed anchors are what they must be, or somebody is told."""

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

from app.core.errors import ConfigurationError
from app.history.signed_anchors import SignedAnchors, read_private_key, read_public_key
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


@pytest.mark.parametrize("half", ["anchors_file", "anchors_key_file"])
def test_a_file_needs_a_key_and_a_key_a_file(half):
    with pytest.raises(ValidationError, match="are needed together"):
        HistorySettings(**{half: "somewhere"})
