"""The editing example in Flower as it is deployed, with the real aggregator beside the SuperLink and a real model.

Slow: `make test-integration`. Its time is in docs/embedding.md.
"""

from pathlib import Path

import pytest
from editing import Embedded
from flower_processes import Deployment

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "flower" / "edit"
RUN_SECONDS = 1500.0  # on two busy cores


def test_the_update_is_bit_for_bit_that_of_one_process_and_a_killed_supernode_delays_it_only(parties, tmp_path):
    session = Embedded(parties, "three", tmp_path / "s")
    configs = [{"collabsecure-socket": str(session.socket(number))} for number in (1, 2, 3)]
    try:
        session.start()
        with Deployment(tmp_path / "f", configs) as deployment:
            run = deployment.run(
                EXAMPLE,
                {
                    "session": str(parties.session("three")),
                    "aggregator": session.url,
                    "ca": str(parties.folder / "authority.pem"),
                    "request-seconds": 30.0,
                },
            )
            deployment.says(run, "says that it is client 2", RUN_SECONDS)
            deployment.kill_node(1)
            deployment.bring_back(1)
            status, log = deployment.wait(run, RUN_SECONDS)
        assert status == "finished:completed", log
        assert "Done with clients 1, 2, 3" in log
        assert [process.wait() for process in session.processes] == [0] * len(session.processes)
        assert session.check(*session.names)
    finally:
        session.close()
