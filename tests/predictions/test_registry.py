"""Predictions are data: frozen, checked, and extended without code."""

from __future__ import annotations

import pytest

from mspgt_tl.errors import ConfigError
from mspgt_tl.predictions.registry import SETS, load_set, read_predictions

FROZEN = {
    ("paper-v2", 1): "991007be85cdd251416d57dee5c4336597125a55405ddb9be098ae510d911c48",
    ("paper-v2", 2): "d191efbf67bb24e0f2fe1db0df5fe4cff2dc75ab558b90e7edc3d4dccc746834",
    ("paper-v3", 1): "63f6340116137fab2b934dec6a6cfec3d25c635c6385cb37e0cfc424a51d0ad2",
    ("mspgt", 1): "7bef245793e567922af4e2136772b57f4b804061e7244f50266d80162f891a22",
}
"""sha256 of every released version of a set. A change of a set is a new version and a new line, never an edit here."""

OWN = """
schema = 1
name = "own"
version = 1
frozen = "2026-01-01"

[[prediction]]
id = "a"
claim = "Positions agree."
statistic = "cv"
boundary = "LI"
direction = "below"
threshold = 0.1
source = "me"
"""


@pytest.mark.parametrize("name", SETS)
def test_shipped_sets_are_frozen(name):
    """What was registered cannot change unnoticed."""
    loaded = load_set(name)
    assert loaded.sha256 == FROZEN[name, loaded.version]


def test_the_paper_s_thresholds_are_those_of_section_3():
    """CV < 0.2, intermediate above the others, a factor of five, thirty points."""
    conditions = {p.id: (p.statistic, p.boundary, p.condition) for p in load_set("paper-v2").predictions}
    assert conditions == {
        "1.1": ("cv", "LI", "< 0.2"),
        "1.2": ("measured", None, "> 0"),
        "2.1": ("excess", None, "> 0"),
        "3.1": ("brittleness", None, "> 5"),
        "3.2": ("drift", "IG", "> 30"),
    }


def test_version_3_is_a_set_of_its_own():
    """Llama 0.067 to 0.095, Qwen 0.465 to 0.726, and a ratio of 493 within a factor of ten."""
    found = {p.id: p.threshold for p in load_set("paper-v3").predictions}
    assert found["v3.llama.LI"] == found["v3.llama.IG"] == (0.067, 0.095)
    assert found["v3.qwen.LI"] == found["v3.qwen.IG"] == (0.465, 0.726)
    assert found["v3.brittleness"] == pytest.approx((49.3, 4930))


def test_a_file_of_one_s_own_is_read(tmp_path):
    """Without code; the hash of the file is kept."""
    path = tmp_path / "own.toml"
    path.write_text(OWN, encoding="utf-8")
    loaded = read_predictions(path)
    assert (loaded.name, loaded.predictions[0].min_n, len(loaded.sha256)) == ("own", 2, 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("statistic =", "statistics ="), "prediction a, Unknown field 'statistics'. Did you mean 'statistic'"),
        (('"cv"', '"variance"'), "prediction a, statistic: Input should be"),
        (('boundary = "LI"\n', ""), "statistic 'cv' needs boundary"),
        (("threshold = 0.1", "threshold = [0.1, 0.2]"), "'above' and 'below' need one number"),
        (('direction = "below"\nthreshold = 0.1', 'direction = "between"\nthreshold = [0.2, 0.1]'), "is empty"),
        (("threshold = 0.1", 'threshold = "low"'), "prediction a, threshold"),
        (("threshold = 0.1\n", ""), "prediction a, threshold: Field required"),
        (("schema = 1", "schema = 2"), "schema: Input should be 1"),
        (("version = 1", "version = 0"), "version"),
        (('id = "a"\n', ""), "prediction 1, id: Field required"),
        (("[[prediction]]", "[prediction"), "is not TOML"),
    ],
)
def test_files_that_break_the_schema_are_refused(tmp_path, change, message):
    """One line with the entry and the field."""
    path = tmp_path / "own.toml"
    assert change[0] in OWN
    path.write_text(OWN.replace(*change), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_predictions(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_id_is_there_once(tmp_path):
    """Two entries of one id could not be told apart."""
    path = tmp_path / "own.toml"
    path.write_text(OWN + OWN[OWN.index("[[") :], encoding="utf-8")
    with pytest.raises(ConfigError, match="id a is there twice"):
        read_predictions(path)


def test_unknown_sets_and_files_are_named(tmp_path):
    """With the closest known set, and the path."""
    with pytest.raises(ConfigError, match="Did you mean 'paper-v2'"):
        load_set("paper2")
    with pytest.raises(ConfigError, match=r"nowhere\.toml cannot be read"):
        read_predictions(tmp_path / "nowhere.toml")


def test_thresholds_are_strict_and_ranges_closed():
    """0.2 is not below 0.2; both ends of a range belong to it."""
    first, *_ = load_set("paper-v2").predictions
    assert first.passes([0.19, 0.2, float("nan")]).tolist() == [True, False, False]
    ranged, *_ = load_set("paper-v3").predictions
    assert ranged.passes([0.066, 0.067, 0.095, 0.096]).tolist() == [False, True, True, False]
