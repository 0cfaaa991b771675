"""Ray metrics of a run, by stage and rule, for Prometheus and the dashboard in clusters/grafana.

They are made only in processes that are part of a Ray cluster; without one nothing is counted. Ray writes each
name with the prefix `ray_` and, for a counter, the ending `_total`. `plan` is the beginning of the plan's key,
which `malmoi status` prints too.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

PLAN_CHARS = 8


@dataclass(frozen=True)
class Metric:
    """A metric of ours. `tags`: its labels besides those that Ray adds (node, worker, session)."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    tags: tuple[str, ...]

    @property
    def exposed(self) -> str:
        """The name under which Prometheus finds it."""
        ending = {"counter": "_total", "gauge": "", "histogram": "_bucket"}[self.kind]
        return f"ray_{self.name}{ending}"


_BY_STAGE = ("plan", "stage")
DOCUMENTS = Metric("malmoi_documents", "counter", "Documents by what became of them", (*_BY_STAGE, "outcome"))
TEXT_BYTES = Metric("malmoi_text_bytes", "counter", "UTF-8 bytes of their text", (*_BY_STAGE, "outcome"))
DROPPED = Metric(
    "malmoi_dropped_documents", "counter", "Documents dropped, by rule", (*_BY_STAGE, "rule", "reason")
)
DROPPED_BYTES = Metric(
    "malmoi_dropped_bytes", "counter", "UTF-8 bytes of dropped text, by rule", (*_BY_STAGE, "rule", "reason")
)
PARTS = Metric("malmoi_parts", "counter", "Parts by what became of them", (*_BY_STAGE, "outcome"))
PART_SECONDS = Metric("malmoi_part_seconds", "histogram", "Seconds of a part's job", _BY_STAGE)
STAGE_PARTS = Metric(
    "malmoi_stage_parts", "gauge", "Parts of a stage, in all and done", (*_BY_STAGE, "state")
)
METRICS = (DOCUMENTS, TEXT_BYTES, DROPPED, DROPPED_BYTES, PARTS, PART_SECONDS, STAGE_PARTS)
SECONDS = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0]


@cache
def _made(metric: Metric) -> Any:
    from ray.util import metrics

    if metric.kind == "histogram":
        return metrics.Histogram(metric.name, metric.help, SECONDS, tag_keys=metric.tags)
    make = metrics.Counter if metric.kind == "counter" else metrics.Gauge
    return make(metric.name, metric.help, tag_keys=metric.tags)


def _on_ray() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _add(metric: Metric, value: float, *labels: str) -> None:
    if value > 0:
        _made(metric).inc(value, tags=dict(zip(metric.tags, labels, strict=True)))


def _count(plan: str, stage: str, counts: Mapping[str, Any]) -> None:
    dropped, gone = counts.get("dropped", {}), counts.get("dropped_bytes", {})
    outcomes = {
        "read": counts.get("read", 0),
        "kept": counts.get("kept", 0),
        "dropped": sum(dropped.values()),
        "quarantined": counts.get("quarantined", 0),
    }
    for outcome, number in outcomes.items():
        _add(DOCUMENTS, number, plan, stage, outcome)
    read_bytes = counts.get("read_bytes", counts.get("text_bytes", 0))
    for outcome, number in (("read", read_bytes), ("kept", counts.get("kept_bytes", 0))):
        _add(TEXT_BYTES, number, plan, stage, outcome)
    for metric, numbers in ((DROPPED, dropped), (DROPPED_BYTES, gone)):
        for reason, number in numbers.items():
            _add(metric, number, plan, stage, reason.partition(".")[0], reason)


def count_job(plan: str, stage: str, counts: Mapping[str, Any] | None, attempt: int = 1) -> None:
    """Count a job that is committed; `counts` None: one that failed. Never raises: a run goes on uncounted."""
    if not _on_ray():
        return
    plan = plan[:PLAN_CHARS]
    try:
        _add(PARTS, 1, plan, stage, "failed" if counts is None else "committed")
        if attempt > 1:
            _add(PARTS, 1, plan, stage, "retried")
        if counts is not None:
            _made(PART_SECONDS).observe(max(counts["seconds"], 1e-3), tags={"plan": plan, "stage": stage})
            for book in counts.get("books", ({**counts, "stage": stage},)):
                _count(plan, book["stage"], book)
    except Exception:
        logging.getLogger(__name__).debug("metrics", exc_info=True)


def show_stage(plan: str, stage: str, total: int, done: int) -> None:
    """Set how many parts a stage has and how many are done; for the process that leads the run."""
    if not _on_ray():
        return
    try:
        for state, number in (("total", total), ("done", done)):
            _made(STAGE_PARTS).set(number, tags={"plan": plan[:PLAN_CHARS], "stage": stage, "state": state})
    except Exception:
        logging.getLogger(__name__).debug("metrics", exc_info=True)
