"""`malmoi plan`: the plan as a page of text."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .figures import size
from .plan import Plan

_MIB = 1024**2


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(
            heading, justify="right" if heading in ("files", "parts", "size", "jobs") else "left"
        )
    return table


def print_plan(plan: Plan, console: Console) -> None:
    """Sources, stages, columns and estimated memory; nothing has been read but headers."""
    recipe = plan.recipe
    console.print(f"[bold]{escape(recipe.name)}[/]  ->  {escape(recipe.output)}\n")
    table = _table("source", "files", "size", "parts", "extra columns")
    for planned in plan.sources:
        extras = ", ".join(f"{field.name}: {field.type}" for field in planned.extras)
        counts = (str(len(planned.files)), size(planned.size), str(len(planned.parts)))
        table.add_row(planned.source.name, *counts, escape(extras))
    console.print(table)
    steps = " -> ".join(step.name for step in plan.steps) or "(no steps)"
    dedup = [
        name for name, on in (("exact", plan.keys.exact), ("fuzzy", plan.keys.minhash is not None)) if on
    ]
    mixture = recipe.mixture
    stages = _table("stage", "jobs", "what it does")
    stages.add_row("filter", str(plan.num_parts), f"read -> {steps} -> keys")
    stages.add_row(
        "decide", "1", f"dedup ({', '.join(dedup) or 'off'}); mixture {mixture.method} by {mixture.by}"
    )
    stages.add_row("split", str(plan.num_parts), "what stays by shard, what goes with its reason")
    order = "globally shuffled" if recipe.write.shuffle else "in input order"
    stages.add_row("write", "", f"{recipe.write.format} shards of {size(recipe.write.shard_bytes)}, {order}")
    if recipe.tokenize is not None:
        rows = recipe.tokenize
        kind = "plain text" if rows.template is None else "examples"
        stages.add_row(
            "tokenize", "", escape(f"{kind} to rows of {rows.seq_len:,} tokens by {rows.tokenizer}")
        )
    console.print()
    console.print(stages)
    console.print("\n[bold]columns[/]")
    for step in plan.steps:
        console.print(f"  {step.name}: {escape(', '.join(step.adds.names))}")
    console.print(
        f"\n[bold]memory[/] (estimated)  worker {plan.worker_bytes / _MIB:,.0f} MiB, "
        f"driver {plan.driver_bytes / _MIB:,.0f} MiB"
    )
