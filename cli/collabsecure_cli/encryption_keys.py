"""A key holder's encryption key as files: the public one that goes to the organiser, the secret one that stays.

The public file is JSON with the key and the key holder's signature under it; it ends up in the session, and so in the
digest that all compare. The secret lies in the key holder's state folder, named after the public one, and is used for
one session.
"""

import base64
import json
from dataclasses import dataclass
from pathlib import Path

from collabsecure.errors import BadFile, CollabsecureError
from collabsecure.files import complete_or_absent, unreadable
from collabsecure_cli.folder import StateFolder
from collabsecure_protocols import CiphertextRefused, Identity, KeyPair, PublicKey
from collabsecure_protocols.keys import Label, context, verify

_FORMAT = "collabsecure encryption key 1"
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedKey:
    """A public encryption key, and whose it is."""

    key: PublicKey
    holder: bytes  # Ed25519 public key


def write_public(path: Path, key: PublicKey, identity: Identity, *, force: bool) -> None:
    """Write the file for the organiser.

    Raises:
        BadFile: `path` is taken and `force` is not set, or it cannot be written.
    """
    encoded = key.encode()
    content = {
        "format": _FORMAT,
        "scheme": key.scheme,
        "holder": identity.public.hex(),
        "key": base64.b64encode(encoded).decode(),
        "signature": identity.sign(context(Label.ENCRYPTION_KEY, encoded)).hex(),
    }
    with complete_or_absent(path, force=force) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def load_public(path: Path) -> SignedKey:
    """Read the organiser's file.

    Raises:
        BadFile: it is no such file, or its signature is not its key holder's.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        found = {_FORMAT: json.loads(content)}[json.loads(content)["format"]]
        holder, encoded = bytes.fromhex(found["holder"]), base64.b64decode(found["key"], validate=True)
        signature, scheme = bytes.fromhex(found["signature"]), found["scheme"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _no_key(path, "something else") from error
    if not verify(holder, signature, context(Label.ENCRYPTION_KEY, encoded)):
        raise _no_key(path, "a key that its key holder has not signed")
    try:
        key = PublicKey.decode(encoded)
    except CiphertextRefused as error:
        raise _no_key(path, f"no encryption key ({error})") from error
    if key.scheme != scheme:
        raise _no_key(path, f"a key for {key.scheme} that says it is for {scheme}")
    return SignedKey(key=key, holder=holder)


def keep_secret(folder: StateFolder, pair: KeyPair) -> None:
    """Write a key pair down; only the state folder's owner may look into that.

    Raises:
        BadFile: the disk would not take it.
    """
    folder.write(_name(pair.public), [pair.save()])


def find_secret(folder: StateFolder, public: bytes) -> KeyPair:
    """The key pair of a session's encryption key.

    Raises:
        BadFile: it is not in this folder.
        StateRefused: it is damaged.
        EncryptionUnavailable: TenSEAL is not installed.
    """
    key = PublicKey.decode(public)
    saved = folder.read(_name(key))
    if saved is None:
        raise BadFile(
            folder.path / _name(key),
            found="no such key pair",
            expected="the one whose public key is in the session",
            remedy="It was made with: collabsecure keyholder new --state …",
        )
    return KeyPair.restore(saved)


class KeyPairUsed(CollabsecureError):
    """A key pair has served another session: two sessions under one would be two chances to attack it."""

    def __init__(self, path: Path, session: str) -> None:
        super().__init__(
            f"The key pair of this session has opened sums of another one, {session[:16]}… ({path}). A key pair serves "
            "one session: make a new one with `collabsecure keyholder new`, and a session with it"
        )


def refuse_used(folder: StateFolder, key: PublicKey, transcript: bytes) -> None:
    """Let a key pair serve no second session.

    Raises:
        KeyPairUsed: it has opened a sum of another one.
    """
    served = folder.read(_session_name(key))
    if served is not None and served != transcript.hex().encode():
        raise KeyPairUsed(
            folder.path / _session_name(key), "".join(filter(str.isalnum, served.decode("utf-8", "replace")))
        )


def begin_session(folder: StateFolder, key: PublicKey, transcript: bytes) -> None:
    """Write down which session a key pair serves, before it decrypts anything of it.

    Raises:
        KeyPairUsed: as `refuse_used`.
        BadFile: the disk would not take it.
    """
    refuse_used(folder, key, transcript)
    folder.write(_session_name(key), [transcript.hex().encode()])


def _session_name(key: PublicKey) -> str:
    return f"encryption-{key.digest.hex()[:32]}.session"


def _name(key: PublicKey) -> str:
    return f"encryption-{key.digest.hex()[:32]}.key"


def _no_key(path: Path, found: str) -> BadFile:
    return BadFile(path, found=found, expected="what `collabsecure keyholder new` has written")
