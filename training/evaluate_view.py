"""An evaluation in the terminal: a table of held-out figures, one of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def print_report(
    report: Mapping[str, Any], confined: Mapping[str, str], target: str, console: Console
) -> None:
    model = report["model"]
    console.print(f"{model['path']} ({model['kind']}, {model['hash'][:12]})", soft_wrap=True)
    if "heldout" in report:
        console.print(_heldout(report["heldout"]))
    if "tasks" in report:
        console.print(_tasks(report["tasks"]))
    for name, task in report.get("tasks", {}).items():
        if task.get("cut"):
            console.print(
                f"{name}: {task['cut']:,} prompts were longer than the window and cut from the left"
            )
    if confined:
        held = ", ".join(f"{name}: {how}" for name, how in confined.items())
        console.print(f"programs were confined by {held}", soft_wrap=True)
        if "open" in confined.values():
            console.print("[bold yellow]not confined in full[/]: run in a container what you do not trust")
    console.print(f"report: {target}", soft_wrap=True)


def _with_error(value: float | None, error: float | None, digits: int) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def _heldout(part: Mapping[str, Any]) -> Table:
    table = Table(title=f"held-out text (window {part['window']:,}, stride {part['stride']:,})")
    for name in ("", "documents", "tokens", "MB", "loss (nats/token)", "bits per byte"):
        table.add_column(name, justify="right" if name else "left")

    def add(name: str, row: Mapping[str, Any]) -> None:
        table.add_row(
            name,
            f"{row['documents']:,}",
            f"{row['tokens']:,}",
            f"{row['bytes'] / 1e6:.2f}",
            _with_error(row["loss"], row["loss_stderr"], 4),
            _with_error(row["bits_per_byte"], row["bits_per_byte_stderr"], 4),
        )

    add("all", part["all"])
    for key in ("sources", "languages"):
        table.add_section()
        for name, row in part[key].items():
            add(name, row)
    return table


def _tasks(part: Mapping[str, Any]) -> Table:
    table = Table(title="tasks")
    for name in ("", "questions", "few-shot", "chance", "metric", "value"):
        table.add_column(name, justify="right" if name not in ("", "metric") else "left")
    for name, task in part.items():
        table.add_section()
        first = [
            name,
            f"{task['documents']:,}",
            str(task.get("fewshot", "")),
            _with_error(task.get("chance"), None, 3),
        ]
        for metric, figure in task["metrics"].items():
            table.add_row(*first, metric, _with_error(figure["value"], figure["stderr"], 4))
            first = ["", "", "", ""]
    return table
