"""Pairwise-masked secure summation, sans-IO: bytes in, events out. Needs numpy and cryptography only.

The normative text is secagg.md; `Client` and `Server` show the order of use.
"""

from .ckks import KeyPair, PublicKey
from .client import Client
from .errors import (
    SERVER,
    CiphertextRefused,
    ClientId,
    EncryptionUnavailable,
    InvalidSession,
    LocalProtocolError,
    PolicyRefusal,
    ProtocolError,
    RemoteProtocolError,
    StateRefused,
    ValueRefused,
)
from .events import (
    Aborted,
    Excluded,
    NeedInput,
    PeerMisbehaved,
    SendToClient,
    SendToServer,
    SetupFinished,
    SumFinished,
)
from .graph import GraphParameters, choose
from .key_holder import KeyHolder
from .keys import Identity
from .messages import AbortReason
from .policy import Ledger, Policy, survivor_floor
from .server import Server
from .session import Session
from .states import ClientState, ServerState
from .tensors import Sum, Tensor, best_fraction_bits

__all__ = [
    "SERVER",
    "AbortReason",
    "Aborted",
    "CiphertextRefused",
    "Client",
    "ClientId",
    "ClientState",
    "EncryptionUnavailable",
    "Excluded",
    "GraphParameters",
    "Identity",
    "InvalidSession",
    "KeyHolder",
    "KeyPair",
    "Ledger",
    "LocalProtocolError",
    "NeedInput",
    "PeerMisbehaved",
    "Policy",
    "PolicyRefusal",
    "ProtocolError",
    "PublicKey",
    "RemoteProtocolError",
    "SendToClient",
    "SendToServer",
    "Server",
    "ServerState",
    "Session",
    "SetupFinished",
    "StateRefused",
    "Sum",
    "SumFinished",
    "Tensor",
    "ValueRefused",
    "best_fraction_bits",
    "choose",
    "survivor_floor",
]
