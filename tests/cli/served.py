"""An ASGI app behind `serve`, in a thread of its own, for as long as a `with` block lasts."""

import asyncio
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field

from collabsecure_cli.serving import Limits, Tls, serve


@dataclass(kw_only=True)
class Served:
    url: str
    port: int
    loop: asyncio.AbstractEventLoop = field(repr=False)
    end: asyncio.Event = field(repr=False)
    thread: threading.Thread = field(repr=False)

    def stop(self, within=10.0):
        """Set the stop event; the server must end within so many seconds."""
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.end.set)
        self.thread.join(within)
        assert not self.thread.is_alive(), "the server does not end"


@contextmanager
def served(app, *, host="127.0.0.1", port=0, tls: Tls | None = None, limits: Limits | None = None):
    """Serve until the block ends; whatever `serve` raises before it listens is raised here."""
    listening = threading.Event()
    found: dict[str, object] = {}

    async def run():
        found["loop"], found["end"] = asyncio.get_running_loop(), asyncio.Event()

        def on_listening(url):
            found["url"] = url
            listening.set()

        await serve(
            app, host=host, port=port, tls=tls, limits=limits or Limits(), on_listening=on_listening, stop=found["end"]
        )

    def thread_main():
        try:
            asyncio.run(run())
        except (Exception, SystemExit) as error:  # noqa: BLE001 - raised again in the test's own thread
            found["error"] = error
        finally:
            listening.set()

    thread = threading.Thread(target=thread_main)
    thread.start()
    listening.wait()
    if "url" not in found:
        thread.join()
        raise found["error"]
    url = str(found["url"])
    server = Served(url=url, port=int(url.rpartition(":")[2]), loop=found["loop"], end=found["end"], thread=thread)
    try:
        yield server
    finally:
        server.stop()
    if "error" in found:
        raise found["error"]
