"""Multiple choice: prompts to the byte, rules of choice, and all figures equal to lm-eval's where it is installed."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from task_rows import FORMATS, make
from tiny_models import WINDOW, make_model, write_lines

from malmoi.pipeline.errors import RecipeError, SourceError
from malmoi.training.evaluate_model import load_tokenizer
from malmoi.training.scoring import score
from malmoi.training.task_formats import Example, make_example
from malmoi.training.tasks import (
    ChoicePlan,
    TaskSettings,
    choose,
    fewshot_text,
    macro_f1,
    mean,
    read_tasks,
    task_hash,
)

PROMPTS = [
    (
        "mmlu",
        {"question": "What is it? ", "choices": ["a", "b", "c", "d"], "answer": 2, "subject": "us_foreign_policy"},
        "What is it?\nA. a\nB. b\nC. c\nD. d\nAnswer:",
        ("A", "B", "C", "D"),
        2,
    ),
    (
        "mmlu",
        {"question": "다음 중 옳은 것은?", "choices": ["가", "나", "다", "라"], "answer": "D", "subject": "law"},
        "다음 중 옳은 것은?\nA. 가\nB. 나\nC. 다\nD. 라\nAnswer:",
        ("A", "B", "C", "D"),
        3,
    ),
    (
        "hellaswag",
        {
            "activity_label": "Roof work", "ctx_a": "A man  sits [x] on a roof.", "ctx_b": "he STARTS",
            "endings": ["to sing. [title] Then", " to [header]  go.", "a", "b"], "label": "1",
        },
        "Roof work: A man sits on a roof. He starts",
        ("to sing.. Then", "to  go.", "a", "b"),
        1,
    ),
    (
        "kobest_boolq",
        {"paragraph": "말모이는 사전이다.", "question": "말모이는 사전인가?", "label": 1},
        "말모이는 사전이다. 질문: 말모이는 사전인가? 답변: ",
        ("아니오", "예"),
        1,
    ),
    (
        "kobest_copa",
        {"premise": "비가 왔다.", "question": "결과", "alternative_1": "젖었다.", "alternative_2": "말랐다.",
         "label": 0},
        "비가 왔다.  그래서",
        ("젖었다.", "말랐다."),
        0,
    ),
    (
        "kobest_wic",
        {"word": "말", "context_1": "말을 타다.", "context_2": "말을 하다.", "label": 0},
        "문장1: 말을 타다. 문장2: 말을 하다. 두 문장에서 말가 같은 뜻으로 쓰였나?",
        ("아니오", "예"),
        0,
    ),
    (
        "kobest_hellaswag",
        {"context": "문을 연다.", "ending_1": "가", "ending_2": "나", "ending_3": "다", "ending_4": "라", "label": 3},
        "문장: 문을 연다.",
        ("가", "나", "다", "라"),
        3,
    ),
    ("kobest_sentineg", {"sentence": "좋다 😀", "label": 1}, "문장: 좋다 😀 긍부정:", ("부정", "긍정"), 1),
    ("plain", {"prompt": "漢字", "choices": ["x", "y", "z"], "answer": "2"}, "漢字", ("x", "y", "z"), 2),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "row", "prompt", "choices", "answer"), PROMPTS)
def test_prompts(kind, row, prompt, choices, answer):
    made = make_example(kind, row, "here")
    assert (made.prompt, made.choices, made.answer) == (prompt, choices, answer)


def test_the_description_names_the_subject():
    made = make_example("mmlu", PROMPTS[0][1], "here")
    want = "The following are multiple choice questions (with answers) about us foreign policy.\n\n"
    assert (made.description, made.group) == (want, "us_foreign_policy")


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        ("mmlu", {"question": "q", "choices": ["a"] * 4}, "mmlu needs 'answer'; there are question, choices"),
        ("mmlu", {"question": "q", "choices": ["a"] * 3, "answer": 0}, "want 4 choices, got 3"),
        ("mmlu", {"question": "q", "choices": ["a"] * 4, "answer": 4}, "want one of 0 to 3, got 4"),
        (
            "hellaswag",
            {"activity_label": "a", "ctx_a": 3, "ctx_b": None, "endings": [], "label": 0},
            "not of the",
        ),
        ("kobest_copa", {"premise": "p", "question": "왜"}, "want 원인 or 결과 in question, got '왜'"),
        ("kobest_boolq", {"paragraph": "p", "question": "q", "label": -1}, "want one of 0 to 1, got -1"),
        ("kobest_wic", {"word": "말"}, "kobest_wic needs 'context_1'"),
        ("kobest_sentineg", {"sentence": "s", "label": None}, "not of the format"),
        ("plain", {"prompt": "p", "choices": ["a", ""], "answer": 0}, "none of them empty"),
        ("plain", {"prompt": "p", "choices": ["a"], "answer": 0}, "want two choices or more"),
        ("plain", {"prompt": "p", "choices": ["a", "b"], "answer": 0.0}, "want one of 0 to 1, got 0.0"),
    ],
)
def test_rows_of_another_format_are_named(kind, row, message):
    with pytest.raises(SourceError, match=message) as error:
        make_example(kind, row, "file.jsonl:7")
    assert str(error.value).startswith("file.jsonl:7: ")


def test_three_rules_of_choice():
    """Log-likelihoods -4, -5, -7 of choices with 1, 2, 2 characters and 1, 6, 2 bytes."""
    examples = [Example("q", ("a", "한글", "bc"), 1)]
    found = choose(examples, np.asarray([-4.0, -5.0, -7.0]))
    assert {name: int(x[0]) for name, x in found.chosen.items()} == {"acc": 0, "acc_norm": 1, "acc_bytes": 1}
    found = choose(examples, np.asarray([-4.0, -9.0, -7.0]))
    assert {name: int(x[0]) for name, x in found.chosen.items()} == {"acc": 0, "acc_norm": 2, "acc_bytes": 1}
    assert choose(examples, np.asarray([-1.0, -1.0, -1.0])).chosen["acc"][0] == 0, "of equal ones the first"


def test_choices_are_counted_by_question():
    examples = [Example("a", ("x", "y"), 0), Example("b", ("x", "y", "z"), 2), Example("c", ("x", "y"), 1)]
    found = choose(examples, np.asarray([-1.0, -2, -3, -2, -1, -1, -5]))
    assert found.chosen["acc"].tolist() == [0, 2, 0]
    assert found.metrics(np.ones(3, dtype=bool))["acc"]["value"] == pytest.approx(2 / 3)
    assert found.metrics(np.asarray([True, False, True]))["acc"]["value"] == 0.5


def test_mean_and_its_error():
    row = mean(np.asarray([1, 0, 1, 1], dtype=bool))
    assert row["value"] == 0.75
    assert row["stderr"] == pytest.approx(math.sqrt(0.75 * 0.25 / 3)), "as lm-eval: n - 1"
    assert mean(np.asarray([1.0])) == {"value": 1.0, "stderr": None}


def slow_f1(answer, chosen):
    kinds = sorted({*answer, *chosen})
    parts = []
    for kind in kinds:
        hits = sum(a == c == kind for a, c in zip(answer, chosen, strict=True))
        parts.append(2 * hits / (answer.count(kind) + chosen.count(kind)))
    return sum(parts) / len(kinds)


@pytest.mark.parametrize("kinds", [2, 4])
def test_macro_f1_and_its_jackknife(kinds):
    rng = np.random.default_rng(kinds)
    answer, chosen = rng.integers(kinds, size=30).tolist(), rng.integers(kinds, size=30).tolist()
    row = macro_f1(np.asarray(answer), np.asarray(chosen))
    assert row["value"] == pytest.approx(slow_f1(answer, chosen))
    without = [slow_f1(answer[:i] + answer[i + 1 :], chosen[:i] + chosen[i + 1 :]) for i in range(30)]
    spread = 29 / 30 * sum((x - sum(without) / 30) ** 2 for x in without)
    assert row["stderr"] == pytest.approx(math.sqrt(spread))
    assert macro_f1(np.asarray([1]), np.asarray([1])) == {"value": 1.0, "stderr": None}


def shot(number, group=""):
    return Example(f"q{number}", ("가", "나"), number % 2, group, f"about {group}. ")


def test_few_shot_examples_of_the_same_group():
    shots = [shot(1, "a"), shot(2, "b"), shot(3, "b"), shot(4, "b")]
    task = TaskSettings(name="t", format="plain", path="p", fewshot=2, fewshot_path="f.jsonl")
    assert fewshot_text(shot(9, "b"), shots, task) == "about b. q2 가\n\nq3 나\n\n"
    assert fewshot_text(shot(2, "b"), shots, task) == "about b. q3 나\n\nq4 가\n\n", (
        "never the question itself"
    )
    with pytest.raises(SourceError, match=r"f\.jsonl: want 2 examples of a beside the question, got 1"):
        fewshot_text(shot(9, "a"), shots, task)
    assert fewshot_text(shot(9, "a"), shots, TaskSettings(name="t", format="plain", path="p")) == "about a. "


def test_few_shot_by_hash_does_not_depend_on_order():
    shots = [shot(i) for i in range(12)]
    task = TaskSettings(
        name="t", format="plain", path="p", fewshot=3, fewshot_path="f", fewshot_choice="hash", seed=5
    )
    texts = [fewshot_text(shot(i), shots, task) for i in range(20, 26)]
    assert texts == [fewshot_text(shot(i), shots[::-1], task) for i in range(20, 26)]
    assert len(set(texts)) > 1
    other = task.model_copy(update={"seed": 6})
    assert texts != [fewshot_text(shot(i), shots, other) for i in range(20, 26)]


def tasks_file(path: Path, text: str):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "tasks"),
        ("tasks: []", "tasks"),
        ("tasks:\n- {name: a, format: mmlu, path: x, fewshots: 5}", "did you mean 'fewshot'"),
        ("tasks:\n- {name: a, format: mmul, path: x}", r"t\.yaml:2: tasks\.0\.format"),
        ("tasks:\n- {name: a, format: mmlu, path: x, fewshot: 5}", "fewshot=5 needs fewshot_path"),
        (
            "tasks:\n- {name: a, format: mmlu, path: x, code: {max_new_tokens: 2}}",
            "code says nothing for format: mmlu",
        ),
        ("tasks:\n- {name: a, format: humaneval, path: x, code: {k: [1, 5]}}", "want k of 1 to samples=1"),
        (
            "tasks:\n- {name: a, format: humaneval, path: x, code: {samples: 5}}",
            "all be the same at temperature 0",
        ),
        (
            "tasks:\n- {name: a, format: humaneval, path: x, fewshot: 1, fewshot_path: y}",
            "no fewshot examples",
        ),
        (
            "tasks:\n- {name: a, format: mmlu, path: x}\n- {name: a, format: mmlu, path: y}",
            "two tasks are named a",
        ),
        ("tasks:\n- {name: 'a b', format: mmlu, path: x}", r"tasks\.0\.name"),
    ],
)
def test_wrong_settings_are_explained(tmp_path, text, message):
    with pytest.raises(RecipeError, match=message):
        read_tasks(tasks_file(tmp_path / "t.yaml", text))


def test_the_tasks_of_the_docs_hold(tmp_path):
    page = (Path(__file__).parents[2] / "docs/evaluation.md").read_text(encoding="utf-8")
    [text] = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert [x.format for x in read_tasks(tasks_file(tmp_path / "t.yaml", text)).tasks] == [
        "kobest_copa",
        "humaneval",
    ]


def test_a_task_is_its_settings_and_its_content(tmp_path):
    task = TaskSettings(
        name="a", format="kobest_copa", path=write_lines(tmp_path / "a.jsonl", make("kobest_copa", 4))
    )
    (tmp_path / "elsewhere").mkdir()
    moved = write_lines(tmp_path / "elsewhere/b.jsonl", make("kobest_copa", 4))
    assert task_hash(task) == task_hash(task.model_copy(update={"path": moved}))
    assert task_hash(task) != task_hash(task.model_copy(update={"limit": 2}))
    write_lines(tmp_path / "a.jsonl", make("kobest_copa", 4, seed=1))
    assert task_hash(task) != task_hash(task.model_copy(update={"path": moved}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_tokenizer):
    return make_model(tmp_path_factory.mktemp("tasks") / "model", tiny_tokenizer)


@pytest.fixture(scope="module")
def model(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder / "tokenizer.json")


def plan_of(tmp_path, tokenizer, kind, window=WINDOW, count=10, **settings):
    path = write_lines(tmp_path / f"{kind}.jsonl", make(kind, count))
    shots = write_lines(tmp_path / f"{kind}_train.jsonl", make(kind, 4, seed=9))
    given = {"fewshot_path": shots} if settings.get("fewshot") else {}
    task = TaskSettings(name=kind, format=kind, path=path, **given, **settings)
    return ChoicePlan.of(task, tokenizer.pair, tokenizer.prefix, window)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_report_of_each_format(tmp_path, model, tokenizer, kind):
    plan = plan_of(tmp_path, tokenizer, kind)
    report = plan.report(score(model, plan.requests))
    choices = 2 if kind in ("kobest_boolq", "kobest_copa", "kobest_wic", "kobest_sentineg") else 4
    assert (report["documents"], report["chance"]) == (10, 1 / choices)
    assert len(plan.requests) == 10 * choices
    assert ("f1" in report["metrics"]) == kind.startswith("kobest")
    assert 0 <= report["metrics"]["acc"]["value"] <= 1
    assert (report.get("groups", {}).keys() == {"high_school_biology"}) == (kind == "mmlu")
    json.dumps(report, allow_nan=False)


def test_prompts_longer_than_the_window_are_counted(tmp_path, model, tokenizer):
    short, long = (plan_of(tmp_path, tokenizer, "mmlu", window=x, fewshot=2) for x in (16, 4096))
    assert (short.cut, long.cut) == (10, 0)
    assert max(len(x.tokens) for x in short.requests) == 17
    assert [x.tokens[-1] for x in short.requests] == [x.tokens[-1] for x in long.requests]
    assert np.isfinite(score(model, short.requests)).all()


def test_a_limit_asks_the_same_questions_in_any_order(tmp_path, tokenizer):
    rows = make("kobest_copa", 12)
    asked = []
    for name, listed in (("a", rows), ("b", rows[::-1])):
        task = TaskSettings(
            name="t", format="kobest_copa", path=write_lines(tmp_path / f"{name}.jsonl", listed), limit=5
        )
        asked.append({x.prompt for x in ChoicePlan.of(task, tokenizer.pair, 0, 64).examples})
    assert asked[0] == asked[1]
    assert len(asked[0]) == 5


def lm_eval_task(kind: str, root: Path, test: str, train: str):
    """The packaged task, reading our files, with all three rules of choice."""
    from lm_eval.tasks._yaml_loader import load_yaml

    place = {"mmlu": "mmlu/default/_default_template_yaml", "hellaswag": "hellaswag/hellaswag.yaml"}
    config = load_yaml(root / place.get(kind, f"kobest/{kind}.yaml"))
    gone = ("dataset_name", "training_split", "validation_split", "tag", "hf_evaluate")
    config = {key: value for key, value in config.items() if key not in gone}
    metrics = [x for x in config["metric_list"] if x["metric"] == "f1"]
    metrics = [{key: value for key, value in x.items() if key != "hf_evaluate"} for x in metrics]
    metrics += [
        {"metric": name, "aggregation": "mean", "higher_is_better": True}
        for name in ("acc", "acc_norm", "acc_bytes")
    ]
    if kind == "mmlu":
        about = "The following are multiple choice questions (with answers) about high school biology.\n\n"
        config["description"] = about
    return config | {
        "task": f"{kind}_here", "dataset_path": "json", "metric_list": metrics, "test_split": "test",
        "dataset_kwargs": {"data_files": {"test": test, "train": train}}, "fewshot_split": "train",
        "fewshot_config": {"sampler": "first_n"},
    }  # fmt: skip


def test_equal_to_lm_eval(tmp_path, folder, model, tokenizer, monkeypatch):
    """Log-likelihoods of every choice, and every figure, zero-shot and with two examples, cut by the window too."""
    lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed (extra `eval`)")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    from lm_eval import tasks as packaged
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    root = Path(packaged.__file__).parent
    manager = packaged.TaskManager(include_path=str(tmp_path), include_defaults=False)
    theirs = HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(folder), batch_size=4)
    for number, kind in enumerate(FORMATS):
        shots = 2 * (number % 2)
        plan = plan_of(tmp_path, tokenizer, kind, fewshot=shots)
        config = lm_eval_task(kind, root, plan.settings.path, str(tmp_path / f"{kind}_train.jsonl"))
        found = lm_eval.simple_evaluate(
            model=theirs, tasks=[config], num_fewshot=shots, task_manager=manager, bootstrap_iters=0
        )
        scores = score(model, plan.requests)
        samples = sorted(found["samples"][f"{kind}_here"], key=lambda x: x["doc_id"])
        want = [float(response[0][0]) for sample in samples for response in sample["resps"]]
        np.testing.assert_allclose(scores, want, rtol=1e-5, atol=1e-4, err_msg=kind)
        report, figures = plan.report(scores), found["results"][f"{kind}_here"]
        for metric, figure in report["metrics"].items():
            assert figure["value"] == pytest.approx(figures[f"{metric},none"]), f"{kind} {metric}"
