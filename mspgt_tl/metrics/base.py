"""What a text metric is: samples in, one value out, with a value per sample where one is defined.

A metric reads strings and knows nothing of models, noise or conditions; the perplexity under a reference model is the
one exception. Whatever a metric needs from outside (a server, a model on a hub) may be missing: the value is then `nan`
with the reason beside it, and the run goes on. A caller's mistake still raises.

Where samples have values, the value is their mean over those that have one, so that paired tests speak of the number
in the table. The mean is summed exactly: the order of the samples does not matter.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import numpy as np
from jaxtyping import Float

from mspgt_tl.config import MetricConfig
from mspgt_tl.contracts import CausalModel, Registry
from mspgt_tl.errors import DataError

NAN = float("nan")
Better = Literal["lower", "higher", "none"]


@dataclass(frozen=True)
class Sample:
    """A prompt and what a model wrote after it."""

    prompt: str
    text: str
    """The continuation alone, the space before it included."""

    def __post_init__(self) -> None:
        for name, value in (("prompt", self.prompt), ("text", self.text)):
            if not isinstance(value, str):
                raise DataError(f"A sample's {name} must be a string, got {type(value).__name__}.")
            if not value.isascii() and any("\ud800" <= mark <= "\udfff" for mark in value):
                raise DataError(f"A sample's {name} holds half of a surrogate pair, which is no character.")


@dataclass(frozen=True)
class MetricResult:
    """What a metric says of one set of samples."""

    value: float
    per_sample: Float[np.ndarray, "sample"] | None
    """In the order of the samples, `nan` where undefined; None where only the set has a value."""
    n: int
    """Samples that the value rests on."""
    reason: str | None
    """Why the value, or that of some samples, is missing; None when nothing is."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Versions, settings and side results, named by the metric."""


class TextMetric(ABC):
    """A number about generated text.

    Subclasses are frozen dataclasses holding parameters only, and every one can be built without arguments.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    unit: ClassVar[str]
    better: ClassVar[Better]
    """The direction in which text gets better; `none` where neither end is good."""
    meaning: ClassVar[str]
    """One line on what a higher or lower value says."""
    bounds: ClassVar[tuple[float, float]]
    source: ClassVar[str]
    """Where the definition comes from, with P (paper) or N (new) as in the method's notes."""

    @classmethod
    def from_config(cls, config: MetricConfig, model: CausalModel) -> Self:
        """Return the metric in the form that a config asks for, of texts that this model wrote."""
        return cls()

    @abstractmethod
    def measure(self, samples: Sequence[Sample]) -> MetricResult:
        """Return the metric of a set of samples; never raises because something outside cannot be reached."""


METRICS: Registry[TextMetric] = Registry("text metric")


def summarise(
    values: Sequence[float] | Float[np.ndarray, "sample"], *, undefined: str, details: Mapping[str, Any] | None = None
) -> MetricResult:
    """Return the mean of the values that are defined.

    Args:
        values: one a sample, `nan` where it is undefined.
        undefined: what is wrong with a sample without a value, after "N of M samples …".

    >>> summarise([1.0, float("nan"), 2.0], undefined="are too short")
    MetricResult(value=1.5, per_sample=array([ 1., nan,  2.]), n=2, reason='1 of 3 samples are too short.', details={})
    """
    per_sample = np.asarray(values, dtype=np.float64)
    defined = per_sample[np.isfinite(per_sample)]
    n, missing = len(defined), len(per_sample) - len(defined)
    reason = f"{missing} of {len(per_sample)} samples {undefined}." if missing else None
    if not len(per_sample):
        reason = "There are no samples."
    return MetricResult(math.fsum(defined) / n if n else NAN, per_sample, n, reason, details or {})


def missing_result(samples: Sequence[Sample], reason: str, details: Mapping[str, Any] | None = None) -> MetricResult:
    """Return the result of a metric that could not be computed for any sample."""
    return MetricResult(NAN, np.full(len(samples), NAN), 0, reason, details or {})
