"""What a study's file says, and in which order its runs come."""

from __future__ import annotations

from pathlib import Path

import pytest

from mspgt_tl.errors import ConfigError
from mspgt_tl.models.embedded import list_embedded
from mspgt_tl.study.plan import SHIPPED, StudyConfig, is_random, make_steps, nulls_of, read_study

TWO = """
title = "Two models"
seed = 3

[corpora.plain]
nulls = ["tokens"]
[corpora.other]
text = "other.txt"
[corpora.third]
treebank = "trees"

[models.a]
family = "A"
[models."b@random:0"]
stages = ["detect"]

[detect]
sentences = 100

[quick.detect]
sentences = 50
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "two.toml"
    path.write_text(TWO)
    return path


def test_a_file_is_read_with_one_seed_for_all(file: Path) -> None:
    """The study's seed is that of every stage; what the file leaves out is the default."""
    study = read_study(file)
    assert (study.seed, study.detect.seed, study.intervene.seed, study.theory.seed) == (3, 3, 3, 3)
    assert study.detect.sentences == 100
    assert study.models["a"].stages == ("detect", "intervene", "theory")
    assert study.first_corpus == "plain"


def test_quick_lays_its_table_over_the_rest(file: Path) -> None:
    """Only what the profile names changes; `--set` comes last."""
    assert read_study(file, quick=True).detect.sentences == 50
    assert read_study(file, quick=True, settings={"detect.sentences": 60}).detect.sentences == 60
    file.write_text(TWO.partition("[quick")[0])
    with pytest.raises(ConfigError, match=r"no table \[quick\]"):
        read_study(file, quick=True)


def test_given_corpora_come_first_or_replace(file: Path) -> None:
    """A new corpus goes before the file's; one of the same name keeps its place and its other settings."""
    study = read_study(file, corpora={"mine": "mine.txt", "plain": "new.txt"}, treebanks={"mine": "gold"})
    assert list(study.corpora) == ["mine", "plain", "other", "third"]
    assert study.corpora["mine"].treebank == "gold"
    assert (study.corpora["plain"].text, study.corpora["plain"].nulls) == ("new.txt", ("tokens",))
    with pytest.raises(ConfigError, match="corpus of --treebank 'mien'"):
        read_study(file, corpora={"mine": "mine.txt"}, treebanks={"mien": "gold"})
    assert read_study(file, nulls={"other": ["labels"]}).corpora["other"].nulls == ("labels",)


def test_probes_of_one_treebank_are_trained_once(file: Path) -> None:
    """Detections on a treebank seen before come after the first of them; everything else rests on the first corpus."""
    steps = make_steps(read_study(file))
    after = {step.name: step.after for step in steps}
    assert after == {
        "detect/plain/a": None,
        "detect/plain/b@random-0": None,
        "detect/third/a": None,
        "detect/third/b@random-0": None,
        "detect/other/a": "detect/plain/a",
        "detect/other/b@random-0": "detect/plain/b@random-0",
        "intervene/plain/a": "detect/plain/a",
        "theory/plain/a": "detect/plain/a",
    }
    names = [step.name for step in steps]
    assert all(step.after is None or names.index(step.after) < names.index(step.name) for step in steps)


def test_twins_bring_no_nulls_along(file: Path) -> None:
    """A random-weight twin is a null itself."""
    study = read_study(file)
    told = {step.model: nulls_of(study, step) for step in make_steps(study) if step.corpus == "plain"}
    assert told == {"a": ("tokens",), "b@random:0": ()}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_studies_are_whole(name: str) -> None:
    """Every study that comes along can be read and planned."""
    study = read_study(name)
    assert len(make_steps(study)) >= len(study.models) * len(study.corpora)
    assert len({entry.family for entry in study.models.values()}) == 2


def test_the_miniature_has_every_embedded_training_run() -> None:
    """All training runs that come with the package, snapshots aside, and a twin of each architecture."""
    study = read_study("miniature")
    runs = {card["name"] for card in list_embedded() if "@step:" not in card["name"]}
    assert {name for name in study.models if not is_random(name)} == runs
    kinds = {card["architecture"] for card in list_embedded()}
    assert {name.partition("@")[0] for name in study.models if is_random(name)} == kinds
    assert read_study("miniature", quick=True).models.keys() == study.models.keys()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title = 'x'\n[corpora.a]", "at least one model"),
        ("[models.a]\nstages=['theory']\n[corpora.a]", "rests on `detect`"),
        ("[models.a]\nfamly='x'\n[corpora.a]", "Did you mean 'models.a.family'"),
        ("[models.a]\n[corpora.a]\n[detect]\nsentence=3", "Did you mean 'detect.sentences'"),
        ("[models.qwen1.5-mini]\nfamily='Q'\n[corpora.a]", r'needs quotes in TOML: \[models."qwen1.5-mini"\]'),
        ("[models.a]\nstages=['probe']\n[corpora.a]", "stages"),
        ('[models.a]\n[corpora."a/b"]', "becomes a folder's"),
        ("[models.a]\n[corpora.a]\nnulls=['random:0']", "nulls"),
        ("[models.a]\n[corpora.a]\n[theory]\nseed=5", "One seed holds"),
        ('[models."a@seed:1"]\n[models."a@seed-1"]\n[corpora.a]', "share the folder a@seed-1"),
    ],
)
def test_bad_files_are_told(tmp_path: Path, text: str, message: str) -> None:
    """What was needed, what came."""
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_study(path)


def test_unknown_studies_are_told() -> None:
    """The nearest known name."""
    with pytest.raises(ConfigError, match="Did you mean 'miniature'"):
        read_study("minature")


def test_a_study_survives_its_plain_form() -> None:
    """What the manifest keeps makes the same study again."""
    from mspgt_tl.config import make_config, to_plain

    study = read_study("miniature")
    assert make_config(to_plain(study), StudyConfig) == study
