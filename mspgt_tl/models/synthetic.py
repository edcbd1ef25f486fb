"""Models with hand-set weights whose boundaries are known: planted where we say, or nowhere.

Every gap of a planted model has three *steps*, one a signal, each between 0 and 1:

- `representation`: each content channel has a gain; a step of q draws them anew to that degree, so that
  1 − CKA = 1 − exp(−q · `FULL_CHANGE`) for independent content.
- `labels`: every word is two tokens, its stem and its last letter, and the stem knows the word's labels. At a gap, the
  labels of `LABEL_SHARE` · q of all stems are moved to the last letter, where probes look. They cannot be read there
  before: the information is at another position.
- `attention`: scores depend on relative position through rotary biases; a step of q turns them towards a new draw.

At planted gaps the step is the signal's strength; elsewhere it is background, `jitter` times a lognormal factor, drawn
for each signal on its own. So strength 1 and jitter 0.05 mean that a boundary changes twenty times what an ordinary gap
does. All steps are stationary (nothing accumulates), hence any depth will do.

Residual channels: content, keys of attention, group bits and label bits of stems, labels in transit, labels delivered,
three massive channels, one that marks BOS, one that marks sinks. Labels are written so small that CKA does not see
them, while probes, which standardise, do. The MLP is exactly linear where it has to be, as relu(x) − relu(−x).

Pretrained models add what `Nuisances` calls by name: massive activations on the first positions and on delimiters, in
a few channels, from one block to another; sinks on the same tokens; a first and a last block that change more than
others. Head 0 of block 0 marks the position after BOS, which is how the first word comes to carry them, too.

Set aside: erasing labels instead of delivering them (a drop is a jump too, but real models do not do it), and random
maps as representation change (they need fresh dimensions at every gap).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from mspgt_tl.contracts import CausalModel, Treebank
from mspgt_tl.corpora.grammar import generate_treebank
from mspgt_tl.errors import ConfigError
from mspgt_tl.models.building import from_state

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FULL_CHANGE = 0.5
"""−ln CKA of a representation step of 1."""
LABEL_SHARE = 0.3
"""Share of the stems whose labels a step of 1 delivers."""
DELIVERED_FIRST = 0.15
"""Share of the stems whose labels can be read from block 0 on, so that probes never start from nothing."""
SPREAD = 0.6
"""Standard deviation of the logarithm of background steps."""
MASSIVE_SIZE = 100.0
"""Usual size of a massive activation, in units of a content channel."""
MASSIVE_SHARE = 1 / 12
"""Share of the tokens that carry it where words do. Debiased CKA does not see one such row a block, only pairs."""
SEED_SIZE = 0.01
"""Size of a massive channel at the tokens that will carry it, before the onset and after the end."""
MASSIVE_CHANNELS = 3

CONTENT, KEYS, BITS, GROUP_BITS = 32, 6, 18, 7
"""Channels: content, attention keys, label bits (5 part of speech, 5 relation, 4 entity, 4 role), group bits."""
OFFSET = 0.5
"""Constant of the delivered channels: were most of the stream zero, any value would be massive beside its median."""
HEADS, D_HEAD, ROTARY = 2, 24, 8
KEY_SCALE, LABEL_SCALE = 0.3, 0.15
ROTARY_BASE = 100.0
LABEL_BITS = {"pos": 5, "deprel": 5, "ner": 4, "srl": 4}
_WIDTHS = {"content": CONTENT, "keys": KEYS, "known": BITS, "transit": BITS, "delivered": BITS, "group": GROUP_BITS}
_WIDTHS |= {"massive": MASSIVE_CHANNELS, "is_bos": 1, "is_sink": 1}
_ENDS = dict(zip(_WIDTHS, accumulate(_WIDTHS.values()), strict=True))
_SLICES = {name: slice(_ENDS[name] - width, _ENDS[name]) for name, width in _WIDTHS.items()}
D_MODEL = sum(_WIDTHS.values())
NEVER = 2**GROUP_BITS - 1
"""Group of stems whose labels are never delivered."""


@dataclass(frozen=True)
class Strengths:
    """How much each signal changes at a planted gap, 0 (not at all) to 1."""

    representation: float = 1.0
    labels: float = 1.0
    attention: float = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise ConfigError(f"Strength of {name} must lie in 0 … 1, got {value}.")


@dataclass(frozen=True)
class Nuisances:
    """What else happens in a planted model; none of it is a boundary."""

    jitter: float = 0.05
    """Median background step; 0 leaves ordinary gaps unchanged."""
    drift: float = 0.0
    """Background steps fall as exp(-drift · depth), in all three signals alike, depth from 0 to 1."""
    norm_growth: float = 1.0
    """Factor of the whole residual stream from block to block."""
    massive_onset: int | None = None
    """Block whose output first carries massive activations."""
    massive_end: int | None = None
    """Block whose output no longer carries them; None: they stay."""
    massive_on: Literal["words", "delimiters"] = "words"
    """What carries them: a random twelfth of the words, or the first two positions and delimiters, as in pretrained
    models; sinks are then the same tokens."""
    massive_size: float = MASSIVE_SIZE
    """Their size, in units of a content channel."""
    massive_channels: int = 1
    """How many channels they are in, 1 … 3; each is half the size of the one before."""
    delimiters: float = 1.0
    """Share of the kinds of delimiters that carry them; at least one kind does."""
    sink: float = 0.0
    """Attention mass that BOS takes, roughly; at most 0.95. With `massive_on="delimiters"`, every sink alike."""
    sink_onset: int = 0
    """First block with the sink."""
    sink_end: int | None = None
    """First block without it; None: it stays."""
    first_step: float = 1.0
    """Factor of the first gap's background step of the representation."""
    last_step: float = 1.0
    """Factor of the last gap's."""
    rival: int | None = None
    """A gap that is nearly a boundary: `rival_ratio` of the planted step in every signal."""
    rival_ratio: float = 0.9

    def __post_init__(self) -> None:
        if not (0 <= self.jitter <= 0.5 and 0 <= self.rival_ratio <= 1 and 0 <= self.sink <= 0.95):
            raise ConfigError("Needed: jitter in 0 … 0.5, rival_ratio in 0 … 1, sink in 0 … 0.95.")
        if not 0.5 <= self.norm_growth <= 2:
            raise ConfigError(f"norm_growth must lie in 0.5 … 2 a block, got {self.norm_growth}.")
        if not (1 <= self.massive_channels <= MASSIVE_CHANNELS and 0 <= self.delimiters <= 1 and self.massive_size > 0):
            raise ConfigError("Needed: massive_channels 1 … 3, delimiters in 0 … 1, massive_size above 0.")
        if self.massive_on not in ("words", "delimiters"):
            raise ConfigError(f"massive_on is words or delimiters, got {self.massive_on!r}.")
        for start, end in ((self.massive_onset, self.massive_end), (self.sink_onset, self.sink_end)):
            if end is not None and (start is None or end <= start):
                raise ConfigError(f"What starts at block {start} must end later, got {end}.")


@dataclass(frozen=True)
class Steps:
    """What changes at every gap."""

    representation: Float[np.ndarray, "gap"]
    labels: Float[np.ndarray, "gap"]
    attention: Float[np.ndarray, "gap"]


@dataclass(frozen=True)
class PlantedModel:
    """A model whose boundaries are known; with none planted, or at strength 0, a null model."""

    n_layers: int = 12
    boundaries: tuple[int, ...] = (4, 8)
    strengths: Strengths = field(default_factory=Strengths)
    nuisances: Nuisances = field(default_factory=Nuisances)

    def __post_init__(self) -> None:
        if not 4 <= self.n_layers <= 96:
            raise ConfigError(f"Planted models have 4 to 96 blocks, got {self.n_layers}.")
        for gap in (*self.boundaries, *([self.nuisances.rival] if self.nuisances.rival else [])):
            if not 1 <= gap < self.n_layers:
                raise ConfigError(f"Gaps of {self.n_layers} blocks are 1 … {self.n_layers - 1}, got {gap}.")
        if len(self.boundaries) > 2 or len(set(self.boundaries)) < len(self.boundaries):
            raise ConfigError(f"At most two different boundaries can be planted, got {self.boundaries}.")

    @classmethod
    def from_name(cls, name: str) -> tuple[PlantedModel, int]:
        """Read `planted:LAYERS:GAP,GAP@seed:N`; gaps and seed may be left out.

        Raises:
            ConfigError: the name reads otherwise.

        >>> PlantedModel.from_name("planted:16:5,11@seed:3")[0].boundaries
        (5, 11)
        """
        found = re.fullmatch(r"planted:(\d+)(?::(\d+(?:,\d+)?))?(?:@seed:(\d+))?", name)
        if not found:
            raise ConfigError(f"Planted models are named planted:LAYERS:GAP,GAP[@seed:N], got '{name}'.")
        gaps = tuple(int(gap) for gap in found[2].split(",")) if found[2] else ()
        return cls(int(found[1]), gaps), int(found[3] or 0)

    @property
    def name(self) -> str:
        """The name, of depth and gaps alone."""
        gaps = f":{','.join(map(str, self.boundaries))}" if self.boundaries else ""
        return f"planted:{self.n_layers}{gaps}"

    def steps(self, *, seed: int) -> Steps:
        """Draw what changes at every gap; what is planted overrides the background."""
        rng = np.random.default_rng([seed, 0])
        depth = np.linspace(0, 1, self.n_layers - 1)
        background = self.nuisances.jitter * np.exp(
            SPREAD * rng.standard_normal((3, self.n_layers - 1)) - self.nuisances.drift * depth
        )
        background[0, 0] *= self.nuisances.first_step
        background[0, -1] *= self.nuisances.last_step
        steps = np.minimum(background, 1.0)
        strength = np.array([self.strengths.representation, self.strengths.labels, self.strengths.attention])
        for gap in self.boundaries:
            steps[:, gap - 1] = np.maximum(strength, steps[:, gap - 1])
        if self.nuisances.rival:
            steps[:, self.nuisances.rival - 1] = self.nuisances.rival_ratio * strength
        # A stem's labels are delivered once. Background gives way where there are more steps than stems.
        room = 1 - DELIVERED_FIRST - 1e-9
        fixed = [gap - 1 for gap in (*self.boundaries, *([self.nuisances.rival] if self.nuisances.rival else []))]
        loose = np.setdiff1d(np.arange(self.n_layers - 1), fixed)
        wanted = LABEL_SHARE * steps[1]
        if wanted.sum() > room:
            steps[1, loose] *= max(0.0, room - wanted[fixed].sum()) / max(wanted[loose].sum(), 1e-12)
        return Steps(*steps)

    def build(self, *, seed: int = 0, treebank: Treebank | None = None) -> CausalModel:
        """Set the weights.

        Args:
            seed: of everything drawn.
            treebank: its words become the vocabulary and their labels what is planted; the generated one by default.
        """
        import torch

        words = _vocabulary(treebank) if treebank else _generated_vocabulary()
        tokenizer = make_tokenizer(words.pieces)
        state = _weights(self, words, seed)
        settings = {
            "n_layers": self.n_layers,
            "d_model": D_MODEL,
            "n_ctx": 128,
            "n_heads": HEADS,
            "d_head": D_HEAD,
            "d_mlp": state["blocks.0.mlp.W_in"].shape[1],
            "d_vocab": len(words.pieces),
            "act_fn": "relu",
            "normalization_type": None,
            "positional_embedding_type": "rotary",
            "rotary_dim": ROTARY,
            "rotary_base": ROTARY_BASE,
            "rotary_adjacent_pairs": False,
            "use_attn_scale": False,
        }
        tensors = {key: torch.from_numpy(np.asarray(value, dtype=np.float32)) for key, value in state.items()}
        return from_state(settings, tensors, tokenizer, f"{self.name}@seed:{seed}")


@dataclass(frozen=True)
class _Words:
    pieces: tuple[str, ...]
    """Every token; the first two are BOS and the unknown one."""
    share: Float[np.ndarray, "piece"]
    """Of the treebank's tokens."""
    bits: Int[np.ndarray, "piece bit"]
    """Label bits of stems, 0 for other pieces."""
    is_stem: Bool[np.ndarray, "piece"]


@lru_cache(maxsize=1)
def _generated_vocabulary() -> _Words:
    return _vocabulary(generate_treebank(seed=0))


def split_word(form: str) -> tuple[str, ...]:
    """Return a word's stem and its last letter; a single letter stays whole.

    >>> split_word("hotel"), split_word("a")
    (('hote', 'l'), ('a',))
    """
    return (form[:-1], form[-1]) if len(form) > 1 else (form,)


def _vocabulary(treebank: Treebank) -> _Words:
    """Return all pieces, how common they are, and each stem's commonest label in every task as bits."""
    counts, labels = Counter[str](), defaultdict[str, dict[str, Counter[str]]](lambda: defaultdict(Counter))
    for tree in (*treebank.train, *treebank.dev):
        for word in tree.words:
            pieces = split_word(word.form)
            counts.update(pieces)
            if len(pieces[0]) > 1:  # a stem of one letter is also a word or an ending, where probes look
                for task, label in (("pos", word.upos), ("deprel", word.deprel), ("ner", word.ner)):
                    labels[pieces[0]][task][label or "none"] += 1
        for argument in tree.arguments or ():
            stem = split_word(tree.words[argument.head].form)[0]
            if len(stem) > 1:
                labels[stem]["srl"][argument.role] += 1
    pieces = ("<s>", "<unk>", *sorted(counts))
    share = np.array([counts.get(piece, 0) for piece in pieces], dtype=np.float64)
    bits = np.zeros((len(pieces), BITS), dtype=np.int64)
    start = 0
    for task, width in LABEL_BITS.items():
        known = Counter(label for of in labels.values() for label in of[task])
        # The commonest labels get a code each, the rest share the last; 0 means "not delivered".
        code = {label: min(i + 1, 2**width - 1) for i, (label, _) in enumerate(known.most_common())}
        for index, piece in enumerate(pieces):
            if piece in labels and labels[piece][task]:
                number = code[labels[piece][task].most_common(1)[0][0]]
                bits[index, start : start + width] = [number >> bit & 1 for bit in range(width)]
        start += width
    return _Words(pieces, share / share.sum(), bits, np.asarray(bits.any(axis=1)))


def make_tokenizer(pieces: tuple[str, ...]) -> PreTrainedTokenizerBase:
    """Return a tokenizer that cuts every word into its stem and its last letter and prepends a BOS."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>"))
    cuts = ((r"\s+", "removed"), (r"n't$|'\w+$", "isolated"), (r"[^\w'-]", "isolated"), (r".$", "isolated"))
    steps = [pre_tokenizers.Split(Regex(pattern), behaviour) for pattern, behaviour in cuts]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>", pad_token="<s>")


def _weights(plan: PlantedModel, words: _Words, seed: int) -> dict[str, np.ndarray]:
    steps = plan.steps(seed=seed)
    growth = plan.nuisances.norm_growth ** np.arange(plan.n_layers)
    group_code = _group_codes(np.random.default_rng([seed, 1]))
    released = _release(words, steps.labels, np.random.default_rng([seed, 2]))
    gains = _gains(steps.representation, np.random.default_rng([seed, 3]))
    biases = _attention_biases(steps.attention, np.random.default_rng([seed, 4]))
    keys = np.random.default_rng([seed, 5]).standard_normal((2, HEADS, KEYS, D_HEAD - ROTARY - 1))
    state = {
        "embed.W_E": _embedding(plan.nuisances, words, released, group_code, np.random.default_rng([seed, 6])),
        "unembed.W_U": np.random.default_rng([seed, 7]).standard_normal((D_MODEL, len(words.pieces))) * 0.02,
        "unembed.b_U": np.zeros(len(words.pieces)),
    }
    for layer in range(plan.n_layers):
        block = _attention(plan, layer, growth[max(layer - 1, 0)], biases[layer], keys)
        block |= _mlp(plan, layer, growth, gains, group_code)
        state |= {f"blocks.{layer}.{name}": value for name, value in block.items()}
    return state


def _group_codes(rng: np.random.Generator) -> Float[np.ndarray, "group bit"]:
    """Return a code of ±1 for each group, in random order."""
    codes = np.array([[1 - 2 * (number >> bit & 1) for bit in range(GROUP_BITS)] for number in range(2**GROUP_BITS)])
    return codes[rng.permutation(len(codes))].astype(np.float64)


def _release(words: _Words, labels: np.ndarray, rng: np.random.Generator) -> Int[np.ndarray, "piece"]:
    """Return the gap at which each stem's labels arrive: 0 at block 0, `NEVER` for the rest."""
    share = np.concatenate([[DELIVERED_FIRST], LABEL_SHARE * labels])
    gap = np.searchsorted(np.cumsum(share), rng.random(len(words.pieces)), side="right")
    return np.where(words.is_stem & (gap < len(share)), gap, NEVER)


def _gains(representation: np.ndarray, rng: np.random.Generator) -> Float[np.ndarray, "layer channel"]:
    """Return the gain of every content channel: lognormal, its logarithm redrawn to the degree of each step.

    For independent channels CKA of two layers is exp(-4 κ² q), hence κ.
    """
    kappa = np.sqrt(FULL_CHANGE) / 2
    logs = [rng.standard_normal(CONTENT)]
    for q in representation:
        logs.append((1 - q) * logs[-1] + np.sqrt(1 - (1 - q) ** 2) * rng.standard_normal(CONTENT))
    return np.exp(kappa * np.stack(logs))


def _attention_biases(attention: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return complex amplitudes `[layer, head, frequency]` of the score as a function of relative position."""

    def draw() -> np.ndarray:
        return 1.5 * (rng.standard_normal((HEADS, ROTARY // 2)) + 1j * rng.standard_normal((HEADS, ROTARY // 2)))

    biases = [draw()]
    for q in attention:
        biases.append((1 - q) * biases[-1] + np.sqrt(1 - (1 - q) ** 2) * draw())
    return np.stack(biases)


def _embedding(
    nuisances: Nuisances, words: _Words, released: np.ndarray, group_code: np.ndarray, rng: np.random.Generator
) -> Float[np.ndarray, "piece d_model"]:
    n = len(words.pieces)
    rows = np.zeros((n, D_MODEL))
    rows[:, _SLICES["content"]] = rng.standard_normal((n, CONTENT))
    rows[:, _SLICES["keys"]] = KEY_SCALE * rng.standard_normal((n, KEYS))
    rows[:, _SLICES["known"]] = LABEL_SCALE * words.bits
    rows[:, _SLICES["transit"]] = LABEL_SCALE * words.bits * (released == 0)[:, None]
    rows[:, _SLICES["group"]] = LABEL_SCALE * group_code[released] * words.is_stem[:, None]
    carriers = _words_chosen(words, rng) if nuisances.massive_on == "words" else _delimiters(words, nuisances, rng)
    rows[carriers, _SLICES["massive"]] = _massive_seed(nuisances)
    rows[0, _SLICES["is_bos"]] = 1.0
    # Beside delimiters the first two positions are sinks, and block 0 marks both of them.
    rows[[0] if nuisances.massive_on == "words" else carriers, _SLICES["is_sink"]] = 1.0
    rows[:, _SLICES["delivered"]] = OFFSET
    return rows


def _massive_seed(nuisances: Nuisances) -> Float[np.ndarray, "channel"]:
    channel = np.arange(MASSIVE_CHANNELS)
    return SEED_SIZE * (channel < nuisances.massive_channels) / 2.0**channel


def _words_chosen(words: _Words, rng: np.random.Generator) -> list[int]:
    chosen, carried = list[int](), 0.0
    for piece in rng.permutation(np.arange(2, len(words.pieces))):
        if carried + words.share[piece] <= MASSIVE_SHARE:
            chosen.append(int(piece))
            carried += words.share[piece]
    return chosen


def _delimiters(words: _Words, nuisances: Nuisances, rng: np.random.Generator) -> list[int]:
    """Return the pieces without letter or digit that were chosen; a share of 0 chooses none."""
    found = [i for i, piece in enumerate(words.pieces) if i > 1 and not any(map(str.isalnum, piece))]
    count = max(1, round(nuisances.delimiters * len(found))) if nuisances.delimiters else 0
    return [int(i) for i in rng.permutation(found)[:count]]


def _attention(
    plan: PlantedModel, layer: int, scale: float, bias: np.ndarray, keys: np.ndarray
) -> dict[str, np.ndarray]:
    """Head 0 looks at the previous token and moves labels in transit; the other looks by place and a little by key."""
    block: dict[str, np.ndarray] = {f"attn.W_{name}": np.zeros((HEADS, D_MODEL, D_HEAD)) for name in "QKV"}
    block |= {f"attn.b_{name}": np.zeros((HEADS, D_HEAD)) for name in "QKV"}
    block |= {"attn.W_O": np.zeros((HEADS, D_HEAD, D_MODEL)), "attn.b_O": np.zeros(D_MODEL)}
    half = ROTARY // 2
    frequencies = ROTARY_BASE ** (-np.arange(half) / half)
    amplitude = np.where(np.arange(HEADS)[:, None] == 0, 40 * np.exp(1j * frequencies), bias)
    block["attn.b_K"][:, :half] = 1
    block["attn.b_Q"][:, :half], block["attn.b_Q"][:, half:ROTARY] = np.real(amplitude), -np.imag(amplitude)
    rest = slice(ROTARY, D_HEAD - 1)
    for head in range(1, HEADS):
        for name, weight in zip("QK", keys[:, head], strict=True):
            block[f"attn.W_{name}"][head, _SLICES["keys"], rest] = 0.5 * weight / (scale * KEY_SCALE * KEYS**0.5)
    extra, end = plan.nuisances, plan.nuisances.sink_end
    if extra.sink > 0 and layer >= extra.sink_onset and (end is None or layer < end):
        share = extra.sink
        block["attn.b_Q"][1:, -1] = np.log(share / (1 - share)) + 8  # about what 20 other keys sum up to
        block["attn.W_K"][1:, _SLICES["is_sink"], -1] = 1 / scale
    every = np.arange(BITS)
    block["attn.W_V"][0, _SLICES["transit"].start + every, every] = 1
    block["attn.W_O"][0, every, _SLICES["delivered"].start + every] = 1
    if layer == 0 and extra.massive_on == "delimiters":
        # The token after BOS looks back at it, and BOS looks at itself: both get the marks.
        block["attn.W_V"][0, _SLICES["is_bos"], BITS] = 1
        block["attn.W_O"][0, BITS, _SLICES["massive"]] = _massive_seed(extra)
        block["attn.W_O"][0, BITS, _SLICES["is_sink"]] = 1
    return block


def _mlp(
    plan: PlantedModel, layer: int, growth: np.ndarray, gains: np.ndarray, group_code: np.ndarray
) -> dict[str, np.ndarray]:
    """Scale channels, drop what was in transit, and put the next gap's labels into transit at their stems."""
    grow = growth[layer] / growth[max(layer - 1, 0)]
    factor = np.full(D_MODEL, grow)
    factor[_SLICES["content"]] *= gains[layer] / (gains[layer - 1] if layer else 1)
    factor[_SLICES["transit"]] = 0
    if layer == plan.nuisances.massive_onset:
        factor[_SLICES["massive"]] *= plan.nuisances.massive_size / SEED_SIZE
    if layer == plan.nuisances.massive_end:
        factor[_SLICES["massive"]] *= SEED_SIZE / plan.nuisances.massive_size
    # The same shape at every layer. Without growth, content, transit and the massive channel are all that can change.
    changing = np.r_[_SLICES["content"], _SLICES["transit"], _SLICES["massive"]]
    moved = changing if plan.nuisances.norm_growth == 1 else np.arange(D_MODEL)
    n = len(moved)
    w_in, w_out = np.zeros((D_MODEL, 2 * n + BITS)), np.zeros((2 * n + BITS, D_MODEL))
    b_in = np.zeros(2 * n + BITS)
    w_in[moved, np.arange(n)], w_in[moved, n + np.arange(n)] = 1, -1
    w_out[np.arange(n), moved], w_out[n + np.arange(n), moved] = factor[moved] - 1, 1 - factor[moved]
    if layer + 1 < plan.n_layers:
        # A gate opens where a bit is 1 and all group bits agree: any that differs costs 2 of GROUP_BITS.
        gates, scale = 2 * n + np.arange(BITS), growth[max(layer - 1, 0)] * LABEL_SCALE
        w_in[_SLICES["known"].start + np.arange(BITS), gates] = 1
        w_in[_SLICES["group"], gates[0] :] = group_code[layer + 1][:, None] / GROUP_BITS
        b_in[gates] = -scale * (2 - 2 / GROUP_BITS)
        w_out[gates, _SLICES["transit"].start + np.arange(BITS)] = grow * GROUP_BITS / 2
    return {"mlp.W_in": w_in, "mlp.b_in": b_in, "mlp.W_out": w_out, "mlp.b_out": np.zeros(D_MODEL)}
