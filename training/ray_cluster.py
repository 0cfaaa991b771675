"""The Ray that a training run goes to: reached or started, large enough, and with paths that all nodes see."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence

from malmoi.pipeline.errors import RecipeError, ResourceError
from malmoi.pipeline.ray_place import check_lasting, ray_address, starting
from malmoi.pipeline.storage import is_local

from .recipe import TrainRecipe


def start_ray() -> None:
    """Connect to RAY_ADDRESS, or start a Ray of our own on this machine. ResourceError at once where nobody answers."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        return
    address = ray_address()
    if address:
        ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    else:
        with starting():
            ray.init(  # not whatever cluster Ray finds a trace of on this machine
                address="local", include_dashboard=False, logging_level="ERROR", log_to_driver=False
            )


def check_cluster(recipe: TrainRecipe) -> None:
    """ResourceError or RecipeError where the fewest workers would never start, or could not meet."""
    import ray

    there = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    check_resources(recipe, there)
    check_paths(recipe, len(there))


def check_resources(recipe: TrainRecipe, nodes: Sequence[Mapping[str, float]]) -> None:
    """`nodes`: what each has of CPU and GPU. Ray would wait for ever for what is not there."""
    workers = recipe.workers
    if workers.autoscaling:
        return
    least = workers.range[0]
    each = {"GPU": float(workers.gpus_per_worker), "CPU": workers.cpus_per_worker}
    each = {name: amount for name, amount in each.items() if amount}
    room = sum(min(int(node.get(x, 0.0) / amount + 1e-6) for x, amount in each.items()) for node in nodes)
    if room < least:
        kinds = Counter(", ".join(f"{x} {node.get(x, 0.0):g}" for x in each) for node in nodes)
        there = "; ".join(f"{count} x {kind}" for kind, count in kinds.items()) or "none"
        taken = ", ".join(f"{x} {amount:g}" for x, amount in each.items())
        raise ResourceError(
            f"the cluster has room for {room} of {least} workers that take {taken} each (nodes: {there}); lower "
            "workers.num_workers, workers.cpus_per_worker or workers.gpus_per_worker, or set workers.autoscaling "
            "where nodes come on demand"
        )


def check_paths(recipe: TrainRecipe, nodes: int) -> None:
    """Workers on several nodes need paths that all of them see, and none may be removed with the job."""
    check_lasting(recipe.output)
    if (nodes < 2 and not recipe.workers.autoscaling) or recipe.workers.shared_filesystem:
        return
    places = {"output": recipe.output, "data.path": recipe.data.path, "model.path": recipe.model.path}
    local = [f"{key}={place}" for key, place in places.items() if place is not None and is_local(place)]
    if local:
        raise RecipeError(
            f"the cluster has several nodes, but {', '.join(local)} {'is' if len(local) == 1 else 'are'} local; use "
            "URLs, or set workers.shared_filesystem: true where every node has the folder mounted (or, of a "
            "model, a copy at the same place)"
        )
