"""A table of trials that other programs wrote again: pandas and the csv module stand for spreadsheets."""

import csv
import io
import threading
import time
from dataclasses import astuple, replace
from pathlib import Path

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_minimal.errors import UserError
from mnist_minimal.study import ledger, table
from mnist_minimal.study.ledger import COLUMNS, HEADER, Ledger
from mnist_minimal.study.study import Study
from tests.study.test_ledger import FAILED, STOPPED, TRIAL, append_row
from tests.study.test_ledger_properties import files, of_different_seeds, on_one_line

# A failed one among them makes whole numbers floats in pandas: 71.0 epochs, 9881.0 images.
ROWS = [TRIAL, replace(FAILED, seed=1), replace(STOPPED, seed=2), replace(TRIAL, seed=3, weights="sep997/3.h5")]
NEXT = replace(TRIAL, seed=4, train_seconds=98.5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "sep997.csv"
    for trial in ROWS:
        append_row(path, trial)
    return path


ORDER = [*COLUMNS[10:], *COLUMNS[:10]]
WRITINGS = {
    "as it was": {},
    "semicolons": {"sep": ";"},
    "semicolons and decimal commas": {"sep": ";", "decimal": ","},
    "tabs": {"sep": "\t"},
    "all quoted": {"quoting": csv.QUOTE_ALL},
    "quoted decimal commas": {"quoting": csv.QUOTE_ALL, "decimal": ","},
    "two decimals": {"sep": ";", "float_format": lambda value: str(value) if value % 1 else f"{value:.2f}"},
    "another order": {"columns": ORDER},
    "another order, tabs, Windows' line ends, a byte order mark": {
        "columns": ORDER,
        "sep": "\t",
        "lineterminator": "\r\n",
        "encoding": "utf-8-sig",
    },
    "numbered rows": {"index": True},
}


@pytest.mark.parametrize("how", WRITINGS)
@pytest.mark.parametrize("notes", [False, True])
def test_what_pandas_writes_is_read_and_added_to_in_its_own_way(path, how, notes):
    pandas_table = pandas.read_csv(path)
    if notes:
        pandas_table.insert(3, "my note", ["good", 'a "bad", one; yes', None, "two\nlines"])
        pandas_table["rank"] = [2.5, None, 1, 3]
    options = {"index": False, **WRITINGS[how]}
    if notes and "columns" in options:
        options["columns"] = ["rank", *ORDER, "my note"]
    pandas_table.to_csv(path, **options)
    before = path.read_bytes()
    assert ledger.is_ledger(path)
    assert ledger.read(path) == ROWS
    assert append_row(path, NEXT)
    assert path.read_bytes().startswith(before)
    assert ledger.read(path) == [*ROWS, NEXT]
    reading = {name: options[name] for name in ("sep", "decimal", "encoding") if name in options}
    again = pandas.read_csv(path, **reading)
    if notes:
        assert again["my note"].tolist()[:2] == ["good", 'a "bad", one; yes']
        assert again["my note"][3].splitlines() == ["two", "lines"]
        assert again["rank"].tolist()[::2][:2] == [2.5, 1]
        assert again[["my note", "rank"]].iloc[4].isna().all()
    assert again["train_seconds"].tolist()[-1] == 98.5
    assert again["test_correct"].tolist()[-1] == 9881


@pytest.mark.parametrize("encoding", ["cp1252", "mac_roman", "utf-8"])
def test_notes_in_another_encoding_are_kept(path, encoding):
    pandas_table = pandas.read_csv(path).assign(Größe=["schön", None, "groß", "ß"])
    pandas_table.to_csv(path, index=False, encoding=encoding)
    before = path.read_bytes()
    assert ledger.read(path) == ROWS
    assert append_row(path, NEXT)
    assert path.read_bytes().startswith(before)
    assert ledger.read(path) == [*ROWS, NEXT]
    assert pandas.read_csv(path, encoding=encoding)["Größe"].tolist()[::2][:2] == ["schön", "groß"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_rows_of_empty_fields_say_nothing(path, delimiter):
    text = path.read_text()
    if delimiter != ",":
        pandas.read_csv(path).to_csv(path, index=False, sep=delimiter)
        text = path.read_text()
    empty = delimiter * (len(COLUMNS) - 1) + "\n"
    header, *lines = text.splitlines(keepends=True)
    quoted = delimiter.join(['""'] * len(COLUMNS)) + "\n"
    path.write_text(header + empty + "\n" + "".join(lines) + empty + quoted + delimiter * 30)
    assert ledger.read(path) == ROWS
    append_row(path, NEXT)
    assert ledger.read(path) == [*ROWS, NEXT]
    assert not path.with_name("sep997.csv.torn").exists()


def test_excel_leaves_out_empty_fields_at_the_end_of_a_row_and_adds_some_behind(path):
    header, *lines = path.read_text().splitlines()
    path.write_text("\n".join([f"{header},note,,", f"{lines[0]},good", f"{lines[1]},,,,,", *lines[2:], ""]))
    assert ledger.read(path) == ROWS
    append_row(path, NEXT)
    assert ledger.read(path) == [*ROWS, NEXT]
    assert path.read_text().splitlines()[1].endswith(",good")


LINE = table.format_row(TRIAL)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (HEADER.replace(",seed", "") + "\n", "found no column seed in its header"),
        (HEADER.replace(",seed", ",Seed").replace(",", ";") + "\n", "found no column seed in its header"),
        ("model,seed,status\n", "found no column params, dataset, protocol, trainer, epochs and 13 more"),
        (HEADER + ",seed\n", "found the column seed twice in its header; remove or rename one"),
        (
            400 * "x," + "\n",
            r"found a table as text \(CSV\) that begins with 'x,x,x,.*…', expected a CSV of trials",
        ),
        ("\n" + HEADER + "\n", "found other lines above its header, expected a CSV of trials; remove these lines"),
        (f"{HEADER},note\n{LINE}", ""),
        (f"{HEADER},note\n" + LINE.replace("0.9876", "0,9876"), "line 2: .* found "),
        (f"{HEADER}\n{LINE}" + LINE.replace(",9881,", ",9.881,"), "line 3: .* found test_correct '9.881' instead of"),
        (f"{HEADER}\n{LINE}" + LINE.replace(",10000,", ",10.000,"), "line 3: .* found test_size '10.000' instead of"),
        (f"{HEADER}\n" + LINE.replace("1234.5", '"1,234"'), "line 2: .* found train_seconds '1,234' instead of a"),
        (f"{HEADER}\n" + LINE.replace("1234.5", '"1,234.5"'), "line 2: .* found train_seconds '1,234.5' instead of a"),
        (f"{HEADER}\n{LINE}more,{LINE}", "line 3: .* found 22 fields instead of 21"),
        (f"{HEADER}\n" + LINE.replace("sep997/0.h5", '"sep997\n0.h5"'), "line 2: .* a quote in the column weights"),
        (f"{HEADER}\n" + LINE.replace("keras", 300 * "k", 1).replace(",997,", ",none,"), "line 2: .* params 'none'"),
    ],
)
def test_what_is_refused_is_named_by_its_column_or_line_in_few_words(tmp_path, content, found):
    path = tmp_path / "sep997.csv"
    path.write_text(content)
    if not found:
        assert ledger.read(path) == [TRIAL]
        return
    with pytest.raises(UserError, match=rf"(?s)sep997\.csv[:,] {found}") as refused:
        ledger.read(path)
    assert len(str(refused.value)) - len(str(path)) < 250


def test_a_quote_that_nobody_closed_takes_in_no_row(tmp_path):
    path = tmp_path / "sep997.csv"
    notes = ['"good', "", "", '"']
    lines = [
        table.format_row(replace(TRIAL, seed=seed, backend="c++ avx2")).replace("\n", f",{note}")
        for seed, note in enumerate(notes)
    ]
    path.write_text("\n".join([f"{HEADER},note", *lines, ""]))
    with pytest.raises(UserError, match=r"line 2: .* a quote in the column note that is not closed on its line"):
        ledger.read(path)


@st.composite
def layouts(draw):
    own = draw(st.lists(st.sampled_from(["", "note", "a;b", 'x"y']), max_size=3))
    names = draw(st.permutations([*COLUMNS, *own]))
    return table.Layout(tuple(names), draw(st.sampled_from(table.DELIMITERS)))


def header_of(layout: table.Layout) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=layout.delimiter, lineterminator="\n").writerow(layout.names)
    return text.getvalue()


@given(layouts(), of_different_seeds(3), st.floats(0, 1))
@files
def test_in_any_layout_a_cut_row_is_known(tmp_path_factory, layout, rows, place):
    path = tmp_path_factory.mktemp("cut") / "sep997.csv"
    path.write_text(header_of(layout), encoding="utf-8")
    for trial in rows:
        assert append_row(path, trial)
    assert ledger.read(path) == [on_one_line(trial) for trial in rows]
    if not rows:
        return
    content = path.read_bytes()
    start = content[:-1].rfind(b"\n") + 1
    cut = start + int(place * (len(content) - start))
    path.write_bytes(content[:cut])
    kept = ledger.read(path)
    # All of it may be there but for empty fields of the user's own.
    assert kept in ([on_one_line(trial) for trial in rows], [on_one_line(trial) for trial in rows[:-1]])
    new = replace(TRIAL, seed=next(seed for seed in range(9) if seed not in {row.seed for row in rows}))
    assert append_row(path, new)
    assert ledger.read(path) == [*kept, new]


def aside(path: Path) -> list[str]:
    """The rows beside the CSV."""
    return path.with_name("sep997.csv.torn").read_text().splitlines(keepends=True)


def test_a_spreadsheet_that_had_opened_the_csv_before_takes_no_row_unsaid(path, capsys):
    kept = Ledger(Study.at(path))
    opened = pandas.read_csv(path)
    kept.append(NEXT)
    kept.append(replace(FAILED, seed=5))
    opened["note"] = "mine"
    opened.to_csv(path, index=False, sep=";")
    assert kept.append(replace(TRIAL, seed=6))
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "sep997.csv: another program has removed the rows of seed 4, 5; these are kept in sep997.csv.torn: " in said
    assert ledger.read(path) == kept.trials() == [*ROWS, replace(TRIAL, seed=6)]
    assert pandas.read_csv(path, sep=";")["note"].tolist()[:4] == ["mine"] * 4
    # They can be put back as they are.
    with path.open("a") as file:
        file.writelines(aside(path))
    assert ledger.read(path) == [*ROWS, replace(TRIAL, seed=6), NEXT, replace(FAILED, seed=5)]
    # Nothing more is to be said.
    assert len(kept.trials()) == len(ROWS) + 3
    assert capsys.readouterr().err == ""
    assert Ledger(Study.at(path)).has_done(4)


def test_rows_of_earlier_jobs_are_taken_no_more_unsaid(path, capsys):
    kept = Ledger(Study.at(path))
    rows = pandas.read_csv(path)
    rows.drop(index=[0, 2]).to_csv(path, index=False)
    assert [trial.seed for trial in kept.trials()] == [1, 3]
    assert "another program has removed the rows of seed 0, 2; these are kept in" in capsys.readouterr().err
    assert [table.read_row(row, table.Layout()) for row in aside(path)] == [ROWS[0], ROWS[2]]
    assert not kept.has_done(0)


def test_rows_that_were_removed_between_two_jobs_are_missed_where_their_models_are(path, capsys):
    study = Study.at(path)
    study.folder.mkdir()
    for seed in range(6):
        study.weights(seed).touch()
    # Killed between its model and its row; it is resumed.
    study.checkpoint(5).touch()
    Ledger(study)
    assert capsys.readouterr().err == (
        f"{path}: found no row of seed 4 and the models in sep997/: another program has removed the rows; put them "
        "back, or they are trained again\n"
    )


def test_a_row_that_another_program_adds_of_a_seed_that_is_being_trained_stays(path, capsys):
    kept = Ledger(Study.at(path))
    with path.open("a") as file:
        file.write(table.format_row(replace(NEXT, version="theirs")))
    assert not kept.append(replace(NEXT, version="ours"))
    assert ledger.read(path)[-1].version == "theirs"
    assert "another program has written a row of seed 4; these are kept in sep997.csv.torn: " in capsys.readouterr().err
    assert [table.read_row(row, table.Layout()).version for row in aside(path)] == ["ours"]


def test_a_seed_that_another_program_adds_is_not_trained(path):
    kept = Ledger(Study.at(path))
    with path.open("a") as file:
        file.write(table.format_row(NEXT))
    assert kept.has_done(NEXT.seed)


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_text(HEADER + "\n")])
def test_a_csv_that_goes_or_is_begun_again_is_taken_as_it_is(path, capsys, change):
    kept = Ledger(Study.at(path))
    kept.append(NEXT)
    change(path)
    assert kept.trials() == []
    assert "of seed 0, 1, 2, 3, 4;" in capsys.readouterr().err
    assert kept.append(TRIAL)
    assert ledger.read(path) == [TRIAL]
    assert [table.read_row(row, table.Layout()) for row in aside(path)] == [*ROWS, NEXT]


def test_rows_that_can_not_be_kept_are_printed(path, capsys):
    kept = Ledger(Study.at(path))
    path.with_name("sep997.csv.torn").mkdir()
    line = path.read_text().splitlines(keepends=True)[1]
    path.write_text(path.read_text().replace(line, ""))
    assert kept.append(NEXT)
    said = capsys.readouterr().err
    assert "has removed the rows of seed 0; these can't be kept (" in said
    assert said.endswith(f" and are\n{line}")


def test_a_csv_that_is_being_saved_is_waited_for(path, capsys):
    kept = Ledger(Study.at(path))
    content = pandas.read_csv(path).to_csv(index=False, sep=";").encode()
    started = threading.Event()

    def save() -> None:
        with path.open("wb") as file:
            for start in range(0, len(content), 200):
                file.write(content[start : start + 200])
                file.flush()
                started.set()
                time.sleep(0.01)

    saving = threading.Thread(target=save)
    saving.start()
    started.wait()
    assert kept.append(NEXT)
    saving.join()
    assert ledger.read(path) == [*ROWS, NEXT]
    assert capsys.readouterr().err == ""


def test_what_is_written_at_the_last_moment_is_neither_cut_nor_mixed_with_a_row(path):
    before = ledger._file_state(path)
    path.write_bytes(path.read_bytes().replace(b",", b";"))
    content = path.read_bytes()
    assert ledger._write_at_end(path, b"row\n", before) is None
    assert ledger._cut(path, 5, before) is None
    assert path.read_bytes() == content
    now = ledger._write_at_end(path, b"row\n", ledger._file_state(path))
    assert now == ledger._file_state(path)
    assert ledger._cut(path, len(content), now) == ledger._file_state(path)
    assert path.read_bytes() == content


def test_an_edit_of_a_row_counts(path, capsys):
    kept = Ledger(Study.at(path))
    kept.append(NEXT)
    path.write_text(path.read_text().replace("98.5", "99.5"))
    assert kept.trials()[-1] == replace(NEXT, train_seconds=99.5)
    assert capsys.readouterr().err == ""


def test_frame_has_the_columns_in_their_order(path):
    pandas.read_csv(path).assign(note="x")[["note", *ORDER]].to_csv(path, index=False, sep=";")
    assert list(ledger.frame(path).columns) == list(COLUMNS)
    assert astuple(TRIAL) == tuple(ledger.frame(path).iloc[0])


def test_names_with_a_dot_in_front_are_no_studies(path):
    for name in (".sep997.csv", "._sep997.csv"):
        path.with_name(name).write_bytes(path.read_bytes())
    assert ledger.find(path.parent) == [path]
