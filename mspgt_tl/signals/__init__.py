"""Signals: curves over depth whose peaks may be boundaries. Importing the package fills the registry of signals."""

from mspgt_tl.signals import (
    attention_jsd,
    block_influence,
    cka,
    intrinsic_dimension,
    logit_lens,
    matrix_entropy,
    probe,
)

__all__ = [
    "attention_jsd",
    "block_influence",
    "cka",
    "intrinsic_dimension",
    "logit_lens",
    "matrix_entropy",
    "probe",
]
