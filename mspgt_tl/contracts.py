"""The conventions and shared types that every part agrees on.

- A model has `n_layers` blocks; `resid[l]` is `blocks.{l}.hook_resid_post`, shape `[batch, pos, d_model]`.
- A *gap* b in 1 … n_layers-1 lies between blocks b-1 and b; a *boundary* is a gap. Arrays over gaps have length
  n_layers-1 and index b-1, and labelled arrays carry the coordinate `gap`.
- Boundaries b_LI < b_IG cut the blocks into the scales Local, Intermediate and Global.
- Information is in nats. Statistics accumulate in float64. Padding, the first token of a sentence (BOS or not) and
  sinks never count as data (`activations.data_tokens`).
- What could not be computed is `nan` with a reason beside it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, Self, TypeVar, get_args

from mspgt_tl.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

LAYER, GAP, FOLD, RESAMPLE, SIGNAL, TASK = "layer", "gap", "fold", "resample", "signal", "task"
BOUND, SCALE, SET, SIGMA, CURVE, STEP, BETA = "bound", "scale_name", "set", "sigma", "curve", "step", "beta"
"""Axis names of every labelled array; the second line's are the theory's."""

TASKS = ("pos", "deprel", "ner", "srl")
"""Probe tasks: part of speech, dependency relation, named entities, semantic roles."""

Role = Literal["fused", "rival", "audit"]
"""Of a signal: fused into the evidence, held against it, or neither."""
Resampled = Literal["text", "trees"]
ScaleName = Literal["local", "intermediate", "global"]
SCALES: tuple[ScaleName, ...] = get_args(ScaleName)
"""The three scales, from the first block on."""
WITHIN = 1
"""Places at most so many gaps apart are the same: a boundary that a claim, a variant, a rival or an onset meets."""
MIN_TEXTS = 20
"""Fewer texts give no interval worth the name. Squared scores have heavy tails: at a nominal 95 %, intervals cover
about 80 % with 20 texts and 90 % with 100 (measured on sentences)."""
FROM_ABOVE = SCALES[::-1]
"""In the order of the bottleneck's chain (eq. 17)."""


def layer_target(layer: int) -> str:
    """Return what one block, disturbed on its own, is called beside the scales."""
    return f"layer {layer}"


SEEDS = 2**64
"""As many as there are; sums of seeds wrap around."""


def check_seed(seed: Any) -> None:
    """Refuse what no random generator of the package takes.

    Raises:
        ConfigError: not a whole number from 0 to 2^64 - 1.
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= int(seed) < SEEDS:
        raise ConfigError(f"A seed is a whole number from 0 to 2^64 - 1, got {seed!r}.")


class Existence(StrEnum):
    """Verdicts of the test of existence on one boundary."""

    SUPPORTED = "supported"
    LOCALISED = "localised, not significant"
    SIGNIFICANT = "significant, not localised"
    NOT_FOUND = "not found"


class Published(StrEnum):
    """Verdicts of the published rule, which does not ask whether a boundary exists."""

    ACCEPTED = "accepted"
    NOT_ACCEPTED = "not accepted"


class CausalModel(Protocol):
    """What we use of a TransformerLens model; `HookedTransformer` and 3.9's `TransformerBridge` both have it."""

    cfg: Any
    tokenizer: Any

    def forward(self, input: Tensor, **options: Any) -> Any: ...
    def run_with_cache(self, *args: Any, **options: Any) -> Any: ...
    def hooks(self, fwd_hooks: Sequence[tuple[Any, Any]] = ..., **options: Any) -> Any: ...
    def named_parameters(self) -> Any: ...


@dataclass(frozen=True)
class TextCorpus:
    """Sentences of running text, in reading order."""

    name: str
    sentences: tuple[str, ...]
    sha256: str
    """Hash of the source bytes (or of the generator's settings)."""
    documents: tuple[int, ...] | None = None
    """For every sentence the number of its document, never falling; None where the source does not tell documents."""
    notes: Mapping[str, int] = field(default_factory=dict, hash=False)
    """How often something was joined, dropped or mended while reading."""

    def select(self, chosen: Iterable[int]) -> TextCorpus:
        """Return the corpus with these of its sentences only."""
        kept = tuple(chosen)
        documents = None if self.documents is None else tuple(self.documents[i] for i in kept)
        return replace(self, sentences=tuple(self.sentences[i] for i in kept), documents=documents)


@dataclass(frozen=True)
class Word:
    """One syntactic word of a tree."""

    form: str
    start: int
    end: int
    """Character span in `Tree.text`, end exclusive; words of one token that cannot be told apart share its span."""
    upos: str | None
    head: int | None
    """Index of the head word in `Tree.words`; None for the root."""
    deprel: str | None
    ner: str | None
    """BIO tag, such as `B-PER`."""


@dataclass(frozen=True)
class Argument:
    """One argument of a predicate; both are indices into `Tree.words`."""

    predicate: int
    head: int
    role: str


@dataclass(frozen=True)
class Tree:
    """One sentence with its gold labels; a layer that the treebank lacks is None on every word."""

    text: str
    words: tuple[Word, ...]
    arguments: tuple[Argument, ...] | None
    predicates: tuple[int, ...] | None
    """Indices of all predicates, those without arguments included."""
    document: int | None = field(default=None, repr=False)
    """Number of the document within its file, from `# newdoc`; None where the file has none."""


@dataclass(frozen=True)
class Treebank:
    """Trees to train probes on and trees to measure them on."""

    name: str
    train: tuple[Tree, ...]
    dev: tuple[Tree, ...]
    tasks: tuple[str, ...]
    """The subset of `TASKS` whose labels both splits carry."""
    sha256: str
    notes: Mapping[str, int] = field(default_factory=dict, hash=False)
    """How often something was left out or mended while reading, over both files."""


@dataclass(frozen=True)
class Batch:
    """What one forward pass shows of a batch of right-padded sentences."""

    sentence: Int[np.ndarray, "batch"]
    """Index of each sentence in the stream's input."""
    fold: Int[np.ndarray, "batch"]
    """Bootstrap fold of each sentence."""
    drawn: Int[Tensor, "batch"]
    """Position of the one token of each sentence that stands for it where rows must be independent."""
    tokens: Int[Tensor, "batch pos"]
    is_data: Bool[Tensor, "batch pos"]
    """False on padding, the first token and sinks."""
    is_token: Bool[Tensor, "batch pos"]
    """False on padding only."""
    resid: Sequence[Float[Tensor, "batch pos d_model"]]
    """One tensor per layer, in the model's dtype; empty when no signal asked for it."""
    pattern: Sequence[Float[Tensor, "batch head query key"]]
    """One tensor per layer; empty when no signal asked for it."""
    centred: bool = False
    """Whether the model's blocks read the stream centred (LayerNorm) and not only scaled (RMSNorm)."""


class Accumulator(Protocol):
    """The state of a signal during a pass: sums per bootstrap fold."""

    def observe(self, batch: Batch) -> None: ...

    def sums(self) -> Mapping[str, np.ndarray]:
        """Return float64 arrays whose first axis is the fold."""
        ...


class Signal(ABC):
    """A curve over gaps, computed from sums over bootstrap folds of sentences.

    Subclasses are frozen dataclasses holding parameters only. `curves` is called with one row of ones for the point
    estimate and with rows of resampled counts for the bootstrap, so resampling never runs the model again.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    unit: ClassVar[str]
    source: ClassVar[str]
    """Where the definition comes from: paper, equation, and P, R or N as in the method's notes."""
    role: ClassVar[Role] = "audit"
    definition: ClassVar[str] = ""
    """One line for the report's table; by default the source."""
    place: ClassVar[int] = 100
    """Where it stands among signals of its role; equal places go by name."""
    resampled_with: ClassVar[Resampled] = "text"
    """Signals that saw the same sentences are resampled together."""

    @classmethod
    def from_config(cls, config: Any, rule: str) -> Self:
        """Return a fused signal in the form that a `SignalConfig` and a rule ask for."""
        return cls()

    @classmethod
    def of_model(cls, model: CausalModel) -> Self:
        """Return a rival signal for this model."""
        return cls()

    @abstractmethod
    def curves(
        self, sums: Mapping[str, np.ndarray], weights: Float[np.ndarray, "resample fold"]
    ) -> Float[np.ndarray, "resample gap"]:
        """Return one curve per row of fold weights, `nan` where it cannot be computed."""


class StreamSignal(Signal):
    """A signal that watches the forward pass over the text corpus."""

    needs: ClassVar[frozenset[str]]
    """Subset of {"resid", "pattern"}."""

    @abstractmethod
    def start(self, *, n_layers: int, fold_sizes: Int[np.ndarray, "fold"]) -> Accumulator:
        """Return an empty accumulator for folds of these numbers of sentences."""


S = TypeVar("S")
T = TypeVar("T")


class Registry(Generic[S]):
    """Classes by name, filled by decorating them."""

    def __init__(self, kind: str) -> None:
        self.kind, self._known = kind, dict[str, type[S]]()

    def register(self, part: type[T]) -> type[T]:
        self._known[part.name] = part  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
        return part

    def __getitem__(self, name: str) -> type[S]:
        if name not in self._known:
            raise ConfigError(unknown_name(self.kind, name, self._known))
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._known))


SIGNALS: Registry[Signal] = Registry("signal")


def signals_of(role: Role) -> list[type[Signal]]:
    """Return every registered signal of a role, in order."""
    known = [SIGNALS[name] for name in SIGNALS]
    return sorted((part for part in known if part.role == role), key=lambda part: (part.place, part.name))


class Progress(Protocol):
    """Called as work proceeds, for a progress bar."""

    def __call__(self, stage: str, done: float, total: float) -> None: ...
