"""A session of one sum, and a daemon for each of its clients: what a benchmark inside an engine begins with."""

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.flower_app.summing.values import PARTS
from collabsecure.integrations.sessions import Summand, sum_session
from collabsecure_cli.identity import write_identity
from collabsecure_protocols import Identity


def start_daemons(folder: Path, clients: int, values: int) -> list[subprocess.Popen[bytes]]:
    """A session of one sum, and its clients' daemons, which listen."""
    identities = [Identity.generate(os.urandom) for _ in range(clients + 1)]
    summand = Summand(shape=(values // PARTS,), bound=1.0)
    session = sum_session(
        session_id=os.urandom(32),
        task="benchmark",
        roster=[identity.public for identity in identities[1:]],
        server_key=identities[0].public,
        sums={"one": {str(number): summand for number in range(PARTS)}},
    )
    (folder / "session.json").write_text(session.to_json())
    names = ["server", *map(str, range(clients))]
    for name, identity in zip(names, identities, strict=True):
        write_identity(folder / f"{name}.key", identity)
    command = [str(Path(sys.executable).with_name("collabsecure")), "client", "--daemon"]
    daemons, logs = [], []
    for name in names[1:]:
        logs.append(folder / f"{name}.log")
        files = {"session": "session.json", "key": f"{name}.key", "socket": f"{name}.sock", "state": f"{name}.state"}
        options = [part for option, file in files.items() for part in (f"--{option}", str(folder / file))]
        with logs[-1].open("wb") as log:
            daemons.append(subprocess.Popen([*command, *options], stdout=log, stderr=log))
    while not all("Listening on" in log.read_text() for log in logs):
        time.sleep(0.2)
        if any(daemon.poll() is not None for daemon in daemons):
            raise SystemExit("".join(log.read_text() for log in logs))
    return daemons
