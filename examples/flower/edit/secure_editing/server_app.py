"""What the server does: carry between the nodes and `collabsecure aggregate`, until all of them have the result."""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from collabsecure.integrations import flower
from collabsecure_cli.session import load_session

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run until the session is over."""
    config = context.run_config
    carried = flower.Tunnel(
        grid,
        str(config["aggregator"]),
        session=load_session(Path(str(config["session"]))),
        ca=Path(str(config["ca"])) if config["ca"] else None,
        patience=float(config["patience"]),
        request_seconds=float(config["request-seconds"]),
        tell=lambda line: print(line, flush=True),
    ).run()
    print("Done with clients", ", ".join(map(str, carried.over)), flush=True)
