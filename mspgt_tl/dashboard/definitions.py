"""The definition of everything the report draws, with its source: P the paper, R reconstructed, N new here."""

FUSION = (
    "E(b) = Σ wᵢ · rᵢ · S̃ᵢ(b), where S̃ is the signal scaled to 0…1 over gaps, w its weight and r its reliability. "
    "Eq. 6, P; equal weights R; reliability and both bands N. A boundary is a peak of prominence 0.3 or more (P); "
    "its interval comes from bootstrap resamples of sentences (P). Rule paper sets every r to 1."
)
SIGNALS_SHOWN = (
    "Definitions are in the table of signals above. The band is the 95 % percentile interval over bootstrap "
    "resamples (P)."
)
CONTRAST = (
    "At each gap: the signal less a straight line through its four nearest neighbours, scaled to unit noise, fused "
    "with the same weights. Null curves permute, or circularly shift, each signal over depth on its own; the larger "
    "p counts. N."
)
WEIGHTS = (
    "Counted over {choices:,} choices of weights on a regular grid in steps of {step:.0%}; a signal that was left out "
    "has no influence, whatever its weight. N: the paper's weights are lost, so no conclusion may rest on one choice."
)
PROBES = (
    "Macro-F1 on held-out trees over labels with enough test items. MLP: one hidden layer, on frozen activations "
    "(eq. 4, P). Mean over repeated trainings, linear baseline, control task and selectivity: N "
    "(Hewitt and Liang 2019)."
)
CKA_MAP = (
    "CKA(K, M) = Σ HSIC(K, M) / √(Σ HSIC(K, K) · Σ HSIC(M, M)), debiased HSIC of Song et al. (2012), summed over "
    "folds of sentences, linear kernels. Eq. 3, R."
)
NULLS = (
    "Random: the same architecture with random weights. Labels: treebank labels dealt anew over words. Tokens: the "
    "words of every sentence in random order. N. Labels and tokens change one part only, so signals that do not use "
    "it keep their shape."
)
