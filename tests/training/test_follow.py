"""The terminal shows each logged step once, also when a restart writes the log anew."""

from __future__ import annotations

from malmoi.pipeline.storage import Folder
from malmoi.training.follow import followed
from malmoi.training.metrics import FILE, MetricsLog


def test_each_step_is_shown_once(tmp_path, capsys):
    log = MetricsLog(tmp_path, 0, 9, show=False)
    log.write(1, {"loss": 3.0})
    assert capsys.readouterr().out == ""
    with followed(Folder(str(tmp_path)), 9):
        log.write(2, {"loss": 2.5, "mfu": None, "peak_memory_bytes": 2**30})
        log.write(2, {"heldout_loss": 2.75})
        log.close()
        again = MetricsLog(tmp_path, 1, 9, show=False)
        again.write(2, {"loss": 2.5})
        with (tmp_path / FILE).open("a") as file:
            file.write('{"step": 3, "lo')
    out = capsys.readouterr().out.splitlines()
    assert out == ["step 2/9  loss 2.5000"]  # the file as it is at the end
    again.close()


def test_lines_of_steps_that_are_taken_again_go(tmp_path):
    log = MetricsLog(tmp_path, 0, 9, show=False)
    for step in (1, 2, 3):
        log.write(step, {"loss": 1.0})
    log.close()
    log = MetricsLog(tmp_path, 2, 9, show=False)
    log.close()
    assert (
        log.text() == (tmp_path / FILE).read_text() == '{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 1.0}\n'
    )
