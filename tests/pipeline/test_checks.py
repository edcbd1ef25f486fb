"""What is refused at once: nothing heavy is imported for it, and nothing is written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mspgt_tl.errors import ConfigError, ModelError, StoreError
from mspgt_tl.pipeline.checks import check_folder, check_nulls, check_weights, count_blocks
from mspgt_tl.store import Run

SIGNALS = ("cka", "probe", "attention_jsd")


def test_blocks_are_counted_from_the_configuration(tiny_folder: Path) -> None:
    """Of folders, embedded and planted models; not where only loading or the hub would tell."""
    assert count_blocks(tiny_folder) == 8
    assert count_blocks("llama2-mini") == 12
    assert count_blocks("llama2-mini@random:3") == 12
    assert count_blocks("planted:9:3,6") == 9
    assert count_blocks("owner/name") is None
    assert count_blocks(object()) is None


def test_unknown_models_are_named_with_the_closest() -> None:
    """As loading them would."""
    with pytest.raises(ModelError, match="Did you mean 'llama2-mini'"):
        count_blocks("lama2-mini")


@pytest.mark.parametrize("weights", [(1, 2), (1, 2, 3, 4), (1, -1, 1), (0, 0, 0)])
def test_weights_are_one_a_signal(weights: tuple[float, ...]) -> None:
    """Too few, too many, below 0, or nothing at all."""
    with pytest.raises(ConfigError, match=r"Weights are 3 numbers from 0 up, .* for cka, probe, attention_jsd; got"):
        check_weights(weights, SIGNALS)


def test_usable_weights_and_none_pass() -> None:
    """One signal alone will do."""
    check_weights((0, 0, 1), SIGNALS)
    check_weights(None, SIGNALS)


@pytest.mark.parametrize(
    ("null", "model", "message"),
    [
        ("nonsense", "llama2-mini", "Unknown null"),
        ("random:x", "llama2-mini", "Unknown null"),
        ("random:1", object(), "loaded object"),
        ("random:1", "planted:8:3", "no random-weight twin"),
    ],
)
def test_nulls_that_cannot_be_made(null: str, model: object, message: str) -> None:
    """Unknown kinds, a seed that is no number, and models without a twin."""
    with pytest.raises(ConfigError, match=message):
        check_nulls([null], model)


def test_what_differs_is_named_with_both_values(tmp_path: Path) -> None:
    """Only what is known already is compared; the same passes."""
    Run.create(tmp_path / "run", {"command": "detect", "config": {"seed": 0, "sentences": 900}, "model": {"name": "a"}})
    check_folder(tmp_path / "run", {"command": "detect", "config": {"seed": 0, "sentences": 900}})
    with pytest.raises(StoreError, match=r"holds another run \(config\.sentences: 900 there, 500 now\)"):
        check_folder(tmp_path / "run", {"command": "detect", "config": {"seed": 0, "sentences": 500}})
    with pytest.raises(StoreError, match="command: 'detect' there, 'theory' now"):
        check_folder(tmp_path / "run", {"command": "theory"})


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    """A quick look inside is not other things."""
    (tmp_path / "quick").mkdir()
    check_folder(tmp_path, {"command": "detect"})
    (tmp_path / "notes.txt").touch()
    with pytest.raises(StoreError, match="is no run folder"):
        check_folder(tmp_path, {"command": "detect"})


@pytest.mark.parametrize("place", ["notes.txt/run", "notes.txt/deeper/run"])
def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, place: str) -> None:
    """Before all work, and nothing is left of the trial."""
    (tmp_path / "notes.txt").touch()
    with pytest.raises(StoreError, match="cannot be written"):
        check_folder(tmp_path / place, {"command": "detect"})
    check_folder(tmp_path / "new/run", {"command": "detect"})
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


MISTYPED = (
    ["detect", "lama2-mini"],
    ["detect", "llama2-mini", "--weights", "1,2"],
    ["detect", "llama2-mini", "--null", "x"],
    ["intervene", "llama2-mini", "--scales", "0-3,9-30"],
    ["theory", "llama2-mini", "--scales", "0-3"],
)


def test_a_mistyped_command_imports_neither_torch_nor_transformers(tmp_path: Path) -> None:
    """It is answered in about a second, in one line, and leaves nothing."""
    code = (
        "import sys\nfrom mspgt_tl.cli import main\n"
        f"for arguments in {MISTYPED!r}:\n"
        "    sys.argv = ['mspgt', *arguments]\n"
        "    try: main()\n"
        "    except SystemExit as left: print(left.code, [m for m in ('torch', 'transformers') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "2 []\n" * len(MISTYPED), done.stderr
    assert done.stderr.count("Error: ") == done.stderr.count("\n") == len(MISTYPED)
    assert not list(tmp_path.iterdir())
