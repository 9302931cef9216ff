"""The table that a job of trials ends with, by hand."""

from dataclasses import replace

import pytest

from mnist_minimal.analysis.tables import markdown, study_table
from tests.study.test_ledger import FAILED, TRIAL


def trials(*best, **fields):
    """Finished trials of these best accuracies, the last epoch's 0.001 lower, the kept model's the best."""
    return [
        replace(
            TRIAL,
            seed=seed,
            saved_accuracy=round(accuracy - 0.001, 4),
            best_accuracy=accuracy,
            test_correct=round(accuracy * 10_000),
            **fields,
        )
        for seed, accuracy in enumerate(best)
    ]


def cells(row: str) -> list[str]:
    """What a row of a Markdown table has in its cells."""
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_five_trials_by_hand():
    head, _, *rows, _, explained = study_table(trials(0.98, 0.99, 0.97, 0.99, 0.97)).splitlines()
    assert cells(head) == ["accuracy", "n", "mean", "sd", "95 % interval", "best", "at least 99% (95 %)"]
    # Squares of the deviations: 0, 1, 1, 1, 1 times 1e-4; Student's t for 4 degrees of freedom is 2.776445, so that the
    # interval is 0.98 -+ 2.776445 * 0.01 / sqrt(5) = 0.01242. Wilson for 0 of 5 and for 2 of 5.
    assert [cells(row) for row in rows] == [
        ["last epoch", "5", "0.97900", "0.01000", "0.96658 to 0.99142", "0.9890", "0 of 5 (0% to 43%)"],
        ["best epoch", "5", "0.98000", "0.01000", "0.96758 to 0.99242", "0.9900", "2 of 5 (12% to 77%)"],
        ["kept model", "5", "0.98000", "0.01000", "0.96758 to 0.99242", "0.9900", "2 of 5 (12% to 77%)"],
    ]
    assert "the accuracy on the test set of the weights in the file" in explained


def test_one_trial_has_neither_sd_nor_interval():
    _, _, last, *_ = study_table(trials(0.99)).splitlines()
    assert cells(last) == ["last epoch", "1", "0.98900", "-", "-", "0.9890", "0 of 1 (0% to 79%)"]


def test_failed_trials_are_no_part_of_it_and_nothing_comes_of_nothing():
    rows = trials(0.98, 0.99)
    assert study_table([*rows, replace(FAILED, seed=9)]) == study_table(rows)
    assert study_table([replace(FAILED, seed=9)]) == study_table([]) == ""


def test_stopped_trials_count_among_those_that_the_share_is_of():
    rows = trials(0.98, 0.99, 0.97, 0.99, 0.97)
    stopped = [replace(TRIAL, seed=seed, best_accuracy=0.96, status="stopped") for seed in (5, 6, 7)]
    _, _, last, best, *_, note = study_table(rows + stopped).splitlines()
    # Wilson: the lower end for 0 and 2 of 8, the upper end for 3 and 5 of 8; n, mean and the rest are of the five.
    assert cells(last)[-1] == "0 to 3 of 8 (0% to 69%)"
    assert cells(best)[:4] == ["best epoch", "5", "0.98000", "0.01000"]
    assert cells(best)[-1] == "2 to 5 of 8 (7% to 86%)"
    assert note.startswith("Trials stopped early by the median stopping rule: 3.")


def test_a_search_says_how_many_trials_it_took():
    rows = trials(0.98, 0.985, 0.97, 0.9912)
    table = study_table([rows[0], replace(FAILED, seed=8), *rows[1:]], until=0.991)
    head, _, *lines, _, _, sentence = table.splitlines()
    assert cells(head)[-1] == "at least 99%"
    assert [cells(line)[-1] for line in lines] == ["1 of 4", "1 of 4", "1 of 4"]
    assert sentence.startswith("0.991 was first reached by seed 3, trial number 4.")
    # 1 - .975^(1/4) and 1 - .025^(1/3).
    assert "the chance of a trial between 0.6% and 70.8% (95 %, geometric distribution)" in sentence


@pytest.mark.parametrize("stopped", [0, 2])
def test_a_search_that_found_nothing_says_so(stopped):
    rows = trials(0.98, 0.985) + [replace(TRIAL, seed=5 + seed, status="stopped") for seed in range(stopped)]
    assert study_table(rows, until=0.995).splitlines()[-1] == f"None of the {2 + stopped} trials reached 0.995."


WIDE = [
    ["name", "number of trials", "said"],
    ["a", "5", "a cell of many more words than a line has"],
    ["b", "7", "[x]"],
]


def test_a_table_that_fits_the_terminal_is_one():
    assert markdown(WIDE, 80) == markdown(WIDE)


def test_a_table_wider_than_the_terminal_goes_on_below_by_columns():
    blocks = [[cells(line) for line in block.splitlines()] for block in markdown(WIDE, 36).split("\n\n")]
    assert max(map(len, markdown(WIDE, 36).splitlines())) <= 36
    assert [block[0] for block in blocks] == [["name", "number of trials"], ["name", "said"]]
    assert blocks[0][2:] == [["a", "5"], ["b", "7"]]
    # A cell goes on in its next lines, broken between words.
    assert " ".join(said for _, said in blocks[1][2:-1]) == WIDE[1][2]
    assert [name for name, _ in blocks[1][2:]] == ["a", "", "b"]
    assert blocks[1][-1] == ["b", "[x]"]
