"""What a client writes down of a session: the protocol's state, and how far it has read its mailbox."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from collabsecure.errors import BadFile
from collabsecure_protocols.wire import Malformed, Reader, Writer, read_bitmap, write_bitmap


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A client's state between two steps."""

    received: int  # messages taken from the aggregator
    survivors: Mapping[int, tuple[int, ...]]  # sum → whose input is in it
    client: bytes = field(repr=False)  # the protocol's state, secrets included

    def encode(self, num_clients: int) -> bytes:
        """Bytes for a file."""
        out = Writer().u32(self.received).u16(len(self.survivors))
        for index, members in sorted(self.survivors.items()):
            out.u16(index).raw(write_bitmap(members, num_clients))
        return out.blob(self.client).finish()

    @classmethod
    def decode(cls, data: bytes, path: Path, num_clients: int) -> "Saved":
        """Read what `encode` wrote.

        Raises:
            BadFile: it is damaged.
        """
        reader = Reader(data)
        try:
            received = reader.u32()
            bitmap = (num_clients + 7) // 8
            survivors = {reader.u16(): read_bitmap(reader.raw(bitmap), num_clients) for _ in range(reader.u16())}
            client = reader.blob()
            reader.finish()
        except Malformed as error:
            raise BadFile(path, found="damaged state", expected="what was written") from error
        return cls(received=received, survivors=survivors, client=client)
