"""Rows of token ids: what follows what, and which ids a text can tell apart."""

from __future__ import annotations

import numpy as np

from mspgt_tl.theory.texts import Texts


def test_the_alphabet_is_what_follows_data_in_a_short_text() -> None:
    """Not what stands first, nor what follows a sink; in a text with predictions for every id, all are told apart."""
    texts = Texts(((9, 4, 2, 7), (9, 2, 4)), (np.array([False, True, True, True]), np.array([False, False, True])))
    assert texts.predictions.sum() == 2
    assert np.array_equal(texts.alphabet(100), [2, 7])
    assert np.array_equal(texts.alphabet(3), [2, 7])
    assert texts.alphabet(2) is None
