"""`malmoi submit`: a recipe as a job on a running Ray cluster, followed to its end with its exit code."""

from __future__ import annotations

import logging
import os
import re
import shlex
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console

from .cluster import instead, is_shipped, local_paths
from .config import load_recipe
from .errors import MalmoiError, RecipeError, ResourceError
from .follow import STOPPED, follow_job
from .ship import read_environment, unpacked_wheel, working_folder
from .storage import is_local, strip_local
from .yaml_file import read_yaml

_ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_BUSY = "No available agent"
_OF_TRAINING = ("output", "data.path", "data.tokenizer", "model.path")

TOKEN = """the cluster at {address} asks for a token and {got}. Ray turns token authentication on by itself where \
the account that starts it has a file ~/.ray/auth_token (Ray 2.60's ray.init writes one). Either give the head's \
token: RAY_AUTH_MODE=token and RAY_AUTH_TOKEN=<content of ~/.ray/auth_token on the head> (or RAY_AUTH_TOKEN_PATH); \
or, on a network that you trust, start all nodes with RAY_AUTH_MODE=disabled"""


@dataclass(frozen=True)
class Request:
    """What to run: `malmoi <command> <recipe> <overrides>` with these environment variables."""

    recipe: str
    overrides: Sequence[str] = ()
    command: str = "run"
    python: str = "python"
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    runtime_env: str | None = None


@contextmanager
def _told(address: str) -> Iterator[None]:
    """Ray's errors as ours."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        mode = os.environ.get("RAY_AUTH_MODE", "")
        got = (
            "none was sent" if "required" in str(error).lower() or mode != "token" else "ours is not its own"
        )
        raise ResourceError(TOKEN.format(address=address, got=got)) from error
    except ConnectionError as error:
        raise ResourceError(
            f"{address}: no Ray job server answers; is that the head's dashboard (port 8265), and is it reached from "
            "here? `ray dashboard CLUSTER.yaml` or `kubectl port-forward` bring it to http://127.0.0.1:8265"
        ) from error
    except (RuntimeError, OSError) as error:
        raise MalmoiError(f"{address}: {error}") from error


def _found(address: str | None) -> str | None:
    return address or next((os.environ[name] for name in _ADDRESSES if os.environ.get(name)), None)


def connect(address: str | None) -> Any:
    """A JobSubmissionClient of the job server; the address given wins over Ray's variables, unlike in Ray."""
    found = _found(address)
    if not found or not found.startswith(("http://", "https://")):
        raise ResourceError(
            f"want --address http://HEAD:8265 (the head's dashboard), got {found or 'none'}; a recipe runs here with "
            "`malmoi run`"
        )
    try:
        import aiohttp  # noqa: F401
        import requests  # noqa: F401
        from ray.job_submission import JobSubmissionClient
    except ImportError as error:
        raise ResourceError(
            f"submitting needs more of Ray ({error}): pip install 'malmoi[cluster]'"
        ) from error
    _quiet()
    hidden = {name: os.environ.pop(name) for name in _ADDRESSES if name in os.environ}
    try:
        with _told(found):
            return JobSubmissionClient(found)
    finally:
        os.environ.update(hidden)


def run_command(
    recipe: str | None,
    overrides: Sequence[str],
    address: str | None,
    *,
    attach: str | None,
    stop: str | None,
    detach: bool,
    command: str,
    env: Sequence[str],
    runtime_env: str | None,
    python: str,
    console: Console,
) -> int:
    """The command line's choice between a new job, one that runs and one to be stopped; the exit code."""
    if sum(x is not None for x in (recipe, attach, stop)) != 1:
        raise RecipeError("want one of: a recipe, --attach JOB_ID, --stop JOB_ID")
    if attach is not None:
        return attach_job(attach, address, console=console)
    if stop is not None:
        return stop_job(stop, address, console=console)
    variables = {}
    for entry in env:
        name, equals, value = entry.partition("=")
        if not equals and name not in os.environ:
            raise RecipeError(f"--env {name}: not set here; want --env {name}=VALUE")
        variables[name] = value if equals else os.environ[name]
    request = Request(str(recipe), tuple(overrides), command, python, variables, runtime_env)
    return submit(request, address, console=console, follow=not detach)


def submit(request: Request, address: str | None, *, console: Console, follow: bool = True) -> int:
    """Start the job and follow it; its exit code, or 0 at once without `follow`."""
    overrides, arguments = _places(request, _found(address) or "")
    env = dict(request.env)
    client = connect(address)
    url = client.get_address()
    job = f"malmoi-{_word(Path(request.recipe).stem)}-{uuid.uuid4().hex[:8]}"
    words = [request.python, "-m", "malmoi.pipeline", request.command, Path(request.recipe).name]
    with tempfile.TemporaryDirectory(prefix="malmoi-") as folder:
        runtime = dict(read_environment(request.runtime_env)) if request.runtime_env else {}
        given: Any = runtime.get("env_vars") or {}
        runtime["env_vars"] = {**given, **env}
        working_folder(request.recipe, Path(folder, "job"), request.overrides)
        runtime["working_dir"] = str(Path(folder, "job"))
        runtime["py_modules"] = unpacked_wheel(Path(folder))
        with _told(url):
            _start(client, job, shlex.join([*words, *overrides, *arguments]), runtime)
    console.print(f"job {job} on {url}", soft_wrap=True)
    if not follow:
        console.print(f"follow it: malmoi submit --attach {job} --address {url}", soft_wrap=True)
        return 0
    try:
        return follow_job(client, job, console)
    except KeyboardInterrupt:
        return _stop(client, job, console)


def attach_job(job: str, address: str | None, *, console: Console) -> int:
    """Follow a job from its beginning; its exit code. Ctrl-C leaves the job as it is."""
    client = connect(address)
    try:
        return follow_job(client, job, console)
    except KeyboardInterrupt:
        console.print(
            f"no longer followed, still running; stop it: malmoi submit --stop {job} --address "
            f"{client.get_address()}", soft_wrap=True,
        )  # fmt: skip
        return STOPPED


def stop_job(job: str, address: str | None, *, console: Console) -> int:
    """Stop a job and wait for its end; 0 once it has ended."""
    return 0 if _stop(connect(address), job, console) == STOPPED else 1


def _places(request: Request, address: str) -> tuple[list[str], list[str]]:
    """Overrides and arguments with which local paths mean the same in the job's folder as they do here."""
    given, path = list(request.overrides), request.recipe
    arguments: list[str] = []
    if request.command == "run":
        recipe = load_recipe(path, given)
        local = [x for x in local_paths(recipe, str(Path(path).parent)) if not is_shipped(*x)]
        moved = [x for x in local if x[0] == "output"]
        shared, switch = recipe.run.shared_filesystem, "run.shared_filesystem"
        arguments = ["--base", str(Path(path).resolve().parent)]
    else:
        local, shared = _of_training(path, given) if request.command == "train" else ([], True)
        moved, switch = local, "workers.shared_filesystem"
    host = urlsplit(address).hostname or ""
    if local and address and host not in _LOOPBACK and not shared:
        shown = "; ".join(f"{key}: {value}" for key, value in local[:5])
        raise RecipeError(
            f"{shown}: on a disk of this machine, which the cluster at {host} does not see. "
            + instead(local, switch)
        )
    return [*given, *(f"{key}={strip_local(value)}" for key, value in moved)], arguments


def _of_training(path: str, overrides: Sequence[str]) -> tuple[list[tuple[str, str]], bool]:
    """(key, path) of the local paths of a training recipe, and whether all nodes have them mounted."""
    data, _ = read_yaml(path, overrides)
    values = {}
    for key in (*_OF_TRAINING, "workers.shared_filesystem"):
        place: Any = data
        for part in key.split("."):
            place = place.get(part) if isinstance(place, dict) else None
        values[key] = place
    shared = values.pop("workers.shared_filesystem") is True
    return [(key, x) for key, x in values.items() if isinstance(x, str) and is_local(x)], shared


def _word(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII).strip("-.") or "job"


def _quiet() -> None:
    """Ray tells what it uploads, file by file, and when a connection ends."""
    for name in (
        "dashboard.modules.dashboard_sdk",
        "dashboard.modules.job.sdk",
        "_private.runtime_env.packaging",
    ):
        logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)


def _start(client: Any, job: str, entrypoint: str, runtime: dict[str, Any], seconds: float = 60.0) -> None:
    """Submit; a head that has just started has no agent yet, and a lost answer must not start it twice."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            client.submit_job(
                entrypoint=entrypoint, runtime_env=runtime, submission_id=job, metadata={"made_by": "malmoi"}
            )
            return
        except RuntimeError as error:
            if "already" in str(error) and job in str(error):
                return
            if _BUSY not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(2.0)


def _stop(client: Any, job: str, console: Console, seconds: float = 60.0) -> int:
    """Ask the cluster to stop the job and wait; STOPPED once it has ended, else 1."""
    url = client.get_address()
    console.print(f"stopping job {job} ...")
    try:
        with _told(url):
            client.stop_job(job)
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                if client.get_job_info(job).status.is_terminal():
                    console.print("stopped. Finished parts are kept: the same command goes on from here.")
                    return STOPPED
                time.sleep(0.5)
    except KeyboardInterrupt:
        pass
    console.print(f"not known to have stopped: malmoi submit --stop {job} --address {url}", soft_wrap=True)
    return 1
