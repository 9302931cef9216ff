"""The CSV of trials under whatever may happen to a file: what was recorded is there exactly once, or kept aside."""

import csv
import io
import os
import re
import socket
import string
import subprocess
import sys
import tempfile
from dataclasses import astuple, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mnist_minimal.errors import UserError
from mnist_minimal.study import ledger, table
from mnist_minimal.study.ledger import COLUMNS, HEADER, Ledger
from mnist_minimal.study.study import Study
from mnist_minimal.trial import Trial
from tests.conftest import REPOSITORY
from tests.study.test_ledger import FAILED, TRIAL, append_row

# Each example writes and syncs files, whose time is the disk's.
settings.register_profile("files", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=100)
files = settings.get_profile("files")

# Texts are of all that Unicode has, halves of surrogate pairs too, and often of what parsers stumble over.
TROUBLE = "\n\r\t\x00\x0b\x0c\x1c\x1d\x1e\x1f\x7f\x85\u2028\u2029\ufeff\xa0\ud800\udcff\",';\\=+@ é€😀"
texts = st.text(
    st.one_of(st.sampled_from(TROUBLE), st.characters(), st.sampled_from(string.ascii_letters)), max_size=40
)
counts = st.integers(1, 10**12)
accuracies = st.floats(0, 1, allow_subnormal=False).map(abs)
seconds = st.floats(0, 1e9).map(abs)


@st.composite
def trials(draw, seeds=None):
    status = draw(st.sampled_from(["finished", "stopped", "failed"]))
    size = draw(counts)
    figures = {
        "epochs": draw(counts),
        "best_epoch": draw(counts),
        "saved_accuracy": draw(accuracies),
        "best_accuracy": draw(accuracies),
        "test_correct": draw(st.integers(0, size)),
        "train_seconds": draw(seconds),
        "cpu_seconds": draw(seconds),
    }
    if status == "failed":
        figures = {name: value if draw(st.booleans()) else None for name, value in figures.items()}
    columns = ("model", "dataset", "protocol", "trainer", "finished_at", "version", "weights", "backend", "reason")
    return Trial(
        **{name: draw(texts) for name in columns},
        **figures,
        params=draw(counts),
        seed=draw(st.integers(0, 2**32 - 1) if seeds is None else seeds),
        test_size=size,
        max_epochs=draw(counts),
        status=status,
    )


def of_different_seeds(max_size):
    return st.lists(trials(), max_size=max_size, unique_by=lambda trial: trial.seed)


def on_one_line(trial: Trial) -> Trial:
    """The trial as its row has it: white space as single spaces, control characters and lone surrogates as escapes."""

    def told(text: str) -> str:
        characters = []
        for character in " ".join(text.split()):
            if ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0:
                characters.append(f"\\x{ord(character):02x}")
            elif 0xD800 <= ord(character) < 0xE000:
                characters.append(f"\\u{ord(character):04x}")
            else:
                characters.append(character)
        return "".join(characters)

    return Trial(*(told(value) if isinstance(value, str) else value for value in astuple(trial)))


def new_path() -> Path:
    return Path(tempfile.mkdtemp(dir=FOLDER)) / "sep997.csv"


@pytest.fixture(scope="module", autouse=True)
def _folder(tmp_path_factory):
    global FOLDER
    FOLDER = tmp_path_factory.mktemp("ledgers")


def written(rows) -> Path:
    path = new_path()
    for trial in rows:
        assert append_row(path, trial)
    return path


def torn(path: Path) -> bytes:
    kept = path.with_name(f"{path.name}.torn")
    return kept.read_bytes() if kept.exists() else b""


@given(of_different_seeds(4))
@files
def test_what_is_appended_is_read_again(rows):
    path = written(rows)
    assert ledger.read(path) == [on_one_line(trial) for trial in rows]
    # Any other reader of CSVs finds as many rows of as many fields, each on one line.
    if rows:
        found = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
        assert [len(row) for row in found] == [len(COLUMNS)] * (len(rows) + 1)
        assert path.read_bytes().count(b"\n") == len(rows) + 1
        assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", path.read_bytes())


@given(of_different_seeds(3), trials(), st.floats(0, 1))
@example([replace(TRIAL, reason="é€😀" * 9)], replace(TRIAL, seed=1), 0.99)
@files
def test_a_file_cut_anywhere_loses_the_torn_row_alone(rows, last, place):
    assume(all(row.seed != last.seed for row in rows))
    path = written([*rows, last])
    content = path.read_bytes()
    cut = int(place * len(content))
    path.write_bytes(content[:cut])
    # The last row is whole, too, without the end of its line.
    whole = [on_one_line(row) for row in [*rows, last]][: max(0, content[: cut + 1].count(b"\n") - 1)]
    assert ledger.read(path) == whole
    new = replace(TRIAL, seed=next(seed for seed in range(9) if seed not in {row.seed for row in [*rows, last]}))
    assert append_row(path, new)
    assert ledger.read(path) == [*whole, new]
    ended = cut and content[cut - 1 : cut] == b"\n"
    kept = content[:cut].rsplit(b"\n", 1)[-1]
    if ended or (len(whole) and content[cut : cut + 1] == b"\n"):
        assert torn(path) == b""
        assert path.read_bytes().startswith(content[:cut])
    else:
        # Empty fields alone, as where a text was empty, say nothing: no row that is lost.
        assert torn(path) == (kept + b"\n" if kept.strip(b",") else b"")
        assert path.read_bytes().startswith(content[: cut - len(kept)])


row_bytes = st.binary(max_size=60) | st.sampled_from([HEADER.encode(), b"\xef\xbb\xbf", b"\r\n", b"\n", b"\r", b'"'])


@given(st.lists(row_bytes | trials().map(lambda trial: table.format_row(trial).encode()), max_size=6).map(b"".join))
@example(HEADER.encode()[:50])
@example(HEADER.encode())
@example(b"\xef\xbb\xbf")
@example(b"some notes of mine, without a line end")
@example(b"\xff\xfem\x00o\x00d\x00e\x00l\x00")
@example(HEADER.encode() + b"\r" + table.format_row(TRIAL, line_end="\r").encode())
@example(HEADER.encode() + b"\n" + table.format_row(TRIAL).encode().rstrip() + b"\n\n\x00\x00\x00")
@files
def test_no_byte_of_any_file_is_lost(content):
    path = new_path()
    path.write_bytes(content)
    try:
        before = ledger.read(path)
    except UserError:
        with pytest.raises(UserError, match=re.escape(str(path))):
            append_row(path, replace(TRIAL, seed=77))
        assert path.read_bytes() == content
        assert torn(path) == b""
        return
    new = replace(TRIAL, seed=next(seed for seed in range(9) if seed not in {row.seed for row in before}))
    assert append_row(path, new)
    assert ledger.read(path) == [*before, new]
    after, aside = path.read_bytes(), torn(path)
    kept = len(content) - len(aside[:-1])
    assert after.startswith(content[:kept])
    assert content[kept:] == aside[:-1]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@given(rows=of_different_seeds(3), mark=st.booleans(), blank=st.integers(0, 3), quoted=st.booleans())
@settings(files, max_examples=20)
def test_what_a_spreadsheet_makes_of_it_is_the_same(line_end, rows, mark, blank, quoted):
    path = written(rows)
    found = list(csv.reader([*path.read_text(encoding="utf-8").split("\n")[:-1]] if rows else [HEADER]))
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=line_end, quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL).writerows(found)
    path.write_bytes((("\ufeff" if mark else "") + text.getvalue() + blank * line_end).encode())
    assert ledger.is_ledger(path)
    expected = [on_one_line(row) for row in rows]
    assert ledger.read(path) == expected
    new = replace(TRIAL, seed=next(seed for seed in range(9) if seed not in {row.seed for row in rows}))
    assert append_row(path, new)
    assert ledger.read(path) == [*expected, new]
    assert torn(path) == b""


def test_a_line_ends_with_nothing_but_a_line_end(tmp_path):
    # Python's splitlines() takes all of these for the ends of lines, and a spreadsheet none.
    odd = replace(FAILED, reason="a\x0bb\x0cc\x1cd\x1de\x1ef\x85g\u2028h\u2029i")
    path = tmp_path / "sep997.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([COLUMNS, ["" if value is None else value for value in astuple(odd)]])
    assert ledger.read(path) == [odd]
    assert append_row(path, TRIAL)
    assert ledger.read(path) == [odd, TRIAL]


SAID = dict(zip(COLUMNS, astuple(TRIAL), strict=True))


@pytest.mark.parametrize(
    ("column", "text", "complaint"),
    [
        ("epochs", "-3", "epochs '-3' instead of a whole number from 1 to"),
        ("epochs", "0", "epochs '0'"),
        ("best_epoch", "0", "best_epoch '0'"),
        ("max_epochs", "0", "max_epochs '0'"),
        ("seed", "1000000000000", "seed '1000000000000' instead of a whole number from 0 to 4294967295"),
        ("seed", "4294967296", "seed"),
        ("seed", "1e9", "seed '1e9'"),
        ("seed", "1_000", "seed '1_000'"),
        ("seed", "\u0661\u0662", "seed '\u0661\u0662'"),
        ("seed", " 1", "seed ' 1'"),
        ("seed", "+1", r"seed '\+1'"),
        ("params", "1" + 400 * "0", r"params '10+' instead of"),
        ("params", "0", "params '0'"),
        ("params", 5000 * "9", r"params '9+' instead of"),
        ("test_size", "0", "test_size '0'"),
        ("test_correct", "10001", "10001 of 10000 test images right"),
        ("test_correct", "-1", "test_correct '-1'"),
        ("saved_accuracy", "nan", r"saved_accuracy 'nan' instead of a number in \[0, 1\]"),
        ("best_accuracy", "1.0000001", "best_accuracy '1.0000001'"),
        ("best_accuracy", "0.9_9", "best_accuracy '0.9_9'"),
        ("best_accuracy", "-0.1", "best_accuracy '-0.1'"),
        ("best_accuracy", "0,99", "22 fields instead of 21"),
        ("train_seconds", "inf", "train_seconds 'inf' instead of a number of at least 0"),
        ("train_seconds", "1e999", "train_seconds '1e999'"),
        ("cpu_seconds", "-1.5", "cpu_seconds '-1.5'"),
        ("status", "Finished", "status 'Finished' instead of finished, stopped or failed"),
        ("reason", '"', "text that is no CSV"),
        ("reason", 200_000 * "x", r"text that is no CSV \(field larger than field limit"),
        ("reason", '"two\nlines"', "a quote in the column reason that is not closed on its line"),
    ],
)
def test_figures_that_no_trial_has_are_refused(tmp_path, column, text, complaint):
    path = tmp_path / "sep997.csv"
    row = ",".join(str(text if name == column else f'"{value}"') for name, value in SAID.items())
    path.write_text(f"{HEADER}\n{row}\n", encoding="utf-8")
    with pytest.raises(
        UserError, match=rf"(?s)sep997\.csv, line 2: .*({complaint}).*fix or remove the line"
    ) as refused:
        ledger.read(path)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("first", [TRIAL, replace(TRIAL, status="stopped")])
def test_a_seed_that_ended_twice_is_refused_with_both_lines(tmp_path, first):
    path = written([first, replace(FAILED, seed=1), replace(TRIAL, seed=1)])
    row = table.format_row(replace(TRIAL, saved_accuracy=0.9, finished_at="another day"))
    path.write_text(f"{path.read_text()}\n{row}")
    before = path.read_bytes()
    expected = "line 6: expected a trial, found seed 0, which came to its end on line 2 already; fix or remove the line"
    with pytest.raises(UserError, match=expected):
        ledger.read(path)
    with pytest.raises(UserError, match=expected):
        append_row(path, replace(TRIAL, seed=5))
    assert path.read_bytes() == before


def test_a_long_reason_is_shortened_and_read_again(tmp_path):
    path = written([replace(FAILED, reason=500_000 * "long ")])
    (found,) = ledger.read(path)
    assert 900 < len(found.reason) <= 1000
    assert found.reason.endswith("…")


def test_a_line_of_other_bytes_is_named(tmp_path):
    path = written([TRIAL, replace(TRIAL, seed=1, weights="sep997/1.h5")])
    path.write_bytes(path.read_bytes().replace(b"sep997/1", b"sep\xff/1"))
    with pytest.raises(
        UserError, match="line 3: expected a trial, found bytes that are no UTF-8 in the column weights"
    ):
        ledger.read(path)


def test_what_is_no_file_is_refused_at_once(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "device.csv").symlink_to("/dev/zero")
    (tmp_path / "socket.csv").touch()
    with socket.socket(socket.AF_UNIX) as listening:
        (tmp_path / "socket.csv").unlink()
        monkeypatch.chdir(tmp_path)  # The names of sockets are short.
        listening.bind("socket.csv")
        for name in ("pipe", "folder", "device", "socket"):
            assert not ledger.is_ledger(tmp_path / f"{name}.csv")
            with pytest.raises(UserError, match=rf"{name}\.csv: "):
                ledger.read(tmp_path / f"{name}.csv")
            with pytest.raises(UserError, match=rf"{name}\.csv: "):
                append_row(tmp_path / f"{name}.csv", TRIAL)


def test_a_file_too_large_is_refused_unread(tmp_path):
    path = tmp_path / "sep997.csv"
    with path.open("wb") as file:
        file.write(HEADER.encode() + b"\n")
        file.truncate(1 << 40)
    with pytest.raises(UserError, match=r"expected a file of at most 2,000,000,000 bytes, found a larger one"):
        ledger.read(path)


def test_a_row_takes_little_memory(tmp_path):
    # The shortest rows make the most trials of a file.
    texts = dict.fromkeys(
        ("model", "dataset", "protocol", "trainer", "finished_at", "version", "weights", "reason"), "ab"
    )
    row = table.format_row(replace(FAILED, params=1, max_epochs=1, test_size=1, **texts))
    count = 50_000
    (tmp_path / "sep997.csv").write_text(f"{HEADER}\n{count * row}")
    program = """
import resource, sys
from pathlib import Path
from mnist_minimal.study import ledger, table
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = len(ledger.read(Path(sys.argv[1])))
print(found, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "sep997.csv"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    found, taken = map(int, done.stdout.split())
    assert found == count
    assert taken < 3000 * count


seeds = st.integers(0, 5)


NOTES = ["", "good", 'a "quoted" one', "1;2", "a\tb", "3,5"]


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_waited_for():
    """Here nobody writes while the ledger reads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "MOMENT", 0)
        yield


class LedgerMachine(RuleBasedStateMachine):
    """A CSV in use: appended to, cut by crashes, rewritten by spreadsheets and editors.

    The model is the list of its whole rows, the notes of the user's own beside them, the columns and the delimiter, and
    how many lines were put beside it.
    """

    @initialize()
    def begin(self):
        self.path = new_path()
        self.ledger = Ledger(Study.at(self.path))
        self.rows, self.notes = [], []
        self.names, self.delimiter = list(COLUMNS), ","
        # Seeds that another program has added.
        self.others = set()
        self.aside = 0

    def ended(self, seed):
        return any(row.seed == seed and row.status != "failed" for row in self.rows)

    def content(self):
        return self.path.read_bytes() if self.path.exists() else b""

    def add(self, trial, note=""):
        self.rows.append(on_one_line(trial))
        self.notes.append(note)

    def layout(self):
        return table.Layout(tuple(self.names), self.delimiter)

    def cells(self):
        """The table as any other reader of CSVs has it, by column."""
        text = io.StringIO(self.content().decode("utf-8"), newline="")
        return list(csv.DictReader(text, delimiter=self.delimiter, restval=""))

    @rule(trial=trials(seeds))
    def append(self, trial):
        before = self.content()
        assert self.ledger.append(trial) == (not self.ended(trial.seed))
        if self.ended(trial.seed):
            assert self.content() == before
            self.aside += trial.seed in self.others
        else:
            self.add(trial)
            self.others.discard(trial.seed)

    @rule(trial=trials(seeds), share=st.floats(0, 0.999))
    def crash_while_appending(self, trial, share):
        if self.ended(trial.seed) or not self.rows:
            return
        line = table.format_row(trial, self.layout()).rstrip("\n")
        # Of the last fields those of the user's own are empty, and no loss.
        whole = line.rstrip(self.delimiter) if self.layout().status_last else line
        cut = line.encode()[: int(share * (len(whole.encode()) - 1))]
        # A crash leaves what was there, and then a part; the next append ends a line that lacks its end, or moves it.
        append_to = replace(FAILED, seed=99)
        self.append(append_to)
        with self.path.open("ab") as file:
            file.write(cut)
        before, aside = self.content(), torn(self.path)
        assert ledger.read(self.path) == self.rows
        self.append(append_to)
        empty = not cut.strip(self.delimiter.encode() + b'"')
        assert self.content().startswith(before if empty and cut else before[: len(before) - len(cut)])
        assert torn(self.path) == aside + (b"" if empty else cut + b"\n")
        self.aside += not empty

    @rule()
    def lose_the_last_line_end(self):
        self.path.write_bytes(self.content().removesuffix(b"\n").removesuffix(b"\r") if self.rows else b"")
        self.begin_again()

    @rule(end=st.sampled_from([b"\n", b"\r\n"]))
    def save_from_an_editor(self, end):
        self.path.write_bytes(re.sub(b"\r?\n", end, self.content()))

    @rule(data=st.data(), delimiter=st.sampled_from(table.DELIMITERS), quoted=st.booleans(), commas=st.booleans())
    def save_from_a_spreadsheet(self, data, delimiter, quoted, commas):
        if not self.rows:
            return
        cells = self.cells()
        self.notes = data.draw(st.lists(st.sampled_from(NOTES), min_size=len(self.rows), max_size=len(self.rows)))
        self.names, self.delimiter = data.draw(st.permutations([*COLUMNS, "note"])), delimiter
        text = io.StringIO(newline="")
        quoting = csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL
        writer = csv.DictWriter(text, self.names, delimiter=delimiter, quoting=quoting, extrasaction="ignore")
        writer.writeheader()
        for row, note in zip(cells, self.notes, strict=True):
            if commas:
                row.update({name: row[name].replace(".", ",") for name in ("saved_accuracy", "best_accuracy")})
            writer.writerow({**row, "note": note})
        self.path.write_bytes(text.getvalue().encode())

    @rule()
    def remove_the_last_row_by_hand(self):
        lines = self.content().splitlines(keepends=True)
        # An empty line or one of empty fields may come from a crash.
        filled = [number for number, line in enumerate(lines) if line.strip(b'\r\n,;\t"')]
        if self.rows:
            self.path.write_bytes(b"".join(lines[: filled[-1]]))
            gone = self.rows.pop()
            self.notes.pop()
            # Of a seed that failed twice one failure is as good as the other.
            left = {(row.seed, row.status == "failed") for row in self.rows}
            self.aside += (gone.seed, gone.status == "failed") not in left

    def begin_again(self):
        if not self.rows:
            self.names, self.delimiter = list(COLUMNS), ","

    @rule(trial=trials(seeds), note=st.sampled_from(NOTES))
    def append_from_another_program(self, trial, note):
        if not self.rows or self.ended(trial.seed) or not self.content().endswith(b"\n"):
            return
        text = io.StringIO(newline="")
        note = note if "note" in self.names else ""
        fields = dict(zip(COLUMNS, astuple(on_one_line(trial)), strict=True), note=note)
        csv.DictWriter(
            text, self.names, delimiter=self.delimiter, quoting=csv.QUOTE_ALL, extrasaction="ignore"
        ).writerow({name: "" if value is None else value for name, value in fields.items()})
        with self.path.open("ab") as file:
            file.write(text.getvalue().encode())
        self.add(trial, note)
        if trial.status != "failed":
            self.others.add(trial.seed)

    @invariant()
    def every_row_is_there_exactly_once(self):
        found = ledger.read(self.path)
        assert found == self.ledger.trials() == self.rows
        ends = [trial.seed for trial in ledger.done(found)]
        assert len(ends) == len(set(ends))
        assert ledger.accuracies(found, "best") == [row.best_accuracy for row in self.rows if row.status == "finished"]

    @invariant()
    def no_note_is_lost_and_what_another_program_removed_is_kept(self):
        if "note" in self.names and self.rows:
            filled = [row for row in self.cells() if any(row.values())]
            assert [row["note"] for row in filled][: len(self.rows)] == self.notes
        assert torn(self.path).count(b"\n") == self.aside


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(files, max_examples=25, stateful_step_count=15)
