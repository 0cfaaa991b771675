"""Metrics have the names that the dashboard asks for, and count every document on a real Ray."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from malmoi.pipeline import metrics

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = json.loads((ROOT / "clusters/grafana/malmoi.json").read_text(encoding="utf-8"))
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_the_dashboard_asks_for_what_is_there():
    asked = set(re.findall(r"ray_malmoi_\w+", " ".join(QUERIES)))
    exposed = {metric.exposed for metric in metrics.METRICS}
    # the bytes are asked for by reason, and documents by rule
    assert asked == exposed


def test_the_dashboard_uses_labels_that_are_there():
    by_name = {metric.exposed: {*metric.tags, "le", "NodeAddress"} for metric in metrics.METRICS}
    for query in QUERIES:
        for name, selector in re.findall(r"(ray_malmoi_\w+)\{([^}]*)\}", query):
            assert set(re.findall(r"(\w+)=~?\"", selector)) <= by_name[name], query
        grouped = {x.strip() for found in re.findall(r"by \(([^)]*)\)", query) for x in found.split(",")}
        assert grouped <= set().union(*(by_name[x] for x in re.findall(r"ray_malmoi_\w+", query))), query


def test_nothing_is_made_without_ray(monkeypatch):
    monkeypatch.setattr(metrics, "_on_ray", lambda: False)
    monkeypatch.setattr(metrics, "_made", lambda metric: pytest.fail(f"{metric.name} made"))
    metrics.count_job("key", "filter", {"read": 1, "seconds": 0.1})
    metrics.show_stage("key", "filter", 2, 1)


class Collected:
    """Stands for a Ray metric."""

    def __init__(self) -> None:
        self.values: Counter = Counter()

    def inc(self, value, tags):
        self.values[tuple(sorted(tags.items()))] += value

    observe = set = inc


@pytest.fixture
def collected(monkeypatch):
    found = {metric.name: Collected() for metric in metrics.METRICS}
    monkeypatch.setattr(metrics, "_on_ray", lambda: True)
    monkeypatch.setattr(metrics, "_made", lambda metric: found[metric.name])
    return found


def test_a_part_is_counted(collected):
    counts = {
        "seconds": 2.0, "read": 10, "kept": 6, "quarantined": 1, "text_bytes": 100, "kept_bytes": 60,
        "dropped": {"gopher_quality.words": 2, "language.score": 1}, "dropped_bytes": {"gopher_quality.words": 7},
    }  # fmt: skip
    metrics.count_job("0123456789abcdef", "filter", counts, attempt=2)
    told = {
        (name, labels.get("outcome") or labels.get("reason")): value
        for name, metric in collected.items()
        for labels, value in ((dict(key), value) for key, value in metric.values.items())
    }
    assert told == {
        ("malmoi_documents", "read"): 10, ("malmoi_documents", "kept"): 6, ("malmoi_documents", "dropped"): 3,
        ("malmoi_documents", "quarantined"): 1, ("malmoi_text_bytes", "read"): 100,
        ("malmoi_text_bytes", "kept"): 60, ("malmoi_dropped_documents", "gopher_quality.words"): 2,
        ("malmoi_dropped_documents", "language.score"): 1, ("malmoi_dropped_bytes", "gopher_quality.words"): 7,
        ("malmoi_parts", "committed"): 1, ("malmoi_parts", "retried"): 1, ("malmoi_part_seconds", None): 2.0,
    }  # fmt: skip
    [labels] = collected["malmoi_part_seconds"].values
    assert dict(labels) == {"plan": "01234567", "stage": "filter"}


def test_a_failed_part_and_the_books_of_a_stage(collected):
    metrics.count_job("k", "filter", None)
    books = [
        {"stage": "dedup", "read": 6, "kept": 5, "dropped": {"exact_dedup.duplicate": 1}},
        {"stage": "mixture", "read": 5},
    ]
    metrics.count_job("k", "decide", {"seconds": 0.5, "books": books})
    stages = {dict(key)["stage"] for key in collected["malmoi_documents"].values}
    assert stages == {"dedup", "mixture"}
    outcomes = {(dict(key)["stage"], dict(key)["outcome"]) for key in collected["malmoi_parts"].values}
    assert outcomes == {("filter", "failed"), ("decide", "committed")}


def test_a_metric_that_breaks_stops_no_run(monkeypatch):
    def broken(metric):
        raise RuntimeError("no agent")

    monkeypatch.setattr(metrics, "_on_ray", lambda: True)
    monkeypatch.setattr(metrics, "_made", broken)
    metrics.count_job("key", "filter", {"read": 1, "seconds": 0.1})
    metrics.show_stage("key", "filter", 2, 1)


def exposed_by(ray) -> str:
    [node] = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(address, timeout=10) as answer:
        return answer.read().decode()


@pytest.mark.ray
def test_what_prometheus_finds(ray_here, recipe_file, tmp_path):
    import ray
    from rich.console import Console

    from malmoi.pipeline.run import plan_file, run_plan

    documents = [{"id": str(i), "text": "말모이는 우리말 사전의 이름이다. " * (i % 3)} for i in range(30)]
    (tmp_path / "in.jsonl").write_text(
        "\n".join(map(json.dumps, documents)) + "\nno JSON\n", encoding="utf-8"
    )
    steps = [{"gopher_quality": {"min_words": 5, "min_stop_words": None}}]
    plan = plan_file(str(recipe_file([{"name": "s", "path": "in.jsonl", "id": "id"}], steps=steps)))
    manifest = run_plan(plan, console=Console(quiet=True))
    [filtered, *_] = manifest.books
    dropped, kept = sum(filtered.dropped.values()), filtered.kept
    assert dropped
    assert kept
    want = {"read": 31.0, "kept": float(kept), "dropped": float(dropped), "quarantined": 1.0}
    found: dict[str, float] = {}
    all_names, names = {metric.exposed for metric in metrics.METRICS}, set()
    deadline = time.monotonic() + 40  # processes tell Ray's agent every ten seconds, each for itself
    while time.monotonic() < deadline and not (found == want and all_names <= names):
        time.sleep(2)
        text = exposed_by(ray)
        found = {}
        for labels, value in re.findall(r"^ray_malmoi_documents_total\{(.*)\} (\S+)$", text, re.MULTILINE):
            tags = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            if (tags["plan"], tags["stage"]) == (plan.key[: metrics.PLAN_CHARS], "filter"):
                found[tags["outcome"]] = found.get(tags["outcome"], 0.0) + float(value)
        names = set(re.findall(r"^(ray_malmoi_\w+)\{", text, re.MULTILINE))
    assert found == want
    assert all_names <= names
