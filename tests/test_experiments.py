"""The experiments that read recorded trials print what was recorded and draw it."""

import csv
import importlib.util
import re
from dataclasses import replace
from types import ModuleType

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import mnist_minimal as mm
from mnist_minimal import evaluate, verify
from mnist_minimal.analysis.published import published_accuracies
from mnist_minimal.analysis.statistics import spread
from mnist_minimal.models import MODELS
from mnist_minimal.training import core
from tests.conftest import REPOSITORY
from tests.study.test_ledger import FAILED, TRIAL, append_row
from tests.whole import whole_only


def experiment(name: str) -> ModuleType:
    """The module of an experiment."""
    specification = importlib.util.spec_from_file_location(name, REPOSITORY / f"experiments/{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def results(tmp_path):
    """Ten trials that chose on the test set, and four that chose on held-out images."""
    rng = np.random.default_rng(0)
    for seed in range(10):
        last = round(rng.normal(0.987, 0.001), 4)
        best = round(last + 0.001, 4)
        trial = replace(TRIAL, seed=seed, saved_accuracy=last, best_accuracy=best, test_correct=round(best * 10_000))
        append_row(tmp_path / "sep997.csv", trial)
    for seed, (held_out, correct) in enumerate([(0.989, 9860), (0.991, 9880), (0.990, 9870), (0.988, 9850)]):
        trial = replace(TRIAL, seed=seed, protocol="holdout", best_accuracy=held_out, test_correct=correct)
        append_row(tmp_path / "sep997-holdout.csv", trial)
    return tmp_path


def test_sep997_published(run_main, results):
    published = np.random.default_rng(1).normal(0.9876, 0.001, 60).round(4)
    np.savetxt(results / "published.txt", published, fmt="%.4f")
    arguments = (results / "sep997.csv", "--published", results / "published.txt", "--out", results / "both.png")
    done = run_main(experiment("sep997_published").main, *arguments)
    assert done.returncode == 0, done.stderr
    assert f"| {published.mean():.5f} | {published.std(ddof=1):.5f} |" in done.stdout
    for part in ("ours minus published", "Kolmogorov-Smirnov", "Hedges' g", "Our sd over", "would have an sd of"):
        assert part in done.stdout
    assert f"{published.max():.5f} |" in done.stdout.splitlines()[-5]  # The best of as many trials as there are.
    assert matplotlib.image.imread(results / "both.png").std() > 0.05


def test_sep997_published_says_what_it_lacks(run_python, results):
    script = REPOSITORY / "experiments/sep997_published.py"
    refused = run_python(script, results / "sep997.csv", MNIST_MINIMAL_REFERENCE="")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("error: expected --published FILE or MNIST_MINIMAL_REFERENCE")


def test_selection(run_main, results):
    done = run_main(experiment("selection").main, "--results", results, "--out", results / "selection.png")
    assert done.returncode == 0, done.stderr
    # Every best epoch is 0.001 above its last; every held-out accuracy 0.003 above its test accuracy.
    assert "it chose is +0.00100, 95 % interval +0.00100 to +0.00100" in done.stdout
    assert "epoch is +0.00300, 95 % interval +0.00300 to +0.00300" in done.stdout
    assert "has 0.9880 on the test set, where their mean is 0.98650 and their best 0.9880" in done.stdout
    assert "correlate by 1.00" in done.stdout
    assert matplotlib.image.imread(results / "selection.png").std() > 0.03


def test_selection_needs_both_studies(run_main, results):
    (results / "sep997-holdout.csv").unlink()
    refused = run_main(experiment("selection").main, "--results", results)
    assert refused.returncode == 2
    assert "sep997-holdout.csv: expected two finished trials or more, found 0" in refused.stderr


def test_the_lead_of_the_best_trial_lasts_only_where_it_is_real():
    lead_of_best = experiment("spread").lead_of_best
    rng = np.random.default_rng(0)
    lucky = rng.random((30, 2000)) < 0.9
    here, there = lead_of_best(lucky)
    # The expected highest of 30 normal numbers is 2.04 sds above their mean.
    assert here == pytest.approx(2.04 * (0.9 * 0.1 / 1000) ** 0.5, rel=0.15)
    assert abs(there) < 0.002
    better = np.vstack([lucky, rng.random((1, 2000)) < 0.99])
    here, there = lead_of_best(better)
    assert there == pytest.approx(here, abs=0.002)
    assert there > 0.08


def test_spread_is_that_of_the_saved_models(run_main, tmp_path):
    from mnist_minimal.data import sets
    from mnist_minimal.data.choice import Choice
    from mnist_minimal.saving.saved_model import save
    from mnist_minimal.training.evaluation import probabilities

    digits = sets.load(Choice("digits"))
    images = []
    (tmp_path / "sep997-digits").mkdir()
    for seed in range(3):
        model = MODELS["sep997"]()
        save(model, tmp_path / f"sep997-digits/{seed}.h5")
        images.append(probabilities(model, digits.x_test).argmax(axis=1) == digits.y_test)
        correct, size = int(images[-1].sum()), len(digits.y_test)
        trial = replace(TRIAL, seed=seed, dataset="digits", test_correct=correct, test_size=size)
        append_row(tmp_path / "sep997-digits.csv", trial)
    done = run_main(experiment("spread").main, tmp_path / "sep997-digits.csv", "--dataset", "digits")
    assert done.returncode == 0, done.stderr
    expected = spread(np.array(images))
    between, of_images, of_networks = (line.split("|")[2].strip() for line in done.stdout.splitlines()[2:5])
    assert between == f"{expected.between:.5f}"
    assert of_images == f"{expected.of_images:.5f}"
    assert of_networks == f"{expected.of_networks:.5f}"
    assert "The best trial on a random half of the images is" in done.stdout

    # A row does not lead out of the folder of its study.
    (tmp_path / "sep997-digits").rename(tmp_path / "odd")
    append_row(tmp_path / "odd.csv", replace(trial, seed=0, test_correct=0, weights="../../etc/passwd"))
    append_row(tmp_path / "odd.csv", replace(trial, seed=1, test_correct=size, weights="/etc/passwd"))
    refused = run_main(experiment("spread").main, tmp_path / "odd.csv", "--dataset", "digits")
    assert refused.returncode == 2
    assert "expected a model with" in refused.stderr


def test_rounding_measures_the_models_of_a_study(run_main, tmp_path):
    """The stored numbers and the accuracies are those of a model whose weights a test rounds by itself."""
    from mnist_minimal.data import sets
    from mnist_minimal.data.choice import Choice
    from mnist_minimal.saving.saved_model import save
    from mnist_minimal.training.evaluation import evaluate

    digits, folder = sets.load(Choice("digits")), tmp_path / "sep697-digits"
    folder.mkdir()
    model = MODELS["sep697"]()
    save(model, folder / "0.h5")
    weights, expected = model.get_weights(), []
    in_eight_bits = [np.rint(each / (np.abs(each).max() or 1) * 127) / 127 * np.abs(each).max() for each in weights]
    for numbers in (weights, [each.astype(np.float16) for each in weights], in_eight_bits):
        model.set_weights(numbers)
        expected.append(evaluate(model, digits.x_test, digits.y_test).correct)
    row = {"model": "sep697", "params": 697, "dataset": "digits", "test_size": len(digits.y_test), "seed": 0}
    append_row(tmp_path / "sep697-digits.csv", replace(TRIAL, **row, test_correct=expected[0]))
    done = run_main(experiment("rounding").main, "--results", tmp_path, "--dataset", "digits")
    assert done.returncode == 0, done.stderr
    cells = [cell.strip() for cell in done.stdout.splitlines()[2].split("|")[1:-1]]
    assert cells[:6] == ["`sep697-digits`", "697", "698", "2,792", "1,398", "765"]
    found = [round(float(cell) * len(digits.y_test)) for cell in cells[6:9]]
    # Zeros for biases, and another order of factors: an image may come out on the other side.
    assert np.abs(np.array(found) - expected).max() <= 1

    other = replace(TRIAL, **row, test_correct=expected[0] - 2)
    (tmp_path / "sep697-digits.csv").unlink()
    append_row(tmp_path / "sep697-digits.csv", other)
    refused = run_main(experiment("rounding").main, "--results", tmp_path, "--dataset", "digits")
    assert refused.returncode == 2
    assert f"expected a model with {expected[0] - 2} images right, found {expected[0]}" in refused.stderr


def test_frontier(run_main, results):
    """Both ways of counting have a table and a panel; of a search those trainings count that the test set judged."""
    search = results / "search"
    search.mkdir()
    trainings = [("c600_1", 600, "1", 0.999), ("c600_1", 600, "final", 0.984), ("c600_1", 600, "final", 0.986)]
    table = pd.DataFrame(trainings, columns=["name", "params", "rung", "accuracy"])
    table.to_csv(search / "ledger.csv", index=False)
    main, out = experiment("frontier").main, results / "frontier.png"
    done = run_main(main, "--results", results, "--search", search, "--out", out)
    assert done.returncode == 0, done.stderr
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if line.startswith("| `")
    ]
    best = pd.read_csv(results / "sep997.csv")["best_accuracy"]
    assert [(*row[:4], row[5]) for row in rows] == [
        ("`sep997`", "997", "best epoch", "10", f"{best.mean():.5f}"),
        ("`c600_1`", "600", "kept model", "2", "0.98500"),
        ("`sep997-holdout`", "997", "kept model", "4", "0.98650"),
    ]
    assert matplotlib.image.imread(out).std() > 0.05
    refused = run_main(main, "--results", results, "--search", results, "--out", out)
    assert refused.returncode == 2
    assert "expected the ledger of a search, found none" in refused.stderr


def test_frontier_of_no_study_on_mnist(run_main, results, tmp_path):
    digits = (results / "sep997.csv").read_text().replace(",mnist,", ",digits,")
    own = tmp_path / "own"
    own.mkdir()
    (own / "sep997-digits.csv").write_text(digits)
    (own / "ledger.csv").write_text("name,params,rung,accuracy\n")
    done = run_main(experiment("frontier").main, "--results", own, "--search", own, "--out", own / "frontier.png")
    assert done.returncode == 2
    assert "expected a study on MNIST, found none" in done.stderr


def test_ten_networks(run_main, results):
    """Every trial of the plan is counted, one that failed too, and none beyond it."""
    append_row(results / "sep997.csv", replace(FAILED, seed=10))
    append_row(results / "sep997.csv", replace(TRIAL, seed=223, saved_accuracy=0.5, best_accuracy=0.5))
    done = run_main(experiment("ten_networks").main, "--results", results)
    assert done.returncode == 0, done.stderr
    table, hours, beside = done.stdout.split("\n\n")
    cells = {
        row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[2:-1]] for row in table.splitlines()[2:]
    }
    assert len(cells) == 12
    last = pd.read_csv(results / "sep997.csv")["saved_accuracy"][:10]
    shows = f"{2.8 * last.std() / np.sqrt(223):.5f} (now {2.8 * last.std() / np.sqrt(10):.5f})"
    below = f"{(last <= 0.98761).sum()} of 10"
    expected = [
        "223",
        "10",
        "0, 1",
        "last epoch",
        f"{last.mean():.5f}",
        f"{last.std():.5f}",
        shows,
        f"{last.max():.4f}",
    ]
    assert cells["`sep997`"][:8] == expected
    assert cells["`sep997`"][-2:] == [below, f"{10 * TRIAL.cpu_seconds / 3600:.2f}"]
    assert cells["`sep997-holdout`"][:5] == ["100", "4", "0, 0", "kept model", "0.98650"]
    assert cells["`gap13914`"][1:] == ["0", "0, 0", "best epoch", *"--------"]
    # Ten of sep997 and a failed one, of which nothing is known, and four by holdout.
    assert hours == f"15 trials started, {14 * TRIAL.cpu_seconds / 3600:.1f} CPU hours."
    published = published_accuracies("sep997")
    welch, distance = stats.ttest_ind(last, published, equal_var=False), stats.ks_2samp(last, published)
    low, high = welch.confidence_interval()
    assert beside.startswith(
        f"`sep997` minus the 223 published: the means differ by {last.mean() - np.mean(published):+.5f}, "
        f"95 % interval {low:+.5f} to {high:+.5f} (Welch's t test, p = {welch.pvalue:.3f})"
    )
    assert f"Kolmogorov-Smirnov: largest distance {distance.statistic:.3f}, p = " in beside


def test_which_models_are_kept():
    """Worked by hand: of nine by test_correct and seed, the places 2, 4, 6 and 8, counted from 0."""
    kept_models = experiment("publish").kept_models
    correct = [9870, 9890, 9850, 9890, 9860, 9880, 9875, 9840, 9865]
    trials = [replace(TRIAL, seed=seed, test_correct=right) for seed, right in enumerate(correct)]
    assert kept_models(trials) == {4: "lower quartile", 5: "upper quartile", 0: "median", 1: "best"}
    assert kept_models(trials[::-1]) == kept_models(trials)
    assert kept_models(trials[:1]) == {0: "best"}
    assert set(kept_models(trials[:3])) == {0, 1, 2}
    assert set(kept_models(trials[:4])) == {0, 1, 2, 3}


@pytest.mark.slow
def test_a_published_study_verifies(run_main, tmp_path):
    """What is copied is all that its readers need, and is as it was."""
    if not core.available():
        pytest.skip("needs the C++ core, which was not built")
    options = {"runs": 6, "epochs": 2, "data": "digits", "progress": False, "out": tmp_path / "runs"}
    study = mm.run_trials("sep697", **options)
    publish = experiment("publish")
    done = run_main(publish.main, "sep697-digits", "--out", tmp_path / "results")
    assert done.returncode == 0, done.stderr
    assert re.search(r"6 finished trials, \d+,\d+ bytes with all that belongs to them", done.stdout)
    published = mm.read_trials(tmp_path / "results/sep697-digits.csv")
    kept = publish.kept_models(study.trials)
    assert {path.name for path in published.paths.folder.iterdir()} == {
        "histories.csv.gz",
        *(f"{seed}.h5" for seed in kept),
    }
    assert len(kept) == 4
    assert published.dataframe().equals(study.dataframe())
    for seed in range(6):
        assert published.history(seed).equals(study.history(seed))
    again = run_main(verify.main, published.paths.csv)
    assert again.returncode == 0, again.stdout
    assert again.stdout.count("no model kept") == 2
    lost = next(seed for seed in range(6) if seed not in kept)
    with pytest.raises(mm.UserError, match=f"--seeds {lost} --keep "):
        published.load(lost)
    assert "was not kept" in run_main(evaluate.main, published.paths.weights(lost)).stderr
    refused = run_main(publish.main, "runs/sep697-digits.csv", "--out", tmp_path / "results")
    assert refused.returncode == 2
    assert "expected no study of this name, found one; remove it before" in refused.stderr


def gpu_parts(folder):
    """What two rounds of some parts found."""
    found = [
        {"part": "jax-sep997-32", "device": "a card", "at_once": 32, "compile_seconds": 9, "images_per_second": 100},
        {"part": "core-sep997", "device": "c++", "at_once": 16, "compile_seconds": 0, "images_per_second": 50},
    ]
    gpu = experiment("gpu")
    for number, seconds in enumerate((0.5, 0.4)):
        for row in found:
            gpu.write(folder, {**row, "round": number, "epoch_seconds": seconds})
    gpu.write(folder, {"part": "jax-sep997-1024", "round": 0, "remark": "not done in 180 s"})
    gpu.write(folder, {"part": "trials-1", "round": 0, "remark": "3 trials in 20.0 s"})
    gpu.write(folder, {"part": "trials-2", "round": 0, "remark": "1 trials in 10.0 s"})
    return gpu


def test_gpu_prints_what_its_parts_have_found(tmp_path, capsys):
    gpu = gpu_parts(tmp_path)
    table = [" ".join(line.split()) for line in gpu.table(tmp_path).splitlines()]
    # 32 trials' epochs in 0.5 s, the higher of the two in the middle: 3600 * 32 / 0.5 an hour.
    assert table[2] == "| jax-sep997-32 | a card | 0.5 (0.4 to 0.5) | 100 | 230,400 | 9 |"
    assert table[3] == "| core-sep997 | c++ | 0.5 (0.4 to 0.5) | 50 | 115,200 | 0 |"
    assert table[4].startswith("| jax-sep997-1024 | not done in 180 s |")
    assert len(table) == 5
    assert gpu.trials_text(tmp_path) == "No whole trials yet."
    (tmp_path / "trials").mkdir()
    for seed in range(4):
        append_row(tmp_path / "trials" / "sep997.csv", replace(TRIAL, seed=seed, trainer="jax", saved_accuracy=0.985))
    text = gpu.trials_text(tmp_path)
    assert text.startswith("4 whole trials in 30 s, all of it counted, 480 an hour; last epoch 0.98500 on average.")
    # Of the 223 published one is below .985, and some are .985 themselves.
    published = np.array(published_accuracies("sep997"))
    assert f"to the 223 published {max((published < 0.985).mean(), (published > 0.985).mean()):.3f} (p = " in text


def test_gpu_does_no_part_again_that_is_done(tmp_path, capsys):
    gpu = gpu_parts(tmp_path)
    assert gpu.done(tmp_path) >= {("jax-sep997-32", 0), ("jax-sep997-32", 1), ("core-sep997", 0)}
    assert gpu.parts(gpu.Sizes())[:5] == [*(f"jax-sep997-{places}" for places in (1, 32, 256, 1024)), "core-sep997"]
    assert len(gpu.parts(gpu.Sizes())) == 4 + 2 + 9
    before = (tmp_path / "parts.csv").read_text()
    assert gpu.main(["--out", str(tmp_path), "--rounds", "2", "--only", "core-sep997", "--dataset", "digits"]) == 0
    assert (tmp_path / "parts.csv").read_text() == before
    assert "| 0.5 (0.4 to 0.5)" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    "part", ["core-sep997", *(pytest.param(part, marks=whole_only) for part in ("keras-sep997", "jax-small7344-2"))]
)
def test_a_part_of_gpu_on_a_processor(run_python, tmp_path, part):
    if part.startswith("jax"):
        pytest.importorskip("jax")
    # 500 of the 1,500 training images are enough for a part; the others have all of them.
    images = ("--images", "500") if part == "core-sep997" else ()
    done = run_python(REPOSITORY / "experiments/gpu.py", "--small", "--only", part, *images, "--out", tmp_path / "gpu")
    assert done.returncode == 0, done.stderr
    row = next(csv.DictReader((tmp_path / "gpu/parts.csv").open()))
    assert (row["part"], row["images"]) == (part, "500" if images else "1500")
    assert float(row["epoch_seconds"]) > 0, row


@pytest.mark.slow
@whole_only
def test_a_small_cluster_is_measured(run_python, tmp_path):
    pytest.importorskip("distributed")
    options = ("--rounds", "1", "--trials", "3", "--workers", "3", "--fake", "30", "--rows", "50")
    done = run_python(REPOSITORY / "experiments/cluster.py", *options)
    assert done.returncode == 0, done.stderr
    assert "| 30 trials on 3 fake workers, into a ledger of 50 rows, one run | |" in done.stdout
    # 1,000 workers of 16 threads, 54.5 s a trial.
    assert "| rows a second at the coordinator, 54.5 s a trial | 294 |" in done.stdout
    assert re.search(r"Two workers have \d\S* \(.*\) times the throughput of one\.", done.stdout)
    sizes = dict(re.findall(r"^\| (back|to a worker), a trial[^|]*\| ([\d,]+) \|$", done.stdout, re.MULTILINE))
    # The model alone has 50 kB; what starts a trial is its seed and nothing else.
    assert int(sizes["back"].replace(",", "")) > 50_000
    assert int(sizes["to a worker"]) < 300
