"""Runs that are killed at random moments, for test_training_reference: forked, so that all imports happen once.

`kills.py FOLDER CASE SEED`: the run in FOLDER/whole is left alone, the one in FOLDER/killed is killed some times.
"""

from __future__ import annotations

import importlib
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import torch
from train_rows import CASES, recipe

from malmoi.training.ray_entry import run_local

STEPS, KILLS = 40, 3
LATE = (
    "pandas", "peft", "torch._dynamo", "torch.distributed.checkpoint", "torch.distributed.fsdp",
    "transformers.models.llama.modeling_llama", "malmoi.training.loop", "malmoi.training.outcome",
)  # fmt: skip


def start(folder: Path, name: str, case: str) -> int:
    process = os.fork()
    if process == 0:
        code = 1
        try:
            torch.set_num_threads(1)
            changes = {
                "data": {"path": str(folder / "rows"), "holdout": 0.2, "evaluate_every": 6},
                "steps": STEPS,
                "checkpoint": {"every_steps": 3, "keep_best": 1},
                **CASES[case](folder),
            }
            run_local(recipe(str(folder / "rows"), folder / name, **changes))
            code = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    return process


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def main(folder: Path, case: str, chance: random.Random) -> None:
    for name in LATE:
        importlib.import_module(name)
    log, killed = folder / "killed/metrics.jsonl", 0
    assert os.waitpid(start(folder, "whole", case), 0)[1] == 0
    while True:
        before, process, ended = size(log), start(folder, "killed", case), 0
        while killed < KILLS and size(log) == before and not ended:
            time.sleep(0.002)
            ended, status = os.waitpid(process, os.WNOHANG)
        if killed == KILLS and not ended:
            ended, status = os.waitpid(process, 0)
        if ended:
            assert status == 0
            break
        time.sleep(chance.uniform(0, 0.3))
        os.kill(process, signal.SIGKILL)
        if os.waitpid(process, 0)[1] == 0:
            break
        killed += 1
    print(f"{killed} kills")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], random.Random(int(sys.argv[3])))
