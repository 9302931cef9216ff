"""The example notebook, executed from its first cell to its last as Jupyter does it."""

import shutil

import nbclient
import nbformat
import pytest

from tests.conftest import REPOSITORY

NOTEBOOK = REPOSITORY / "experiments/first_trials.ipynb"


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_it_says(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    # A command that ran in this process before has set it for its own.
    monkeypatch.delenv("MPLBACKEND", raising=False)
    path = shutil.copy(NOTEBOOK, tmp_path)
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    # What a notebook shows of a job is one output that is written over, with its end in it.
    bars = [
        output.data["text/html"] for output in outputs if "<progress" in output.get("data", {}).get("text/html", "")
    ]
    assert len(bars) == 2
    assert all("4 of 4 trials done" in bar for bar in bars)
    texts = [output.data["text/plain"] for output in outputs if "data" in output]
    assert any("sep997-digits: 4 finished trials" in text for text in texts)
    assert any("Welch's t test" in text for text in texts)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1
    fitted = next(text for text in texts if "test images right after 60 epochs" in text)
    score = next(float(text) for text in texts if text.startswith("0."))
    # `fit` is the trial of its seed.
    assert int(fitted.split()[0]) == round(score * 297)
    assert len(list((tmp_path / "runs").glob("*/*.h5"))) == 8
