"""Every reader is given every kind of file that is not its own, and says what it found before what it expected."""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import mnist_minimal as mm
from mnist_minimal import compare, content, evaluate, files, plots, report, summary, trials
from mnist_minimal.cli.run import run
from mnist_minimal.errors import UserError
from mnist_minimal.study import history, identity, ledger
from mnist_minimal.study.study import Study
from mnist_minimal.training.checkpoint import Checkpoint
from tests.data.test_data import random_arrays, write_idx
from tests.foreign_files import FOREIGN

# What a reader says of a file with this content, in an empty folder.
Reader = Callable[[Path, bytes], str]


def refusal(read: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        read()
    return str(caught.value)


def printed(work: Callable[[], object]) -> str:
    """What is printed of errors."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        work()
    assert errors.getvalue().count("\n") == 1
    return errors.getvalue().removesuffix("\n")


def written(path: Path, found: bytes) -> Path:
    path.write_bytes(found)
    return path


def data(folder: Path, found: bytes) -> str:
    path = written(folder / "mnist.npz", found)
    return refusal(lambda: mm.load_data(path, name="noise"))


def idx(folder: Path, found: bytes) -> str:
    (write_idx(folder, random_arrays()) / "t10k-images-idx3-ubyte").write_bytes(found)
    return refusal(lambda: mm.load_data(folder, name="noise"))


def packed_idx(folder: Path, found: bytes) -> str:
    (write_idx(folder, random_arrays(), zipped=True) / "train-labels-idx1-ubyte.gz").write_bytes(found)
    return refusal(lambda: mm.load_data(folder, name="noise"))


def model(folder: Path, found: bytes) -> str:
    return refusal(lambda: mm.load(written(folder / "model.keras", found)))


def evaluated(folder: Path, found: bytes) -> str:
    path = written(folder / "model.h5", found)
    return printed(lambda: run(evaluate.main, [str(path), "--dataset", "digits"]))


def summarized(folder: Path, found: bytes) -> str:
    path = written(folder / "model.h5", found)
    return printed(lambda: run(summary.main, [str(path)]))


def table_of_trials(folder: Path, found: bytes) -> str:
    path = written(folder / "sep997.csv", found)
    return refusal(lambda: ledger.read(path))


def table_of_a_job(folder: Path, found: bytes) -> str:
    path = written(folder / "sep997-digits.csv", found)
    options = ["--model", "sep997", "--dataset", "digits", "--runs", "1", "--out", str(folder)]
    with contextlib.redirect_stdout(io.StringIO()):
        message = printed(lambda: run(trials.main, options))
    assert path.read_bytes() == found
    return message


def plotted(folder: Path, found: bytes) -> str:
    path = written(folder / "sep997.csv", found)
    return printed(lambda: run(plots.main, [str(path)]))


def reported(folder: Path, found: bytes) -> str:
    written(folder / "sep997.csv", found)
    return printed(lambda: run(report.main, ["--results", str(folder)]))


def sample(folder: Path, found: bytes) -> str:
    paths = written(folder / "ours.csv", b"0.98\n0.99\n"), written(folder / "theirs.csv", found)
    return printed(lambda: run(compare.main, [*map(str, paths)]))


def facts(folder: Path, found: bytes) -> str:
    written(folder / "sep997.json", found)
    return refusal(lambda: identity.read(Study(folder, "sep997")))


def history_of_a_trial(folder: Path, found: bytes) -> str:
    path = written(folder / "0.csv", found)
    return refusal(lambda: history.read(path))


def checkpoint(folder: Path, found: bytes) -> str:
    path = written(folder / "0.checkpoint.npz", found)
    return printed(lambda: Checkpoint(path, {}))


# The readers of files that users give, and the kinds that are their own, which they refuse for other reasons.
READERS: dict[Reader, set[str]] = {
    data: {"zip", "spreadsheet"},
    idx: set(),
    packed_idx: set(),
    model: set(),
    evaluated: set(),
    summarized: set(),
    table_of_trials: {"empty"},
    table_of_a_job: {"empty"},
    plotted: {"empty"},
    reported: set(),
    sample: set(),
    facts: {"json"},
    history_of_a_trial: set(),
    checkpoint: {"zip", "spreadsheet"},
}
CASES = [
    pytest.param(reader, kind, id=f"{reader.__name__}-{kind}")
    for reader, own in READERS.items()
    for kind in FOREIGN
    if kind not in own
]

# Causes that nobody has looked for, and what only a defect is.
UNESTABLISHED = ("is it complete", "damaged", "corrupt", "defect", "Traceback")


@pytest.mark.parametrize(("reader", "kind"), CASES)
def test_what_was_found_is_said_before_what_was_expected(tmp_path, reader, kind):
    found, words = FOREIGN[kind]
    message = reader(tmp_path, found).replace(str(tmp_path), "")
    assert message.isprintable()
    assert len(message) < 350
    before, _, after = message.partition("expected")
    assert words in before, message
    # And one thing to do.
    assert message.count("; ") == 1, message
    assert "; " in after, message
    assert not any(word in message for word in UNESTABLISHED), message


@pytest.mark.parametrize("kind", FOREIGN)
def test_few_bytes_tell_as_much_as_all(kind):
    found, words = FOREIGN[kind]
    assert words in content.refusal(found[: content.FIRST_BYTES], "another", "go on")
    assert content.kind_of(found) == content.kind_of(found[: content.FIRST_BYTES])


def in_a_file(write: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def in_hdf5(file: io.BytesIO) -> None:
    with h5py.File(file, "w") as hdf5:
        hdf5["images/train"] = np.zeros(3)


WHOLE = {
    "arrays of other names": (
        data,
        in_a_file(lambda file: np.savez(file, np.zeros(3), np.zeros(3))),
        "found arr_0, arr_1 in it and no x_train",
    ),
    "other files in a zip archive": (data, FOREIGN["zip"][0], "found readme.txt in it and no x_train"),
    "arrays for a model": (
        model,
        in_a_file(lambda file: np.savez(file, x_train=np.zeros(3))),
        "found a zip archive with 'x_train.npy' in it and no config.json, expected a .keras file;",
    ),
    "HDF5 of no model": (model, in_a_file(in_hdf5), "found an HDF5 file with images, images/train in it and no model,"),
    "JSON of no study": (facts, b"[1, 2]", "found a list, expected the study's recipe; restore"),
    "JSON that breaks off": (facts, b'{"study": "sep', "found JSON that can't be read (Unterminated string"),
    "columns of no history": (
        history_of_a_trial,
        b"epoch,loss\r\n0,1.5\r\n",
        "found the columns epoch, loss and 1 epochs, expected epoch, loss, accuracy",
    ),
    "one history's columns alone": (
        history_of_a_trial,
        (",".join(history.COLUMNS) + "\r\n").encode(),
        "and 0 epochs, expected",
    ),
    "empty lines above the header": (
        table_of_trials,
        f"\n\n{ledger.HEADER}\n".encode(),
        "found other lines above its header, expected a CSV of trials; remove these lines",
    ),
}


@pytest.mark.parametrize("case", WHOLE)
def test_a_whole_file_of_the_right_kind_is_refused_by_what_is_in_it(tmp_path, case):
    reader, found, words = WHOLE[case]
    message = reader(tmp_path, found)
    assert words in message
    assert message.index("found") < message.index("expected")


def test_a_pickle_is_not_opened(tmp_path):
    marker = tmp_path / "it ran"
    name = str(marker).encode()
    code = b"\x80\x02cos\nmkdir\nX" + len(name).to_bytes(4, "little") + name + b"\x85R."
    for reader in (data, model):
        assert "a pickle may run any code and is never opened" in reader(tmp_path, code)
    assert not marker.exists()


def test_json_with_the_byte_order_mark_of_windows_is_read(tmp_path):
    (tmp_path / "facts.json").write_text('{"epochs": 3}', encoding="utf-8-sig")
    assert files.read_json(tmp_path / "facts.json") == {"epochs": 3}


def test_text_cut_inside_a_letter_is_text():
    text = ("a" + "é" * content.FIRST_BYTES).encode()[: content.FIRST_BYTES]
    assert content.kind_of(text) == content.TEXT
