"""Ray for one process: started beside its imports and its plan, ended without waiting.

Of the seconds that Ray takes to start, most are spent waiting for its own processes. Its orderly end takes another
one or two, one process after the other; when a command ends, nobody waits for anything in them, so they are killed
together.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Dict  # noqa: UP035

from . import idle_agent
from .ray_place import starting

# A job whose worker dies so often stops the run.
TRIES = 3
# A worker is given up to so many jobs at once: Ray Data takes 0.1 s and more to give it something new.
TURN = 8
RETRIES = TRIES * TURN - 1
_STORE_BYTES = 256 * 1024**2  # only descriptors and counts pass through it


class _Start:
    """Ray as it is started by a thread, which Linux ends Ray's processes with: it stays as long as this process."""

    def __init__(self, cpus: int) -> None:
        prepare()
        import ray  # noqa: F401  (not in the thread: it would be imported more slowly beside others)

        self.error: BaseException | None = None
        self.done = threading.Event()
        threading.Thread(target=self._run, args=(cpus,), name="malmoi-ray", daemon=True).start()

    def _run(self, cpus: int) -> None:
        try:
            start(cpus)
        except BaseException as error:
            self.error = error
        self.done.set()
        threading.Event().wait()


_alone = False
_early: _Start | None = None
_started = False  # and Ray Data was not told yet
_ours = False


def usable_cpus() -> int:
    """CPUs that this process may run on (affinity respected)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def own_cpus(wanted: int | None) -> int:
    """CPUs of a Ray on this machine alone: as many as are wanted and there."""
    return min(wanted or usable_cpus(), usable_cpus())


def alone() -> None:
    """Said by a command that has this process to itself: it may change how the process starts and ends."""
    global _alone
    _alone = True


def begin(recipe: str, overrides: Sequence[str]) -> None:
    """Start Ray for a run whose recipe is not read yet, beside the imports; not where it is finished, or runs on a
    cluster. What is wrong with the recipe is told by those who read it."""
    global _early
    ray = sys.modules.get("ray")
    if not _alone or os.environ.get("RAY_ADDRESS") or _early or (ray is not None and ray.is_initialized()):
        return
    with suppress(Exception):
        cpus = _peek(Path(recipe), dict(text.split("=", 1) for text in overrides))
        if cpus:
            _end_in_order()
            gc.disable()  # a fifth of the time of imports, and they leave next to no garbage; `settle` enables it
            try:
                _early = _Start(cpus)
            except BaseException:
                gc.enable()
                raise


def _end_in_order() -> None:
    """Let SIGTERM end the run as an error would; Ray sees to that only where the main thread starts it."""
    main = threading.current_thread() is threading.main_thread()
    if main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def _peek(recipe: Path, given: dict[str, str]) -> int:
    """CPUs of a run that is still to be made in a folder of this machine, else 0."""
    import yaml

    if "run" in given:  # YAML of its own
        return 0
    said = yaml.safe_load(recipe.read_bytes())
    output = given.get("output", said["output"])
    if "://" in output or (Path(output) / "manifest.json").exists():
        return 0
    return own_cpus(int(given.get("run.num_cpus") or said.get("run", {}).get("num_cpus") or 0))


def is_ours() -> bool:
    """Whether `start` started a Ray in this process."""
    return _ours


def settle() -> None:
    """Wait for what `begin` began; raises what went wrong."""
    global _early
    if _early is not None:
        _early.done.wait()
        early, _early = _early, None
        gc.freeze()
        gc.enable()
        if early.error is not None:
            raise early.error


def prepare() -> None:
    """What Ray takes from the environment; before it is imported."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_task_oom_retries", str(RETRIES))
    # What a job answers is read in the loop that gives out jobs, not one round of it (0.1 s) later.
    os.environ.setdefault("RAY_DATA_METADATA_PREFETCH_ON_THREAD", "0")
    # Arrow's memory in workers is used again, not given back after each batch: as `filtering.keep_memory`.
    os.environ.setdefault("MIMALLOC_PURGE_DELAY", "-1")


def start(cpus: int) -> None:
    """Start Ray with so many CPUs."""
    global _started, _ours
    prepare()
    import ray

    with _bare(), starting():
        ray.init(
            address="local",  # not whatever cluster Ray finds a trace of on this machine
            num_cpus=cpus,
            include_dashboard=False,
            object_store_memory=_STORE_BYTES,
            logging_level="ERROR",
            log_to_driver=False,
            _system_config={"preload_python_modules": ["malmoi.pipeline.warm"]},
        )
    _started = _ours = True


@contextmanager
def _bare() -> Iterator[None]:
    """Ray without its autoscaler, log monitor and API server, which no option leaves out: two of its ten seconds;
    for a command of its own without its agents, another one."""
    from ray._private import services
    from ray._private.node import Node

    names = ("start_monitor", "start_log_monitor", "start_api_server")
    real = {(Node, name): getattr(Node, name) for name in names if hasattr(Node, name)}
    for owner, name in real:
        setattr(owner, name, lambda *args, **kwargs: None)
    name = "_build_python_executable_command_memory_profileable"
    command = getattr(services, name, None)
    if _alone and command is not None and sys.platform == "linux":  # a notebook may want Ray's own agents
        real[services, name] = command
        setattr(services, name, partial(_agent, command))
    try:
        yield
    finally:
        for (owner, name), function in real.items():
            setattr(owner, name, function)


def _agent(command: Callable[..., list[str]], component: str, *args: object, **kwargs: object) -> list[str]:
    """What a process of Ray's begins with; before its two agents, `idle_agent`."""
    begin = command(component, *args, **kwargs)
    plain = begin == [sys.executable, "-u"] and component in (idle_agent.DASHBOARD, idle_agent.RUNTIME_ENV)
    return [*begin, "-I", "-S", str(Path(idle_agent.__file__)), component] if plain else begin


class _NoStats:
    """In place of the actor that counts for Ray's dashboard, which is not there: `x.any_method.remote(...)`."""

    def __getattr__(self, name: str) -> _NoStats:
        return self

    def remote(self, *args: object, **kwargs: object) -> None:
        """Nothing is counted."""


def answer_for_cluster() -> None:
    """Spare Ray Data its two actors, where `start` started Ray.

    One counts for the dashboard. The other tells what the cluster has for it, which is seen only after a second, in
    each stage anew, and until then one job runs at a time. Nothing is decided there for a Ray that no node can join.
    """
    global _started
    if not _started:
        return
    _started = False  # said once for each Ray
    import ray

    dict_of_nodes = Dict[str, Dict[str, float]]  # noqa: UP006  (as Ray spells it: the two are not equal)
    try:
        from ray.data._internal import stats
        from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
            DefaultAutoscalingCoordinator as Coordinator,
        )

        by_node = Coordinator.get_reserved_resources.__annotations__["return"] == dict_of_nodes
        _ = stats.get_or_create_stats_actor, Coordinator.request_resources, Coordinator.cancel_request
    except (ImportError, AttributeError, KeyError):
        by_node = False
    if not by_node:
        return  # another Ray: slower, not wrong
    alone = ray.get_runtime_context().gcs_address

    def put(owner: object, name: str, answer: Callable[[], object]) -> None:
        real = getattr(owner, name)

        def function(*args: object, **kwargs: object) -> object:
            here = ray.is_initialized() and ray.get_runtime_context().gcs_address == alone
            return answer() if here else real(*args, **kwargs)

        setattr(owner, name, function)

    put(stats, "get_or_create_stats_actor", _NoStats)
    put(Coordinator, "request_resources", lambda: None)
    put(Coordinator, "cancel_request", lambda: None)
    put(Coordinator, "get_reserved_resources", lambda: {x["NodeID"]: x["Resources"] for x in ray.nodes()})


def leave(code: int) -> None:
    """At the end of a command: kill the Ray that this process started, and do not return where there is one.

    What others registered with `atexit` runs all the same.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ours = _early is not None and not _early.done.is_set()  # still starting: its processes end with this one
    if not ours and _ours:
        with suppress(Exception):
            ours = _kill()
    if ours:
        _run_exit_functions()
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # a pipe that nobody reads
                stream.flush()
        os._exit(code)  # the rest of the interpreter takes a second to be cleared away


def _run_exit_functions() -> None:
    """Those of `atexit` but Ray's, whose processes are gone; Ctrl-C ends one that hangs."""
    worker = sys.modules.get("ray._private.worker")
    if worker is not None:
        atexit.unregister(worker.shutdown)
    with suppress(BaseException):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        atexit._run_exitfuncs()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _kill() -> bool:
    """Whether there was one."""
    import psutil  # type: ignore[import-untyped]  # of Ray
    from ray._private import worker

    node = worker._global_node
    if node is None or not node.is_head():
        return False
    held = [info.process for infos in node.all_processes.values() for info in infos]
    below = [child for one in held for child in psutil.Process(one.pid).children(recursive=True)]
    kill_and_reap = node.kill_all_processes

    def at_once(*args: object, **kwargs: object) -> None:
        for process in [*held, *below]:
            with suppress(Exception):
                process.kill()
        kill_and_reap(*args, **kwargs)

    node.kill_all_processes = at_once
    worker.shutdown()
    return True
