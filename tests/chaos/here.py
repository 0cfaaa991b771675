"""`python -m tests.chaos.here RECIPE OUTPUT`: a run in this process, without Ray."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from malmoi.pipeline.config import load_recipe
from malmoi.pipeline.errors import MalmoiError
from malmoi.pipeline.plan import make_plan
from malmoi.pipeline.run import run_plan

if __name__ == "__main__":
    recipe, overrides = sys.argv[1], sys.argv[2:]
    try:
        plan = make_plan(load_recipe(recipe, overrides), str(Path(recipe).parent))
        run_plan(plan, console=Console(quiet=True), engine="local")
    except MalmoiError as error:
        sys.exit(f"{error}")
