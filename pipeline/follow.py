"""The log of a job on a Ray cluster, followed over any number of connections to its end and its exit code."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape

from .errors import MalmoiError, ResourceError

STOPPED = 130


@dataclass
class Follower:
    """Follows the log of a job over any number of connections; `shown` characters were handed to `write`."""

    client: Any
    job: str
    write: Callable[[str], None]
    quiet: float = 20.0
    shown: int = 0

    async def tail(self) -> None:
        """Until the log ends or the connection is lost (raises). A new connection begins with the first line."""
        seen, stream = 0, self.client.tail_job_logs(self.job)
        while True:
            chunk = asyncio.ensure_future(anext(stream, None))
            try:
                while not (await asyncio.wait({chunk}, timeout=self.quiet))[0]:
                    await asyncio.to_thread(self.ask)  # nothing said for long: is the server still there?
            except BaseException:
                chunk.cancel()
                raise
            text = chunk.result()
            if text is None:
                return
            seen += len(text)
            if seen > self.shown:
                self.write(text[len(text) - (seen - self.shown) :])
                self.shown = seen

    def ask(self) -> Any:
        """The job's state; raises where no answer comes in time, KeyError for a job that is not known."""
        answer = self.client._do_request("GET", f"/api/jobs/{self.job}", timeout=self.quiet)
        if answer.status_code == 404:
            raise KeyError(self.job)
        if answer.status_code != 200:
            raise RuntimeError(f"{answer.status_code}: {answer.text}")
        return answer.json()


def follow_job(client: Any, job: str, console: Console, *, patience: float = 600.0) -> int:
    """Print the job's log as it comes; its exit code. Connects again for `patience` seconds after a loss."""
    import aiohttp

    follower, url = Follower(client, job, _write), client.get_address()
    lost: float | None = None
    while True:
        try:
            state = follower.ask()
            if lost is not None:
                console.print("connected again")
                lost = None
            if state["status"] in ("SUCCEEDED", "FAILED", "STOPPED") and follower.shown:
                break
            _until_done(follower.tail())
            state = _settled(follower)
            if state is not None:
                break
        except KeyError as error:
            raise MalmoiError(
                f"{url}: knows no job {job}: wrong name, or the head was started anew and forgot it; the same "
                "`malmoi submit` goes on from the finished parts"
            ) from error
        except (RuntimeError, OSError, aiohttp.ClientError) as error:
            now = time.monotonic()
            if lost is None:
                lost = now
                console.print(f"connection to {url} lost; the job runs on. Trying again ...", soft_wrap=True)
            if now - lost > patience:
                raise ResourceError(
                    f"{url}: no answer for {patience:.0f} s ({error}). The job may be running: malmoi submit --attach "
                    f"{job} --address {url}"
                ) from error
            time.sleep(min(10.0, 1.0 + (now - lost) / 4))
    return _ending(state, console)


def _until_done(work: Coroutine[Any, Any, None]) -> None:
    """Run it to its end, in a thread where this one runs a loop already, as a notebook's does."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="malmoi-submit", daemon=True).start()
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result()
    finally:
        future.cancel()
        loop.call_soon_threadsafe(loop.stop)


def _settled(follower: Follower, seconds: float = 10.0) -> Any:
    """The state of a job whose log has ended; None while it is still said to run."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        state = follower.ask()
        if state["status"] in ("SUCCEEDED", "FAILED", "STOPPED"):
            return state
        time.sleep(0.3)
    return None


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _ending(state: Mapping[str, Any], console: Console) -> int:
    """The exit code of a job that has ended; a signal's is 128 and its number, as in a shell."""
    code = state.get("driver_exit_code")
    if state["status"] == "STOPPED":
        console.print("job stopped. Finished parts are kept: the same command goes on from here.")
        return STOPPED
    if code is None:
        code = 0 if state["status"] == "SUCCEEDED" else 1
        if code:  # it never came to run: no log of its own tells why
            console.print(escape(str(state.get("message") or "the job failed")), soft_wrap=True)
    return 128 - code if code < 0 else int(code)
