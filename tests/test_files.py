"""Files that a user names: what is written stays where the name says, whole; what is read is a file of a sane size."""

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from mnist_minimal import augment, compare, files, plots, report
from mnist_minimal.analysis import figures
from mnist_minimal.cli.run import run
from mnist_minimal.errors import UserError
from mnist_minimal.study.ownership import owned
from mnist_minimal.study.study import Study
from tests.analysis.test_plots import csv as study  # noqa: F401  A study of five trials with histories.
from tests.study.test_ledger import FAILED, TRIAL, append_row


@pytest.fixture
def treasure(tmp_path):
    """A folder beside the results, of which nothing may change."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "file").write_text("precious")
    (folder / "folder").mkdir()
    yield folder
    assert sorted(path.name for path in folder.iterdir()) == ["file", "folder"]
    assert (folder / "file").read_text() == "precious"
    assert not any((folder / "folder").iterdir())


LEADING = ("file", "none", "folder")


@pytest.mark.parametrize("leads_to", LEADING)
@pytest.mark.parametrize("ending", ["", ".lock", ".torn"])
def test_appending_follows_no_link(tmp_path, treasure, ending, leads_to):
    csv = tmp_path / "results/sep997.csv"
    csv.parent.mkdir()
    append_row(csv, TRIAL)
    csv.write_text(csv.read_text() + "a row cut sho")
    before = csv.read_bytes()
    link = csv.with_name(csv.name + ending)
    link.unlink(missing_ok=True)
    link.symlink_to(treasure / leads_to)
    # A CSV is read first, through the link, and refused for what it is not.
    words = "expected a file or folder of its own, found a symbol" if ending else "(found|expected)"
    with pytest.raises(UserError, match=rf"{re.escape(link.name)}: {words}"), owned(Study.at(csv)):
        append_row(csv, replace(TRIAL, seed=1))
    if ending:
        assert csv.read_bytes() == before


COMMANDS = {
    "plots": (plots.main, ["{csv}", "--out", "{out}"], ["sep997-distribution.png", "sep997-curves.png"]),
    "compare": (compare.main, ["{csv}", "{other}", "--out", "{out}/both.png"], ["both.png"]),
    "augment": (
        augment.main,
        ["pyramid3762", "--dataset", "digits", "--out", "{out}/augmented.png"],
        ["augmented.png"],
    ),
    "report": (report.main, ["--results", "{out}/..", "--out", "{out}/page.html"], ["page.html"]),
}


@pytest.fixture
def call(study, tmp_path):  # noqa: F811
    """Runs one of COMMANDS in process; gives the folder it writes to and a function that starts it."""
    other = tmp_path / "other.txt"
    other.write_text("0.98\n0.99\n")
    out = tmp_path / "out"
    out.mkdir()

    def start(command: str) -> int:
        main, arguments, _ = COMMANDS[command]
        return run(main, [argument.format(csv=study, other=other, out=out) for argument in arguments])

    return out, start


@pytest.mark.parametrize("leads_to", [("file", "none"), pytest.param(("none", "file"), marks=pytest.mark.slow)])
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_write_through_no_link(call, treasure, capsys, command, leads_to):
    out, start = call
    names = COMMANDS[command][2]
    for name in names:
        (out / name).symlink_to(treasure / leads_to[0])
        (out / f".{name}").symlink_to(treasure / leads_to[1])
    assert start(command) == 0, capsys.readouterr().err
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    assert not any((out / name).is_symlink() or (out / name).stat().st_size < 1000 for name in names)


@pytest.mark.parametrize(
    ("plant", "complaint"),
    [
        (Path.mkdir, "expected a file to write, found a folder; name a file in it"),
        (os.mkfifo, "expected a file to write, found a device or a pipe; name a file"),
        (lambda path: path.symlink_to("/dev/null"), "expected a file to write, found a device or a pipe; name a file"),
    ],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_no_file_is_not_replaced(call, capsys, command, plant, complaint):
    out, start = call
    path = out / COMMANDS[command][2][0]
    plant(path)
    before = path.lstat()
    assert start(command) == 2
    assert f"{path.name}: {complaint}" in capsys.readouterr().err
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)


def test_a_device_stays_a_device(study, capsys):  # noqa: F811
    assert run(report.main, ["--results", str(study.parent), "--out", "/dev/null"]) == 2
    assert not Path("/dev/null").is_file()


def test_a_full_disk_leaves_the_old_file(tmp_path):
    (tmp_path / "page.html").write_text("old")

    def write():
        with files.output(tmp_path / "page.html") as temporary:
            temporary.symlink_to("/dev/full")
            temporary.write_text("new")

    with pytest.raises(UserError, match=r"page\.html: can't be written \(No space left on device\); make room"):
        write()
    assert (tmp_path / "page.html").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("x.jpg", r"x\.jpg: expected a file that ends in \.png; give it such a name"),
        ("file/x.png", r"file/x\.png: can't be written \((File exists|Not a directory)\)"),
        ("", r"expected a file that ends in \.png"),
        (255 * "x" + ".png", r"can't be written \(File name too long\)|File name too long"),
    ],
)
def test_where_no_picture_can_be_written(tmp_path, monkeypatch, path, complaint):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    from matplotlib.figure import Figure

    with pytest.raises((UserError, OSError), match=complaint):
        figures.save_figure(Figure(), Path(path))


def test_a_folder_is_made_for_the_picture(tmp_path):
    from matplotlib.figure import Figure

    assert figures.save_figure(Figure(), tmp_path / "a/b/x.png").stat().st_size > 100


def test_reading_takes_files_up_to_a_size(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert files.read(path, 5) == b"12345"
    with pytest.raises(UserError, match="expected a file of at most 4 bytes, found a larger one"):
        files.read(path, 4)
    with pytest.raises(FileNotFoundError):
        files.read(tmp_path / "none", 4)
    with pytest.raises(UserError, match="expected a file, found a folder, a pipe or a device"):
        files.read(tmp_path, 4)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="expected a file, found a folder, a pipe or a device"):
        files.read(tmp_path / "pipe", 4)


@pytest.mark.parametrize("content", ["", "{", 200_000 * "[", '"\\ud8', b"\xff", "9" * 10_000])
def test_what_is_no_json_is_refused(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=r"x\.json: found .*, expected (JSON|a whole text); restore or remove the file"):
        files.read_json(path)


def test_the_other_files_of_a_study_can_not_keep_a_reader_waiting(study, capsys):  # noqa: F811
    os.mkfifo(study.with_name("pipe.csv"))
    (study.with_name("link.csv")).symlink_to(study.parent / "nowhere")
    (study.with_suffix("") / "4.csv").unlink()
    os.mkfifo(study.with_suffix("") / "4.csv")
    assert run(plots.main, [str(study)]) == 2
    assert "4.csv: expected a file, found a folder, a pipe or a device" in capsys.readouterr().err


def test_a_failed_trial_is_no_reason_to_write_elsewhere(tmp_path, treasure):
    row = replace(FAILED, model="../outside/file", weights="../../outside/file", dataset=str(treasure / "file"))
    (tmp_path / "results").mkdir()
    append_row(tmp_path / "results/sep997.csv", row)
    append_row(tmp_path / "results/sep997.csv", replace(TRIAL, model="../outside/file", weights="../outside/file"))
    plots_only = run(plots.main, [str(tmp_path / "results/sep997.csv")])
    assert plots_only == 2  # It has no history.
    assert run(report.main, ["--results", str(tmp_path / "results")]) == 0
    assert sorted(path.name for path in (tmp_path / "results").iterdir() if path.suffix != ".lock") == [
        "report.html",
        "sep997-distribution.png",
        "sep997.csv",
    ]


@pytest.mark.parametrize("umask", [*(pytest.param(each, marks=pytest.mark.slow) for each in (0o002, 0o077)), 0o027])
def test_pictures_and_pages_are_by_the_umask(study, tmp_path, umask):  # noqa: F811
    out = tmp_path / "out" / "below"
    other = tmp_path / "other.csv"
    other.write_text("0.98\n0.99\n")
    before = os.umask(umask)
    try:
        assert run(plots.main, [str(study), "--out", str(out / "plots")]) == 0
        assert run(report.main, ["--results", str(study.parent), "--out", str(out / "report.html")]) == 0
        assert run(compare.main, [str(study), str(other), "--out", str(out / "compared.png")]) == 0
    finally:
        os.umask(before)
    found = {path: path.stat().st_mode & 0o777 for path in [out, *out.rglob("*")]}
    assert sorted({path.suffix for path in found}) == ["", ".html", ".png"]
    assert found == {path: (0o777 if path.is_dir() else 0o666) & ~umask for path in found}
