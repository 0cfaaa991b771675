"""What a running cluster has to have for a run: nodes that its jobs may use, and paths that all nodes reach."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import ResourceError
from .ray_place import check_lasting, in_job_folder
from .recipe import Recipe, Run
from .storage import is_local

_TOKENIZERS = ("mixture.tokenizer", "tokenize.tokenizer")
_ONE_OF = re.compile(r"^in\((.*)\)$")


@dataclass(frozen=True)
class Node:
    """A node that is alive: its address, its resources and its labels."""

    id: str
    address: str
    resources: Mapping[str, float]
    labels: Mapping[str, str]

    def __str__(self) -> str:
        own = {
            name: amount
            for name, amount in sorted(self.resources.items())
            if not name.startswith("node:") and "memory" not in name
        }
        labels = {key: value for key, value in sorted(self.labels.items()) if not key.startswith("ray.io/")}
        held = ", ".join([f"{name} {amount:g}" for name, amount in own.items()] or ["no CPU"])
        return f"{self.address}: {held}" + (f", labels {labels}" if labels else "")


def nodes() -> list[Node]:
    """The nodes that are alive now."""
    import ray

    return [
        Node(found["NodeID"], found["NodeManagerAddress"], found["Resources"], found.get("Labels") or {})
        for found in ray.nodes()
        if found["Alive"]
    ]


def matches(selector: str, value: str | None) -> bool:
    """Ray's label selectors: `v`, `!v`, `in(a,b)`, `!in(a,b)`; a node without the label matches only a `!`."""
    refused = selector.startswith("!")
    listed = _ONE_OF.match(selector.removeprefix("!"))
    wanted = [x.strip() for x in listed.group(1).split(",")] if listed else [selector.removeprefix("!")]
    return (value in wanted) != refused


def needs(run: Run) -> dict[str, float]:
    """What each job holds while it runs."""
    return {"CPU": 1.0, **run.resources}


def fits(node: Node, run: Run) -> bool:
    """Whether a job could run on the node when nothing else does."""
    return all(node.resources.get(name, 0.0) >= amount for name, amount in needs(run).items()) and all(
        matches(selector, node.labels.get(key)) for key, selector in run.label.items()
    )


def fitting(run: Run) -> list[Node]:
    """The nodes that a job may use now."""
    return [node for node in nodes() if fits(node, run)]


def placement(run: Run) -> dict[str, Any]:
    """The arguments of `map_batches` that keep jobs on the nodes that the recipe asks for."""
    wanted = {"resources": dict(run.resources), "label_selector": dict(run.label)}
    return {name: value for name, value in wanted.items() if value}


def free_cpus(run: Run) -> float:
    """CPUs that nobody holds, on the nodes that a job may use."""
    import ray

    if not placement(run):
        return float(ray.available_resources().get("CPU", 0.0))
    from ray._private import state

    free = state.available_resources_per_node()
    return float(sum(free.get(node.id, {}).get("CPU", 0.0) for node in fitting(run)))


def cpus(run: Run) -> int:
    """CPUs of the nodes that a job may use now, at least 1."""
    return max(int(sum(node.resources["CPU"] for node in fitting(run))), 1)


def usable(run: Run) -> int:
    """CPUs of the nodes that a job may use; waits `run.wait_for_nodes` seconds for the first, else fails.

    While it waits it asks the cluster's autoscaler for a node for one job.
    """
    there = fitting(run)
    if not there and run.wait_for_nodes:
        there = _wait(run)
    if not there:
        raise ResourceError(_nothing_fits(run))
    return int(sum(node.resources["CPU"] for node in there))


def _wait(run: Run) -> list[Node]:
    from ray.autoscaler.sdk import request_resources

    there: list[Node] = []
    selectors = [dict(run.label)] if run.label else None
    request_resources(bundles=[needs(run)], bundle_label_selectors=selectors)
    try:
        deadline = time.monotonic() + run.wait_for_nodes
        while not there and time.monotonic() < deadline:
            time.sleep(1.0)
            there = fitting(run)
    finally:
        request_resources(bundles=[])  # the demand of the jobs themselves takes its place
    return there


def _nothing_fits(run: Run) -> str:
    wanted = " and ".join(f"{name} >= {amount:g}" for name, amount in needs(run).items())
    labels = f" and the labels {dict(run.label)}" if run.label else ""
    there = "; ".join(str(node) for node in nodes()) or "no node"
    waited = f" after {run.wait_for_nodes:g} s" if run.wait_for_nodes else ""
    mend = (
        "add such a node, or change run.resources and run.label"
        if placement(run)
        else "add a node with num-cpus >= 1"
    )
    grow = "" if run.wait_for_nodes else "; where an autoscaler adds nodes, say run.wait_for_nodes=600"
    return (
        f"a run needs a node with {wanted}{labels}, and the cluster has none{waited} ({there}): {mend}{grow}"
    )


def local_paths(recipe: Recipe, base: str) -> list[tuple[str, str]]:
    """(key, path) of what a recipe reads or writes on a disk rather than in a store."""
    found = [("output", recipe.output)] if is_local(recipe.output) else []
    for source in recipe.sources:
        here = [path for path in source.path if is_local(path) and (is_local(base) or path[:1] == "/")]
        found += [(f"sources.{source.name}", path) for path in here]
    rows = recipe.tokenize
    tokenizers = (recipe.mixture.tokenizer, None if rows is None else rows.tokenizer)
    return found + [(key, path) for key, path in zip(_TOKENIZERS, tokenizers, strict=True) if path]


def check_shared(recipe: Recipe, base: str) -> None:
    """Refuse paths that not all nodes of the connected cluster reach; `base`: what input paths are relative to.

    Input that was shipped with the job lies on each node; output there would be removed with the job.
    """
    check_lasting(recipe.output)
    check_reach(local_paths(recipe, base), recipe.run, base)


def check_reach(paths: list[tuple[str, str]], run: Run, base: str) -> None:
    """Refuse local `paths` (key, path) where the connected cluster has several nodes, or may get them."""
    there = nodes()
    if run.shared_filesystem or (len(there) < 2 and not run.wait_for_nodes):
        return
    wrong = [(key, path) for key, path in paths if not _came_along(key, path, base)]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ResourceError(
            f"{'; '.join(map(': '.join, wrong[:5]))}{more}: a path of one machine, but the cluster has {len(there)} "
            f"nodes and each would look on its own disk. {instead(wrong)}"
        )


def _came_along(key: str, path: str, base: str) -> bool:
    """Whether it lies in the job's folder, of which each node has a copy."""
    if key == "output":
        return False
    if key in _TOKENIZERS:
        return is_shipped(key, path) and in_job_folder(os.getcwd())
    return in_job_folder(os.path.abspath(base)) and not os.path.isabs(path.split("://", 1)[-1])


def is_shipped(key: str, path: str) -> bool:
    """Whether `malmoi submit` takes it along: a tokenizer that lies below the folder that one is in."""
    return key in _TOKENIZERS and path[:1] not in ("/", "~") and ".." not in path.split("/")


def instead(wrong: list[tuple[str, str]], switch: str = "run.shared_filesystem") -> str:
    """What to do about local paths that not all nodes reach; `switch`: the key that says that they do."""
    tokenizers = [key for key, _ in wrong if key in _TOKENIZERS]
    mends = (
        ["Use storage that every node reaches (s3://..., gs://...)"] if len(tokenizers) < len(wrong) else []
    )
    if tokenizers:
        mends.append("`malmoi submit` ships a tokenizer that lies below the folder that you are in")
    mends.append(f"where the path is there on all nodes (NFS, Lustre, the image) say {switch}=true")
    return "; ".join(mends)
