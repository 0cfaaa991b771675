"""A file appears whole or not at all, locally and remotely, and failures say what to do."""

from __future__ import annotations

import errno
import os
import pickle
import uuid

import pytest
import zstandard

from malmoi.pipeline.errors import StorageError
from malmoi.pipeline.storage import Folder

KILLED = f".tmp-{uuid.uuid4().hex}-a.parquet"


@pytest.fixture(params=["local", "file", "memory"])
def folder(request, tmp_path):
    urls = {
        "local": str(tmp_path / "run"),
        "file": f"file://{tmp_path}/run/",
        "memory": f"memory://run-{uuid.uuid4().hex}",
    }
    return Folder(urls[request.param])


@pytest.mark.parametrize(
    "data", [b"", "말모이\n".encode(), bytes(range(256)) * 999], ids=["empty", "ko", "raw"]
)
def test_round_trip(folder, data):
    folder.write_bytes("stages/filter/a.bin", data)
    assert folder.read_bytes("stages/filter/a.bin") == data
    assert folder.size("stages/filter/a.bin") == len(data)
    assert folder.exists("stages/filter/a.bin")
    with folder.open("stages/filter/a.bin") as file:
        file.seek(max(0, len(data) - 3))
        assert file.read() == data[-3:]


def test_list_is_sorted_and_hides_temps(folder):
    for name in ("b", "a", "c/d"):
        folder.write_bytes(name, b"x")
    folder.write_bytes(KILLED, b"x")
    folder.write_bytes("c/._d", b"x")  # a Mac's, beside each file on a disk that cannot hold attributes
    assert folder.list() == ["a", "b"]
    assert folder.list("c") == list(folder.sizes("c")) == ["c/d"]
    assert folder.list("nothing/here") == []
    assert folder.clean_temps() == 1
    assert not folder.exists(KILLED)
    folder.remove("a")
    folder.remove("a")
    assert folder.list() == ["b"]


def test_only_our_own_temps_are_removed(folder):
    ours = [f"{place}{KILLED}" for place in ("", "stages/filter/", "corpus/", "dropped/", "quarantine/")]
    others = [
        "x/.tmp-notes",
        ".tmp-notes",
        "stages/filter/.tmp-1/a",
        f"corpus/deep/{KILLED}",
        f"mine/{KILLED}",
    ]
    for name in ours + others:
        folder.write_bytes(name, b"x")
    assert folder.clean_temps() == len(ours)
    assert not any(folder.exists(name) for name in ours)
    assert all(folder.exists(name) for name in others)
    assert folder.clean_temps() == 0


def test_no_temps_in_no_folder(tmp_path):
    assert Folder(str(tmp_path / "none")).clean_temps() == 0


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failed_write_leaves_the_old_file(folder, error):
    folder.write_bytes("x", b"old")
    with pytest.raises(error), folder.create("x") as file:  # noqa: PT012
        file.write(b"new" * 100_000)
        raise error()
    assert folder.read_bytes("x") == b"old"
    assert folder.list() == ["x"]
    assert folder.clean_temps() == 0


def test_a_file_is_invisible_until_closed(folder):
    with folder.create("x") as file:
        file.write(b"new")
        assert not folder.exists("x")
        assert folder.list() == []
    assert folder.read_bytes("x") == b"new"


def test_a_writer_may_close_the_handle_itself(folder):
    with folder.create("x.zst") as file, zstandard.ZstdCompressor().stream_writer(file) as out:
        out.write(b"text" * 99)
    assert zstandard.decompress(folder.read_bytes("x.zst"), max_output_size=1000) == b"text" * 99


def test_two_writers_of_one_name(folder):
    with folder.create("x") as first, folder.create("x") as second:
        first.write(b"first")
        second.write(b"second")
    assert folder.read_bytes("x") in (b"first", b"second")
    assert folder.clean_temps() == 0


def test_full_disk(folder):
    with (
        pytest.raises(StorageError, match=r"x: no space left .*free.*run the same command"),
        folder.create("x"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert folder.list() == []
    assert folder.clean_temps() == 0


def test_a_device_that_is_really_full(tmp_path, monkeypatch):
    real = os.fsync

    def full(handle: int) -> None:
        real(handle)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    folder = Folder(str(tmp_path / "run"))
    with pytest.raises(StorageError, match="bytes free"):
        folder.write_bytes("x", b"data")
    assert os.listdir(folder.url) == []


def test_refused(folder):
    with pytest.raises(StorageError, match="not allowed to write"), folder.create("x"):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_other_errors_pass_through(folder):
    with pytest.raises(FileNotFoundError), folder.create("x"):
        raise FileNotFoundError(errno.ENOENT, "some input")


def test_output_under_a_file(tmp_path):
    (tmp_path / "run").write_text("I am a file")
    with pytest.raises(StorageError, match="is a file, not a folder"):
        Folder(str(tmp_path / "run")).write_bytes("x", b"")


def test_names_stay_inside(folder):
    with pytest.raises(ValueError, match="inside the folder"):
        folder.write_bytes("../x", b"")


def test_missing_file(folder):
    with pytest.raises(FileNotFoundError):
        folder.read_bytes("missing")
    with pytest.raises(FileNotFoundError):
        folder.size("missing")


def test_local_path_and_join(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Folder("run").join("a", "b/c") == f"{tmp_path}/run/a/b/c"
    assert Folder("run").local_path("x") == f"{tmp_path}/run/x"
    assert Folder("s3://bucket/run/").join("a") == "s3://bucket/run/a"
    assert Folder("s3://bucket/run").local_path("x") is None
    assert Folder("/").join("a") == "/a"


def test_picklable_and_silent_about_keys():
    folder = Folder("s3://bucket/run", {"secret": "hunter2"})
    assert pickle.loads(pickle.dumps(folder)) == folder
    assert "hunter2" not in repr(folder)
    hash(folder)


def test_unknown_protocol():
    with pytest.raises(StorageError, match="nosuch"):
        Folder("nosuch://x").exists("a")
