"""The step loop: one for every method, one device or many. Imports no ray.

A step is a function of the weights, the rows of that step and the step's number: learning rate, dropout and
rows come from (seed, step), so a run that stopped and goes on takes the same steps as one that did not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from malmoi.pipeline.errors import MalmoiError, ResourceError

from . import checkpoint, metrics
from .batches import Batch, Split, Steps
from .checkpoint import State
from .losses import IGNORE, head_loss
from .model import build_model
from .optim import make_optimizer, set_lr
from .parallel import (
    Parallel,
    checkpoint_activations,
    clip,
    decoder_layers,
    reshard,
    set_last_micro_batch,
    shard,
    sum_plain_gradients,
)
from .plan import TrainPlan, open_reader
from .recipe import TrainRecipe
from .schedule import factor


class NotFiniteError(MalmoiError):
    """A loss or a gradient is not a number or infinite; all workers raise it at the same step."""


class Store(Protocol):
    """Where checkpoints go to and come from; every worker calls."""

    def latest(self) -> Any:
        """A context manager that gives the folder of the newest complete checkpoint, or None."""
        ...

    def save(self, module: nn.Module, optimizer: torch.optim.Optimizer, state: State) -> None: ...

    def last_good(self) -> str:
        """What to tell the user when the run cannot go on."""
        ...


class LossModel(nn.Module):
    """A causal model that gives the summed loss of a batch, never the logits of all positions at once."""

    def __init__(self, model: nn.Module, chunk_tokens: int, *, compiled: bool = False) -> None:
        super().__init__()
        self.model = model
        self.chunk_tokens, self.compiled = chunk_tokens, compiled

    def base(self) -> Any:
        """The transformers model under any adapter."""
        model: Any = self.model
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    def forward(
        self, input_ids: Tensor, target: Tensor, position_ids: Tensor | None, bounds: Tensor | None
    ) -> Tensor:
        """The sum of cross-entropies in nats (float32 scalar); arguments as in `Batch`."""
        extra = {} if bounds is None else {"position_ids": position_ids, "boundaries": bounds}
        head = self.base().get_output_embeddings()
        project = head.forward
        head.forward = _same  # the model hands out hidden states where its logits would be
        try:
            # A cache would turn the documents' boundaries off, and costs memory.
            out = self.model(input_ids=input_ids, use_cache=False, **extra)
        finally:
            del head.forward
        hidden = out.logits[:, -input_ids.shape[1] :]  # virtual tokens stand before the row
        return head_loss(hidden, target, head, project, self.chunk_tokens, compiled=self.compiled)


def _same(states: Tensor) -> Tensor:
    return states


@dataclass(frozen=True)
class Result:
    """`finished`: false where `stop_after` ended the run before its last step."""

    state: State
    finished: bool


@dataclass
class Trainer:
    """All that a step needs. `module` is a LossModel, sharded where there are several workers."""

    plan: TrainPlan
    parallel: Parallel
    module: LossModel
    optimizer: torch.optim.Optimizer
    rows: Steps
    heldout: Steps | None

    @property
    def recipe(self) -> TrainRecipe:
        return self.plan.recipe

    def close(self) -> None:
        for rows in (self.rows, self.heldout):
            if rows is not None:
                rows.close()


def build(plan: TrainPlan, parallel: Parallel) -> Trainer:
    """Model, optimiser and rows; every worker makes the same weights before they are sharded."""
    recipe = plan.recipe
    # What is sharded never has to fit on one device as a whole, but for 4-bit weights, which are made there.
    host = parallel.sharded and parallel.world > 1 and recipe.method.kind != "qlora"
    device = torch.device("cpu") if host else parallel.device
    model = build_model(recipe.model, recipe.method, device, seed=recipe.seed, vocab_size=plan.vocab_size)
    module = LossModel(model, recipe.loss.chunk_tokens, compiled=recipe.compile == "block")
    if recipe.activation_checkpointing:
        checkpoint_activations(module.base())
    if recipe.compile == "block":
        for layer in decoder_layers(module):
            layer.compile()
    shard(module, recipe, parallel)
    optimizer = make_optimizer(module, recipe.optimizer)
    separate = recipe.model.attention in ("packed", "varlen")

    def steps(rows: int, first: int, last: int) -> Steps:
        split = Split.of(rows, recipe.batch.rows_per_device, parallel.rank, parallel.world)
        return Steps(open_reader(plan, split, first, last), split, separate=separate)

    rows = steps(recipe.batch.rows, 0, plan.train_rows)
    heldout = None
    if plan.heldout_rows:
        heldout = steps(
            min(recipe.data.evaluate_rows, plan.heldout_rows),
            plan.train_rows,
            plan.train_rows + plan.heldout_rows,
        )
    return Trainer(plan, parallel, module, optimizer, rows, heldout)


def _forward(trainer: Trainer, batch: Batch) -> Tensor:
    moved = batch.to(trainer.parallel.device)
    with torch.autocast(trainer.parallel.device.type, torch.bfloat16, enabled=trainer.parallel.autocast):
        loss: Tensor = trainer.module(moved.input_ids, moved.target, moved.position_ids, moved.bounds)
    return loss


def _count(trainer: Trainer, batches: list[Batch]) -> Tensor:
    """Positions that predict something, over all workers (float32 scalar, at least 1)."""
    count = sum(int((batch.target != IGNORE).sum()) for batch in batches)
    return trainer.parallel.sum(torch.tensor(float(count), device=trainer.parallel.device)).clamp_(min=1.0)


def train_step(trainer: Trainer, step: int) -> tuple[Tensor, Tensor]:
    """Take one optimiser step; this worker's part of the mean loss, and the norm of the gradients before clipping.

    Neither is read back here, so that the device is never waited for.
    """
    recipe, parallel = trainer.recipe, trainer.parallel
    torch.manual_seed(hash((recipe.seed, step, parallel.rank)) % 2**63)  # of dropout
    set_lr(trainer.optimizer, recipe.optimizer.lr * factor(recipe.schedule, step, trainer.plan.steps))
    batches = trainer.rows.next()
    count = _count(trainer, batches)
    total = torch.zeros((), device=parallel.device)
    for number, batch in enumerate(batches):
        set_last_micro_batch(trainer.module, number == len(batches) - 1)
        loss = _forward(trainer, batch) / count
        (loss * parallel.scale).backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    parameters = [x for x in trainer.module.parameters() if x.requires_grad]
    if parallel.scale == 1:
        sum_plain_gradients(parameters, parallel)
    norm = clip(parameters, recipe.clip_norm)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad(set_to_none=True)
    return total, norm


def heldout_loss(trainer: Trainer) -> float:
    """Mean nats a token over `evaluate_rows` of the held-out rows, chosen by the seed; the same every time."""
    assert trainer.heldout is not None
    trainer.heldout.seek(0)
    batches = trainer.heldout.next()
    count = _count(trainer, batches)
    trainer.module.eval()
    with torch.no_grad():
        parts = [_forward(trainer, batch) for batch in batches]
        total = trainer.parallel.sum(torch.stack(parts).sum())
    trainer.module.train()
    reshard(trainer.module)
    return float(total / count)


@contextmanager
def _memory_explained(recipe: TrainRecipe) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        knobs = [
            f"lower batch.rows_per_device (now {recipe.batch.rows_per_device}; steps stay what they are)"
        ]
        if not recipe.activation_checkpointing and recipe.method.kind != "prefix":
            knobs.append("set activation_checkpointing: true")
        if recipe.loss.chunk_tokens == 0:
            knobs.append("set loss.chunk_tokens: 1024")
        if recipe.workers.range[1] == 1:
            knobs.append("use more workers, which share the weights (workers.sharding: fsdp)")
        elif recipe.workers.sharding == "ddp":
            knobs.append("set workers.sharding: fsdp")
        raise ResourceError(
            f"the device is out of memory: {'; or '.join(knobs)}. Told by torch: {str(error)[:200]}"
        ) from error


def run(
    plan: TrainPlan,
    parallel: Parallel,
    store: Store,
    log: Callable[[int], metrics.MetricsLog | None],
    *,
    on_step: Callable[[int], None] | None = None,
    stop_after: int | None = None,
    finish: Callable[[Trainer, State], None] | None = None,
) -> Result:
    """Train from the newest checkpoint of `store`, or from the start, to the end.

    log: makes the log of this worker, given the step that the run goes on from; None at all but rank 0.
    on_step: called with the number of steps taken after each. stop_after: take so many steps at most, save, end.
    finish: called at the end by every worker, with the trained model.
    """
    with _memory_explained(plan.recipe):
        trainer = build(plan, parallel)
        state = _resume(trainer, store)
        writer = log(state.step)
        try:
            last = plan.steps if stop_after is None else min(plan.steps, state.step + stop_after)
            state = _loop(trainer, store, writer, state, last, on_step)
            if finish is not None and state.step >= plan.steps:
                finish(trainer, state)
        finally:
            if writer is not None:
                writer.close()
            trainer.close()
    return Result(state, state.step >= plan.steps)


def _resume(trainer: Trainer, store: Store) -> State:
    plan, parallel = trainer.plan, trainer.parallel
    state = State(0, 0, 0, plan.identity, plan.data_hash, parallel.world, math.nan)
    with store.latest() as folder:
        if folder is not None:
            found = checkpoint.read_state(folder)
            checkpoint.check_same(found, plan.identity, plan.data_hash, str(folder))
            checkpoint.read(folder, trainer.module, trainer.optimizer)
            state = found
    trainer.rows.seek(state.samples)
    return state


def _loop(
    trainer: Trainer,
    store: Store,
    writer: metrics.MetricsLog | None,
    state: State,
    last: int,
    on_step: Callable[[int], None] | None,
) -> State:
    recipe, plan, parallel = trainer.recipe, trainer.plan, trainer.parallel
    flops = metrics.flops_per_token(trainer.module, trainer.module.base().config, plan.row_tokens)
    peak = metrics.peak_flops(parallel.device)
    speed = metrics.Speed()
    step, pending = state.step, list[tuple[Tensor, Tensor]]()
    step_tokens = recipe.batch.rows * plan.row_tokens
    loss, heldout = state.loss, state.heldout_loss
    while step < last:
        pending.append(train_step(trainer, step))
        speed.add(step_tokens)
        step += 1
        ends = step == last
        logs = step % recipe.log.every_steps == 0 or ends
        saves = step % recipe.checkpoint.every_steps == 0 or ends
        every = recipe.data.evaluate_every
        evaluates = trainer.heldout is not None and (saves or (every is not None and step % every == 0))
        if logs or saves or evaluates:
            first = step - len(pending)
            loss, norm = _read_back(pending, first, parallel, store)
            pending.clear()
        if logs:
            rate = speed.take()
            _log(writer, step, trainer, loss, norm, rate, metrics.mfu(rate, flops, parallel.world, peak))
        if evaluates:
            heldout = heldout_loss(trainer)
            if writer is not None:
                writer.write(step, {"heldout_loss": heldout})
        if saves:
            tokens = step * step_tokens
            samples = step * recipe.batch.rows
            state = State(step, samples, tokens, plan.identity, plan.data_hash, parallel.world, loss, heldout)
            store.save(trainer.module, trainer.optimizer, state)
        if evaluates or saves:
            speed.reset()
        if on_step is not None:
            on_step(step)
    return state


def _read_back(
    pending: list[tuple[Tensor, Tensor]], first: int, parallel: Parallel, store: Store
) -> tuple[float, float]:
    """Loss and norm of the newest step, over all workers. Stops the run at the first that is not finite."""
    losses = parallel.sum(torch.stack([loss for loss, _ in pending])).tolist()
    norms = torch.stack([norm for _, norm in pending]).tolist()
    for number, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NotFiniteError(
                f"step {first + number + 1}: the loss is {loss} and the norm of the gradients {norm}; the run "
                f"stops and saves nothing of it. {store.last_good()} Lower optimizer.lr, raise schedule.warmup "
                "or look at the rows of that step"
            )
    return losses[-1], norms[-1]


def _log(
    writer: metrics.MetricsLog | None,
    step: int,
    trainer: Trainer,
    loss: float,
    norm: float,
    rate: float,
    used: float | None,
) -> None:
    if writer is None:
        return
    recipe, plan = trainer.recipe, trainer.plan
    lr = recipe.optimizer.lr * factor(recipe.schedule, step - 1, plan.steps)
    values = {
        "loss": loss,
        "grad_norm": norm,
        "lr": lr,
        "samples": step * recipe.batch.rows,
        "tokens": step * recipe.batch.rows * plan.row_tokens,
        "tokens_per_second": rate,
        "mfu": used,
        "peak_memory_bytes": metrics.peak_memory(trainer.parallel.device),
    }
    writer.write(step, values)


@dataclass(frozen=True)
class LocalStore:
    """Checkpoints in a local folder that all workers see."""

    output: Path
    keep_last: int
    keep_best: int

    @contextmanager
    def latest(self) -> Iterator[Path | None]:
        found = checkpoint.complete_checkpoints(self.output)
        yield found[-1] if found else None

    def save(self, module: nn.Module, optimizer: torch.optim.Optimizer, state: State) -> None:
        checkpoint.save_local(self.output, module, optimizer, state, (self.keep_last, self.keep_best))

    def last_good(self) -> str:
        found = checkpoint.complete_checkpoints(self.output)
        return f"The last good checkpoint is {found[-1]}." if found else "There is no checkpoint yet."
