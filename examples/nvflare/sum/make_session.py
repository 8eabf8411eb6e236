"""The session that all parties of this example must hold: `python make_session.py roster.toml session.json`."""

import secrets
import sys
from pathlib import Path

from collabsecure.integrations.sessions import Summand, sum_session
from collabsecure_cli.roster import load_roster

ROUNDS = 3
ARRAYS = {
    "model": Summand(shape=(8,), bound=1e5),  # a node's model times its examples: no entry beyond ± 100 000
    "examples": Summand(shape=(1,), bound=1000.0),
}


def main(roster_file: str, out: str) -> None:
    """Write a new session's file."""
    roster = load_roster(Path(roster_file))
    session = sum_session(
        session_id=secrets.token_bytes(32),
        task="federated averaging",
        roster=tuple(roster.clients.values()),
        server_key=roster.server_key,
        sums={f"round {number}": ARRAYS for number in range(1, ROUNDS + 1)},
    )
    Path(out).write_text(session.to_json())


if __name__ == "__main__":
    main(*sys.argv[1:])
