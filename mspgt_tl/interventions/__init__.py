"""Interventions: disturbances of known size in chosen blocks, and what they do to the next token and to text."""

from mspgt_tl.interventions.alternatives import disturbance_hooks, measure_activations
from mspgt_tl.interventions.generation import Rows, generate
from mspgt_tl.interventions.hooks import Positions
from mspgt_tl.interventions.next_token import next_token_effects
from mspgt_tl.interventions.noise import noise_hooks
from mspgt_tl.interventions.scales import parse_scales
from mspgt_tl.interventions.units import activation_units

__all__ = [
    "Positions",
    "Rows",
    "activation_units",
    "disturbance_hooks",
    "generate",
    "measure_activations",
    "next_token_effects",
    "noise_hooks",
    "parse_scales",
]
