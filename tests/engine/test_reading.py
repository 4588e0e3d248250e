"""From files and folders to datasets: formats, splits by file name, empty cells, and files that must be refused."""

import csv
import os
import threading
from pathlib import Path

import pytest

from budwood.core import registry
from budwood.core.dataset import Dataset
from budwood.core.errors import DataError, NotFoundError
from budwood.data.csv import Csv
from budwood.engine.mending import write_table
from budwood.engine.reading import read_dataset, read_inputs, reader_of
from budwood.engine.table import Place, Reader

TABLES = [name for name in registry.names("data") if issubclass(registry.get("data", name), Reader)]
CSV = "text,label\ngood day,greeting\nsee you,farewell\n"
SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "text"
shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared text sets are not on this machine")


def write(folder: Path, name: str, text: str = CSV) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_column_named_split_is_refused_where_only_some_rows_name_one(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("text,label,split\na b c,x,train\nd e f,y,\ng h i,x,holdout\nj k l,y,test\n")
    with pytest.raises(
        DataError, match="2 of 4 rows name no split in the column 'split', such as '', 'holdout'"
    ) as error:
        read_dataset(path)
    assert error.value.where == "line 3, 4"
    assert "train, validation or test" in error.value.fix


def test_a_column_named_split_that_names_none_is_left_out_and_says_so(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("text,label,split\na b c,x,left\nd e f,y,right\n")
    reading = read_dataset(path)
    assert all("split" not in row for row in reading.dataset)
    (line,) = [line for line in reading.notes if line.startswith("split=")]
    assert line == "split=by chance  # the column 'split' is left out: 'left' is none of train, validation, test"


def test_a_file_becomes_rows_with_places_notes_and_facts(tmp_path):
    reading = read_dataset(write(tmp_path, "t.csv"))
    assert reading.dataset.rows == ({"text": "good day", "label": "greeting"}, {"text": "see you", "label": "farewell"})
    assert reading.places == (Place("t.csv", 2), Place("t.csv", 3))
    assert all("=" in line and "  # " in line for line in reading.notes)
    assert reading.facts["target"] == "label"
    assert reading.facts["sources"][0]["rows"] == 2


@pytest.mark.parametrize("name", ["with space.csv", "emoji 🌱.csv", "new\nline.csv", "UPPER.CSV"])
def test_odd_file_names(tmp_path, name):
    assert len(read_dataset(write(tmp_path, name)).dataset) == 2


def test_a_file_without_suffix_is_told_by_its_content(tmp_path):
    assert len(read_dataset(write(tmp_path, "plain", "ham\tsee you\r\nspam\twin now\r\nham\tok\r\n")).dataset) == 3
    lines = '{"text": "a b", "label": "x"}\n{"text": "c d", "label": "y"}\n'
    assert len(read_dataset(write(tmp_path, "lines", lines)).dataset) == 2


@pytest.mark.parametrize("name", TABLES)
def test_every_reader_keeps_the_contract(name):
    reader = registry.get("data", name)()
    assert isinstance(reader, Reader)
    assert reader.suffixes
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in reader.suffixes)
    assert reader.sniff(b"") == 0.0
    with pytest.raises(DataError):
        reader.read(b"\x00\x01\x02", "t")
    assert type(reader_of(Path("x" + reader.suffixes[0]))) is type(reader)


def test_no_suffix_is_claimed_twice():
    suffixes = [suffix for name in TABLES for suffix in registry.get("data", name).suffixes]
    assert len(suffixes) == len(set(suffixes))


def test_an_unknown_format_lists_the_known_ones(tmp_path):
    (tmp_path / "photo.xyz").write_bytes(b"\x89PNG\x00")
    with pytest.raises(DataError, match="format of the file is unknown") as caught:
        read_dataset(tmp_path / "photo.xyz")
    assert ".parquet" in caught.value.fix


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(NotFoundError):
        read_dataset(tmp_path / "none.csv")


@pytest.mark.parametrize("name", ["empty", "empty.csv", "empty.jsonl"])
def test_an_empty_file_is_refused(tmp_path, name):
    with pytest.raises(DataError, match="the file is empty"):
        read_dataset(write(tmp_path, name, ""))


def test_a_pipe_is_refused_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match="neither a file nor a folder"):
        read_dataset(tmp_path / "pipe.csv")


@pytest.mark.parametrize("change", ["grow", "same size and time", "remove"])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch, change):
    path = write(tmp_path, "t.csv")
    facts = path.stat()
    original = Csv.read

    def read_and_change(self, content, name, *, skip_bad=False):
        if change == "remove":
            path.unlink()
        else:
            path.write_text(CSV + CSV if change == "grow" else CSV.replace("good", "evil"))
            os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        return original(self, content, name, skip_bad=skip_bad)

    monkeypatch.setattr(Csv, "read", read_and_change)
    with pytest.raises(DataError, match="changed while it was read"):
        read_dataset(path)


@pytest.mark.parametrize(
    ("body", "what", "line"),
    [("good day,\nsee you,b\n", "1 of 2 rows have no label", "2"), ("a b,x\n  ,y\n", "1 of 2 rows have no text", "3")],
)
def test_empty_cells_are_named_left_out_or_kept(tmp_path, body, what, line):
    path = write(tmp_path, "t.csv", "text,label\n" + body)
    with pytest.raises(DataError, match=what) as caught:
        read_dataset(path)
    assert caught.value.where == f"t.csv: line {line}"
    skipping = read_dataset(path, skip_bad=True)
    assert len(skipping.dataset) == len(skipping.places) == 1
    assert any(note.startswith("skipped=1 rows") for note in skipping.notes)
    assert len(read_dataset(path, keep_empty=True).dataset) == 2


def test_broken_lines_left_out_are_counted(tmp_path):
    path = write(tmp_path, "t.jsonl", '{"text": "a", "label": "x"}\n{oops\n{"text": "b", "label": "y"}\n')
    reading = read_dataset(path, skip_bad=True)
    assert reading.places == (Place("t.jsonl", 1), Place("t.jsonl", 3))
    assert any(note.startswith("skipped=line 2") for note in reading.notes)


def test_half_characters_and_nul_in_a_text_are_refused(tmp_path):
    for escape in ("\\ud800", "\\u0000"):
        line = f'{{"text": "x {escape}", "label": "a"}}\n'
        with pytest.raises(DataError, match="the text holds"):
            read_dataset(write(tmp_path, "t.jsonl", line * 2))


def test_a_text_of_two_megabytes_is_refused_in_every_format(tmp_path):
    dataset = Dataset.of([{"text": "x" * 2_000_000, "label": "a"}, {"text": "y", "label": "b"}])
    for suffix in ("csv", "jsonl", "parquet"):
        write_table(dataset, tmp_path / f"t.{suffix}")
        with pytest.raises(DataError, match="characters"):
            read_dataset(tmp_path / f"t.{suffix}")


def test_several_inputs_are_joined_and_groups_kept(tmp_path):
    path = write(tmp_path, "t.csv", "title,text,label,customer\nHello,long one,a,7\n,short one,b,\n")
    reading = read_dataset(path, input="title,text", group="customer")
    assert reading.dataset.rows[0] == {"text": "Hello\nlong one", "label": "a", "group": "7"}
    assert reading.dataset.rows[1] == {"text": "short one", "label": "b"}


def test_lists_of_labels(tmp_path):
    path = write(tmp_path, "t.csv", 'text,labels\ngood day,"[""a"", ""b""]"\nsee you,[]\n')
    assert [row["label"] for row in read_dataset(path).dataset] == [["a", "b"], []]


def test_a_split_column_is_honoured(tmp_path):
    path = write(tmp_path, "t.csv", "text,label,split\ngood day,a,train\nsee you,b,dev\nhello,a,test\n")
    assert [row["split"] for row in read_dataset(path).dataset] == ["train", "validation", "test"]


@pytest.mark.parametrize(
    "names",
    [
        ("train.csv", "dev.csv", "test.csv"),
        ("Train.csv", "valid.csv", "TEST.csv"),
        ("data/train-00000-of-00001.csv", "data/validation-00000-of-00001.csv", "data/test-00000-of-00001.csv"),
        ("train/part.csv", "val/part.csv", "test/part.csv"),
    ],
)
def test_a_folder_is_read_by_its_file_names(tmp_path, names):
    for name in names:
        write(tmp_path, name)
    write(tmp_path, "zhang_test.csv")
    write(tmp_path, "README.md", "not a table")
    splits = [row["split"] for row in read_dataset(tmp_path).dataset]
    assert splits == ["train"] * 2 + ["validation"] * 2 + ["test"] * 2


def test_a_folder_without_training_file_says_what_it_trains_on(tmp_path):
    write(tmp_path, "dev.csv")
    write(tmp_path, "test.csv")
    reading = read_dataset(tmp_path)
    assert [row["split"] for row in reading.dataset] == ["train"] * 2 + ["test"] * 2
    assert "train=dev.csv  # the folder has no training file" in reading.notes


def test_a_folder_of_several_tables_without_split_names_is_asked_about(tmp_path):
    write(tmp_path, "a.csv")
    assert len(read_dataset(tmp_path).dataset) == 2
    write(tmp_path, "b.csv")
    with pytest.raises(DataError, match="does not say which file is for training") as caught:
        read_dataset(tmp_path)
    assert "a.csv, b.csv" in caught.value.where


def test_a_folder_that_cannot_be_listed_is_a_data_error(tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match="the folder cannot be read: Permission denied"):
        read_dataset(tmp_path)


def test_single_labels_and_lists_of_labels_in_one_folder_are_refused(tmp_path):
    write(tmp_path, "train.jsonl", '{"text": "a b", "label": ["x"]}\n')
    write(tmp_path, "test.jsonl", '{"text": "a b", "label": "x"}\n')
    with pytest.raises(DataError, match="others have lists of labels"):
        read_dataset(tmp_path)


def test_inputs_need_no_label(tmp_path):
    path = write(tmp_path, "t.txt", "Where is my parcel?\nIt came today\n")
    assert read_inputs(path) == [{"text": "Where is my parcel?"}, {"text": "It came today"}]
    assert read_inputs(write(tmp_path, "t.csv")) == [{"text": "good day"}, {"text": "see you"}]


def test_several_threads_may_read_at_once(tmp_path):
    path = write(tmp_path, "t.csv", "text,label\n" + "".join(f"{'long ' * 40_000}{i},a\n" for i in range(4)) + "b,b\n")
    sizes: list[int] = []
    threads = [threading.Thread(target=lambda: sizes.append(len(read_dataset(path).dataset))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sizes == [5] * 8


@shared
@pytest.mark.parametrize(
    ("name", "rows", "classes", "first"),
    [
        ("banking77/train.csv", 10003, 77, "I am still waiting on my card?"),
        ("banking77/test.csv", 3080, 77, "How do I locate my card?"),
        ("ag_news/dev.tsv", 10001, 4, "p2pnet.net News:- "),
        ("ag_news/test.tsv", 7600, 4, "Unions representing workers at Turner   Newall"),
        ("sms_spam/SMSSpamCollection", 5574, 2, "Go until jurong point, crazy.."),
        ("sst2/train.txt", 67349, 2, "hide new secretions from the parental units "),
        ("sst2/dev.tsv", 872, 2, "it 's a charming and often affecting journey . "),
        ("sst2/test.txt", 1821, 2, "uneasy mishmash of styles and genres . "),
    ],
)
def test_public_sets_are_read_whole(name, rows, classes, first):
    reading = read_dataset(SHARED / name)
    assert len(reading.dataset) == rows
    assert len({row["label"] for row in reading.dataset}) == classes
    assert reading.dataset.rows[0]["text"].startswith(first)


@shared
def test_a_public_tab_table_with_unbalanced_quotes_is_read_verbatim():
    path = SHARED / "sms_spam" / "SMSSpamCollection"
    cells = [line.split("\t") for line in path.read_text(encoding="utf-8").split("\n") if line]
    assert [[row["label"], row["text"]] for row in read_dataset(path).dataset] == cells


@shared
@pytest.mark.parametrize("name", ["dev.tsv", "test.tsv"])
def test_a_public_tab_table_with_quoted_cells_is_unquoted(name):
    path = SHARED / "ag_news" / name
    with path.open(encoding="utf-8", newline="") as file:
        cells = list(csv.reader(file, delimiter="\t"))
    assert [[row["text"], row["label"]] for row in read_dataset(path).dataset] == cells


@shared
def test_a_public_set_with_two_texts_a_row_is_asked_about():
    path = SHARED / "ag_news" / "zhang_test.csv"
    with pytest.raises(DataError, match="several columns may be the text"):
        read_dataset(path)
    assert "\n" in read_dataset(path, input="column_2,column_3").dataset.rows[0]["text"]


def test_texts_to_write_like_keep_their_groups_and_splits(tmp_path):
    path = write(tmp_path, "t.csv", "story,author,split\none,a,train\n,a,test\ntwo,,test\nthree,b,validation\n")
    reading = read_dataset(path, group="author", task="text_generation")
    assert [dict(row) for row in reading.dataset] == [
        {"text": "one", "group": "a", "split": "train"},
        {"text": "two", "split": "test"},
        {"text": "three", "group": "b", "split": "validation"},
    ]
    assert reading.facts["group"] == "author"
    with pytest.raises(DataError, match="no column 'nope'"):
        read_dataset(path, group="nope", task="text_generation")


def test_file_names_go_before_a_column_of_splits(tmp_path):
    for name in ("train.csv", "test.csv"):
        write(tmp_path, name, f"text,split\n{name},dev\n")
    rows = read_dataset(tmp_path, task="text_generation").dataset.rows
    assert [(row["text"], row["split"]) for row in rows] == [("train.csv", "train"), ("test.csv", "test")]
