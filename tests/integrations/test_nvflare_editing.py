"""The editing example in NVFlare as it is deployed, with the real aggregator beside its server and a real model.

Slow: `make test-integration`. Each test's time is in docs/embedding.md.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from editing import Embedded
from flare_processes import Flare, simulate

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[2] / "examples" / "nvflare" / "edit" / "secure_editing.py"
RUN_SECONDS = 1500.0  # on two busy cores


class Session(Embedded):
    """Of three clients, whose daemons listen where the example expects them."""

    def socket(self, number):
        return self.folder / f"site-{number}.sock"

    @property
    def arguments(self):
        certificates = ("--ca", self.parties.folder / "authority.pem")
        session = ("--session", self.parties.session("three"), "--aggregator", self.url, *certificates)
        return (*session, "--sockets", self.folder)

    def wait(self):
        """All end by themselves, and well, with the very update that one process gives."""
        assert [process.wait() for process in self.processes] == [0] * len(self.processes)
        assert self.check(*self.names)


@pytest.fixture
def session(parties, tmp_path):
    session = Session(parties, "three", tmp_path / "s")
    try:
        session.start()
        yield session
    finally:
        session.close()


def test_the_update_is_bit_for_bit_that_of_one_process_in_the_simulator(session, tmp_path):
    log = simulate(tmp_path / "n", SCRIPT, *session.arguments, seconds=RUN_SECONDS)
    assert "Done with clients 1, 2, 3" in log
    session.wait()


def test_sites_that_take_no_code_take_part_and_a_job_that_died_is_submitted_again(session, tmp_path):
    """NVFlare ends a job when the process of one of its sites dies. The session goes on with the next."""
    command = [sys.executable, SCRIPT, *session.arguments, "--write", tmp_path / "jobs"]
    subprocess.run([str(part) for part in command], check=True, cwd=tmp_path)
    job = tmp_path / "jobs" / "secure-editing"
    with Flare(tmp_path / "f", 3, takes_code=False) as flare:
        flare.submit(with_code(job))
        assert flare.status() == "FINISHED:FAILED_TO_RUN"
        assert "BYOC not permitted" in flare.said("server") + flare.said("site-1")
        flare.submit(job)
        flare.says("says that it is client 2", RUN_SECONDS)
        flare.kill_job("site-2")
        assert flare.status() == "FINISHED:EXECUTION_EXCEPTION"
        flare.submit(job)
        flare.says("Done with clients 1, 2, 3", RUN_SECONDS)
        session.wait()


def with_code(job):
    """The same job, but that it brings the sites a file of its own."""
    other = job.with_name("with-code")
    shutil.copytree(job, other)
    for app in other.glob("app_site-*"):
        (app / "custom").mkdir()
        (app / "custom" / "anything.py").write_text("")
    return other
