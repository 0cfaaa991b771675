"""What each process of torchrun runs in test_two_processes: several runs in one group.

`two_processes.py FOLDER WHERE [CASE]...`: the cases, or all of them, in FOLDER/WHERE.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from train_rows import CASES, recipe

from malmoi.training import metrics, parallel
from malmoi.training.loop import LocalStore, run
from malmoi.training.outcome import begin, finish
from malmoi.training.plan import make_plan


def main(folder: Path, where: str, names: list[str]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for name in names:
        given = recipe(str(folder / "rows"), folder / where / name, **CASES[name](folder))
        plan, output = make_plan(given), Path(given.output)
        group = parallel.start(given)
        if group.rank == 0:
            begin(given, plan)
        dist.barrier()
        run(
            plan, group, LocalStore(output, 2, 0),
            lambda step, to=output, of=plan, rank=group.rank: (
                metrics.MetricsLog(to, step, of.steps) if rank == 0 else None
            ),
            stop_after=5 if (where, name) == ("two", "stopped") else None,
            finish=lambda trainer, state, to=given.output: finish(trainer, state, to, {}),
        )  # fmt: skip
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:] or list(CASES))
