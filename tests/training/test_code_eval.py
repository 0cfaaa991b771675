"""pass@k, and programs that try to get out of their process: each is a failure, and nothing hangs or stays."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import WINDOW, make_model, write_lines

from malmoi.pipeline.errors import RecipeError, SourceError
from malmoi.training import code_eval
from malmoi.training.code_eval import (
    CodePlan,
    Limits,
    Outcome,
    confinement,
    pass_at_k,
    read_problems,
    run_program,
    run_programs,
)
from malmoi.training.completion import complete, cut_at_stop, pick, uniform
from malmoi.training.evaluate import EvaluateSettings, evaluate
from malmoi.training.evaluate_model import load_tokenizer
from malmoi.training.tasks import CodeSettings, TaskSettings

LIMITS = Limits(seconds=1.0, memory=512 * 2**20, file_bytes=2**16)
LINUX = os.uname().sysname == "Linux" and os.uname().machine in ("x86_64", "aarch64")


@pytest.fixture(scope="module")
def confined():
    return confinement()


@pytest.mark.parametrize("samples", range(1, 7))
def test_pass_at_k_is_the_share_of_draws_with_a_pass(samples):
    for passed, k in itertools.product(range(samples + 1), range(1, samples + 1)):
        draws = list(itertools.combinations(range(samples), k))
        want = sum(min(draw) < passed for draw in draws) / len(draws)
        assert pass_at_k(samples, passed, k) == pytest.approx(want)


def test_pass_at_k_of_many_samples():
    """1 - prod (1 - k / i) for i from n - c + 1 to n, as Chen et al. compute it."""
    want = 1 - np.prod(1 - 100 / np.arange(200 - 3 + 1, 201))
    assert pass_at_k(200, 3, 100) == pytest.approx(want)
    for wrong in ((3, 4, 1), (3, -1, 1), (3, 1, 0), (3, 1, 4)):
        with pytest.raises(ValueError, match="got"):
            pass_at_k(*wrong)


PASSES = {
    "plain": "assert 1 + 1 == 2",
    "한국어": "# 말모이\nassert len('말모이 漢字 😀') == 8\nassert '\u1106\u1161\u11af' != '말'",
    "prints": "print('x' * 1000)",
    "a library": "import math, re, collections, heapq, random, datetime\nassert math.gcd(4, 6) == 2",
    "numpy": "import numpy as np\nassert np.ones(3).sum() == 3",
    "a dataclass": "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    "@dataclass\nclass A:\n    x: int\nassert A(1).x == 1",
    "a file": "open('mine', 'w').write('x')\nassert open('mine').read() == 'x'",
    "threads": "import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()",
    "empty": "",
}

FAILS = {
    "assertion": ("assert 1 == 2", "AssertionError"),
    "syntax": ("def f(:", "SyntaxError"),
    "null": ("x = '\0'", "SyntaxError|ValueError"),
    "exit": ("import sys\nsys.exit(0)", "SystemExit"),
    "exit at once": ("import os\nos._exit(0)", "ended without a result"),
    "interrupt": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "memory": ("x = bytearray(2**31)", "MemoryError"),
    "memory bit by bit": ("x = []\nwhile True:\n    x.append(bytearray(2**22))", "MemoryError"),
    "recursion": ("def f(): f()\nf()", "RecursionError"),
    "output": ("while True: print('x' * 10**6)", "File too large"),
    "a large file": ("open('mine', 'wb').write(bytes(2**20))", "File too large"),
    "many files": ("for i in range(1000): open(str(i), 'wb').write(bytes(2**16 - 1))", "wrote too much"),
    "many names": ("import os\nfor i in range(5000): os.mkdir(str(i))", "wrote too much"),
    "input": ("input()", "EOFError"),
    "crash": ("import ctypes\nctypes.string_at(0)", "ended without a result"),
}

HANGS = {
    "loop": "while True: pass",
    "sleep": "import time\ntime.sleep(100)",
    "deaf loop": "import signal\nfor s in range(1, 30):\n    try: signal.signal(s, signal.SIG_IGN)\n"
    "    except OSError: pass\nwhile True: pass",
    "no message": "class E(Exception):\n    def __str__(self):\n        while True: pass\nraise E()",
    "forks for ever": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
}

ESCAPES = {
    "fork": "import os\nos.fork()",
    "a program": "import subprocess\nsubprocess.run(['true'])",
    "another program": "import os\nos.execv('/bin/true', ['true'])",
    "network": "import socket\nsocket.create_connection(('127.0.0.1', 9), 1)",
    "kill": "import os\nos.kill(os.getppid(), 9)",
    "kill all": "import os\nos.kill(-1, 9)",
    "read": "open('/etc/passwd').read()",
    "other processes": "open('/proc/1/environ', 'rb').read()",
    "write": "open('/tmp/malmoi-escape', 'w')",
    "remove": "import os\nos.remove('OUTSIDE')",
    "mode": "import os\nos.chmod('OUTSIDE', 0)",
    "a signal by a file": "import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, os.getppid())",
    "memory that stays": "import ctypes\nif ctypes.CDLL(None).shmget(0, 4096, 0o600) < 0: raise OSError\n",
}


@pytest.mark.parametrize("name", PASSES)
def test_programs_that_pass(confined, name):
    assert run_program(PASSES[name], Limits(10.0, file_bytes=2**16)) == Outcome(True)


@pytest.mark.parametrize("name", FAILS)
def test_programs_that_fail(confined, name):
    if name.startswith("memory") and not LINUX:
        pytest.skip("what is not touched is not memory here")
    program, reason = FAILS[name]
    outcome = run_program(program, Limits(10.0, 512 * 2**20, 2**16))
    assert not outcome.passed
    assert any(part in outcome.reason for part in reason.split("|")), outcome.reason


def test_memory_is_bounded_where_no_limit_of_it_is_taken(tmp_path, monkeypatch):
    """As on macOS, which refuses every limit of the address space that is less than Python has at its start."""
    refused = tmp_path / "sandbox.py"
    text = code_eval.SANDBOX.read_text("utf-8")
    refused.write_text(text.replace("(resource.RLIMIT_AS, memory),", ""), "utf-8")
    assert refused.read_text("utf-8") != text
    monkeypatch.setattr(code_eval, "SANDBOX", refused)
    program = "import time\nx = []\nwhile True:\n    x.append(b'x' * 2**20)\n    time.sleep(0.005)"
    limits = Limits(30.0, 128 * 2**20)
    assert run_program(program, limits) == Outcome(False, "took too much memory")
    assert run_program("x = b'x' * 2**24", limits).passed


@pytest.mark.parametrize("name", HANGS)
def test_programs_that_hang_are_ended(confined, name):
    begun = time.monotonic()
    assert run_program(HANGS[name], LIMITS) == Outcome(False, "timed out")
    assert time.monotonic() - begun < 20


@pytest.mark.skipif(not LINUX, reason="only on Linux are programs confined by more than limits")
@pytest.mark.parametrize("name", ESCAPES)
def test_programs_that_reach_out_fail(confined, name, tmp_path):
    if confined["files"] == "open" and name in ("read", "other processes", "write", "remove"):
        pytest.skip("no Landlock here")
    outside = tmp_path / "outside"
    outside.write_text("mine")
    outcome = run_program(ESCAPES[name].replace("OUTSIDE", str(outside)), Limits(10.0))
    assert not outcome.passed
    assert "Error" in outcome.reason, outcome.reason
    assert outside.read_text() == "mine"
    assert not Path("/tmp/malmoi-escape").exists()


def test_passing_cannot_be_told_by_printing(confined):
    program = (
        'import os\nfor i in range(3, 20):\n    try: os.write(i, b\'{"passed": "x"}\\n\')\n'
        "    except OSError: pass\nos._exit(0)"
    )
    assert not run_program(program, LIMITS).passed


def test_a_clean_start(confined, monkeypatch):
    monkeypatch.setenv("MALMOI_SECRET", "x")
    program = (
        "import os, sys\nassert 'MALMOI_SECRET' not in os.environ\nassert os.environ['HOME'] == os.getcwd()\n"
        "assert sorted(os.listdir('.')) == ['output.txt', 'program.py']\n"
        "assert not any(x.startswith('malmoi.') for x in sys.modules)"
    )
    assert run_program(program, Limits(10.0)) == Outcome(True)


def test_nothing_stays(confined, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    deep = "import os\nfor _ in range(2500):\n    os.mkdir('a')\n    os.chdir('a')"
    programs = ["while True: pass", "import os\nos.makedirs('a/b/c')", "assert True", "x = 1 / 0", deep]
    found = run_programs(programs, Limits(seconds=3.0), at_once=2)
    assert [x.passed for x in found] == [False, True, True, False, True], found
    assert list(tmp_path.iterdir()) == []
    if shutil.which("ps") is None:
        return
    listed = subprocess.run(["ps", "-eo", "ppid,args"], capture_output=True, text=True, check=True).stdout
    mine = [x for x in listed.splitlines() if x.split()[0] == str(os.getpid())]
    assert not [x for x in mine if "sandbox.py" in x]


def test_a_machine_without_any_confinement_is_refused(monkeypatch):
    monkeypatch.setattr(
        code_eval, "_run", lambda *_: ({"processes": "unbounded", "network": "open"}, Outcome(True))
    )
    with pytest.raises(code_eval.MalmoiError, match="run as another user"):
        confinement()


PROBLEM = {
    "task_id": "T/0",
    "prompt": 'def add(a, b):\n    """더하기"""\n',
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
}


def task(path, **code):
    return TaskSettings(name="t", format="humaneval", path=path, code=CodeSettings(seconds=10, **code))


def test_problems_are_scored_by_sample(confined, tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [PROBLEM, {**PROBLEM, "task_id": "T/1"}])
    plan = CodePlan.of(task(path, samples=3, k=(1, 3), temperature=0.5))
    completions = [["    return a + b\n", "    return a\n", "    return b\n"], ["    pass\n"] * 3]
    report = plan.report(run_programs(plan.programs(completions), Limits(10.0), 2))
    assert (report["documents"], report["samples"]) == (2, 3)
    assert report["metrics"]["pass@1"]["value"] == pytest.approx(1 / 6)
    assert report["metrics"]["pass@3"] == {"value": 0.5, "stderr": pytest.approx(0.5)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": ""}, r"a\.jsonl:1: humaneval needs a string in test"),
        ({"prompt": 3, "task_id": None}, "needs a string in task_id, prompt"),
        ({"entry_point": "a b"}, "entry_point 'a b' is not a name"),
    ],
)
def test_problems_that_are_none_are_named(tmp_path, change, message):
    with pytest.raises(SourceError, match=message):
        read_problems(write_lines(tmp_path / "a.jsonl", [{**PROBLEM, **change}]))
    with pytest.raises(SourceError, match="'T/0' is given twice"):
        read_problems(write_lines(tmp_path / "b.jsonl", [PROBLEM, PROBLEM]))


def test_code_is_not_run_unasked(tmp_path):
    tasks = tmp_path / "t.yaml"
    tasks.write_text("tasks:\n- {name: a, format: humaneval, path: a.jsonl}", encoding="utf-8")
    with pytest.raises(RecipeError, match="add --allow-code-execution"):
        evaluate(EvaluateSettings("no model", tasks=str(tasks)), None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_tokenizer):
    return make_model(tmp_path_factory.mktemp("code") / "model", tiny_tokenizer)


@pytest.fixture(scope="module")
def model(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder / "tokenizer.json")


def written(model, tokenizer, prompt, settings, seed=0, window=WINDOW):
    return complete(
        model, prompt, tokenizer.decode, settings, name="T/0", seed=seed, ends=(0,), window=window
    )


def test_greedy_is_that_of_transformers(model, tokenizer):
    prompt = tokenizer.pair("def 말모이(a):\n")
    settings = CodeSettings(max_new_tokens=20, stop=())
    ids = model.generate(
        torch.tensor([prompt]), max_new_tokens=20, do_sample=False, eos_token_id=0, pad_token_id=0
    )
    want = tokenizer.decode(ids[0, len(prompt) :].tolist())
    assert written(model, tokenizer, prompt, settings) == [want]


def test_a_completion_keeps_its_first_space(tmp_path):
    """A tokenizer in the manner of Llama 2, which takes the space that it put before a text away again."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers

    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(vocab_size=1, special_tokens=["</s>"], show_progress=False)
    made.train_from_iterator(["def f(x):\n    return x\n"], trainer)
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json")
    prompt, whole = ("def f(x):\n", "def f(x):\n    return x\n")
    ids = tokenizer.pair(whole)[len(tokenizer.pair(prompt)) :]
    assert tokenizer.decode(tokenizer.pair(whole)) == " " + whole
    assert tokenizer.decode(ids) == "    return x\n"


def test_samples_are_the_same_again_and_differ_by_seed(model, tokenizer):
    prompt = tokenizer.pair("def f(x):\n")
    settings = CodeSettings(samples=4, temperature=1.0, max_new_tokens=8, stop=())
    first = written(model, tokenizer, prompt, settings)
    torch.manual_seed(5)
    assert written(model, tokenizer, prompt, settings) == first
    assert len(set(first)) > 1
    assert written(model, tokenizer, prompt, settings, seed=1) != first


def test_a_long_prompt_leaves_room(model, tokenizer):
    [text] = written(
        model, tokenizer, list(range(3, 203)), CodeSettings(max_new_tokens=10, stop=()), window=32
    )
    assert 0 < len(tokenizer.texts([text])[0].tolist()) <= 32


def test_stops_and_ends(tokenizer):
    assert cut_at_stop("    return 1\n\nprint(2)\ndef g", ("\ndef", "\nprint")) == "    return 1\n"
    assert cut_at_stop("a", ()) == "a"

    class Fixed(torch.nn.Module):
        """Says the ids of a text, one after the other."""

        def __init__(self, ids):
            super().__init__()
            self.ids, self.step, self.one = ids, 0, torch.nn.Parameter(torch.zeros(1))

        def forward(self, input_ids, **_):
            logits = torch.full((len(input_ids), 1, 640), -100.0)
            logits[:, :, self.ids[self.step]] = 1.0
            self.step += 1
            return type("Out", (), {"logits": logits, "past_key_values": None})

    ids = tokenizer.texts(["    return 'ㄱ'\n\ndef g(): pass\n"])[0].tolist()
    model = Fixed([*ids, 0, 0])
    assert written(model, tokenizer, [5], CodeSettings()) == ["    return 'ㄱ'\n"]
    assert model.step < len(ids), "went on after the stop"
    assert written(Fixed([*ids[:3], 0]), tokenizer, [5], CodeSettings()) == [tokenizer.decode(ids[:3])]


def test_a_nucleus():
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    settings = CodeSettings(temperature=1.0, top_p=0.6)
    found = [int(pick(logits, settings, [uniform(0, "a", 0, step)])[0]) for step in range(2000)]
    assert set(found) == {0, 1}
    assert found.count(0) / 2000 == pytest.approx(0.5 / 0.8, abs=0.04)
    assert int(pick(logits, settings, [0.0])[0]) == 0
    assert int(pick(logits, settings, [1 - 2**-53])[0]) == 1
    assert int(pick(logits, CodeSettings(temperature=0.0), [0.9])[0]) == 0
    assert all(0 <= uniform(0, "a", sample, 0) < 1 for sample in range(1000))
