"""Interventions: noise of known size in chosen blocks, and text decoded under it."""

from mspgt_tl.interventions.generation import Rows, generate
from mspgt_tl.interventions.noise import Positions, activation_scales, noise_hooks

__all__ = ["Positions", "Rows", "activation_scales", "generate", "noise_hooks"]
