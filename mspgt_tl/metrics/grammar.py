"""Mistakes per 100 words, by LanguageTool (as in the paper) or by Harper (offline), never one under the other's name.

The two find different mistakes and their numbers cannot be compared. A missing checker is a result: `nan` with the
reason. LanguageTool's value is missing if any text with words could not be checked, since the texts a checker gives up
on are not like the others; the values of those it did check remain per sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from typing import Any, ClassVar, Self

from mspgt_tl.config import MetricConfig
from mspgt_tl.contracts import CausalModel
from mspgt_tl.errors import ConfigError
from mspgt_tl.escape import describe_error
from mspgt_tl.metrics.base import METRICS, NAN, Better, MetricResult, Sample, TextMetric, missing_result, summarise
from mspgt_tl.metrics.languagetool import Checker, Service
from mspgt_tl.metrics.segmentation import find_words


@METRICS.register
@dataclass(frozen=True)
class LanguageToolMistakes(Service, TextMetric):
    """LanguageTool's matches per 100 words of a continuation, spelling and style rules of its default set included.

    Metrics with equal parameters share one server, started at the first measurement, and one memory of checked texts.
    """

    name: ClassVar[str] = "languagetool"
    title: ClassVar[str] = "Mistakes (LanguageTool)"
    unit: ClassVar[str] = "matches per 100 words"
    better: ClassVar[Better] = "lower"
    meaning: ClassVar[str] = "Lower: fewer mistakes."
    bounds: ClassVar[tuple[float, float]] = (0, float("inf"))
    source: ClassVar[str] = "section 4.2.1, five behavioural metrics (P)"

    def __post_init__(self) -> None:
        if not self.timeout_s > 0 or self.batch < 1:
            raise ConfigError(f"A positive timeout_s and batch are needed, got {self.timeout_s} and {self.batch}.")

    @classmethod
    def from_config(cls, config: MetricConfig, model: CausalModel) -> Self:
        return cls(remote_server=config.languagetool)

    def measure(self, samples: Sequence[Sample]) -> MetricResult:
        texts = [sample.text for sample in samples if find_words(sample.text)]
        checker = _checker(self)
        counts, reason = checker.count(texts)
        details = {
            "tool": checker.software,
            "client": f"language-tool-python {version('language-tool-python')}",
            "language": self.language,
            "server": "local" if self.remote_server is None else "remote",
        }
        result = _summarise_counts(samples, dict(zip(texts, counts, strict=True)), details)
        if failed := counts.count(None):
            why = f"LanguageTool did not check {failed} of {len(texts)} texts: {reason}"
            return replace(result, value=NAN, reason=why)
        return result

    def close(self) -> None:
        """End the local server, if there is one; the next measurement would start it again."""
        _checker(self).close()


@cache
def _checker(service: Service) -> Checker:
    return Checker(service)


@METRICS.register
@dataclass(frozen=True)
class HarperMistakes(TextMetric):
    """Harper's lints per 100 words of a continuation, American English, its default rules; offline and in process."""

    name: ClassVar[str] = "harper"
    title: ClassVar[str] = "Mistakes (Harper)"
    unit: ClassVar[str] = "lints per 100 words"
    better: ClassVar[Better] = "lower"
    meaning: ClassVar[str] = "Lower: fewer mistakes. Not comparable with LanguageTool's."
    bounds: ClassVar[tuple[float, float]] = (0, float("inf"))
    source: ClassVar[str] = "offline alternative to LanguageTool (N)"

    def measure(self, samples: Sequence[Sample]) -> MetricResult:
        try:
            from harper import Linter

            # A linter serves one thread; building one takes 0.2 to 1 s.
            linter = Linter()
            counts: dict[str, int | None] = {
                text: len(linter.lint(text, language="plaintext"))
                for text in dict.fromkeys(sample.text for sample in samples)
                if find_words(text)
            }
        except Exception as error:  # an optional extra, and a binary one
            return missing_result(samples, f"Harper could not be used (extra 'harper'): {describe_error(error)}")
        return _summarise_counts(samples, counts, {"tool": f"harper-py {version('harper-py')}"})


def _summarise_counts(
    samples: Sequence[Sample], counts: dict[str, int | None], details: dict[str, Any]
) -> MetricResult:
    """Turn matches per text into matches per 100 words per sample; a text without a count has no value."""
    found = []
    for sample in samples:
        count = counts.get(sample.text)
        found.append(NAN if count is None else 100 * count / len(find_words(sample.text)))
    return summarise(found, undefined="have no words", details=details)
