"""Bytes of arrays and configurations in the replies that a server app gets."""

from collections.abc import Callable, Iterable

from flwr.app import Message
from flwr.serverapp import Grid


def count_replies(grid: Grid) -> Callable[[], int]:
    """Counts from now on; what it returns says how many it is."""
    total, pull = 0, grid.pull_messages

    def counted(message_ids: Iterable[str]) -> Iterable[Message]:
        nonlocal total
        messages = list(pull(message_ids))
        total += sum(_size(message) for message in messages if message.has_content())
        return messages

    grid.pull_messages = counted  # type: ignore[method-assign]
    return lambda: total


def _size(message: Message) -> int:
    arrays = (array for record in message.content.array_records.values() for array in record.values())
    settings = (value for record in message.content.config_records.values() for value in record.values())
    parts = (part for value in settings for part in (value if isinstance(value, list) else [value]))
    return sum(len(array.data) for array in arrays) + sum(len(part) for part in parts if isinstance(part, bytes))
