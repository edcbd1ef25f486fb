"""Reads and writes treebanks with four label layers: CoNLL-U and CoNLL-U Plus.

Layers and their columns: part of speech (`UPOS`), dependency relation (`HEAD`, `DEPREL`), named entities (`UNER:NER` or
`NER`, or `NER=` in MISC) and semantic roles (`UP:PRED`, `UP:ARGHEADS`, the convention of Universal PropBank 2.0).
Single fields are parsed by `conllu`; lines are cut here, because it keeps no line numbers and lets short rows pass.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mspgt_tl.contracts import TASKS, Argument, Tree, Treebank, Word
from mspgt_tl.corpora.formats import AS_TREEBANK, recognise
from mspgt_tl.corpora.lines import expand, open_for_writing, read_head, read_lines
from mspgt_tl.errors import CorpusError

CONLLU = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
NER_COLUMNS = ("UNER:NER", "NER")
PREDICATE, ARGUMENTS = "UP:PRED", "UP:ARGHEADS"
COLUMNS = (*CONLLU, NER_COLUMNS[0], PREDICATE, ARGUMENTS)

SHOWN = 3
"""Malformed places named in a message; the rest are counted."""

_BIO = re.compile(r"O|[BI]-.+")
_BIOES = {"S": "B", "U": "B", "E": "I", "L": "I"}
"""Prefixes of BIOES and BILOU in BIO."""
_MASK = re.compile(r"_+|\[[A-Z_]+\]|<(mask|unk|word)>|X{3,}|█+")
_TEXT_LINE = re.compile(r"#\s*text\s*=\s*(.*)")
_DOCUMENT_LINE = re.compile(r"#\s*newdoc\b.*")
_ID_LINE = re.compile(r"#\s*sent_id\s*=\s*(.+)")
_UNSEEN = re.compile("[\u200b\u200e\u200f\u2060\ufeff\xad]")
_ARGUMENT = re.compile(r"([^:|]+):([1-9][0-9]*)")
_COLUMNS_LINE = re.compile(r"#\s*global\.columns\s*=\s*(.+)")


def read_treebank(train: Path, dev: Path, *, skip_bad: bool = False) -> Treebank:
    """Read a treebank from its two files (`.gz`, `.xz`, `.zst` and `.bz2` are decompressed).

    The text of a sentence is its `# text` where that spells its words, whatever SpaceAfter says; elsewhere it is put
    together from forms and SpaceAfter. Entities on the row of a multiword token belong to its words. All of this is
    counted in `notes`.

    Args:
        train: Trees to train probes on.
        dev: Trees to measure probes on.
        skip_bad: Leave malformed sentences out, with a warning that counts them, instead of raising.

    Returns:
        The treebank; its `tasks` are the layers that both files label, and `sha256` hashes the bytes of both files.

    Raises:
        CorpusError: a file is missing, unreadable, malformed, masked or empty, or no layer is in both files.
    """
    train, dev = expand(train), expand(dev)
    notes = Counter[str]()
    splits = tuple(_read_split(path, notes, skip_bad=skip_bad) for path in (train, dev))
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
    seen = {tree.text for tree in splits[0]}
    if repeated := sum(tree.text in seen for tree in splits[1]):
        notes["dev sentences that are also in train"] = repeated
    sha256 = hashlib.sha256(train.read_bytes() + dev.read_bytes()).hexdigest()
    return Treebank(_strip_suffixes(train), *splits, tasks=tasks, sha256=sha256, notes=dict(notes))


def read_trees(path: Path, *, skip_bad: bool = False) -> tuple[Tree, ...]:
    """Read the trees of one CoNLL-U or CoNLL-U Plus file; arguments and errors are those of `read_treebank`."""
    return _read_split(path, Counter(), skip_bad=skip_bad)


def _read_split(path: Path, notes: Counter[str], *, skip_bad: bool) -> tuple[Tree, ...]:
    _check_format(path)
    trees, bad, total, misc_ner = [], list[str](), 0, False
    names = Counter[str]()
    for sentence in _read_sentences(path):
        total += 1
        names.update([sentence.name] if sentence.name else [])
        try:
            tree = _build_tree(sentence, notes)
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
        warnings.warn(f"{len(bad)} of {total} sentences skipped as malformed: {bad[0]}", stacklevel=3)
        notes["malformed sentences left out"] += len(bad)
    if not trees:
        raise CorpusError(f"{path}: sentences in CoNLL-U or CoNLL-U Plus needed, but no usable one came.")
    if repeated := sum(count - 1 for count in names.values()):
        notes["sentences whose sent_id came before"] += repeated
    # MISC usually names only the entities, so words without NER= are outside of any.
    return tuple(_fill_outside(tree) for tree in trees) if misc_ner else tuple(trees)


def _check_format(path: Path) -> None:
    found = recognise(read_head(path))
    # Tables of words that no sign of CoNLL-U marks, with few columns, for one, are told by their rows.
    if found and found.advice != AS_TREEBANK and found.name not in ("TSV", "mostly digits and signs"):
        raise found.refusal(path, "CoNLL-U or CoNLL-U Plus", option="--corpus ")


def _fill_outside(tree: Tree) -> Tree:
    return replace(tree, words=tuple(replace(word, ner=word.ner or "O") for word in tree.words))


def _find_layers(trees: Sequence[Tree]) -> set[str]:
    words = [word for tree in trees for word in tree.words]
    labels = {"pos": "upos", "deprel": "deprel", "ner": "ner"}
    found = {task for task, name in labels.items() if any(getattr(word, name) is not None for word in words)}
    return found | {"srl"} if any(tree.predicates for tree in trees) else found


def _strip_suffixes(path: Path) -> str:
    return re.sub(r"(\.(conllup?|gz|xz|zst|bz2))+$", "", path.name)


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
    text: str | None = None
    """Of the `# text` comment, its spaces single."""
    name: str | None = None
    """Of the `# sent_id` comment."""
    document: int | None = None

    @property
    def ner_column(self) -> str | None:
        return next((name for name in NER_COLUMNS if name in self.columns), None)


def _read_sentences(path: Path) -> Iterator[_Sentence]:
    columns, rows, document = CONLLU, list[tuple[int, str]](), None
    said: dict[str, str] = {}
    for number, line in itertools.chain(read_lines(path), [(0, "")]):
        if match := _COLUMNS_LINE.fullmatch(line):
            columns = tuple(match[1].split())
            if missing := {"ID", "FORM"} - set(columns):
                raise CorpusError(
                    f"{path}:{number}: global.columns needs ID and FORM, but {', '.join(missing)} is missing."
                )
        elif line.strip() == "":
            if rows:
                yield _Sentence(rows, columns, said.get("text"), said.get("name"), document)
            rows, said = [], {}
        elif line[0] != "#":
            rows.append((number, line))
        elif match := _TEXT_LINE.fullmatch(line):
            said["text"] = " ".join(_UNSEEN.sub("", match[1]).split())
        elif match := _ID_LINE.fullmatch(line):
            said["name"] = match[1].strip()
        elif _DOCUMENT_LINE.fullmatch(line):
            document = 0 if document is None else document + 1


def _parse_field(parse: Callable[[str], Any], row: _Row, name: str) -> Any:
    from conllu.exceptions import ParseException

    try:
        return parse(row.fields[name])
    except ParseException:
        raise _MalformedError(row.line, f"{name} '{row.fields[name]}' is not valid.") from None


def _build_tree(sentence: _Sentence, notes: Counter[str]) -> Tree:
    words, ranges = _parse_rows(sentence)
    text, spans, told = _lay_out(words, ranges, sentence.text)
    _refuse_masks(words, fits=sentence.text == text)
    heads = [_parse_head(row, len(words)) for row in words]
    entities = _parse_entities(words, ranges, sentence.ner_column, told)
    built = tuple(
        Word(row.fields["FORM"], *span, _nullable(row, "UPOS"), head, _nullable(row, "DEPREL"), ner)
        for row, span, head, ner in zip(words, spans, heads, entities, strict=True)
    )
    roles = (None, None)
    if PREDICATE in sentence.columns and ARGUMENTS in sentence.columns:
        roles = _parse_roles(words)
    told.update(_count_lost(ranges))
    notes.update(told)  # only now: a malformed sentence counts as nothing else
    return Tree(text=text, words=built, arguments=roles[1], predicates=roles[0], document=sentence.document)


def _refuse_masks(words: list[_Row], *, fits: bool) -> None:
    """Raise where most forms are placeholders; one or two that `# text` has as well are words (a line of `___`)."""
    masked = [row for row in words if _MASK.fullmatch(row.fields["FORM"])]
    if 2 * len(masked) > len(words) and not (fits and len(words) <= 2):
        form = masked[0].fields["FORM"]
        raise _MalformedError(
            masked[0].line, f"Words needed, but {len(masked)} of {len(words)} are masked as '{form}'; restore the text."
        )


def _count_lost(ranges: dict[int, tuple[int, _Row]]) -> Counter[str]:
    """Count the labels that a multiword token carries and that cannot be its words' own."""
    names = ("UPOS", "DEPREL", PREDICATE, ARGUMENTS)
    lost = sum(any(_nullable(row, name) for name in names) for _, row in ranges.values())
    return Counter({"multiword tokens whose own labels were left out": lost} if lost else {})


def _nullable(row: _Row, name: str) -> str | None:
    value = row.fields.get(name, "_")
    return None if value in ("", "_") else value


def _parse_rows(sentence: _Sentence) -> tuple[list[_Row], dict[int, tuple[int, _Row]]]:
    """Return the rows of words and, by index of the first word, the last index and row of each multiword token."""
    from conllu.parser import parse_id_value

    words, ranges, covered = list[_Row](), dict[int, tuple[int, _Row]](), 0
    for line, text in sentence.rows:
        values = [value.strip() for value in text.split("\t")]
        if len(values) != len(sentence.columns):
            spaced = len(values) == 1 and len(text.split()) >= len(sentence.columns)
            hint = " separated by tabs" if spaced else ""
            raise _MalformedError(line, f"{len(sentence.columns)} columns{hint} needed, but {len(values)} came.")
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
                hint = " Is a blank line missing before it?" if words and row.fields["ID"][:2] in ("1", "1-") else ""
                raise _MalformedError(
                    line, f"ID {len(words) + 1} or a range from it needed, but '{row.fields['ID']}' came.{hint}"
                )
    if covered > len(words) or not words:
        raise _MalformedError(sentence.rows[-1][0], f"Word {max(covered, 1)} needed, but the sentence ends before it.")
    return words, ranges


def _lay_out(
    words: list[_Row], ranges: dict[int, tuple[int, _Row]], said: str | None
) -> tuple[str, list[tuple[int, int]], Counter[str]]:
    """Return the sentence's text, the character span of every word, and what is to be told of them."""
    tokens, index = list[tuple[int, int, _Row]](), 0
    while index < len(words):
        last, surface = ranges.get(index, (index, words[index]))
        tokens.append((index, last, surface))
        index = last + 1
    text, places = _join_forms(tokens, words)
    told = Counter[str]()
    if said is not None and said != text:
        found = _find_forms([surface.fields["FORM"] for *_, surface in tokens], said)
        told["sentences whose # text does not spell their words" if found is None else _SPACES] += 1
        text, places = (text, places) if found is None else (said, found)
    spans = list[tuple[int, int]]()
    for (first, last, _), (start, end) in zip(tokens, places, strict=True):
        pieces = [row.fields["FORM"] for row in words[first : last + 1]]
        joined = "".join(pieces)
        if last > first and len(joined) == end - start and joined.lower() == text[start:end].lower():
            for piece in pieces:
                spans.append((start, start + len(piece)))
                start += len(piece)
        else:
            spans.extend([(start, end)] * len(pieces))
    return text, spans, told


_SPACES = "sentences whose # text was followed, not SpaceAfter"


def _join_forms(tokens: list[tuple[int, int, _Row]], words: list[_Row]) -> tuple[str, list[tuple[int, int]]]:
    """Return the text that forms and SpaceAfter give, and the place of every token."""
    text, places = "", list[tuple[int, int]]()
    for _, last, surface in tokens:
        form = " ".join(surface.fields["FORM"].split())
        places.append((len(text), len(text) + len(form)))
        glued = any(_misc(row).get("spaceafter", "").lower() == "no" for row in (surface, words[last]))
        text += form + ("" if glued else " ")
    return text.removesuffix(" "), places


def _find_forms(forms: list[str], text: str) -> list[tuple[int, int]] | None:
    """Return the place of every form in a text that holds them in order and nothing else but spaces; else None.

    Forms may differ from it in their spaces and in whether accents are composed.
    """
    places, position = list[tuple[int, int]](), 0
    for form in forms:
        position += text[position : position + 1] == " "
        plain = _plain(form)
        ends = (end for end in _ends(text, position, form) if text[end - 1 : end] != " ")
        end = next((end for end in ends if _plain(text[position:end]) == plain), None)
        if end is None:
            return None
        places.append((position, end))
        position = end
    return places if position == len(text) else None


def _ends(text: str, start: int, form: str) -> Iterator[int]:
    """Yield where a form may end, the likeliest first: spaces and combining marks may make it longer or shorter."""
    likely = start + len(form)
    yield likely
    for offset in range(1, len(form) + 1):
        yield from (end for end in (likely - offset, likely + offset) if start < end <= len(text))


def _plain(text: str) -> str:
    return "".join(_UNSEEN.sub("", unicodedata.normalize("NFC", text)).split())


def _misc(row: _Row) -> dict[str, str]:
    """Return the attributes of MISC, whose names are read in any case and with any spaces around them."""
    pairs = (part.partition("=") for part in row.fields.get("MISC", "_").split("|"))
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _parse_head(row: _Row, n_words: int) -> int | None:
    """Return the index of a word's head; None for the root, and where there is none."""
    from conllu.parser import parse_int_value

    if "HEAD" not in row.fields:
        return None
    head = _parse_field(parse_int_value, row, "HEAD")
    if head is not None and (not 0 <= head <= n_words or str(head) == row.fields["ID"]):
        raise _MalformedError(row.line, f"HEAD of another word in 0 to {n_words} needed, but {head} came.")
    return head - 1 if head else None


def _parse_entities(
    words: list[_Row], ranges: dict[int, tuple[int, _Row]], column: str | None, told: Counter[str]
) -> list[str | None]:
    """Return the entity tag of every word; a multiword token's belongs to its words where these have none."""
    tags = [_parse_ner(row, column, told) for row in words]
    for first, (last, row) in ranges.items():
        tag = _parse_ner(row, column, told)
        if tag is None or any(tags[first : last + 1]):
            continue
        told["multiword tokens whose entity was given to their words"] += 1
        inside = tag if tag[:1] != "B" else f"I{tag[1:]}"
        tags[first : last + 1] = [tag, *[inside] * (last - first)]
    before = None
    for tag in tags:
        if tag and tag[0] == "I" and (before or "O")[1:] != tag[1:]:
            told["entities that begin with I-"] += 1
        before = tag
    return tags


def _parse_ner(row: _Row, column: str | None, told: Counter[str]) -> str | None:
    tag = row.fields.get(column, "_") if column else _misc(row).get("ner", "_")
    if tag in ("", "_"):
        return None
    if len(tag) > 2 and tag[1] == "-" and tag[0] in _BIOES:
        told["entity tags in BIOES, read as BIO"] += 1
        tag = f"{_BIOES[tag[0]]}{tag[1:]}"
    if not _BIO.fullmatch(tag):
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
    """Write trees as CoNLL-U Plus (compressed as the suffix says) that reads back to equal trees.

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
    with open_for_writing(path) as file:
        file.write(f"# global.columns = {' '.join(columns)}\n")
        for before, tree in zip((None, *trees), trees, strict=False):
            if tree.document is not None and (before is None or tree.document != before.document):
                file.write("# newdoc\n")
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
