"""A record on which native code crashes or never comes back goes to quarantine; everything else goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from malmoi.operators.minhash import MinHash
from malmoi.pipeline import careful
from malmoi.pipeline.config import load_recipe
from malmoi.pipeline.engine import Job, execute
from malmoi.pipeline.errors import MalmoiError, StorageError
from malmoi.pipeline.filtering import KeySpec, key_table
from malmoi.pipeline.plan import make_plan
from malmoi.pipeline.poison import alive, limited
from malmoi.pipeline.run import run_plan
from malmoi.pipeline.storage import Folder

RULE = textwrap.dedent('''
    """A rule that does not stand every record."""

    import ctypes
    import os
    import signal
    import time
    from dataclasses import dataclass
    from typing import ClassVar

    import pyarrow as pa
    import pyarrow.compute as pc

    from malmoi.operators.contract import Limit, judge, with_columns


    def seen(table, word):
        return bool(pc.any(pc.match_substring(table["text"], word)).as_py())


    @dataclass(frozen=True)
    class Frail:
        name: ClassVar[str] = "frail"
        version: ClassVar[int] = 1
        kind: ClassVar[str] = "judge"
        reference: ClassVar[str] = "nobody"

        crowd: int = 0
        needs: ClassVar[tuple[str, ...]] = ("text",)
        adds: ClassVar[pa.Schema] = pa.schema([("frail.words", pa.float64())])

        def limits(self, language):
            return (Limit("frail.words", max=300.0),)

        def __call__(self, table):
            if seen(table, "HANG"):
                ctypes.PyDLL(None).pause() if os.environ.get("HANG") == "native" else time.sleep(3600)
            if seen(table, "SEGFAULT"):
                os.kill(os.getpid(), signal.SIGSEGV)
            if seen(table, "EXIT"):
                os._exit(7)
            if self.crowd and table.num_rows > self.crowd:
                os._exit(9)
            words = pc.list_value_length(pc.utf8_split_whitespace(table["text"]))
            return judge(with_columns(table, [("frail.words", words.cast(pa.float64()))]), self.limits)
''')
WORDS = {7: "SEGFAULT", 100: "HANG"}
ROWS = 240
QUICK = ("run.batch_timeout_s=8", "run.record_timeout_s=3")


@pytest.fixture
def rule(tmp_path, monkeypatch):
    (tmp_path / "frail_rule.py").write_text(RULE)
    monkeypatch.syspath_prepend(tmp_path)
    # Kernels are compiled before anything is timed.
    key_table(
        pa.table({x: pa.array(["a b"], pa.large_string()) for x in ("id", "source", "text")}),
        KeySpec(MinHash(), True, "source", None),
        0,
    )


@pytest.fixture
def recipe(tmp_path, recipe_file, rule):
    """Two parts; among the records are lines that are none, and some without an id."""
    return write(tmp_path, recipe_file, WORDS)


def write(tmp_path, recipe_file, words, **settings):
    (tmp_path / "in").mkdir()
    lines = []
    for i in range(ROWS):
        record = {
            "id": f"n{i}",
            "text": f"record {i} {words.get(i, '')} " + " ".join(f"w{i * k % 89}" for k in range(30)),
        }
        if i % 50 == 3:
            record.pop("id")
        lines.append("no record" if i % 70 == 5 else json.dumps(record))
    (tmp_path / "in/a.jsonl").write_text("\n".join(lines[:120]))
    (tmp_path / "in/b.jsonl").write_text("\n".join(lines[120:]))
    steps = ["normalise", {"frail_rule:Frail": settings}]
    return recipe_file([{"name": "s", "path": "in", "id": "id"}], part_bytes=12_000, steps=steps)


ALONE = """
import sys
from malmoi.pipeline.config import load_recipe
from malmoi.pipeline.plan import make_plan
from malmoi.pipeline.run import run_plan
from rich.console import Console
recipe = load_recipe(sys.argv[1], sys.argv[2:])
run_plan(make_plan(recipe, sys.argv[1].rpartition("/")[0]), console=Console(quiet=True), engine="local")
"""


def until_done(tmp_path, recipe, output, *overrides):
    """The same call in processes of its own until it goes through; how they ended."""
    codes = []
    while not codes or codes[-1]:
        assert len(codes) < 4, codes
        process = subprocess.run(
            [sys.executable, "-c", ALONE, str(recipe), f"output={output}", *overrides],
            cwd=tmp_path,
            env={"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=150,
        )
        codes.append(process.returncode)
        assert process.returncode <= 0 or process.returncode in (7, 9), process.stderr
    return codes


def check(path, recipe_path):
    rows = {
        row["raw"]: row
        for file in sorted((path / "quarantine").iterdir())
        for row in pq.read_table(file).to_pylist()
    }
    found = {}
    for row in rows.values():
        if row["reason"] in ("quarantine.crash", "quarantine.timeout"):
            number = int(json.loads(row["raw"])["id"][1:])
            at = (recipe_path.parent / "in" / row["file"]).read_bytes()[row["offset"] :]
            assert json.loads(at.split(b"\n")[0])["id"] == f"n{number}", "file and offset name the record"
            found[number] = (row["reason"], row["detail"])
    assert found == {
        7: ("quarantine.crash", "step frail: ended its process with signal SIGSEGV"),
        100: ("quarantine.timeout", "step frail: did not come to an end in time"),
    }


@pytest.mark.ray
def test_in_this_process_and_on_ray(tmp_path, recipe, outputs, malmoi):
    """In the user's process a crash takes it along and the same call goes on; a hang is interrupted. Workers of
    Ray are ended, one of them with the interpreter in its hands. The bytes are the same, with other batches."""
    codes = until_done(tmp_path, recipe, tmp_path / "run", *QUICK, "run.batch_rows=50")
    assert codes == [-signal.SIGSEGV, 0], "the second part hangs first"
    process = malmoi(
        "run", recipe, f"output={tmp_path / 'ray'}", *QUICK, PYTHONPATH=str(tmp_path), HANG="native"
    )
    said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert outputs(tmp_path / "ray") == outputs(tmp_path / "run")
    check(tmp_path / "run", recipe)
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    book = manifest["books"][0]
    assert book["read"] == ROWS == book["kept"] + sum(book["dropped"].values()) + book["quarantined"]
    assert book["quarantine_reasons"] == {
        "quarantine.bad_json": 4, "quarantine.crash": 1, "quarantine.missing_id": 5, "quarantine.timeout": 1,
    }  # fmt: skip


def filter_job(recipe, tmp_path, part=0):
    plan = make_plan(load_recipe(recipe, [f"output={tmp_path / 'run'}", *QUICK]), str(tmp_path))
    return plan, plan.jobs()[part]


def test_a_crash_that_no_record_causes(tmp_path, recipe_file, rule):
    """Many at once crash, each alone is fine: none is quarantined, and the part is judged record by record."""
    recipe = write(tmp_path, recipe_file, {}, crowd=20)
    _, work = filter_job(recipe, tmp_path)
    assert careful.find_poison(work) == ((), True)
    counts = careful.filter_carefully(Folder(str(tmp_path / "run")), work)
    assert counts["quarantine_reasons"] == {"quarantine.bad_json": 1, "quarantine.missing_id": 2}


def test_a_step_that_crashes_on_all(tmp_path, recipe_file, rule, monkeypatch):
    monkeypatch.setattr(careful, "MOST", 1)
    _, work = filter_job(write(tmp_path, recipe_file, dict.fromkeys(range(ROWS), "EXIT")), tmp_path)
    with pytest.raises(
        MalmoiError, match=r"more than 1 records of .*step frail: ended its process .*mend the step"
    ):
        careful.find_poison(work)


def test_a_python_error_is_no_poison(tmp_path, recipe, run_here, monkeypatch):
    """It is told as ever, and the next call takes the ordinary way."""
    import frail_rule

    def fails(self, table):
        raise ZeroDivisionError("of mine")

    monkeypatch.setattr(frail_rule.Frail, "__call__", fails)
    plan, _ = filter_job(recipe, tmp_path)
    with pytest.raises(MalmoiError, match="of mine"):
        run_plan(plan, console=Console(quiet=True), engine="local")
    job = Job(
        "filter", "part-00000", lambda *_: {}, None, plan.key, careful=lambda *_: {"careful": 1}, limit_s=9.0
    )
    assert "careful" not in execute(Folder(str(tmp_path / "run")), job)


def test_an_attempt_that_died_is_followed_by_a_careful_one(tmp_path):
    folder = Folder(str(tmp_path))
    job = Job(
        "filter", "part-00000", lambda *_: {}, None, "p", careful=lambda *_: {"careful": 1}, limit_s=9.0
    )
    killed = "import os; from malmoi.pipeline import watch; from malmoi.pipeline.storage import Folder; "
    killed += f"watch.begin(Folder({str(tmp_path)!r}), 'filter', 'part-00000', 'p'); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", killed], check=False).returncode == -9
    assert execute(folder, job)["careful"] == 1
    assert "careful" not in execute(folder, job), "that one came to its end"


def test_an_error_on_a_full_disk_leaves_no_mark_of_a_death(tmp_path, monkeypatch):
    folder, write = Folder(str(tmp_path)), Folder.write_bytes
    room = [True]

    def full(self, name, data):
        if not room[0]:
            raise StorageError("no space left")
        write(self, name, data)

    def fill(*_):
        room[0] = False
        raise StorageError("no space left")

    monkeypatch.setattr(Folder, "write_bytes", full)
    with pytest.raises(StorageError):
        execute(folder, Job("filter", "part-00000", fill, None, "p"))
    room[0] = True
    job = Job(
        "filter", "part-00000", lambda *_: {}, None, "p", careful=lambda *_: {"careful": 1}, limit_s=9.0
    )
    assert "careful" not in execute(folder, job)


def test_a_crash_while_reading_names_the_file(tmp_path, recipe, monkeypatch):
    ends = [careful.End("crash", "", {"at": "read"}), careful.End("", "", {"at": "end"})]
    monkeypatch.setattr(careful, "_probe", lambda _: ends.pop(0))
    _, work = filter_job(recipe, tmp_path)
    assert careful.find_poison(work) == ((), False), "one may be chance"
    monkeypatch.setattr(careful, "_probe", lambda _: careful.End("crash", "", {"at": "read"}))
    with pytest.raises(MalmoiError, match=r"in/a\.jsonl: the process that reads it crashes"):
        careful.find_poison(work)


def test_a_sign_of_life_begins_the_time_anew():
    begin = time.monotonic()
    with limited(1.0, end=False):
        for _ in range(8):
            time.sleep(0.2)
            alive()
    assert time.monotonic() - begin > 1.5
