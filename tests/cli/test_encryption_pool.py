"""Encryption in processes of its own: exact, in bounded memory, and gone with the process that it works for."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from light_session import make_session

from collabsecure_cli.encryption_pool import EncryptionStopped, encryption_pool
from collabsecure_protocols import KeyPair
from collabsecure_protocols.ckks import Decryptor
from collabsecure_protocols.encryption_parameters import choose_encryption

pytest.importorskip("tenseal", reason="encryption is of the extra ckks")

PAIRS = {scheme: KeyPair.generate(scheme) for scheme in ("bfv", "ckks")}
SESSIONS = {scheme: make_session(key_pair=pair) for scheme, pair in PAIRS.items()}
CHUNK = 131_072
MB = 1 << 20
SECONDS = 60


def chunks(count, bits):
    rng = np.random.default_rng(3)
    return [rng.integers(0, 1 << bits, CHUNK, np.uint64) for _ in range(count)]


def megabytes(pid, what):
    """Of a process: VmRSS now, or VmHWM at its highest."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(lines[what].split()[0]) / 1024


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition):
    ends = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.05)


@pytest.mark.parametrize(("scheme", "bits"), [("bfv", 48), ("ckks", 38)])
def test_what_workers_encrypt_decrypts_to_the_input_in_bounded_memory(scheme, bits):
    parameters = choose_encryption(scheme, num_clients=4, bits=bits)
    decryptor = Decryptor(PAIRS[scheme], parameters)
    with encryption_pool(SESSIONS[scheme].session, 1) as encrypt:
        small = encrypt(np.arange(5, dtype=np.uint64), bits).result(SECONDS)
        assert decryptor.decrypt(small, 5, num_summands=1).tolist() == [0, 1, 2, 3, 4]
        (worker,) = multiprocessing.active_children()
        before = megabytes(worker.pid, "VmRSS")
        values = chunks(4, bits)
        for index, future in enumerate([encrypt(chunk, bits) for chunk in values]):
            found = future.result(SECONDS)
            if index in (0, 3):
                assert np.array_equal(decryptor.decrypt(found, CHUNK, num_summands=1), values[index])
        assert megabytes(worker.pid, "VmHWM") - before < 64
    until(lambda: not is_running(worker.pid))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_a_worker_that_is_killed_is_an_error_and_no_hang():
    started = time.monotonic()
    with (
        pytest.raises(EncryptionStopped, match="--encryption-processes takes fewer"),
        encryption_pool(SESSIONS["bfv"].session, 2) as encrypt,
    ):
        encrypt(np.arange(5, dtype=np.uint64), 48).result(SECONDS)
        futures = [encrypt(chunk, 48) for chunk in chunks(6, 48)]
        workers = multiprocessing.active_children()
        os.kill(workers[0].pid, signal.SIGKILL)
        for future in futures:
            future.result(SECONDS)
    assert time.monotonic() - started < SECONDS
    until(lambda: not any(is_running(worker.pid) for worker in workers))


def test_a_session_without_encryption_has_no_workers():
    with encryption_pool(make_session().session, 2) as encrypt:
        assert encrypt is None


CLIENT = """
    import multiprocessing, sys, time
    import numpy as np
    from collabsecure_cli.encryption_pool import encryption_pool
    from collabsecure_protocols import Session

    if __name__ == "__main__":
        with encryption_pool(Session.decode(bytes.fromhex(sys.stdin.readline())), 1) as encrypt:
            encrypt(np.arange(5, dtype=np.uint64), 48).result()
            print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
            futures = [encrypt(np.arange(131072, dtype=np.uint64), 48) for _ in range(3)]
            time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_the_client_that_is_killed_or_interrupted(tmp_path, number):
    program = tmp_path / "client.py"
    program.write_text(textwrap.dedent(CLIENT))
    client = subprocess.Popen(
        [sys.executable, program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    client.stdin.write(SESSIONS["bfv"].session.encode().hex() + "\n")
    client.stdin.flush()
    workers = [int(pid) for pid in client.stdout.readline().split()]
    assert workers
    if number == signal.SIGINT:  # as a terminal's Ctrl-C, which reaches all of them
        os.killpg(client.pid, number)
    else:
        client.kill()
    _, said = client.communicate(timeout=SECONDS)  # ends once nobody has its streams open any more
    assert said.count("Traceback") <= (number == signal.SIGINT), said  # the client's own, none of a worker
    until(lambda: not any(map(is_running, workers)))
