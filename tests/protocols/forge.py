"""Messages that break the rules, signed with the test keys: what a party with that key could send."""

import hashlib
import struct

from recorded import seed

from collabsecure_protocols import Identity

CODES = {
    name: code
    for code, name in enumerate(
        (
            *("AdvertiseKeys", "KeyDirectory", "ShareKeys", "DeliverShares", "StartSum", "MaskedInput"),
            *("Survivors", "ConsistencyCheck", "Confirmations", "Unmask", "FinishSum", "Abort"),
        ),
        1,
    )
}


def signed(session, name, sender, body, *, signer=None, version=1, transcript=None):
    """A message of any type (a name or a number) from any sender, by default signed by that sender."""
    code = CODES.get(name, name)
    header = struct.pack(">BBH", version, code, sender) + (transcript or session.transcript)
    return header + body + signature(header, body, sender if signer is None else signer)


def signature(header, body, signer):
    """Of a message, by client `signer` or the server (0)."""
    fields = (b"collabsecure/1 signature", header, hashlib.sha256(body).digest())
    covered = b"".join(struct.pack(">I", len(field)) + field for field in fields)
    return Identity(seed("identity", signer)).sign(covered)


def bits(*members, size=1):
    """A bitmap of so many bytes."""
    return sum(1 << (member - 1) for member in members).to_bytes(size, "little")


def u16(*numbers):
    return struct.pack(f">{len(numbers)}H", *numbers)
