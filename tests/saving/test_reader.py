"""The child that opens files: its limits, and what becomes of the process that asks when it ends."""

import io
import os
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from mnist_minimal.errors import UserError
from mnist_minimal.saving import child, reader
from mnist_minimal.saving.reader import Reader

resource = pytest.importorskip("resource")


@pytest.fixture
def fresh():
    own = Reader()
    yield own
    own.close()


def hdf5(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as hdf5:
        for name, values in arrays.items():
            hdf5[name] = values
    return file.getvalue()


def test_one_child_serves_many_files(fresh):
    values = np.arange(6, dtype=">f8").reshape(2, 3)
    pids = set()
    for _ in range(3):
        found = fresh.read(hdf5(a=values, b=np.int8(3)))
        np.testing.assert_array_equal(found.arrays["a"], values.astype(np.float32))
        assert found.arrays["b"] == 3
        with pytest.raises(UserError, match="found an HDF5 file that can't be read"):
            fresh.read(b"\x89HDF\r\n\x1a\nnothing")
        pids.add(fresh._process.pid)
    assert len(pids) == 1


def test_a_child_that_was_ended_is_started_again(fresh):
    fresh.read(hdf5(a=np.zeros(1)))
    fresh._process.kill()
    fresh._process.wait()
    assert list(fresh.read(hdf5(a=np.zeros(1))).arrays) == ["a"]


def test_the_child_is_limited(fresh):
    fresh.read(hdf5(a=np.zeros(1)))
    limits = Path(f"/proc/{fresh._process.pid}/limits")
    if not limits.exists():
        pytest.skip("needs /proc")
    lines = {line[:25].strip(): line[25:].split()[0] for line in limits.read_text().splitlines()[1:]}
    assert lines["Max address space"] == str(child.MEMORY_BYTES)
    assert (lines["Max file size"], lines["Max open files"]) == ("0", "4")
    assert int(lines["Max cpu time"]) <= child.CPU_SECONDS + 5


@pytest.mark.slow
def test_what_needs_more_memory_than_the_limit_is_refused(fresh):
    file = io.BytesIO()
    with h5py.File(file, "w") as hdf5:
        # 800 MB in one chunk, of which only an array of a tenth is said to be there.
        hdf5.create_dataset("a", (1000,), "f8", chunks=(150_000_000,), maxshape=(None,), compression="gzip")[0] = 1
    with pytest.raises(UserError, match=r"that can't be read|that ends the HDF5|too long|little memory"):
        fresh.read(file.getvalue())
    assert list(fresh.read(hdf5_small()).arrays) == ["a"]


def hdf5_small() -> bytes:
    return hdf5(a=np.zeros(1))


def test_a_zip_bomb_is_refused_by_its_directory(fresh):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        with archive.open("model.weights.h5", "w") as member:
            for _ in range(300):
                member.write(bytes(2**20))
    with pytest.raises(UserError, match=r"expected at most 268,435,456 bytes in model\.weights\.h5"):
        fresh.read(file.getvalue())


def test_a_child_that_waits_is_ended(fresh, monkeypatch, tmp_path):
    sleeping = tmp_path / "child.py"
    sleeping.write_text("import sys, time\nsys.stdout.write('1')\nsys.stdout.flush()\ntime.sleep(600)\n")
    monkeypatch.setattr(child, "__file__", str(sleeping))
    monkeypatch.setattr(reader, "SECONDS", 0.2)
    with pytest.raises(UserError, match="takes too long to read"):
        fresh.read(hdf5_small())


@pytest.mark.parametrize(
    "answer", ["b'1' + b'H' + bytes(7) + b'z'", "b'1' + b'H' + (10**15).to_bytes(8, 'big')", "b'1xx'"]
)
def test_an_answer_that_is_none_is_refused(answer, fresh, monkeypatch, tmp_path):
    lying = tmp_path / "child.py"
    lying.write_text(f"import sys\nsys.stdout.buffer.write({answer})\nsys.stdout.flush()\nsys.stdin.buffer.read(9)\n")
    monkeypatch.setattr(child, "__file__", str(lying))
    with pytest.raises(UserError, match="found a file that ends the HDF5 library"):
        fresh.read(hdf5_small())


def test_a_system_without_limits_is_told_once(fresh, monkeypatch, tmp_path):
    source = Path(child.__file__).read_text()
    without = tmp_path / "child.py"
    without.write_text(source.replace("import resource\n", "raise ImportError\n", 1))
    monkeypatch.setattr(child, "__file__", str(without))
    with pytest.warns(RuntimeWarning, match="can't limit the memory"):
        assert list(fresh.read(hdf5_small()).arrays) == ["a"]
    fresh._process.kill()
    fresh._process.wait()
    assert list(fresh.read(hdf5_small()).arrays) == ["a"]  # Warnings are errors where one is not expected.


def test_threads_and_forked_processes_get_their_own_answers(fresh):
    found = {}

    def ask(number: int) -> None:
        found[number] = float(fresh.read(hdf5(a=np.full(1000, number))).arrays["a"].mean())

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: number for number in range(8)}


def test_the_child_ends_with_the_process_that_started_it():
    program = (
        "from mnist_minimal.saving.reader import READER\n"
        "import io, h5py\nfile = io.BytesIO()\nh5py.File(file, 'w').close()\n"
        "READER.read(file.getvalue())\nprint(READER._process.pid)\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{done.stdout.strip()}") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{done.stdout.strip()}")


def test_a_file_of_a_hundred_megabytes(fresh):
    values = np.random.default_rng(0).random((25_600, 1024), np.float32)
    data = hdf5(a=values)
    assert len(data) > 100_000_000
    np.testing.assert_array_equal(fresh.read(data).arrays["a"], values)
