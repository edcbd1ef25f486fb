"""Text metrics: what generated continuations look like. Importing the package fills the registry of metrics."""

from mspgt_tl.metrics import coherence, diversity, grammar, perplexity

__all__ = ["coherence", "diversity", "grammar", "perplexity"]
