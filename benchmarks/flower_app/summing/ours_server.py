"""One secure sum, and what it took."""

import json
import time
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from collabsecure.integrations import flower
from collabsecure_cli.identity import load_identity
from collabsecure_cli.session import load_session

from .counting import count_replies
from .values import farthest

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config, received = context.run_config, count_replies(grid)
    session = load_session(Path(str(config["session"])))
    sums = flower.SecureSum(
        grid,
        session,
        load_identity(Path(str(config["key"]))),
        at_once=int(config["at-once"]),
        shard_bytes=int(config["shard-bytes"]),
        staging=Path(str(config["staging"])),
        tell=lambda line: print(line, flush=True),
    )
    started = time.monotonic()
    result = sums.run()
    seconds = time.monotonic() - started
    error = farthest(result.arrays, len(result.survivors))
    print("MEASURED", json.dumps({"seconds": seconds, "bytes": received(), "error": error}), flush=True)
