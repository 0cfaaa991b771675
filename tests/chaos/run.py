"""`python -m tests.chaos.run --points 100 --seed 1`: faults at random points, and whether the bytes are the same.

Prints a line for each and a summary; the same seed gives the same faults. Ends with status 1 where a run hangs,
does not go through, or ends with other bytes than the undisturbed one.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from dataclasses import asdict

from .bench import Bench, Fault, Outcome, choose


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=100)
    parser.add_argument("--seed", type=int, default=None, help="else from the clock; it is printed")
    parser.add_argument("--skip", type=int, default=0, help="leave out the first ones, to go on after a stop")
    parser.add_argument(
        "--ray", type=float, default=0.5, help="share on a Ray cluster; the others without Ray"
    )
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="begin no further point after these"
    )
    parser.add_argument("--faults", help="file with JSON lines of faults, instead of random ones")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.add_argument("--keep", action="store_true", help="keep the folder where something is wrong")
    given = parser.parse_args()
    seed = int(time.time()) if given.seed is None else given.seed
    begin = time.monotonic()
    bench = Bench()
    outcomes: list[Outcome] = []
    try:
        bench.prepare()
        print(
            f"seed {seed}, {given.points} points; undisturbed runs {time.monotonic() - begin:.0f} s",
            file=sys.stderr,
        )
        for number, fault in enumerate(faults(bench, given, seed)):
            if number < given.skip:
                continue
            if time.monotonic() - begin > given.seconds:
                print(f"stopped before point {number}: --skip {number} goes on", file=sys.stderr)
                break
            outcome = bench.meet(fault)
            outcomes.append(outcome)
            tell(number, outcome, as_json=given.json)
    finally:
        if given.keep and any(x.wrong for x in outcomes):
            bench.end_cluster()
            print(f"kept: {bench.place}", file=sys.stderr)
        else:
            bench.close()
    wrong = sum(bool(x.wrong) for x in outcomes)
    kinds = Counter(
        f"{x.fault.engine} {x.fault.kind} {x.fault.victim or x.fault.phase}".strip() for x in outcomes
    )
    stages = Counter(x.fault.stage for x in outcomes)
    print(
        f"seed {seed}: {len(outcomes)} points, {sum(x.felt for x in outcomes)} felt, {wrong} wrong",
        file=sys.stderr,
    )
    print(
        f"by kind: {dict(sorted(kinds.items()))}; by stage: {dict(sorted(stages.items()))}", file=sys.stderr
    )
    sys.exit(1 if wrong or not outcomes else 0)


def faults(bench: Bench, given: argparse.Namespace, seed: int) -> list[Fault]:
    if given.faults:
        with open(given.faults, encoding="utf-8") as file:
            return [Fault(**json.loads(line)) for line in file]
    rng = random.Random(seed)
    return [choose(bench, rng, "ray" if rng.random() < given.ray else "local") for _ in range(given.points)]


def tell(number: int, outcome: Outcome, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(outcome)), flush=True)
        return
    state = "WRONG" if outcome.wrong else "same" if outcome.felt else "not felt, same"
    print(f"{number:4d} {outcome.seconds:5.1f} s {outcome.calls} calls {state}: {outcome.fault}", flush=True)
    for line in outcome.wrong:
        print(f"     {line}", flush=True)


if __name__ == "__main__":
    main()
