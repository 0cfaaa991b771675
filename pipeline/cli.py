"""The command `malmoi`. Heavy imports happen inside the commands."""

from __future__ import annotations

import sys
import traceback
from importlib.metadata import entry_points
from typing import Annotated

import typer

from . import local_ray
from .console import make_console
from .errors import MalmoiError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="malmoi turns raw text into a deduplicated, mixed pretraining corpus and trains on it.",
)


class _Ended(SystemExit):
    """The end of a job, with its exit code: all is said already."""


RecipePath = Annotated[str, typer.Argument(metavar="RECIPE", help="path of a recipe.yaml")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="overrides, such as run.num_cpus=2 or output=runs/test"),
]
RunPlace = Annotated[
    str, typer.Argument(metavar="RUN", help="folder or URL of a run, or the recipe.yaml that it was made by")
]
RunOverrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="those of the run; of a URL output_options.key=value, for its store"
    ),
]


@app.command()
def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    base: Annotated[
        str | None, typer.Option(help="folder that input paths are relative to; else the recipe's")
    ] = None,
) -> None:
    """Run a recipe. The same command goes on after a stop; a finished run says so."""
    local_ray.begin(recipe, overrides or [])
    from .run import run_file

    run_file(recipe, overrides or [], console=make_console(), base=base)


@app.command()
def submit(
    recipe: Annotated[str | None, typer.Argument(metavar="[RECIPE]", help="path of a recipe.yaml")] = None,
    overrides: Overrides = None,
    address: Annotated[
        str | None, typer.Option(help="the head's dashboard, http://HEAD:8265; else RAY_API_SERVER_ADDRESS")
    ] = None,
    attach: Annotated[str | None, typer.Option(metavar="JOB_ID", help="follow a job that runs")] = None,
    stop: Annotated[str | None, typer.Option(metavar="JOB_ID", help="stop a job")] = None,
    detach: Annotated[bool, typer.Option(help="do not follow the job")] = False,
    command: Annotated[str, typer.Option(help="command of malmoi that the job runs: run, train")] = "run",
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[=VALUE]", help="variable for the job; without a value, mine"),
    ] = None,
    runtime_env: Annotated[
        str | None, typer.Option(metavar="FILE", help="YAML with more of Ray's runtime_env")
    ] = None,
    python: Annotated[str, typer.Option(help="interpreter of the nodes")] = "python",
) -> None:
    """Run a recipe as a job of a Ray cluster; nodes need no malmoi. Ctrl-C stops the job, --attach finds it again."""
    from .submit import run_command

    code = run_command(
        recipe, overrides or [], address, attach=attach, stop=stop, detach=detach, command=command,
        env=env or [], runtime_env=runtime_env, python=python, console=make_console(),
    )  # fmt: skip
    raise _Ended(code)


@app.command()
def tokenize(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="RUN_OR_FILES...", help="a finished run, or JSONL and Parquet files"),
    ],
    tokenizer: Annotated[str, typer.Option(help="a tokenizer.json, or a folder with one")],
    out: Annotated[
        str | None, typer.Option(help="folder of the rows; of a run by default RUN/tokens")
    ] = None,
    seq_len: Annotated[int, typer.Option(help="tokens of a row")] = 2048,
    template: Annotated[
        str | None, typer.Option(help="of examples: korean, alpaca, chatml, or chat for the tokenizer's own")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=COLUMN", help="where the template's NAME is in the files"),
    ] = None,
    packing: Annotated[str | None, typer.Option(help="concat; of examples best_fit, none")] = None,
    tail: Annotated[str, typer.Option(help="what is left of a shard: drop, pad")] = "drop",
    long: Annotated[str, typer.Option(help="examples longer than a row: drop, cut")] = "drop",
    append_eos: Annotated[bool, typer.Option("--eos/--no-eos", help="end documents with eos")] = True,
    bos: Annotated[bool, typer.Option("--bos", help="begin documents with bos")] = False,
    eos_token: Annotated[str | None, typer.Option(help="where the tokenizer names none")] = None,
    num_cpus: Annotated[int | None, typer.Option(help="CPUs to use; else all")] = None,
    shared_filesystem: Annotated[
        bool, typer.Option("--shared-filesystem", help="local paths are mounted on every node")
    ] = False,
) -> None:
    """Turn a run's corpus, or files, into rows of token ids to train on. The same command goes on after a stop."""
    from .tokenize import tokenize_command

    settings = {
        "tokenizer": tokenizer, "seq_len": seq_len, "template": template, "packing": packing, "tail": tail,
        "long": long, "append_eos": append_eos, "bos": bos, "eos": eos_token,
    }  # fmt: skip
    tokenize_command(
        inputs,
        settings,
        column or [],
        out,
        num_cpus,
        console=make_console(),
        shared_filesystem=shared_filesystem,
    )


@app.command()
def plan(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Check a recipe and its inputs without reading text; print stages, parts, columns, memory."""
    from .plan_view import print_plan
    from .run import plan_file

    print_plan(plan_file(recipe, overrides or []), make_console())


@app.command()
def why(
    run: RunPlace,
    id: Annotated[str, typer.Argument(metavar="ID", help="id of a document")],
    overrides: RunOverrides = None,
    source: Annotated[str | None, typer.Option(help="only in this source")] = None,
) -> None:
    """Tell what happened to a document: signals, thresholds, reason, survivor, part."""
    from .why import print_why

    print_why(run, id, source, make_console(), overrides or [])


@app.command()
def duplicates(
    run: RunPlace,
    overrides: RunOverrides = None,
    least_sure: Annotated[int, typer.Option(help="pairs nearest the threshold to show")] = 20,
    clusters: Annotated[int | None, typer.Option(help="the largest clusters instead, so many")] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="no columns, differences as [-gone-] {+new+}")
    ] = False,
) -> None:
    """Show compared pairs nearest the threshold side by side, with what differs marked; or the largest clusters."""
    from .duplicates import print_duplicates

    print_duplicates(run, make_console(), least_sure, clusters, plain, overrides or [])


@app.command()
def status(
    run: RunPlace,
    overrides: RunOverrides = None,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    watch: Annotated[float | None, typer.Option(metavar="SECONDS", help="again, while it runs")] = None,
) -> None:
    """Tell how far a run is, from any machine that reaches its folder: parts, speed, drops, alive or stale."""
    from .status_view import print_status

    found = print_status(run, make_console(), overrides=overrides or [], as_json=json, watch=watch)
    raise typer.Exit(1 if found.state in ("stale", "stopped") else 0)


@app.command()
def operators(name: Annotated[str | None, typer.Argument(metavar="[NAME]")] = None) -> None:
    """List the operators, or one operator's fields, defaults (by language, too) and source."""
    from .operators_view import print_operator, print_operators

    console = make_console()
    if name is None:
        print_operators(console)
    else:
        print_operator(name, console)


def _add_commands() -> None:
    """Commands of other folders and packages: modules named under the entry point `malmoi.commands`."""
    for found in entry_points(group="malmoi.commands"):
        for function in found.load().COMMANDS:
            app.command()(function)


def script() -> None:
    """The command in a process of its own, which ends at once."""
    local_ray.alone()
    try:
        main()
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        local_ray.leave(stop.code if isinstance(stop.code, int) else int(stop.code is not None))
        raise
    except BaseException:
        traceback.print_exc()
        local_ray.leave(1)
        sys.exit(1)


def main() -> None:
    """Errors of ours in one clear line each, exit code 2; Ctrl-C exits with 130."""
    _add_commands()
    try:
        app(standalone_mode=True)
    except MalmoiError as error:
        make_console(stderr=True).print(f"[bold red]error:[/] {_escape(str(error))}", soft_wrap=True)
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, _Ended):
            raise
        if isinstance(stop, SystemExit) and stop.code != 130:  # what Typer makes of Ctrl-C
            raise
        make_console(stderr=True).print(
            "stopped. Finished parts are kept: the same command goes on from here.", highlight=False
        )
        sys.exit(130)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


if __name__ == "__main__":
    script()
