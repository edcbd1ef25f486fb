"""Everything that touches a device, on another one than the CPU: the same numbers, and no tensor on the wrong side.

Without a card a stand-in takes its place: tensors that say that they lie on `meta`, hold their values on the CPU, and
refuse what CUDA refuses, such as meeting a tensor of the CPU or becoming an array. `pytest -m gpu` runs both.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import optimizer
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from mspgt_tl import detect, intervene, load
from mspgt_tl.contracts import CausalModel
from mspgt_tl.corpora.grammar import generate_treebank, generated_corpus
from mspgt_tl.pipeline.theory import run_theory
from mspgt_tl.signals import probe_training

pytestmark = pytest.mark.gpu
aten = torch.ops.aten
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)
MOVING = (aten._to_copy.default, aten.copy_.default)


class PassesForTensor(type(torch.Tensor)):
    """TransformerLens asks whether `type(x) == torch.Tensor`."""

    def __eq__(cls, other: object) -> bool:
        return other is torch.Tensor or other is cls

    __hash__ = type.__hash__


class Away(torch.Tensor, metaclass=PassesForTensor):
    """A tensor on the stand-in."""

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Away:
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        make: Any = torch.Tensor._make_wrapper_subclass
        return make(cls, held.shape, device="meta", requires_grad=held.requires_grad, **layout)

    def __init__(self, held: torch.Tensor) -> None:
        self.held = held

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.tolist:
            return args[0].held.tolist()
        if func in (torch.Tensor.numpy, torch.Tensor.__array__):
            raise TypeError("A tensor of another device becomes no array; .cpu() first.")
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


def compute(func: Any, args: Any, kwargs: Any) -> Any:
    """Compute on the CPU what is asked of the stand-in, and refuse what a card would refuse."""
    flat, spec = _pytree.tree_flatten((args, kwargs))
    tensors = [x for x in flat if isinstance(x, torch.Tensor)]
    away = [x for x in tensors if isinstance(x, Away)]
    if away and func not in MOVING:
        indices = [id(i) for i in args[1]] if func in INDEXING and isinstance(args[0], Away) else []
        for x in tensors:
            if not isinstance(x, Away) and x.dim() and id(x) not in indices:
                raise RuntimeError(f"{func}: all tensors must be on the same device, found meta and {x.device}")
    inner = [x.held if isinstance(x, Away) else torch.device("cpu") if isinstance(x, torch.device) else x for x in flat]
    own_args, own_kwargs = _pytree.tree_unflatten(inner, spec)
    found = func(*own_args, **own_kwargs)
    if func is aten.copy_.default:
        return args[0]
    wanted = torch.device(kwargs.get("device") or ("meta" if away else "cpu")).type
    if wanted == "cpu":
        return found
    known = {id(x.held): x for x in away}  # what is written in place stays the same tensor
    return _pytree.tree_map_only(torch.Tensor, lambda x: known[id(x)] if id(x) in known else Away(x), found)


class StandIn(TorchDispatchMode):
    """While it is entered, `device="meta"` is the stand-in."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class FromLists(TorchFunctionMode):
    """torch makes a tensor out of a list without asking a `TorchDispatchMode`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and (device := options.pop("device", None)) is not None:
            return func(*args, **options).to(device)
        return func(*args, **options)


@pytest.fixture(
    params=[
        "stand-in",
        pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
    ]
)
def other(
    request: pytest.FixtureRequest, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], CausalModel]]:
    """Return a function that loads the tiny model on the other device; both sides multiply in float32."""
    monkeypatch.setattr(probe_training, "has_bfloat16", lambda: False)
    if request.param == "cuda":
        yield lambda: load(tiny_folder, device="cuda", dtype="float32")
        return
    # Tensors of inference mode are made without asking anybody.
    plain = {True: torch.no_grad, False: contextlib.nullcontext}
    monkeypatch.setattr(torch, "inference_mode", lambda mode=True: plain[mode]())
    fused = optimizer._get_fused_kernels_supported_devices()
    monkeypatch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: [*fused, "meta"])

    def moved() -> CausalModel:
        model: Any = load(tiny_folder, parity=False)
        for module in model.modules():
            for name, value in module._parameters.items():
                module._parameters[name] = torch.nn.Parameter(value.data.to("meta"), requires_grad=False)
            for name, value in module._buffers.items():
                module._buffers[name] = value.to("meta")
        model.cfg.device = "meta"
        return model

    # A module that changes its dtype would write into its parameters' data, which no subclass is asked about.
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    with StandIn(), FromLists():
        yield moved
    torch.__future__.set_overwrite_module_params_on_conversion(False)


TEXT = generated_corpus(seed=3, limit=200).sentences


def found_in(model: CausalModel) -> dict[str, np.ndarray]:
    """Return the numbers of a short detection with rivals."""
    config = {
        "probe": {"epochs": 2, "repeats": 1, "min_items": 5},
        "boundaries": {"null_curves": 100, "resamples": 100},
    }
    trees = generate_treebank(seed=1, train=60, dev=60)
    result = detect(model, TEXT, trees, config=config, tasks=["pos", "deprel"], rivals=True)
    assert result.rivals is not None
    return {"curve": result.curves.values, "f1": result.data["f1"].values, "rivals": result.rivals["curve"].values}


def swept_in(model: CausalModel) -> dict[str, np.ndarray]:
    """Return the numbers of a short sweep under every dose, with text and its perplexity."""
    config = {
        "samples": 2,
        "levels": (0.1,),
        "controls": 1,
        "effect_sentences": 6,
        "unit_sentences": 20,
        "dose_sentences": 4,
        "resamples": 100,
        "decode": {"new_tokens": 4, "prompt_tokens": 4},
        "metrics": {"names": ("type_token_ratio", "perplexity")},
    }
    result = intervene(model, TEXT, scales="0-2,3-4,5-7", config=config)
    return {"kl": result.effects["kl"].values, "text": result.samples["text"].to_numpy()}


def theory_in(model: CausalModel) -> dict[str, np.ndarray]:
    """Return the numbers of a short theory run, with its pass in float64."""
    config = {
        "sentences": 120,
        "label_samples": 1,
        "closure_texts": 2,
        "closure_sigmas": (0.1,),
        "closure_samples": 2,
        "noise_draws": 2,
        "exact_draws": 2,
        "rate_texts": 20,
        "rate_sigmas": (0.2, 0.5),
        "channel_sigmas": (2.0,),
        "resamples": 100,
        "hvib": {"steps": 4, "betas": (0.1, 1.0)},
    }
    result = run_theory(model, TEXT, scales="0-2,3-4,5-7", config=config)
    numbers = {f"{stage}.{name}": part.values for stage, of in result.parts.items() for name, part in of.items()}
    return {name: values for name, values in numbers.items() if values.dtype.kind == "f"}


@pytest.mark.slow
@pytest.mark.parametrize("run", [found_in, swept_in, theory_in])
def test_a_command_on_another_device_gives_the_same(
    other: Callable[[], CausalModel], tiny_folder: Path, run: Callable[[CausalModel], dict[str, np.ndarray]]
) -> None:
    """Passes, probes, noise, decoding and gradients: on the stand-in to rounding, on a card within its own."""
    expected = run(load(tiny_folder))
    there = other()
    found = run(there)
    on_card = torch.device(there.cfg.device).type == "cuda"
    assert set(found) == set(expected)
    for name, values in expected.items():
        if values.dtype == object:
            assert on_card or (found[name] == values).all()  # a card's rounding may draw another token
        else:
            np.testing.assert_allclose(
                found[name], values, rtol=0.05 if on_card else 1e-6, atol=5e-3 if on_card else 1e-9
            )


def test_the_stand_in_refuses_what_a_card_refuses() -> None:
    """Tensors of two devices do not meet, and none becomes an array by itself."""
    with StandIn(), FromLists():
        there = torch.tensor([1.0, 2.0], device="meta")
        with pytest.raises(RuntimeError, match="same device"):
            there + torch.ones(2)
        with pytest.raises(TypeError, match="cpu"):
            there.numpy()
        assert (there * 2).cpu().numpy().tolist() == [2.0, 4.0]
        assert there[torch.tensor([1])].item() == 2.0
