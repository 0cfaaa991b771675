"""pass@k of HumanEval-format problems: programs that a model wrote, run in a confined process each.

What is run is what a model made up: `sandbox` says what is covered and what is not. Code of a model that you
do not trust belongs in a container besides.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from malmoi.pipeline.errors import MalmoiError, SourceError

from .local_rows import read_rows
from .tasks import CodeSettings, TaskSettings, mean, sampled, task_hash

SANDBOX = Path(__file__).with_name("sandbox.py")
# Starting Python is no part of a program's time.
_START_SECONDS = 60.0
# How often what a program has written is counted, of how many full files it may be, and what an empty one counts.
_LOOK_SECONDS, _FULL_FILES, _ENTRY_BYTES = 0.1, 64, 4096
_NO_RESULT = "ended without a result"


@dataclass(frozen=True)
class Limits:
    """Of one program. `seconds` on the clock; `memory`: bytes of address space, on macOS of what it holds;
    `file_bytes`: of each file, 64 times of which all may hold together."""

    seconds: float = 10.0
    memory: int = 1024 * 2**20
    file_bytes: int = 2**20

    @staticmethod
    def of(settings: CodeSettings) -> Limits:
        return Limits(settings.seconds, settings.memory_mb * 2**20, settings.file_kb * 2**10)


@dataclass(frozen=True)
class Outcome:
    passed: bool
    reason: str = ""


@dataclass(frozen=True)
class Problem:
    """A line of HumanEval (Chen et al. 2021): `prompt` + completion + `test` + check(`entry_point`)."""

    task_id: str
    prompt: str
    entry_point: str
    test: str

    def program(self, completion: str) -> str:
        return f"{self.prompt}{completion}\n{self.test}\ncheck({self.entry_point})\n"


def read_problems(path: str) -> list[Problem]:
    """SourceError naming the line where a key is missing, the test is empty or an id stands twice."""
    found: dict[str, Problem] = {}
    for place, row in read_rows(path):
        keys = ("task_id", "prompt", "entry_point", "test")
        wrong = [key for key in keys if not isinstance(row.get(key), str) or not row[key]]
        if wrong:
            raise SourceError(f"{place}: humaneval needs a string in {', '.join(wrong)}")
        problem = Problem(*(row[key] for key in keys))
        if not problem.entry_point.isidentifier():
            raise SourceError(f"{place}: entry_point {problem.entry_point!r} is not a name")
        if problem.task_id in found:
            raise SourceError(f"{place}: task_id {problem.task_id!r} is given twice")
        found[problem.task_id] = problem
    if not found:
        raise SourceError(f"{path}: empty")
    return list(found.values())


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """The chance that one of k of `samples` passes, without bias: 1 - C(n - c, k) / C(n, k) (Chen et al. 2021)."""
    if not 0 <= passed <= samples or not 1 <= k <= samples:
        raise ValueError(f"want 0 <= passed <= samples and 1 <= k <= samples, got {passed}, {samples}, {k}")
    return 1.0 - math.comb(samples - passed, k) / math.comb(samples, k)


def _clean_environment(folder: str) -> dict[str, str]:
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    place = {"HOME": folder, "TMPDIR": folder, "PATH": "/usr/bin:/bin"}
    return {**place, **threads, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}


def _holds_more(folder: str, most: int) -> bool:
    """Whether the files and folders in `folder` come to more than `most` bytes."""
    found, stack = 0, [folder]
    while stack:
        with suppress(OSError), os.scandir(stack.pop()) as entries:  # too deep a path, or gone meanwhile
            for entry in entries:
                found += max(entry.stat(follow_symlinks=False).st_blocks * 512, _ENTRY_BYTES)
                if entry.is_dir(follow_symlinks=False):
                    stack.append(entry.path)
                if found > most:
                    return True
    return False


def _resident(process: int) -> int:
    """Bytes of memory that a process holds. macOS refuses a limit of the address space below what Python itself has
    mapped, so nothing else bounds it there."""
    import psutil  # type: ignore[import-untyped]  # of accelerate

    with suppress(psutil.Error):
        return int(psutil.Process(process).memory_info().rss)
    return 0


def _lines(pipe: int, seconds: float, over: Callable[[], bool]) -> list[dict[str, Any]]:
    """What the child tells: two lines at most. An empty list, or one line, where its time ran out before, or `over`
    said that it took too much."""
    buffer, told = b"", 0
    deadline = time.monotonic() + _START_SECONDS
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while told < 2 and len(buffer) < 2**16:
            left = deadline - time.monotonic()
            if left <= 0 or over():
                break
            if not selector.select(min(left, _LOOK_SECONDS)):
                continue
            data = os.read(pipe, 4096)
            if not data:
                break
            buffer += data
            if not told and b"\n" in buffer:
                deadline = time.monotonic() + seconds
            told = buffer.count(b"\n")
    found = []
    for line in buffer.split(b"\n")[:2]:
        with suppress(ValueError):
            read = json.loads(line)
            found += [read] if isinstance(read, dict) else []
    return found


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The whole group, before the process is waited for: until then its number is nobody else's."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _remove(folder: str) -> None:
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except RecursionError:  # as many folders within each other as a program makes in its time
        subprocess.run(["rm", "-rf", "--", folder], check=False)


def _run(program: str, limits: Limits) -> tuple[dict[str, str], Outcome]:
    """What confined the program, and what came of it."""
    folder = tempfile.mkdtemp(prefix="malmoi-code-")
    try:
        Path(folder, "program.py").write_text(program, encoding="utf-8", errors="surrogatepass")
        read, write = os.pipe()
        word, most = secrets.token_hex(16), _FULL_FILES * limits.file_bytes
        settings = {
            "seconds": limits.seconds, "memory": limits.memory, "file_bytes": limits.file_bytes, "result": write,
        }  # fmt: skip
        begun, held = time.monotonic(), 0

        def over() -> bool:
            nonlocal held
            held = max(held, _resident(process.pid))
            return held > limits.memory or _holds_more(folder, most)

        with open(read, "rb", buffering=0), open(Path(folder, "output.txt"), "wb") as output:
            try:
                process = subprocess.Popen(
                    [sys.executable, "-I", "-B", str(SANDBOX), json.dumps(settings)],
                    stdin=subprocess.PIPE, stdout=output, stderr=output, cwd=folder,
                    env=_clean_environment(folder), start_new_session=True, pass_fds=(write,),
                )  # fmt: skip
            finally:
                os.close(write)
            try:
                assert process.stdin is not None
                with suppress(BrokenPipeError), process.stdin as stdin:
                    stdin.write(word.encode() + b"\n")
                told = _lines(read, limits.seconds, over)
            finally:
                _kill(process)
        confined, outcome = _judged(
            told, word, process.returncode, time.monotonic() - begun >= limits.seconds
        )
        if held > limits.memory:
            return confined, Outcome(False, "took too much memory")
        return confined, Outcome(False, "wrote too much") if _holds_more(folder, most) else outcome
    finally:
        _remove(folder)


def _judged(
    told: Sequence[dict[str, Any]], word: str, code: int, late: bool
) -> tuple[dict[str, str], Outcome]:
    confined = dict(told[0]) if told and "processes" in told[0] else {}
    if not confined:
        return {}, Outcome(False, "did not start")
    if len(told) > 1:
        if told[1].get("passed") == word:
            return confined, Outcome(True)
        return confined, Outcome(False, str(told[1].get("reason", _NO_RESULT)))
    if code == -signal.SIGXCPU or (late and code == -signal.SIGKILL):
        return confined, Outcome(False, "timed out")
    return confined, Outcome(False, _NO_RESULT)


def confinement() -> dict[str, str]:
    """What holds on this machine. MalmoiError where a program could start processes without bound."""
    if os.name != "posix":
        raise MalmoiError("programs can only be run on Linux and macOS")
    found, outcome = _run("", Limits())
    if not outcome.passed:
        raise MalmoiError(
            f"no program can be run here ({outcome.reason}); is {sys.executable} a plain Python?"
        )
    if found["processes"] == "unbounded":
        raise MalmoiError("this machine has no seccomp and you are root: run as another user")
    return found


def run_program(program: str, limits: Limits) -> Outcome:
    """Whether `program` runs to its end without an exception and within `limits`. Never raises, never hangs."""
    return _run(program, limits)[1]


def run_programs(programs: Sequence[str], limits: Limits, at_once: int) -> list[Outcome]:
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(lambda program: run_program(program, limits), programs))


@dataclass(frozen=True)
class CodePlan:
    settings: TaskSettings
    problems: tuple[Problem, ...]
    hash: str

    @staticmethod
    def of(settings: TaskSettings) -> CodePlan:
        rows = read_problems(settings.path)
        asked = sampled(len(rows), settings.limit, settings.seed, lambda number: rows[number].task_id)
        return CodePlan(settings, tuple(rows[number] for number in asked), task_hash(settings))

    def programs(self, completions: Sequence[Sequence[str]]) -> list[str]:
        """`completions`: for each problem its samples."""
        return [
            problem.program(completion)
            for problem, found in zip(self.problems, completions, strict=True)
            for completion in found
        ]

    def report(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """`outcomes`: as `programs` has them. The error of pass@k: over problems."""
        code = self.settings.coding
        passed = (
            np.asarray([x.passed for x in outcomes]).reshape(len(self.problems), code.samples).sum(axis=1)
        )
        return {
            "format": self.settings.format,
            "hash": self.hash,
            "documents": len(self.problems),
            "samples": code.samples,
            "metrics": {
                f"pass@{k}": mean(np.asarray([pass_at_k(code.samples, int(c), k) for c in passed]))
                for k in code.k
            },
        }
