"""What a server can do with what clients sent it: open secrets from shares, and take masks off an upload."""

from collections.abc import Iterable
from dataclasses import dataclass

from adversary import body_of, kind_of
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from collabsecure_protocols import Session
from collabsecure_protocols.client_state import NO_LINK
from collabsecure_protocols.envelope import CHUNK_HEADER_BYTES, MessageType
from collabsecure_protocols.keys import Secret
from collabsecure_protocols.masks import MaskContext
from collabsecure_protocols.messages import AdvertiseKeys, ShareKind, Unmask
from collabsecure_protocols.shamir import reconstruct
from collabsecure_protocols.wire import write_bitmap


@dataclass(frozen=True, kw_only=True)
class Wiretap:
    """Every message that left a client of a complete graph, in which all share keys and no sum follows anything."""

    session: Session
    sent: Iterable[tuple[int, bytes]]  # client, message

    def bodies(self, kind: MessageType) -> list[tuple[int, memoryview]]:
        return [(client, body_of(payload)) for client, payload in self.sent if kind_of(payload) is kind]

    def advert(self, client: int) -> AdvertiseKeys:
        return AdvertiseKeys.decode(dict(self.bodies(MessageType.ADVERTISE_KEYS))[client], self.session)

    def masks_of(self, index: int) -> MaskContext:
        everybody = write_bitmap(self.session.client_ids, self.session.num_clients)
        return MaskContext(transcript=self.session.transcript, participants=everybody, sum_index=index, link=NO_LINK)

    def shares(self, dealer: int, index: int, kind: ShareKind) -> dict[int, bytes]:
        """A dealer's shares of one kind that were shown for one sum, by holder."""
        found = {}
        for holder, body in self.bodies(MessageType.UNMASK):
            message = Unmask.decode(body, self.session.num_clients)
            shown, share = message.shares[dealer - 1]
            if message.sum_index == index and shown is kind:
                found[holder] = share
        return found

    def opened(self, dealer: int, index: int, kind: ShareKind) -> Secret:
        """A secret, from the first shares that suffice."""
        shares = sorted(self.shares(dealer, index, kind).items())
        assert len(shares) >= self.session.threshold
        return Secret(reconstruct(dict(shares[: self.session.threshold])) or b"")

    def uploaded(self, client: int, index: int) -> list[list[int]]:
        """What a client sent in one sum, tensor by tensor, as integers of the ring."""
        tensors, found = self.session.sums[index].tensors, []
        for sender, body in self.bodies(MessageType.MASKED_INPUT):
            if sender == client and int.from_bytes(body[:2], "big") == index:
                packed, step = body[CHUNK_HEADER_BYTES:], tensors[len(found)].bits // 8
                found.append([int.from_bytes(packed[at : at + step], "little") for at in range(0, len(packed), step)])
        return found

    def stripped(self, client: int, index: int, *, key: Secret, seed: Secret | None = None) -> list[list[int]]:
        """An upload without the masks that a mask key, and a self-mask seed, give, as signed integers."""
        tensors, context = self.session.sums[index].tensors, self.masks_of(index)
        lists = [] if seed is None else [context.self_masks(seed, client, len(tensors))]
        for peer in set(self.session.client_ids) - {client}:
            public = self.advert(peer).mask_keys[index]
            lists += [context.pairwise_masks(key, client, public, peer, len(tensors))]
        result = []
        for number, values in enumerate(self.uploaded(client, index)):
            for masks in lists:
                sign = 1 if masks[number].negative else -1
                words = keystream(masks[number].key.reveal(), len(values))
                values = [value + sign * word for value, word in zip(values, words, strict=True)]
            result.append([signed(value, tensors[number].bits) for value in values])
        return result


def keystream(key: bytes, count: int) -> list[int]:
    """A mask's integers, without the package's help."""
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(8 * count))
    return [int.from_bytes(stream[8 * at : 8 * at + 8], "little") for at in range(count)]


def signed(value: int, bits: int) -> int:
    """The low bits as two's complement."""
    half = 1 << (bits - 1)
    return (value + half) % (2 * half) - half
