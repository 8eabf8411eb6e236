"""The transition tables: all that decides which message is allowed when. secagg.md's diagrams are made from them."""

import enum

from .envelope import MessageType as M


class ClientState(enum.StrEnum):
    """Where a client stands."""

    NEW = "NEW"  # nothing sent
    KEYS_ADVERTISED = "KEYS_ADVERTISED"
    KEYS_SHARED = "KEYS_SHARED"
    READY = "READY"  # set up, between sums
    CONTRIBUTING = "CONTRIBUTING"  # input wanted, or on its way
    LEFT_OUT = "LEFT_OUT"  # the sum goes on without this client's input
    CONFIRMED = "CONFIRMED"  # signed one survivor set for this sum
    UNMASKED = "UNMASKED"  # sent its shares for this sum
    FINISHED = "FINISHED"
    ABORTED = "ABORTED"


class ServerState(enum.StrEnum):
    """Which phase the server is in. An Abort names it by its position here."""

    ADVERTISE_KEYS = "ADVERTISE_KEYS"
    SHARE_KEYS = "SHARE_KEYS"
    READY = "READY"  # set up; the last sum, if any, can be read
    MASKED_INPUT = "MASKED_INPUT"
    CONSISTENCY_CHECK = "CONSISTENCY_CHECK"
    UNMASK = "UNMASK"
    FINISHED = "FINISHED"  # the last sum can be read
    ABORTED = "ABORTED"


_C = ClientState

# (state, message from the server) → the states that it may lead to. What is not listed is refused: V04.
CLIENT_TRANSITIONS: dict[tuple[ClientState, M], tuple[ClientState, ...]] = {
    (_C.KEYS_ADVERTISED, M.KEY_DIRECTORY): (_C.KEYS_SHARED,),
    (_C.KEYS_SHARED, M.DELIVER_SHARES): (_C.READY,),
    (_C.READY, M.START_SUM): (_C.CONTRIBUTING,),
    (_C.READY, M.SURVIVORS): (_C.LEFT_OUT,),  # this client's ledger made it sit the sum out
    (_C.READY, M.FINISH_SUM): (_C.READY, _C.FINISHED),
    (_C.CONTRIBUTING, M.SURVIVORS): (_C.CONFIRMED, _C.LEFT_OUT),
    (_C.LEFT_OUT, M.FINISH_SUM): (_C.READY, _C.FINISHED),
    (_C.CONFIRMED, M.CONFIRMATIONS): (_C.UNMASKED,),
    (_C.UNMASKED, M.FINISH_SUM): (_C.READY, _C.FINISHED),
    # A client that fell behind joins again where the others are.
    (_C.CONTRIBUTING, M.FINISH_SUM): (_C.READY, _C.FINISHED),
    (_C.CONFIRMED, M.FINISH_SUM): (_C.READY, _C.FINISHED),
    (_C.CONTRIBUTING, M.START_SUM): (_C.CONTRIBUTING,),
    (_C.LEFT_OUT, M.START_SUM): (_C.CONTRIBUTING,),
    (_C.CONFIRMED, M.START_SUM): (_C.CONTRIBUTING,),
    (_C.UNMASKED, M.START_SUM): (_C.CONTRIBUTING,),
    **{(state, M.ABORT): (_C.ABORTED,) for state in ClientState if state not in (_C.NEW, _C.FINISHED, _C.ABORTED)},
}

# The one message that each phase takes from clients.
SERVER_ACCEPTS: dict[ServerState, M] = {
    ServerState.ADVERTISE_KEYS: M.ADVERTISE_KEYS,
    ServerState.SHARE_KEYS: M.SHARE_KEYS,
    ServerState.MASKED_INPUT: M.MASKED_INPUT,
    ServerState.CONSISTENCY_CHECK: M.CONSISTENCY_CHECK,
    ServerState.UNMASK: M.UNMASK,
}

# Where a phase leads when everybody has answered or the deadline has passed with enough answers; ABORTED otherwise.
SERVER_TRANSITIONS: dict[ServerState, tuple[ServerState, ...]] = {
    ServerState.ADVERTISE_KEYS: (ServerState.SHARE_KEYS,),
    ServerState.SHARE_KEYS: (ServerState.READY,),
    ServerState.READY: (ServerState.MASKED_INPUT,),
    ServerState.MASKED_INPUT: (ServerState.CONSISTENCY_CHECK,),
    ServerState.CONSISTENCY_CHECK: (ServerState.UNMASK,),
    ServerState.UNMASK: (ServerState.READY, ServerState.FINISHED),
}


def diagram() -> str:
    """Both tables as Mermaid diagrams, as they stand in secagg.md."""
    client: dict[tuple[str, str], list[str]] = {(_C.NEW, _C.KEYS_ADVERTISED): ["start()"]}
    for (state, message), targets in CLIENT_TRANSITIONS.items():
        if message is not M.ABORT:
            for target in targets:
                client.setdefault((state, target), []).append(message.name)
    server: dict[tuple[str, str], list[str]] = {
        (state, target): [SERVER_ACCEPTS[state].name if state in SERVER_ACCEPTS else "start_sum()"]
        for state, targets in SERVER_TRANSITIONS.items()
        for target in targets
    }
    return "\n\n".join(f"{who}:\n\n{_mermaid(edges)}" for who, edges in (("Client", client), ("Server", server)))


def _mermaid(edges: dict[tuple[str, str], list[str]]) -> str:
    lines = [f"    {source} --> {target}: {', '.join(names)}" for (source, target), names in edges.items()]
    return "\n".join(("```mermaid", "stateDiagram-v2", *lines, "```"))
