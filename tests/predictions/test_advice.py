"""What further data would decide."""

from __future__ import annotations

import numpy as np
import pytest

from mspgt_tl.comparison.families import cv_interval
from mspgt_tl.predictions.advice import models_needed


@pytest.mark.parametrize(("cv", "threshold"), [(1 / 15, 0.2), (0.15, 0.2), (0.4, 0.2)])
def test_the_number_of_models_is_the_first_that_decides(cv, threshold):
    """At n the interval of such a CV leaves the threshold, at n - 1 it does not."""

    def decided(n: int) -> bool:
        z = np.linspace(-1, 1, n)
        low, high = cv_interval(0.5 * (1 + cv * z / z.std()))
        return high < threshold if cv < threshold else low > threshold

    n = models_needed(cv, threshold)
    assert n is not None and decided(n)
    assert n == 2 or not decided(n - 1)


def test_on_the_threshold_no_number_is_enough():
    """And very close to it, more than a thousand."""
    assert models_needed(0.2, 0.2) is None
    assert models_needed(0.1999, 0.2) is None
