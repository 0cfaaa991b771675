"""`malmoi train`: the loop in this process (`run_local`), or on the workers of Ray Train (`run_on_ray`)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from malmoi.pipeline.console import make_console
from malmoi.pipeline.errors import MalmoiError, RecipeError, ResourceError
from malmoi.pipeline.lock import only_run
from malmoi.pipeline.storage import Folder, file_system, is_local, strip_local

from .outcome import MODEL, Launcher, begin, finish
from .plan import TrainPlan, make_plan
from .ray_cluster import check_cluster, start_ray
from .recipe import TrainRecipe, read_recipe

if TYPE_CHECKING:
    from .checkpoint import State

OnStep = Callable[[int], None]


def train(path: str, overrides: list[str], *, local: bool) -> None:
    """What the command does. Raises MalmoiError before anything loads where something is wrong."""
    recipe = read_recipe(path, overrides)
    (run_local if local else run_on_ray)(recipe)


@contextmanager
def _begun(
    recipe: TrainRecipe, launcher: Launcher, check: Callable[[], None] = lambda: None
) -> Iterator[tuple[TrainPlan, bool, Callable[[], None]]]:
    """Check all, hold the output and record the run: the plan, whether it is finished already, and what raises
    BusyError once another process holds the output. `check`: called last, where there is more to do."""
    if not is_local(recipe.output) and recipe.log.tensorboard:
        raise RecipeError(f"log.tensorboard needs a local output, got {recipe.output}")
    plan = make_plan(recipe)
    with only_run(Folder(recipe.output, recipe.output_options)) as still_ours:

        def checked() -> None:
            check()
            still_ours()  # it may have taken minutes

        done = begin(recipe, plan, launcher, checked)["result"] is not None
        if done:
            make_console().print(f"finished already: {Folder(recipe.output).join(MODEL)}", soft_wrap=True)
        yield plan, done, still_ours


@contextmanager
def _joined(recipe: TrainRecipe) -> Iterator[tuple[TrainPlan, bool, Callable[[], None]]]:
    """The same for the other processes of torchrun, of which the first holds the output."""
    yield make_plan(recipe), _is_done(recipe), lambda: None


def _tell_end(output: str, state: Mapping[str, Any]) -> None:
    heldout = state.get("heldout_loss")
    more = "" if heldout is None else f", held-out loss {heldout:.4f}"
    make_console().print(
        f"done: {state['step']:,} steps, {state['tokens']:,} tokens, loss {state['loss']:.4f}{more}; "
        f"{Folder(output).join(MODEL)}",
        soft_wrap=True,
    )


def run_local(recipe: TrainRecipe, *, on_step: OnStep | None = None) -> dict[str, Any] | None:
    """Train without Ray, in this process or in those of torchrun; the last State, or None if it was finished.

    The output has to be a local folder (seen by all processes).
    """
    if not is_local(recipe.output):
        raise RecipeError(
            f"--local writes to local folders only, got output={recipe.output}; leave --local out"
        )
    _check_gpu(recipe)
    first = int(os.environ.get("RANK", "0")) == 0
    with _begun(recipe, "local") if first else _joined(recipe) as (plan, done, still_ours):
        if done:
            return None

        def stepped(step: int) -> None:
            still_ours()
            if on_step is not None:
                on_step(step)

        result = asdict(_run_here(plan, stepped))
        if first:
            _tell_end(recipe.output, result)
        return result


def _run_here(plan: TrainPlan, on_step: OnStep) -> State:
    from . import parallel
    from .loop import LocalStore, run
    from .metrics import MetricsLog

    recipe = plan.recipe
    output, keep = Path(strip_local(recipe.output)), recipe.checkpoint
    try:
        group = parallel.start(recipe)

        def log(step: int) -> MetricsLog | None:
            if group.rank != 0:
                return None
            return MetricsLog(output, step, plan.steps, tensorboard=recipe.log.tensorboard)

        return run(
            plan, group, LocalStore(output, keep.keep_last, keep.keep_best), log,
            on_step=on_step,
            finish=lambda trainer, state: finish(trainer, state, recipe.output, recipe.output_options),
        ).state  # fmt: skip
    finally:
        parallel.stop()


def _check_gpu(recipe: TrainRecipe) -> None:
    import torch

    if recipe.workers.gpus_per_worker and not torch.cuda.is_available():
        raise ResourceError(
            "workers.gpus_per_worker=1, but torch finds no CUDA device on this machine; set it to 0 to train on "
            "CPUs, or RAY_ADDRESS to train on a cluster"
        )


def _is_done(recipe: TrainRecipe) -> bool:
    from .outcome import read_record

    record = read_record(recipe.output, recipe.output_options)
    return record is not None and record["result"] is not None


@dataclass
class RayStore:
    """Checkpoints through Ray Train: each worker reports the folder of its own files, Ray merges and keeps them.

    `writer`: the log of rank 0, whose lines go to a remote output with each checkpoint.
    """

    recipe: TrainRecipe
    rank: int
    writer: list[Any] = field(default_factory=list)

    @contextmanager
    def latest(self) -> Iterator[Path | None]:
        import ray.train

        found = ray.train.get_checkpoint()
        with nullcontext(None) if found is None else found.as_directory() as place:
            yield None if place is None else Path(place)

    def save(self, module: Any, optimizer: Any, state: Any) -> None:
        import ray.train
        from ray.train import Checkpoint, CheckpointUploadMode

        from . import checkpoint

        folder = Path(tempfile.mkdtemp(prefix="malmoi-checkpoint-"))
        checkpoint.write(folder, module, optimizer, state)
        self.keep_log()
        wait = not self.recipe.checkpoint.asynchronous
        ray.train.report(
            asdict(state),
            checkpoint=Checkpoint.from_directory(str(folder)),
            checkpoint_dir_name=checkpoint.name_of(state.step),
            checkpoint_upload_mode=CheckpointUploadMode.SYNC if wait else CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=True,
        )

    def keep_log(self) -> None:
        """Write what was logged so far where the log is no file that grows."""
        if self.writer and not is_local(self.recipe.output):
            target = Folder(self.recipe.output, self.recipe.output_options)
            target.write_bytes("metrics.jsonl", self.writer[0].text().encode())

    def last_good(self) -> str:
        import ray.train

        found = ray.train.get_checkpoint()
        return (
            "There is no checkpoint yet." if found is None else f"The last good checkpoint is {found.path}."
        )


def _worker(config: dict[str, Any]) -> dict[str, Any]:
    """The training function of a Ray Train worker; what rank 0 returns is the result."""
    import ray.train.torch

    from . import parallel
    from .loop import NotFiniteError, run
    from .metrics import MetricsLog

    plan: TrainPlan = config["plan"]
    recipe = plan.recipe
    group = parallel.start(recipe, ray.train.torch.get_device())
    store = RayStore(recipe, group.rank)

    def log(step: int) -> MetricsLog | None:
        if group.rank != 0:
            return None
        if is_local(recipe.output):
            place = Path(strip_local(recipe.output))
            made = MetricsLog(place, step, plan.steps, tensorboard=recipe.log.tensorboard, show=False)
        else:
            folder = Folder(recipe.output, recipe.output_options)
            before = folder.read_bytes("metrics.jsonl").decode() if folder.exists("metrics.jsonl") else ""
            made = MetricsLog(None, step, plan.steps, before=before, show=False)
        store.writer.append(made)
        return made

    try:
        result = run(
            plan, group, store, log,
            on_step=config["on_step"],
            finish=lambda trainer, state: finish(trainer, state, recipe.output, recipe.output_options),
        )  # fmt: skip
    except MalmoiError as error:
        with suppress(MalmoiError, OSError):  # the losses that led here; but why it ended is more
            store.keep_log()
        if not isinstance(error, NotFiniteError) and group.world > 1:
            raise  # the other workers wait for this one
        return {"error": str(error)}  # it would be the same after a restart
    return asdict(result.state)


def run_on_ray(recipe: TrainRecipe, *, on_step: OnStep | None = None) -> dict[str, Any] | None:
    """Train on the cluster of RAY_ADDRESS, or on this machine; the last State, or None if it was finished.

    on_step: called on every worker with the number of steps taken after each.
    """
    if not os.environ.get("RAY_ADDRESS") and not _ray_is_there():
        _check_gpu(recipe)

    def check() -> None:
        start_ray()
        check_cluster(recipe)

    with _begun(recipe, "ray", check) as (plan, done, still_ours):
        if done:
            return None
        from ray.train import TrainingFailedError

        from .follow import followed

        try:
            with followed(Folder(recipe.output, recipe.output_options), plan.steps):
                found = make_trainer(plan, on_step).fit().return_value
        except TrainingFailedError as error:
            raise _cause(error) from error
        still_ours()
    if not isinstance(found, dict) or "error" in found:
        raise MalmoiError(found["error"] if isinstance(found, dict) else "the workers ended without a result")
    _tell_end(recipe.output, found)
    return found


def _cause(error: BaseException) -> MalmoiError:
    """An error of ours that a worker raised, whose end the others may only have noticed; else the first worker's."""
    failures = getattr(error, "worker_failures", None) or {}
    inner = [(rank, getattr(failure, "_base_exc", failure)) for rank, failure in sorted(failures.items())]
    ours = next((x for _, x in inner if isinstance(x, MalmoiError)), None)
    if ours is not None or not inner:
        return ours or MalmoiError(str(error)[:2000])
    rank, first = inner[0]
    return MalmoiError(f"worker {rank}: {type(first).__name__}: {str(first)[:2000]}")


def _ray_is_there() -> bool:
    import ray

    return bool(ray.is_initialized())


def make_trainer(plan: TrainPlan, on_step: OnStep | None = None) -> Any:
    """Ray Train's TorchTrainer for a plan: gloo on CPUs, NCCL on GPUs; checkpoints lie where `--local` has them."""
    from pyarrow.fs import FSSpecHandler, PyFileSystem
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from .checkpoint import FOLDER

    recipe = plan.recipe
    workers, keep = recipe.workers, recipe.checkpoint
    resources = {"CPU": workers.cpus_per_worker}
    if workers.gpus_per_worker:
        resources["GPU"] = float(workers.gpus_per_worker)
    path, files = strip_local(recipe.output), None
    if not is_local(recipe.output):
        fs, path = file_system(recipe.output, recipe.output_options)
        files = PyFileSystem(FSSpecHandler(fs))
    best = {"checkpoint_score_attribute": "heldout_loss", "checkpoint_score_order": "min"}
    return TorchTrainer(
        _worker,
        train_loop_config={"plan": plan, "on_step": on_step},
        torch_config=TorchConfig(backend="nccl" if workers.gpus_per_worker else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers.num_workers,
            use_gpu=workers.gpus_per_worker > 0,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name=FOLDER,
            storage_path=path,
            storage_filesystem=files,
            failure_config=FailureConfig(max_failures=workers.max_failures),
            checkpoint_config=CheckpointConfig(
                num_to_keep=keep.keep_last + keep.keep_best, **(best if keep.keep_best else {})
            ),
        ),
    )
