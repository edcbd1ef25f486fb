"""Reads and writes treebanks with four label layers: CoNLL-U and CoNLL-U Plus.

Layers and their columns: part of speech (`UPOS`), dependency relation (`HEAD`, `DEPREL`), named entities (`UNER:NER` or
`NER`, or `NER=` in MISC) and semantic roles (`UP:PRED`, `UP:ARGHEADS`, the convention of Universal PropBank 2.0).
Single fields are parsed by `conllu`; lines are cut here, because it keeps no line numbers and lets short rows pass.
"""

from __future__ import annotations

import hashlib
import lzma
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mspgt_tl.contracts import TASKS, Argument, Tree, Treebank, Word
from mspgt_tl.corpora.lines import read_lines
from mspgt_tl.errors import CorpusError

CONLLU = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
NER_COLUMNS = ("UNER:NER", "NER")
PREDICATE, ARGUMENTS = "UP:PRED", "UP:ARGHEADS"
COLUMNS = (*CONLLU, NER_COLUMNS[0], PREDICATE, ARGUMENTS)

SHOWN = 3
"""Malformed places named in a message; the rest are counted."""

_BIO = re.compile(r"O|[BI]-.+")
_ARGUMENT = re.compile(r"([^:|]+):([1-9][0-9]*)")
_COLUMNS_LINE = re.compile(r"#\s*global\.columns\s*=\s*(.+)")


def read_treebank(train: Path, dev: Path, *, skip_bad: bool = False) -> Treebank:
    """Read a treebank from its two files (`.xz` is decompressed).

    Args:
        train: Trees to train probes on.
        dev: Trees to measure probes on.
        skip_bad: Leave malformed sentences out, with a warning that counts them, instead of raising.

    Returns:
        The treebank; its `tasks` are the layers that both files label, and `sha256` hashes the bytes of both files.

    Raises:
        CorpusError: a file is missing, unreadable, malformed or empty, or no layer is in both files.
    """
    splits = tuple(read_trees(path, skip_bad=skip_bad) for path in (train, dev))
    layers = [_find_layers(trees) for trees in splits]
    tasks = tuple(task for task in TASKS if all(task in found for found in layers))
    if not tasks:
        found = "; ".join(
            f"{path.name} has {', '.join(sorted(names)) or 'none'}"
            for path, names in zip((train, dev), layers, strict=True)
        )
        raise CorpusError(
            f"Labels of one or more layers in both files needed (UPOS; HEAD and DEPREL; {' or '.join(NER_COLUMNS)} or "
            f"NER= in MISC; {PREDICATE} and {ARGUMENTS}), but {found}."
        )
    sha256 = hashlib.sha256(train.read_bytes() + dev.read_bytes()).hexdigest()
    return Treebank(name=_strip_suffixes(train), train=splits[0], dev=splits[1], tasks=tasks, sha256=sha256)


def read_trees(path: Path, *, skip_bad: bool = False) -> tuple[Tree, ...]:
    """Read the trees of one CoNLL-U or CoNLL-U Plus file; arguments and errors are those of `read_treebank`."""
    trees, bad, total, misc_ner = [], list[str](), 0, False
    for sentence in _read_sentences(path):
        total += 1
        try:
            tree = _build_tree(sentence)
        except _MalformedError as error:
            bad.append(f"{path}:{error.line}: {error}")
            continue
        trees.append(tree)
        misc_ner = misc_ner or (sentence.ner_column is None and any(word.ner for word in tree.words))
    if bad:
        places = " ".join(bad[:SHOWN]) + (f" And {len(bad) - SHOWN} more." if len(bad) > SHOWN else "")
        if not skip_bad:
            raise CorpusError(
                f"{len(bad)} of {total} sentences malformed: {places} Correct them, or skip them with skip_bad=True."
            )
        warnings.warn(f"{len(bad)} of {total} sentences skipped as malformed: {bad[0]}", stacklevel=2)
    if not trees:
        raise CorpusError(f"{path}: sentences in CoNLL-U or CoNLL-U Plus needed, but no usable one came.")
    # MISC usually names only the entities, so words without NER= are outside of any.
    return tuple(_fill_outside(tree) for tree in trees) if misc_ner else tuple(trees)


def _fill_outside(tree: Tree) -> Tree:
    return replace(tree, words=tuple(replace(word, ner=word.ner or "O") for word in tree.words))


def _find_layers(trees: Iterable[Tree]) -> set[str]:
    found = set[str]()
    for tree in trees:
        if tree.predicates:
            found.add("srl")
        for word in tree.words:
            found.update(
                task
                for task, label in (("pos", word.upos), ("deprel", word.deprel), ("ner", word.ner))
                if label is not None
            )
    return found


def _strip_suffixes(path: Path) -> str:
    return re.sub(r"(\.(conllup?|xz))+$", "", path.name)


class _MalformedError(Exception):
    """A line breaks the format."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True)
class _Row:
    line: int
    fields: dict[str, str]


@dataclass(frozen=True)
class _Sentence:
    rows: list[tuple[int, str]]
    """Line number and text of every line that is not a comment."""
    columns: tuple[str, ...]

    @property
    def ner_column(self) -> str | None:
        return next((name for name in NER_COLUMNS if name in self.columns), None)


def _read_sentences(path: Path) -> Iterator[_Sentence]:
    columns, rows = CONLLU, list[tuple[int, str]]()
    for number, line in read_lines(path):
        if match := _COLUMNS_LINE.fullmatch(line):
            columns = tuple(match[1].split())
            if missing := {"ID", "FORM"} - set(columns):
                raise CorpusError(
                    f"{path}:{number}: global.columns needs ID and FORM, but {', '.join(missing)} is missing."
                )
        elif line.strip() == "":
            if rows:
                yield _Sentence(rows, columns)
            rows = []
        elif line[0] != "#":
            rows.append((number, line))
    if rows:
        yield _Sentence(rows, columns)


def _parse_field(parse: Callable[[str], Any], row: _Row, name: str) -> Any:
    from conllu.exceptions import ParseException

    try:
        return parse(row.fields[name])
    except ParseException:
        raise _MalformedError(row.line, f"{name} '{row.fields[name]}' is not valid.") from None


def _build_tree(sentence: _Sentence) -> Tree:
    words, ranges = _parse_rows(sentence)
    text, spans = _lay_out(words, ranges)
    built = []
    for row, (start, end) in zip(words, spans, strict=True):
        head = _parse_head(row, len(words))
        built.append(
            Word(
                form=row.fields["FORM"],
                start=start,
                end=end,
                upos=_nullable(row, "UPOS"),
                head=head - 1 if head else None,
                deprel=_nullable(row, "DEPREL"),
                ner=_parse_ner(row, sentence.ner_column),
            )
        )
    if PREDICATE not in sentence.columns or ARGUMENTS not in sentence.columns:
        return Tree(text=text, words=tuple(built), arguments=None, predicates=None)
    predicates, arguments = _parse_roles(words)
    return Tree(text=text, words=tuple(built), arguments=arguments, predicates=predicates)


def _nullable(row: _Row, name: str) -> str | None:
    value = row.fields.get(name, "_")
    return None if value == "_" else value


def _parse_rows(sentence: _Sentence) -> tuple[list[_Row], dict[int, tuple[int, _Row]]]:
    """Return the rows of words and, by index of the first word, the last index and row of each multiword token."""
    from conllu.parser import parse_id_value

    words, ranges, covered = list[_Row](), dict[int, tuple[int, _Row]](), 0
    for line, text in sentence.rows:
        values = text.split("\t")
        if len(values) != len(sentence.columns):
            raise _MalformedError(line, f"{len(sentence.columns)} columns needed, but {len(values)} came.")
        row = _Row(line, dict(zip(sentence.columns, values, strict=True)))
        if not row.fields["FORM"].strip():
            raise _MalformedError(line, "FORM is empty.")
        match _parse_field(parse_id_value, row, "ID"):
            case int(number) if number == len(words) + 1:
                words.append(row)
            case (int(first), "-", int(last)) if first == len(words) + 1 > covered:
                ranges[first - 1], covered = (last - 1, row), last
            case (int(after), ".", _) if after == len(words):
                pass
            case _:
                raise _MalformedError(
                    line, f"ID {len(words) + 1} or a range from it needed, but '{row.fields['ID']}' came."
                )
    if covered > len(words) or not words:
        raise _MalformedError(sentence.rows[-1][0], f"Word {max(covered, 1)} needed, but the sentence ends before it.")
    return words, ranges


def _lay_out(words: list[_Row], ranges: dict[int, tuple[int, _Row]]) -> tuple[str, list[tuple[int, int]]]:
    """Return the sentence's text and the character span of every word."""
    text, spans, index = "", list[tuple[int, int]](), 0
    while index < len(words):
        last, surface = ranges.get(index, (index, words[index]))
        form, start = surface.fields["FORM"], len(text)
        pieces = [row.fields["FORM"] for row in words[index : last + 1]]
        joined = "".join(pieces)
        if len(joined) == len(form) and joined.lower() == form.lower():
            for piece in pieces:
                spans.append((start, start + len(piece)))
                start += len(piece)
        else:
            spans.extend([(start, start + len(form))] * len(pieces))
        spaced = "SpaceAfter=No" not in surface.fields.get("MISC", "_").split("|")
        text, index = text + form + (" " if spaced else ""), last + 1
    return text.removesuffix(" "), spans


def _parse_head(row: _Row, n_words: int) -> int | None:
    from conllu.parser import parse_int_value

    if "HEAD" not in row.fields:
        return None
    head = _parse_field(parse_int_value, row, "HEAD")
    if head is not None and (not 0 <= head <= n_words or str(head) == row.fields["ID"]):
        raise _MalformedError(row.line, f"HEAD of another word in 0 to {n_words} needed, but {head} came.")
    return head


def _parse_ner(row: _Row, column: str | None) -> str | None:
    from conllu.parser import parse_dict_value

    if column:
        tag = _nullable(row, column)
    else:
        tag = (_parse_field(parse_dict_value, row, "MISC") or {}).get("NER") if "MISC" in row.fields else None
    if tag is not None and not _BIO.fullmatch(tag):
        raise _MalformedError(row.line, f"BIO tag such as O, B-PER or I-PER needed, but '{tag}' came.")
    return tag


def _parse_roles(words: list[_Row]) -> tuple[tuple[int, ...], tuple[Argument, ...]]:
    predicates, arguments = list[int](), list[Argument]()
    for index, row in enumerate(words):
        is_predicate, listed = _nullable(row, PREDICATE) is not None, _nullable(row, ARGUMENTS)
        if is_predicate:
            predicates.append(index)
        elif listed is not None:
            raise _MalformedError(row.line, f"{ARGUMENTS} '{listed}' came on a row without {PREDICATE}.")
        for part in listed.split("|") if listed else ():
            match = _ARGUMENT.fullmatch(part)
            if match is None or int(match[2]) > len(words):
                raise _MalformedError(
                    row.line, f"{ARGUMENTS} as LABEL:ID, ID in 1 to {len(words)}, needed, but '{part}' came."
                )
            arguments.append(Argument(predicate=index, head=int(match[2]) - 1, role=match[1]))
    return tuple(predicates), tuple(arguments)


def write_conllup(trees: Iterable[Tree], path: Path) -> None:
    """Write trees as CoNLL-U Plus (`.xz` is compressed) that reads back to equal trees.

    What a `Tree` does not hold (lemmas, features, rolesets) is `_`; a predicate is marked `V`. The columns of a layer
    without labels are left out.

    Raises:
        CorpusError: some trees have a role layer and some do not, or words are not separated by nothing or one space.
    """
    trees = tuple(trees)
    with_roles = {tree.predicates is not None and tree.arguments is not None for tree in trees}
    if len(with_roles) > 1:
        raise CorpusError("Trees that all have roles or all lack them needed, but both came; write them to two files.")
    columns = COLUMNS if with_roles == {True} else COLUMNS[:-2]
    opener = lzma.open if path.suffix == ".xz" else open
    with opener(path, "wt", encoding="utf-8", newline="\n") as file:
        file.write(f"# global.columns = {' '.join(columns)}\n")
        for tree in trees:
            file.write(f"# text = {tree.text}\n")
            file.writelines("\t".join(row[: len(columns)]) + "\n" for row in _format_rows(tree))
            file.write("\n")


def _format_rows(tree: Tree) -> Iterator[list[str]]:
    position, index = 0, 0
    while index < len(tree.words):
        group = _shared_span(tree.words, index)
        start, end = group[0].start, group[0].end
        surface, following = tree.text[start:end], tree.text[end : end + 1]
        if tree.text[position:start] not in ("", " ") or (index == 0 and start) or start < position:
            raise CorpusError(f"Words separated by nothing or one space needed, but '{tree.text}' differs at {start}.")
        position = end
        misc = "_" if following in ("", " ") else "SpaceAfter=No"
        # A range of one word carries a spelling that differs from the word's form.
        as_range = len(group) > 1 or surface != group[0].form
        if as_range:
            yield [f"{index + 1}-{index + len(group)}", surface, *"_______", misc, *"___"]
        for offset in range(len(group)):
            yield _format_word(tree, index + offset, "_" if as_range else misc)
        index += len(group)


def _shared_span(words: Sequence[Word], index: int) -> Sequence[Word]:
    end = index + 1
    while end < len(words) and (words[end].start, words[end].end) == (words[index].start, words[index].end):
        end += 1
    return words[index:end]


def _format_word(tree: Tree, index: int, misc: str) -> list[str]:
    word = tree.words[index]
    head = "_" if word.deprel is None and word.head is None else str(0 if word.head is None else word.head + 1)
    arguments = "|".join(f"{a.role}:{a.head + 1}" for a in tree.arguments or () if a.predicate == index)
    return [
        str(index + 1), word.form, "_", word.upos or "_", "_", "_", head, word.deprel or "_", "_", misc,
        word.ner or "_", "V" if index in (tree.predicates or ()) else "_", arguments or "_",
    ]  # fmt: skip


def align_words(tree: Tree, offsets: Sequence[tuple[int, int]]) -> tuple[int | None, ...]:
    """Return, for each word, the index of its last sub-token; None where truncation cut the word off.

    Args:
        tree: The sentence whose `text` was tokenised.
        offsets: Character span of each sub-token in `Tree.text`, end exclusive, as fast tokenizers give them. Spans may
            include spaces around a word or cover several words; empty ones such as (0, 0) are special tokens.
    """
    last: list[int | None] = [None] * len(tree.text)
    for index, (start, end) in enumerate(offsets):
        for position in range(start, min(end, len(last))):
            last[position] = index
    reached = max((end for _, end in offsets), default=0)
    return tuple(_last_token(last, word, reached) for word in tree.words)


def _last_token(last: Sequence[int | None], word: Word, reached: int) -> int | None:
    if word.end > reached:
        return None
    # A tokenizer that drops characters (accents, control characters) leaves holes, so look back from the word's end.
    return next((last[i] for i in range(word.end - 1, word.start - 1, -1) if last[i] is not None), None)
