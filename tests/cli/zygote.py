"""A process that has imported everything once and forks a child for each command line: PyTorch alone takes seconds.

Run by `processes.Zygote`. A line of JSON on standard input asks for a child; lines on standard output say which pid it
has, and later with which code it ended. A child is a real process: files of its own, an ordinary exit, SIGKILL.
"""

import atexit
import gc
import importlib
import json
import os
import select
import signal
import sys
import threading
import traceback

_COMMANDS = ("main", "carried", "connection", "contribution", "daemon_api", "participant")
_MODULES = (
    *("crashes", "simulated", "transformers.models.gpt2.modeling_gpt2", "collabsecure.values"),
    *(f"collabsecure_cli.{module}" for module in _COMMANDS),
)


def main():
    requests, replies = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    _import_all()
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running, unread = set(), b""

    def reply(**answer):
        os.write(replies, json.dumps(answer).encode() + b"\n")

    reply(ready=os.getpid())
    while True:
        for ready in select.select([requests, woken], [], [])[0]:
            data = os.read(ready, 1 << 16)
            if ready == requests:
                if not data:  # the tests are over, or were killed
                    for pid in running:
                        os.kill(pid, signal.SIGKILL)
                    return
                *lines, unread = (unread + data).split(b"\n")
                for line in lines:
                    job = json.loads(line)
                    if (pid := os.fork()) == 0:
                        for descriptor in (requests, replies, woken, wake):
                            os.close(descriptor)
                        _run(job)  # never returns
                    running.add(pid)
                    reply(job=job["job"], pid=pid)
        for pid in list(running):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                running.discard(pid)
                reply(pid=pid, code=os.waitstatus_to_exitcode(status))


def _import_all():
    import torch

    torch.set_num_threads(1)

    for module in _MODULES:
        importlib.import_module(module)
    from collabsecure.layers import EditableModel
    from collabsecure.world import load_world

    EditableModel.load(str(load_world().model), device="cpu")  # whatever is imported on the way
    gc.collect()
    gc.freeze()  # a child that looks at every object copies all their pages


def _run(job):
    """Be the child."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    os.chdir(job["folder"])
    for stream, descriptor in (("stdout", 1), ("stderr", 2)):
        file = os.open(job[stream], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(file, descriptor)
        os.close(file)
    os.environ.update(job["environment"])
    import crashes

    crashes.install(job["hooks"])
    code = 1
    try:
        if job["program"] == "simulated":
            import simulated

            simulated.main(*job["arguments"])
        else:
            from collabsecure_cli.main import main as command

            command(job["arguments"], prog_name="collabsecure")
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:  # noqa: BLE001 (said as the interpreter says it)
        traceback.print_exc()
    # As the interpreter ends, but for a second in which it takes PyTorch apart.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
