"""The command: a search on the digits, stopped, killed and resumed; what it writes; its candidates as models."""

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from mnist_minimal import search, trials, verify
from mnist_minimal.cli.options import model_name
from mnist_minimal.data.sets import checksums
from mnist_minimal.errors import UserError
from mnist_minimal.models import lookup, searched
from mnist_minimal.models.searched import Candidate, SearchedNetwork
from mnist_minimal.recipes import Adam, Recipe, Teacher
from mnist_minimal.searching import figures, ledger
from mnist_minimal.searching.evaluation import without_test_set
from mnist_minimal.searching.ledger import Figure
from mnist_minimal.searching.teachers import Teachers
from mnist_minimal.study import teaching
from mnist_minimal.trial import StoppedError
from tests.conftest import REPOSITORY
from tests.dask_processes import Another, Cluster
from tests.whole import whole_only

CANDIDATE = Candidate(
    SearchedNetwork(4, 3, "valid", "max", (4, 4), 3, "valid", 0, "none", 0.2),
    Recipe(source="a test's", batch_size=64, max_epochs=2, optimizer=Adam(0.01), dropout=0.0),
)
# The first candidate alone takes so many passes that this budget, less the finals, is spent after it.
SMALL = [
    *("--dataset", "digits", "--max-params", "120", "--epochs", "9", "--finalists", "1", "--runs", "1"),
    *("--budget", "20000", "--out", "found"),
]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_search_ends_with_tables_pictures_and_a_candidate_that_trials_trains(run_main, tmp_path):
    found = run_main(search.main, *SMALL)
    assert (found.returncode, found.stderr) == (0, "")
    rows = read(tmp_path / "found/ledger.csv")
    # The first candidate is the best known at each rung: 1, 2 and 4 seeds of 1, 3 and 9 epochs, then the final.
    assert [(row["rung"], row["epochs"], row["fold"]) for row in rows] == [
        *[("0", "1", "11"), ("1", "3", "11"), ("1", "3", "10")],
        *[("2", "9", "11"), ("2", "9", "10"), ("2", "9", "9"), ("2", "9", "8")],
        ("final", "9", ""),
    ]
    assert {row["name"] for row in rows} == {rows[0]["name"]}
    assert [row["size"] for row in rows] == 7 * ["125"] + ["297"]
    assert [int(row["passes"]) for row in rows] == [1375, 3 * 1375, 3 * 1375, *4 * [9 * 1375], 9 * 1500]
    assert int(rows[0]["params"]) <= 120
    assert "The test set was looked at 1 time:" in found.stdout
    name = rows[0]["name"]
    assert f"--model search:found/{name} " in found.stdout
    assert (tmp_path / "found/frontier.png").stat().st_size > 1000

    # Nothing is searched any more, and the test set is left alone.
    before = (tmp_path / "found/ledger.csv").read_bytes()
    again = run_main(search.main, *SMALL[:-4], "--budget", "900000", "--out", "found")
    assert again.returncode == 0
    assert (tmp_path / "found/ledger.csv").read_bytes() == before

    refused = run_main(search.main, *SMALL, "--target", "0.5")
    assert refused.returncode == 2
    assert "begun with --target 0.99, and now it would be 0.5" in refused.stderr

    # The command that was printed, for one epoch from one seed.
    command = next(shlex.split(line) for line in found.stdout.splitlines() if "mnist_minimal.trials" in line)
    trained = run_main(trials.main, *command[3:], "--runs", "1", "--epochs", "1")
    assert trained.returncode == 0, trained.stderr
    assert read(tmp_path / f"runs/search.{name}-digits.csv")[0]["params"] == rows[0]["params"]
    checked = run_main(verify.main, f"search.{name}-digits", "--results", "runs")
    assert checked.returncode == 0, checked.stderr


def test_a_candidates_file_is_a_model_and_its_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = searched.write(CANDIDATE, Path("runs/search/candidates"))
    model = f"search:{path.stem}"
    # 10 x 4, then twice 9 x 4 and 4 x 4 + 4, and 4 x 10 + 10.
    assert path.stem.startswith("c202_")
    assert lookup.builder(model)().count_params() == 202
    assert lookup.recipe(model).optimizer == Adam(0.01)
    assert lookup.recipe(model).known_as == model
    edited = json.loads(path.read_text())
    edited["recipe"]["batch_size"] = 32
    path.write_text(json.dumps(edited))
    with pytest.raises(UserError, match=rf"expected the candidate {path.stem}, found c202_"):
        lookup.builder(model)
    with pytest.raises(UserError, match=r"search:none: expected a file none\.json in runs/\*/candidates"):
        lookup.builder("search:none")


def test_a_candidate_is_found_in_the_folder_of_its_search(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = Path("my searches/first")
    name = searched.write(CANDIDATE, out / "candidates").stem
    model = searched.model_name(CANDIDATE, out)
    assert model == model_name(model) == f"search:my searches/first/{name}"
    assert lookup.recipe(model).optimizer == Adam(0.01)
    assert lookup.builder(model)().count_params() == 202
    assert lookup.file_name(model) == lookup.file_name(f"search:{name}") == f"search.{name}"
    for there in (Path("runs/first"), Path("results/../runs/first"), tmp_path / "runs/first"):
        assert searched.model_name(CANDIDATE, there) == f"search:{name}"
    with pytest.raises(UserError, match=r"search:other/c1_0: expected a file c1_0\.json in other/candidates"):
        lookup.recipe("search:other/c1_0")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--max-params", "40"], "expected a limit of at least 41 parameters"),
        (["--budget", "1 day"], "expected a time such as 2h"),
        (["--budget", "13500"], "expected a budget of more than the 13,500 image passes of the finals, found 13,500"),
        (["--epochs", "8"], "expected at least 9 epochs"),
        (["--target", "1.1"], "expected an accuracy above 0 and at most 1"),
        (["--sampler", "best"], "invalid choice"),
        (["--dataset", "cifar10", "--data", "none"], "reads no file"),
    ],
)
def test_what_can_not_be_searched_is_refused_before_a_training(run_main, tmp_path, arguments, complaint):
    found = run_main(search.main, *SMALL, *arguments)
    assert found.returncode == 2
    assert complaint in found.stderr
    assert not (tmp_path / "found/ledger.csv").exists()


def test_the_published_networks_are_in_the_picture():
    published = figures.published([REPOSITORY / "results"])
    assert len(published) == 10
    sep997 = next(each for each in published if each.name == "sep997")
    assert sep997.params == 997
    assert sep997.best >= 0.9906
    assert sep997.median is not None
    judged = [Figure("a", 600, 0.97, 0.98, 4, "held out"), Figure("b", 500, 0.96, 0.97, 4, "held out")]
    axes = figures.draw_frontier(judged, [judged[0]], published, 0.99)
    assert [text.get_text() for text in axes.texts] == ["a", *(each.name for each in published)]


COMMAND = [
    *(sys.executable, "-m", "mnist_minimal.search", "--dataset", "digits", "--max-params", "150", "--epochs", "9"),
    *("--finalists", "2", "--runs", "2", "--budget", "250000", "--target", "0.9"),
]


def without_times(path: Path) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in read(path)]


# Runs a search that is killed as soon as so many trainings are recorded whose key begins so.
KILLED = """
import os, sys
from optuna import Study
from optuna.trial import Trial
from mnist_minimal import search
what, left = sys.argv[1], int(sys.argv[2])

def killed(set_user_attr):
    def call(self, key, value):
        global left
        set_user_attr(self, key, value)
        left -= key.startswith(what)
        if not left:
            os.kill(os.getpid(), 9)
    return call

Trial.set_user_attr = killed(Trial.set_user_attr)
Study.set_user_attr = killed(Study.set_user_attr)
search.main(sys.argv[3:])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "candidates", "kills"),
    [
        # In the middle of the first candidate and of the second.
        pytest.param([*COMMAND[3:], "--finalists", "1"], 4, [("score_", 4), ("score_", 8)], marks=whole_only),
        # The first candidate takes 59,125 passes, and the finals 27,000; the first training of the second, after which
        # it is killed, spends the rest. Then it is killed after the first training of the finals.
        ([*SMALL[:-4], "--runs", "2", "--budget", "87125"], 2, [("score_", 8), ("final_", 1)]),
    ],
    ids=["in the middle", "in the last candidate and in the finals"],
)
def test_a_search_that_is_killed_twice_comes_to_the_ledger_of_an_undisturbed_one(
    run_python, tmp_path, arguments, candidates, kills
):
    assert run_python("-m", "mnist_minimal.search", *arguments, "--out", "undisturbed").returncode == 0
    expected = without_times(tmp_path / "undisturbed/ledger.csv")
    assert len({row["number"] for row in expected}) == candidates
    for what, count in kills:
        found = run_python("-c", KILLED, what, str(count), *arguments, "--out", "killed")
        assert found.returncode == -signal.SIGKILL, found.stderr
    assert run_python("-m", "mnist_minimal.search", *arguments, "--out", "killed").returncode == 0
    assert without_times(tmp_path / "killed/ledger.csv") == expected


@pytest.mark.slow
@whole_only
def test_a_search_by_a_cluster_is_that_of_one_process(tmp_path):
    """The finals, too, whose test set its worker has."""
    pytest.importorskip("distributed")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    for out in (["here"], ["there", "--dask", "local"]):
        command = [sys.executable, "-m", "mnist_minimal.search", *SMALL, "--out", *out]
        found = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
        assert found.returncode == 0, found.stderr
    assert "The candidates go to the Dask cluster at tcp://" in found.stdout
    assert without_times(tmp_path / "there/ledger.csv") == without_times(tmp_path / "here/ledger.csv")


@pytest.mark.slow
@whole_only
def test_workers_of_another_version_are_named_and_left_out(tmp_path):
    """The only good one does all of it, as one process does."""
    pytest.importorskip("distributed")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    alone = [sys.executable, "-m", "mnist_minimal.search", *SMALL, "--out", "alone"]
    subprocess.run(alone, cwd=tmp_path, env=environment, check=True, capture_output=True)
    with Cluster(tmp_path) as cluster:
        cluster.start_worker("other version", Another())
        cluster.start_worker("good")
        command = [*(sys.executable, "-m", "mnist_minimal.search"), *SMALL, "--dask", str(cluster.file), "--jobs", "1"]
        found = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("takes no part: it has mnist_minimal 0.0.1, expected ") == 1
    assert without_times(tmp_path / "found/ledger.csv") == without_times(tmp_path / "alone/ledger.csv")


@pytest.mark.slow
def test_ctrl_c_ends_a_search_of_two_jobs_which_is_resumed(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [*COMMAND, "--jobs", "2", "--out", "found"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    while not process.stdout.readline().startswith("candidate "):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert "Stopped; the same command resumes the search." in process.communicate()[0]
    assert process.returncode == 130
    before = read(tmp_path / "found/ledger.csv")
    assert subprocess.run(command, cwd=tmp_path, env=environment, check=False).returncode == 0
    after = read(tmp_path / "found/ledger.csv")
    key = "number", "rung", "seed", "correct", "seconds"
    kept = {tuple(row[name] for name in key) for row in after}
    assert {tuple(row[name] for name in key) for row in before} <= kept
    assert len({(row["number"], row["rung"], row["seed"], row["name"]) for row in after}) == len(after)


@pytest.mark.slow
def test_a_teacher_has_not_seen_what_a_student_is_judged_by(tmp_path):
    from mnist_minimal.data import sets
    from mnist_minimal.data.choice import Choice

    digits = without_test_set(sets.load(Choice("digits")))
    teachers = Teachers(tmp_path / "teachers", digits)
    found = teachers.probabilities(11)
    right = found.argmax(axis=1) == digits.y_train
    # The last twelfth was not trained on: fewer of it are right.
    assert right[:1375].mean() > right[1375:].mean() > 0.7
    # It is read again, not made again.
    path = teachers.path(11)
    changed = path.stat().st_mtime_ns
    assert (Teachers(tmp_path / "teachers", digits).probabilities(11) == found).all()
    assert path.stat().st_mtime_ns == changed
    file = teaching.read(path)
    assert file.facts["data"]["x_train"] == checksums(digits)["x_train"]
    taught = Recipe(batch_size=64, max_epochs=1, optimizer=Adam(0.01), teacher=Teacher())
    with pytest.raises(UserError, match="expected a teacher that was trained on none of the last 125"):
        teaching.check(taught, file, digits, "holdout")


@pytest.mark.slow
def test_a_teachers_training_is_interrupted_and_so_is_waiting_for_it(tmp_path):
    from mnist_minimal.data import sets
    from mnist_minimal.data.choice import Choice

    digits = without_test_set(sets.load(Choice("digits")))
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        if looks == 4:
            raise StoppedError

    teachers = Teachers(tmp_path, digits)
    with pytest.raises(StoppedError):
        teachers.probabilities(11, look)
    assert not teachers.path(11).exists()
    looks = 0
    with FileLock(teachers.path(11).with_suffix(".lock")), pytest.raises(StoppedError):
        teachers.probabilities(11, look)


def test_a_ledger_can_not_be_written_over_a_folder(tmp_path):
    (tmp_path / "ledger.csv").mkdir()
    with pytest.raises(UserError, match="expected a file to write, found a folder"):
        ledger.write(tmp_path / "ledger.csv", [], ledger.Row)
