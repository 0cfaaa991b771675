"""The Ray that a training run goes to: reached or started, large enough, and with paths that all nodes see."""

from __future__ import annotations

import os
import socket

from malmoi.pipeline.errors import RecipeError, ResourceError
from malmoi.pipeline.storage import is_local

from .recipe import TrainRecipe


def start_ray() -> None:
    """Connect to RAY_ADDRESS, or start Ray on this machine. ResourceError at once where nobody answers."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    if address:
        _check_address(address)
        ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    else:
        ray.init(include_dashboard=False, logging_level="ERROR", log_to_driver=False)


def _check_address(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # auto, local and the like
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise ResourceError(
            f"RAY_ADDRESS={address}: no Ray cluster answers ({error}); start it, or unset RAY_ADDRESS to run here"
        ) from error


def check_cluster(recipe: TrainRecipe) -> None:
    """ResourceError or RecipeError where the fewest workers would never start, or could not meet."""
    import ray

    check_resources(recipe, ray.cluster_resources())
    check_paths(recipe, sum(1 for node in ray.nodes() if node["Alive"]))


def check_resources(recipe: TrainRecipe, have: dict[str, float]) -> None:
    """`have`: what the cluster has of CPU and GPU. Ray would wait for ever for what is not there."""
    workers = recipe.workers
    if workers.autoscaling:
        return
    least = workers.range[0]
    for name, key, each in (
        ("GPU", "gpus_per_worker", workers.gpus_per_worker),
        ("CPU", "cpus_per_worker", workers.cpus_per_worker),
    ):
        if least * each > have.get(name, 0.0) + 1e-6:
            raise ResourceError(
                f"{least} workers with workers.{key}={each:g} need {least * each:g} {name}s, the cluster has "
                f"{have.get(name, 0.0):g}; lower workers.num_workers or workers.{key}, or set workers.autoscaling "
                "where nodes come on demand"
            )


def check_paths(recipe: TrainRecipe, nodes: int) -> None:
    """Workers on several nodes need paths that all of them see."""
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
