"""A finished sum's updates, from the aggregator: whole, and each under the server's signature, or not at all."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float64

from collabsecure.links import delta_digest
from collabsecure_cli.answers import NoResultForUs, Refused, signed_digest
from collabsecure_cli.connection import Connection
from collabsecure_cli.results import Results, is_signed
from collabsecure_protocols import RemoteProtocolError, Session

_TRIES = 5  # to get an answer whose bytes arrive damaged


def download(
    connection: Connection, results: Results, sum_index: int
) -> tuple[dict[int, Float64[np.ndarray, "d_out d_in"]], Mapping[str, object]]:
    """Δ of each layer of a sum, and the aggregator's answer that they were signed in.

    Raises:
        NoResultForUs: there will be none.
        RemoteProtocolError: what came is not what the server signed.
        Refused, NoAnswer: the aggregator does what it must not, or is gone.
    """
    answer, digests = _signed_answer(connection, results, sum_index)
    return {layer: _delta(connection, layer, results.shape(layer), digest) for layer, digest in digests.items()}, answer


def _signed_answer(
    connection: Connection, results: Results, sum_index: int
) -> tuple[Mapping[str, object], dict[int, bytes]]:
    """What the aggregator says of a sum, and the digest of each layer's Δ under the server's signature."""
    for left in reversed(range(_TRIES)):
        try:
            answer = _answer(connection, sum_index)
            layers = results.layers_of(sum_index)
            digests = {layer: _signed_digest(results.session, layer, answer) for layer in layers}
        except (Refused, RemoteProtocolError):  # its bytes may have arrived damaged
            if not left:
                raise
        else:
            return answer, digests
    raise AssertionError("tries end by returning or raising")


def _answer(connection: Connection, sum_index: int) -> Mapping[str, object]:
    try:
        return connection.result(sum_index)
    except Refused as error:
        if error.is_over:
            raise NoResultForUs(str(error)) from error
        raise


def _signed_digest(session: Session, layer: int, answer: Mapping[str, object]) -> bytes:
    digest, signature = signed_digest(layer, answer)
    if not is_signed(session, layer, digest, signature):
        raise RemoteProtocolError(f"the update of layer {layer} is not signed by the server", check="RESULT")
    return digest


def _delta(
    connection: Connection, layer: int, shape: tuple[int, int], digest: bytes
) -> Float64[np.ndarray, "d_out d_in"]:
    for _ in range(_TRIES):
        data = connection.layer(layer, 8 * shape[0] * shape[1])
        delta = np.frombuffer(data, "<f8").reshape(shape).astype(np.float64, copy=False)
        if delta_digest(layer, delta) == digest:
            return delta
    raise RemoteProtocolError(f"the update of layer {layer} is not the one that was signed", check="RESULT")
