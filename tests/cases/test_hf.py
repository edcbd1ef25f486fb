"""`hf:` names are looked up before anything is searched, and rows are judged together."""

from __future__ import annotations

import gzip
import json
import lzma
import time
from pathlib import Path
from typing import Any

import pytest

from mspgt_tl.corpora.text import read_text_corpus
from mspgt_tl.errors import CorpusError

CASES = Path(__file__).parents[3] / "shared/cases/hf"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not beside this checkout")
RIVER = "The river flows through the city and into the sea."
DOGS = "Two dogs were sleeping in the garden."


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own for whatever the `datasets` library keeps."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def save(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@needs_cases
@pytest.mark.parametrize(("name", "count"), [("nulltext.jsonl", 1), ("a.tsv", 1), ("a.jsonl.gz", 3)])
def test_shared_files_are_read(name: str, count: int) -> None:
    """A null in the first row, tabs and gzip hide no text column."""
    assert read_text_corpus(f"hf:{CASES / name}").sentences == (RIVER,) * count


def test_nulls_are_counted_wherever_they_are(tmp_path: Path) -> None:
    """Nulls before and between the rows are left out; a column of nothing else is named as such."""
    path = save(tmp_path / "a.jsonl", [{"id": i, "text": None if i < 5 or i == 7 else RIVER} for i in range(9)])
    corpus = read_text_corpus(f"hf:{path}")
    assert corpus.sentences == (RIVER,) * 3 and corpus.notes == {"rows without text": 6}
    save(path, [{"text": None, "body": RIVER}] * 3)
    with pytest.raises(CorpusError, match=r"'text' is null in the first 3 rows\. Name one with #COLUMN: body"):
        read_text_corpus(f"hf:{path}#text")
    assert read_text_corpus(f"hf:{path}").sentences == (RIVER,) * 3


def test_columns_that_hold_no_text_are_named(tmp_path: Path) -> None:
    """Lists of sentences are no text."""
    path = save(tmp_path / "a.jsonl", [{"text": [RIVER], "body": DOGS, "more": DOGS}] * 2)
    with pytest.raises(CorpusError, match=r"'text' is none\. Name one with #COLUMN: body, more"):
        read_text_corpus(f"hf:{path}#text")


def test_data_named_txt_is_read_as_data(tmp_path: Path) -> None:
    """The way out that a refused text is given works, whatever the name."""
    path = save(tmp_path / "a.txt", [{"body": RIVER}])
    with pytest.raises(CorpusError, match="JSON lines; read its text column with hf:"):
        read_text_corpus(path)
    assert read_text_corpus(f"hf:{path}#body").sentences == (RIVER,)
    path.write_text(f"{RIVER}\n{DOGS}\n")
    assert read_text_corpus(f"hf:{path}").sentences == (RIVER, DOGS)


def test_lone_quotation_marks_swallow_no_rows(tmp_path: Path) -> None:
    """Tables of tabs rarely quote."""
    path = tmp_path / "a.tsv"
    path.write_text(f'id\ttext\n1\t"{RIVER}\n2\t{DOGS}\n')
    assert read_text_corpus(f"hf:{path}").sentences == (f'"{RIVER}', DOGS)


def test_rows_that_break_late_are_one_line(tmp_path: Path) -> None:
    """A damaged row far below is told by its place, not by a traceback."""
    path = save(tmp_path / "a.jsonl", [{"text": RIVER}] * 300)
    path.write_text(path.read_text() * 200 + "{broken\n")
    with pytest.raises(CorpusError, match="loading it failed"):
        read_text_corpus(f"hf:{path}", limit=None)


def test_several_columns_of_text_must_be_named(tmp_path: Path) -> None:
    """Without a `text` among them, none is guessed."""
    path = save(tmp_path / "a.jsonl", [{"title": DOGS, "body": RIVER, "n": 3}])
    with pytest.raises(CorpusError, match=r"'text' is none\. Name one with #COLUMN: title, body\."):
        read_text_corpus(f"hf:{path}")
    with pytest.raises(CorpusError, match=r"'n' is none\. Name one with #COLUMN: title, body\."):
        read_text_corpus(f"hf:{path}#n")


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
@pytest.mark.parametrize(("suffix", "separator"), [(".csv", ","), (".tsv", "\t")])
def test_tables_are_read_packed_and_not(tmp_path: Path, pack: Any, suffix: str, separator: str) -> None:
    """Comma and tab are told by the name below the compression."""
    content = f"id{separator}text\n1{separator}{RIVER}\n2{separator}{DOGS}\n".encode()
    plain, packed = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}{'.gz' if pack is gzip.compress else '.xz'}"
    plain.write_bytes(content)
    packed.write_bytes(pack(content))
    for path in (plain, packed):
        assert read_text_corpus(f"hf:{path}").sentences == (RIVER, DOGS)


def test_zstandard_is_read(tmp_path: Path) -> None:
    """The library is given what it needs for .zst."""
    from mspgt_tl.corpora.lines import zstd_module

    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstd_module().compress((json.dumps({"text": RIVER}) + "\n").encode() * 2))
    assert read_text_corpus(f"hf:{path}").sentences == (RIVER, RIVER)


def test_content_tells_where_the_name_does_not(tmp_path: Path) -> None:
    """JSON lines without a suffix are JSON lines; what is no data is refused."""
    assert read_text_corpus(f"hf:{save(tmp_path / 'data', [{'text': RIVER}] * 2)}").sentences == (RIVER,) * 2
    (tmp_path / "page").write_text(f"<p>{RIVER}</p>")
    with pytest.raises(CorpusError, match="this is HTML"):
        read_text_corpus(f"hf:{tmp_path / 'page'}")


@pytest.mark.parametrize(
    "name",
    ["/no/such/folder", "./none", "~/none", "../none/a", "data/none.jsonl", "a/b/c/d", ".", "/", "", "~nobody/a"],
)
def test_paths_are_never_searched_for(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A typo is told within a moment, and the library is not asked."""
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("the library was asked"))
    monkeypatch.chdir(tmp_path)
    start = time.perf_counter()
    with pytest.raises(CorpusError, match=r"is not there|holds over|holds no file|name is empty"):
        read_text_corpus(f"hf:{name}")
    assert time.perf_counter() - start < 5


def test_typos_name_what_is_close(tmp_path: Path) -> None:
    """The closest name in the folder is offered."""
    save(tmp_path / "rivers.jsonl", [{"text": RIVER}])
    with pytest.raises(CorpusError, match=r"Did you mean 'rivers\.jsonl'\?"):
        read_text_corpus(f"hf:{tmp_path / 'river.jsonl'}")


def test_signs_inside_paths_belong_to_them(tmp_path: Path) -> None:
    """`@` and `#` in a folder's name are no split and no column."""
    folder = tmp_path / "me@mail#1"
    folder.mkdir()
    path = save(folder / "a.jsonl", [{"text": RIVER, "body": DOGS}])
    assert read_text_corpus(f"hf:{path}").sentences == (RIVER,)
    assert read_text_corpus(f"hf:{path}@train#body").sentences == (DOGS,)


@pytest.mark.parametrize("streamed", [False, True])
def test_missing_splits_name_the_known_ones(tmp_path: Path, streamed: bool) -> None:
    """A saved DatasetDict, or a folder of files, without `train`."""
    import datasets

    if streamed:
        save(tmp_path / "test.jsonl", [{"text": RIVER}])
    else:
        table = datasets.Dataset.from_list([{"text": RIVER}])
        datasets.DatasetDict({"dev": table, "test": table}).save_to_disk(str(tmp_path))
    with pytest.raises(CorpusError, match=r"there is no 'train'; name one with @SPLIT: .*test"):
        read_text_corpus(f"hf:{tmp_path}")
    assert read_text_corpus(f"hf:{tmp_path}@test").sentences == (RIVER,)


def test_rows_of_several_sentences_are_documents(tmp_path: Path) -> None:
    """Rows of one sentence may be lines of anything; articles marked by titles go by their titles."""
    path = save(tmp_path / "a.jsonl", [{"text": f"{RIVER} {DOGS}"}, {"text": f"{RIVER}\n{DOGS}"}])
    assert read_text_corpus(f"hf:{path}").documents == (0, 0, 1, 1)
    save(path, [{"text": RIVER}, {"text": DOGS}])
    assert read_text_corpus(f"hf:{path}").documents is None
    rows = [" = One = \n", f" {RIVER} {DOGS} \n", f" {DOGS} {RIVER} \n", " = Two = \n", f" {RIVER} {DOGS} \n"]
    save(path, [{"text": text} for text in rows])
    assert read_text_corpus(f"hf:{path}").documents == (1, 1, 1, 1, 2, 2)


def test_rows_are_never_joined(tmp_path: Path) -> None:
    """A row that ends without a full stop does not run into the next, wrapped lines inside a row do join."""
    path = save(
        tmp_path / "a.jsonl",
        [{"text": "The river flows through\nthe city. Two dogs"}, {"text": "sleep here now. He saw\nit."}],
    )
    assert read_text_corpus(f"hf:{path}").sentences == ("The river flows through the city.",)
