"""The key holder's part of a session: open each finished sum, merge it, hand the update back.

Which sums were opened is on the disk before a chunk is decrypted, and an update before it leaves; a process that was
killed opens the same sum again, and no other in its place. What a decryption says about the key, an error's text
included, stays here.
"""

from collections.abc import Callable
from http import HTTPStatus

import numpy as np

from collabsecure.errors import BadFile, NotPositiveDefinite
from collabsecure.links import delta_digest
from collabsecure_cli.answers import NoResultForUs, OtherOffset, Refused
from collabsecure_cli.connection import Connection
from collabsecure_cli.encryption_keys import begin_session
from collabsecure_cli.folder import StateFolder
from collabsecure_cli.requests import number_in
from collabsecure_cli.results import LoadSecondMoment, MergedSum, Results, sign_result
from collabsecure_cli.uploads import delta_boundaries
from collabsecure_protocols import Identity, KeyHolder, KeyPair, RemoteProtocolError
from collabsecure_protocols.errors import SERVER

_STATE = "key-holder"
_HANDED_BACK = "handed-back"  # how many sums were: what an aggregator that is gone cannot say
_OTHER_OFFSETS = 20  # of one upload, before the aggregator is taken to make fun of us
_TRIES = 3  # to hand an update back whose bytes arrive damaged


class HolderRun:
    """One run of the command.

    Raises:
        LocalProtocolError: the session is another key holder's.
        StateRefused: the state is damaged or another session's.
    """

    def __init__(
        self,
        results: Results,
        identity: Identity,
        key_pair: KeyPair,
        connection: Connection,
        *,
        keys: StateFolder,  # where the key pair is
        folder: StateFolder,  # this session's, in there
        second_moment: LoadSecondMoment,
        say: Callable[[str], None],
        decrypted: Callable[[int, int], None],  # chunks so far, of how many
    ) -> None:
        self.results, self._session, self._identity = results, results.session, identity
        self._key_pair, self._keys = key_pair, keys
        self._connection, self._folder = connection, folder
        self._second_moment, self._say, self._decrypted = second_moment, say, decrypted
        self._holder = KeyHolder(self._session, identity, key_pair, saved=folder.read(_STATE))

    def run(self) -> None:
        """Until the last sum is merged and handed back.

        Raises:
            NoResultForUs: the session has ended without a result, or a sum cannot be merged.
            KeyPairUsed: the key pair has served another session.
            NoAnswer: the aggregator is gone.
            RemoteProtocolError: the aggregator gave something to decrypt that is no sum of this session.
            BadFile: the disk failed.
        """
        num_sums = len(self._session.sums)
        try:
            for index in range(self._handed_back(), num_sums):
                if not self.results.has(index):
                    self._open(index)
                self._hand_back(index)
                self._folder.write(_HANDED_BACK, [str(index + 1).encode()])
        except Refused as error:
            if error.is_over:
                raise NoResultForUs(str(error)) from error
            raise
        self._connection.end_opening(num_sums)  # so that the aggregator need not wait for us

    def _handed_back(self) -> int:
        number = number_in((self._folder.read(_HANDED_BACK) or b"0").decode("latin-1"))
        if number is None or (number and not self.results.has(number - 1)):
            path = self._folder.path / _HANDED_BACK
            raise BadFile(path, found="no number of sums that are merged here", expected="what was written")
        return number

    def _open(self, index: int) -> None:
        name = self._session.sums[index].name
        self._say(f"Waiting for the sum of {name}…")
        message = self._connection.encrypted_sum(index)
        begin_session(self._keys, self._key_pair.public, self._session.transcript)
        self._holder.begin(message)
        self._check_place(index)
        self._folder.write(_STATE, [self._holder.save()])
        self._say(f"Opening {name} over {len(self._holder.survivors)} clients…")
        missing = self._holder.missing
        for done, chunk in enumerate(missing, 1):
            self._holder.decrypt(chunk, self._connection.encrypted_chunk(index, chunk))
            self._decrypted(done, len(missing))
        self._say(f"Merging {name}…")
        try:
            deltas = dict(MergedSum(self.results, index, self._holder.decode, self._second_moment))
        except NotPositiveDefinite as error:
            raise NoResultForUs(f"{name} cannot be merged: {error}") from error
        signatures = {
            layer: sign_result(self._session, self._identity, layer, delta_digest(layer, delta))
            for layer, delta in deltas.items()
        }
        self.results.keep(index, deltas, self._holder.survivors, signatures)

    def _check_place(self, index: int) -> None:
        """The sum that came is the one that was asked for, and follows the updates that were made here."""
        found = self._holder.sum_index
        if found != index:
            raise RemoteProtocolError(f"sum {found} in the place of sum {index}", check="V20", culprits=(SERVER,))
        link, ours = self._holder.link, self.results.link
        if link != ours:
            text = f"sum {index} follows {link.hex()[:16]}…, the updates that were made here are {ours.hex()[:16]}…"
            raise RemoteProtocolError(text, check="V21", culprits=(SERVER,))

    def _hand_back(self, index: int) -> None:
        """Upload a sum's updates, unless an earlier run has."""
        layers = self.results.layers_of(index)
        signed = {
            str(layer): {"digest": self.results.digests[layer].hex(), "signature": self.results.signatures[layer].hex()}
            for layer in layers
        }
        for left in reversed(range(_TRIES)):
            try:
                for layer in layers:
                    self._upload(layer)
            except Refused as error:
                if not error.is_over:  # an earlier run has, or the session is over: the next answer says which
                    raise
            try:
                self._connection.post_results(index, {"layers": signed})
            except Refused as error:
                if error.check != "RESULT" or not left:
                    raise
                self._say(f"{self._session.sums[index].name} arrived damaged; uploading it again")
            else:
                return

    def _upload(self, layer: int) -> None:
        delta = self.results.load(layer)
        data = np.ascontiguousarray(delta, "<f8").data.cast("B")
        bounds = delta_boundaries(len(data))
        offset, others = self._connection.delta_offset(layer), 0
        while offset != len(data):
            if offset not in bounds or others > _OTHER_OFFSETS:
                raise Refused(HTTPStatus.OK, f"an upload cannot go on at byte {offset}", "")
            end = bounds[bounds.index(offset) + 1]
            try:
                self._connection.upload_delta(layer, offset, bytes(data[offset:end]))
                offset = end
            except OtherOffset as other:
                offset, others = other.offset, others + 1
