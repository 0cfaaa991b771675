"""Peak memory of each process of a run, beside what `malmoi plan` estimates; and what its folder takes of the disk.

    python benchmarks/memory.py recipe.yaml [KEY=VALUE]...
    python benchmarks/memory.py FILE_OR_FOLDER [KEY=VALUE]...        a recipe with all rules is made for it

Runs `malmoi run` in a new process and reads /proc every 50 ms. Shown for the driver and every worker process of
Ray that ran a job: the peak resident set (RSS: shared pages count in full), the part of it that is private
(anonymous memory: what the process takes from the machine; a page of a mapped file can be taken back), and the
same for all processes of the run together. Of the folder: bytes at most and at the end, for each byte of text read.
Exits with 1 where a process went over `--limit-gib`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from whole_path import recipe

EVERY_SECONDS = 0.05
LOOKS = 10  # the folder is looked at as seldom


@dataclass
class Peak:
    """Of one process: bytes."""

    role: str = "?"
    resident: int = 0
    private: int = 0


@dataclass
class Peaks:
    """Of all processes of a run, by process id, of their private memory together, and of the run's folder."""

    processes: dict[int, Peak] = field(default_factory=lambda: defaultdict(Peak))
    together: int = 0
    folder: int = 0


def size_of(folder: Path) -> int:
    """Bytes of all files below."""
    found = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # it is gone
            found += path.stat().st_size if path.is_file() else 0
    return found


def status(process: int) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:  # it ended
        return {}
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def family(root: int) -> dict[int, dict[str, str]]:
    """The status of `root` and all its descendants; Ray's daemons stay in the session of the driver."""
    everyone = {int(path.name): status(int(path.name)) for path in Path("/proc").glob("[0-9]*")}
    children: dict[int, list[int]] = defaultdict(list)
    for process, fields in everyone.items():
        children[int(fields.get("PPid", 0))].append(process)
    found, left = {}, [root]
    while left:
        process = left.pop()
        found[process] = everyone.get(process, {})
        left += children[process]
    return found


def role(process: int, root: int) -> str:
    try:
        command = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return "?"
    if process == root:
        return "driver"
    if command.startswith("ray::"):
        return command.split()[0]
    return "ray: " + next((name for name in ("raylet", "gcs_server", "plasma") if name in command), "other")


def watch(command: list[str], output: Path) -> tuple[Peaks, int, float]:
    """Run the command, which writes `output`; peaks, exit code, seconds."""
    peaks, started, looks = Peaks(), time.perf_counter(), 0
    with subprocess.Popen(command, stdout=sys.stderr) as run:
        while run.poll() is None:
            together = 0
            for process, fields in family(run.pid).items():
                if "VmRSS" not in fields:
                    continue
                peak = peaks.processes[process]
                resident, private = (int(fields[key].split()[0]) * 1024 for key in ("VmRSS", "RssAnon"))
                peak.resident, peak.private = max(peak.resident, resident), max(peak.private, private)
                now = role(process, run.pid)
                if peak.role in ("?", "ray::IDLE") or "execute_row" in now:
                    peak.role = now
                together += private
            peaks.together = max(peaks.together, together)
            looks += 1
            if looks % LOOKS == 0:
                peaks.folder = max(peaks.folder, size_of(output))
            time.sleep(EVERY_SECONDS)
        return peaks, run.returncode, time.perf_counter() - started


def show(peaks: Peaks, limit: float) -> bool:
    """Print the table; whether every process stayed below `limit` bytes."""
    ours = {
        number: peak
        for number, peak in peaks.processes.items()
        if peak.role == "driver" or "execute_row" in peak.role
    }
    print(f"{'process':32s} {'peak RSS':>12s} {'of it private':>14s}")
    for _, peak in sorted(ours.items(), key=lambda item: -item[1].resident):
        print(f"{peak.role:32s} {peak.resident / 2**20:8.0f} MiB {peak.private / 2**20:10.0f} MiB")
    others = [peak.resident for number, peak in peaks.processes.items() if number not in ours]
    print(f"{f'{len(others)} others, the largest':32s} {max(others, default=0) / 2**20:8.0f} MiB")
    print(f"private memory of all at one time: {peaks.together / 2**20:,.0f} MiB")
    return all(peak.resident <= limit for peak in peaks.processes.values())


def main() -> int:
    parser = argparse.ArgumentParser(description="Peak memory of each process of a run.")
    parser.add_argument("input", type=Path, help="a recipe, or a file or folder of JSON Lines or Parquet")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--limit-gib", type=float, default=4.0)
    parser.add_argument("--work", type=Path, help="folder for the run; a temporary one by default")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.work) as folder:
        file, output = chosen.input, Path(folder) / "run"
        if file.suffix not in (".yaml", ".yml"):
            file = Path(folder) / "recipe.yaml"
            file.write_text(recipe("memory", chosen.input.absolute(), output, chosen.cpus), "utf-8")
        malmoi = [sys.executable, "-m", "malmoi.pipeline"]
        settings = [str(file), f"output={output}", *chosen.overrides]
        subprocess.run([*malmoi, "plan", *settings], check=True, stdout=sys.stdout)
        peaks, code, seconds = watch([*malmoi, "run", *settings], output)
        print(f"{seconds:.1f} s, exit code {code}, {sum(1 for _ in output.rglob('*'))} files")
        if not code:
            text = json.loads((output / "manifest.json").read_bytes())["books"][0]["read_bytes"]
            most, end = (size / text for size in (peaks.folder, size_of(output)))
            print(f"the folder, for each byte of text: {most:.2f} bytes at most, {end:.2f} at the end")
        shutil.rmtree(output, ignore_errors=True)
        return code or int(not show(peaks, chosen.limit_gib * 1024**3))


if __name__ == "__main__":
    sys.exit(main())
