"""Tests of the probe signal: items, training, counts and curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch

from mspgt_tl.config import ProbeConfig
from mspgt_tl.contracts import SIGNALS, Argument, Tree, Word
from mspgt_tl.errors import ActivationError, ConfigError, DataError
from mspgt_tl.signals.probe import KINDS, ProbeSignal, count_labels, f1_table, macro_f1
from mspgt_tl.signals.probe_fitting import ProbeData, fit_probes
from mspgt_tl.signals.probe_tasks import TaskItems, control_items, label_ids, make_items
from mspgt_tl.signals.probe_training import (
    Inputs,
    Labelled,
    feature_moments,
    predict,
    start_weights,
    train_probes,
)

QUICK = ProbeConfig(repeats=1, hidden=32, epochs=8, batch=64, learning_rate=5e-3, patience=3)
PER_TREE = 10


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Products this small gain nothing from a second thread, and lose seconds to it when cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def word(form: str, upos: str | None, head: int | None = None, deprel: str = "dep", ner: str = "O") -> Word:
    return Word(form, 0, len(form), upos, head, deprel, ner)


def pos_trees(labels: Sequence[str | None], forms: Sequence[str]) -> list[Tree]:
    """Trees of ten words each, labelled for part of speech only."""
    words = [word(form, label) for form, label in zip(forms, labels, strict=True)]
    return [Tree("", tuple(words[start : start + PER_TREE]), None, None) for start in range(0, len(words), PER_TREE)]


def split(features: np.ndarray, labels: Sequence[str | None], forms: Sequence[str], n_folds: int) -> ProbeData:
    trees = pos_trees(labels, forms)
    rows = [np.arange(i * PER_TREE, (i + 1) * PER_TREE) for i in range(len(trees))]
    return ProbeData(features, trees, rows, np.arange(len(trees)) % n_folds)


def planted(n_words: int, *, seed: int, onset: int = 3, n_layers: int = 6) -> ProbeData:
    """Four classes, linear in the features from layer `onset` on and absent before; words say nothing of the class."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 4, n_words)
    features = rng.standard_normal((n_words, n_layers, 8)).astype(np.float32)
    features[:, onset:, :4] += 4 * np.eye(4, dtype=np.float32)[label][:, None]
    forms = [f"w{index}" for index in rng.integers(0, 400, n_words)]
    return split(features, [f"C{index}" for index in label], forms, n_folds=8)


@pytest.fixture(scope="module")
def planted_sums():
    return fit_probes(planted(2000, seed=0), planted(1000, seed=1), ("pos",), QUICK)


SENTENCE = Tree(
    "",
    (
        word("The", "DET", 1, "det"),
        word("Cat", "NOUN", 2, "nsubj", "B-PER"),
        word("sees", "VERB", None, "root"),
        word("dogs", "NOUN", 2, "obj"),
        word("now", "ADV", 2, "advmod"),
    ),
    (Argument(2, 1, "ARG0"), Argument(2, 3, "ARG1")),
    (2, 4),
)
ROW = [np.array([10, 11, 12, 13, 14])]


def test_word_tasks_take_one_row_per_labelled_word():
    """Parts of speech and entities are read off single words."""
    items = make_items([SENTENCE], "pos", ROW, seed=0)
    assert items.rows.tolist() == [[10], [11], [12], [13], [14]]
    assert items.labels.tolist() == ["DET", "NOUN", "VERB", "NOUN", "ADV"]
    assert items.words.tolist() == ["the", "cat", "sees", "dogs", "now"]
    assert make_items([SENTENCE], "ner", ROW, seed=0).labels.tolist() == ["O", "B-PER", "O", "O", "O"]


def test_dependency_items_pair_words_with_heads_and_skip_the_root():
    """A relation is read off a word and its head; the root has none."""
    items = make_items([SENTENCE], "deprel", ROW, seed=0)
    assert items.rows.tolist() == [[10, 11], [11, 12], [13, 12], [14, 12]]
    assert items.labels.tolist() == ["det", "nsubj", "obj", "advmod"]


def test_role_items_add_as_many_non_arguments_as_arguments():
    """Two arguments bring both remaining words; a predicate without arguments brings one word."""
    items = make_items([SENTENCE], "srl", ROW, seed=0)
    first = items.rows[:, 0] == 12
    assert sorted(items.labels[first].tolist()) == ["ARG0", "ARG1", "none", "none"]
    assert sorted(items.rows[first & (items.labels == "none"), 1].tolist()) == [10, 14]
    assert items.labels[~first].tolist() == ["none"]
    assert items.rows[~first, 1] != 14


def test_unaligned_words_leave_their_items_out():
    """A row of -1 removes the word, and pairs that need it."""
    row = [np.array([0, -1, 1, 2, 3])]
    assert make_items([SENTENCE], "deprel", row, seed=0).labels.tolist() == ["obj", "advmod"]
    assert len(make_items([SENTENCE], "pos", row, seed=0)) == 4


def test_items_refuse_unknown_tasks_and_misfitting_rows():
    """Callers' mistakes are named."""
    with pytest.raises(ConfigError, match="Did you mean 'pos'"):
        make_items([SENTENCE], "poss", ROW, seed=0)
    with pytest.raises(DataError, match="5 words"):
        make_items([SENTENCE], "pos", [np.array([1])], seed=0)


def test_control_labels_follow_word_types_in_both_splits():
    """A type has one random label, in train and dev alike, drawn from the task's distribution."""
    rng = np.random.default_rng(0)
    words = np.array([f"w{index}" for index in rng.integers(0, 3000, 6000)])
    labels = np.where(rng.random(6000) < 0.8, "A", "B")
    items = TaskItems("pos", np.arange(6000)[:, None], labels, words, np.arange(6000))
    train, dev = items.take(np.arange(3000)), items.take(np.arange(3000, 6000))
    relabelled = [control_items(part, train.labels, seed=1) for part in (train, dev)]
    by_type: dict[str, set[str]] = {}
    for part in relabelled:
        for form, label in zip(part.words.tolist(), part.labels.tolist(), strict=True):
            by_type.setdefault(form, set()).add(label)
    assert {len(drawn) for drawn in by_type.values()} == {1}
    assert np.mean([drawn == {"A"} for drawn in by_type.values()]) == pytest.approx(0.8, abs=0.03)


def test_unseen_dev_labels_come_last():
    """Probe outputs are the training labels; labels of dev alone follow."""
    names, n_trained, train, dev = label_ids(np.array(["b", "c"]), np.array(["a", "c"]))
    assert (names, n_trained) == (["b", "c", "a"], 2)
    assert (train.tolist(), dev.tolist()) == ([0, 1], [2, 1])


def test_planted_onset_gives_the_only_jump(planted_sums):
    """Labels that become linear at layer 3 make F1 jump at gap 3 and nowhere else."""
    curve = ProbeSignal().curves(planted_sums[0], np.ones((1, 8)))[0]
    assert curve.argmax() + 1 == 3
    assert curve[2] > 0.5
    assert np.delete(curve, 2).max() < 0.1


def test_selectivity_curve_jumps_where_the_labels_do(planted_sums):
    """Words say nothing here, so control F1 stays at chance and selectivity jumps with F1."""
    sums, _ = planted_sums
    table = f1_table(sums)
    mlp, control = table[0, KINDS.index("mlp")], table[0, KINDS.index("control")]
    assert mlp[3:].min() > 0.9
    assert control.max() < 0.5
    assert ProbeSignal(curve="selectivity").curves(sums, np.ones((1, 8)))[0].argmax() + 1 == 3


def test_unrequested_tasks_are_nan_in_the_table(planted_sums):
    """What was not computed is nan, not zero."""
    assert np.isnan(f1_table(planted_sums[0])[1:]).all()


def test_only_the_mlp_learns_xor():
    """Labels that depend on the product of two signs need the hidden layer."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((3000, 2, 4)).astype(np.float32)
    labels = np.where(features[:, 1, 0] * features[:, 1, 1] > 0, "A", "B").tolist()
    data = split(features, labels, ["x"] * 3000, n_folds=1)
    table = f1_table(fit_probes(data, data, ("pos",), replace(QUICK, epochs=15))[0])
    assert table[0, KINDS.index("mlp"), 1] > 0.9
    assert table[0, KINDS.index("linear"), 1] < 0.6


def small_problem(n_layers: int = 3) -> tuple[np.ndarray, np.ndarray, Inputs]:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((300, n_layers, 6)).astype(np.float32)
    label = (features[:, 0, 0] > 0).astype(np.int64)
    return features, label, exact_inputs(features)


def exact_inputs(features: np.ndarray) -> Inputs:
    return Inputs(features, feature_moments(features), dtype=torch.float32)


def test_batched_training_equals_one_layer_at_a_time():
    """The same start and batches give the same weights, early stopping and compaction included."""
    features, label, inputs = small_problem()
    config = replace(QUICK, epochs=20, learning_rate=2e-2)
    rows = np.arange(300)[:, None]
    fitting, held_out = Labelled(rows[:240], label[:240]), Labelled(rows[240:], label[240:])
    together = train_probes(inputs, fitting, start_weights(3, (6, 32, 2), seed=0), config, held_out=held_out)
    assert len(set(together.best_epoch.tolist())) > 1, "the layers should stop at different epochs"
    for layer in range(3):
        alone = features[:, layer : layer + 1]
        single = train_probes(
            exact_inputs(alone),
            fitting,
            start_weights(1, (6, 32, 2), seed=0),
            config,
            held_out=held_out,
        )
        assert single.best_epoch[0] == together.best_epoch[layer]
        for ours, theirs in zip(together.weights, single.weights, strict=True):
            np.testing.assert_allclose(ours[layer], theirs[0], atol=1e-5)


def test_many_items_are_gone_over_less_often():
    """Eight minibatches of 64 are two passes over 240 items: the same weights as of two epochs, step sizes included."""
    _, label, inputs = small_problem()
    items = Labelled(np.arange(240)[:, None], label[:240])
    start = start_weights(3, (6, 32, 2), seed=0)
    few, two = (
        train_probes(inputs, items, start, replace(QUICK, **settings)) for settings in ({"max_steps": 8}, {"epochs": 2})
    )
    assert few.best_epoch.tolist() == [2, 2, 2]
    assert all(torch.equal(a, b) for a, b in zip(few.weights, two.weights, strict=True))


def test_every_layer_keeps_its_own_best_weights():
    """A noise layer overfits at once and keeps an early epoch, a clean one learns on; losses are those kept."""
    from mspgt_tl.signals.probe_training import mean_loss

    _, label, inputs = small_problem()
    rows = np.arange(300)[:, None]
    held_out = Labelled(rows[240:], label[240:])
    trained = train_probes(
        inputs,
        Labelled(rows[:240], label[:240]),
        start_weights(3, (6, 32, 2), seed=0),
        replace(QUICK, epochs=15),
        held_out=held_out,
    )
    assert trained.best_epoch[0] > trained.best_epoch[1:].max()
    again = mean_loss(inputs, held_out, trained.weights, torch.arange(3))
    np.testing.assert_allclose(again, trained.held_out_loss, atol=1e-6)


def test_pairs_are_concatenated_and_standardised():
    """A pair's input is its two words' standardised vectors, one after the other."""
    features, _, inputs = small_problem()
    mean, scale = feature_moments(features)
    x = inputs.gather(np.array([[4, 7], [1, 2]]))
    expected = np.concatenate([(features[4] - mean) / scale, (features[7] - mean) / scale], axis=1)
    assert x.shape == (3, 2, 12)
    np.testing.assert_allclose(x[:, 0], expected, atol=1e-5)


def test_constant_channels_have_scale_one():
    """A channel without variance is only centred; a float16 memory map is read like any array."""
    features = np.random.default_rng(0).standard_normal((50, 2, 3)).astype(np.float16)
    features[:, 1, 2] = 1000
    mean, scale = feature_moments(features)
    assert (mean[1, 2], scale[1, 2]) == (1000, 1)
    np.testing.assert_allclose(scale[0], features[:, 0].astype(np.float64).std(0), rtol=1e-6)


def test_memory_maps_train_like_arrays(tmp_path, planted_sums):
    """Features on disk give the same counts to the bit."""
    data = planted(2000, seed=0)
    np.save(tmp_path / "features.npy", data.features)
    mapped = replace(data, features=np.load(tmp_path / "features.npy", mmap_mode="r"))
    sums, _ = fit_probes(mapped, planted(1000, seed=1), ("pos",), QUICK)
    for name, values in planted_sums[0].items():
        np.testing.assert_array_equal(sums[name], values)


def test_seeds_repeat_to_the_bit_and_leave_global_state_alone(planted_sums):
    """Equal seeds give equal counts and losses; numpy's and torch's global generators do not move."""
    np.random.seed(5)
    torch.manual_seed(5)
    before = np.random.get_state(legacy=False)["state"]["key"].copy(), torch.random.get_rng_state()
    sums, metadata = fit_probes(planted(2000, seed=0), planted(1000, seed=1), ("pos",), QUICK)
    assert np.array_equal(np.random.get_state(legacy=False)["state"]["key"], before[0])
    assert torch.equal(torch.random.get_rng_state(), before[1])
    assert metadata == planted_sums[1]
    for name, values in planted_sums[0].items():
        np.testing.assert_array_equal(sums[name], values)


def guesses(n_items: int, n_labels: int, n_layers: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    label = rng.integers(0, n_labels, n_items)
    wrong = rng.integers(0, n_labels, (n_layers, n_items))
    return np.where(rng.random((n_layers, n_items)) < 0.6, label, wrong), label, rng.integers(0, 10, n_items)


def test_macro_f1_equals_scikit_learn():
    """On the point estimate, also for a subset of labels and one that nothing carries."""
    from sklearn.metrics import f1_score

    predicted, label, fold = guesses(500, 7)
    hits, total = count_labels(predicted, label, fold, n_folds=10, n_labels=8)
    chosen = [1, 3, 4, 7]
    ours = macro_f1(hits[..., chosen], total[..., chosen], np.ones((1, 10)))[0]
    options: Any = {"average": "macro", "zero_division": 0}
    theirs = [f1_score(label, row, labels=chosen, **options) for row in predicted]
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_counts_add_over_folds():
    """How items are cut into folds changes nothing in the sums."""
    predicted, label, fold = guesses(500, 7)
    fine = count_labels(predicted, label, fold, n_folds=10, n_labels=7)
    whole = count_labels(predicted, label, np.zeros_like(fold), n_folds=1, n_labels=7)
    for parts, sums in zip(fine, whole, strict=True):
        np.testing.assert_array_equal(parts.sum(0), sums[0])


def test_resampled_curves_equal_repeating_the_items():
    """Weighting the sums of folds is the same as repeating the folds' items."""
    predicted, label, fold = guesses(500, 7)
    hits, total = count_labels(predicted, label, fold, n_folds=10, n_labels=7)
    weights = np.random.default_rng(1).multinomial(10, np.full(10, 0.1), size=5).astype(float)
    curves = ProbeSignal().curves({"ner.mlp.hits": hits[:, None], "ner.mlp.total": total[:, None]}, weights)
    for row, curve in zip(weights.astype(int), curves, strict=True):
        repeats = row[fold]
        again = count_labels(
            np.repeat(predicted, repeats, axis=1),
            np.repeat(label, repeats),
            np.zeros(repeats.sum(), dtype=int),
            n_folds=1,
            n_labels=7,
        )
        f1 = np.mean(2 * again[0][0] / again[1][0], axis=1)
        np.testing.assert_allclose(curve, np.abs(np.diff(f1)), atol=1e-6)


def test_float32_products_agree_with_float64():
    """Whole weights use float32, weights that are not use float64: the same curve within 1e-6."""
    predicted, label, fold = guesses(20_000, 40)
    hits, total = count_labels(predicted, label, fold, n_folds=10, n_labels=40)
    weights = np.random.default_rng(1).multinomial(10, np.full(10, 0.1), size=50).astype(float)
    np.testing.assert_allclose(macro_f1(hits, total, weights), macro_f1(hits, total, weights / 3), atol=1e-6)


def test_an_empty_resample_is_nan():
    """No weight at all is no estimate."""
    predicted, label, fold = guesses(500, 7)
    hits, total = count_labels(predicted, label, fold, n_folds=10, n_labels=7)
    assert np.isnan(macro_f1(hits, total, np.zeros((1, 10)))).all()


def test_repeated_trainings_are_averaged_and_drawn_anew():
    """The point estimate is the mean F1 of all trainings; resamples also differ in which trainings they drew."""
    predicted, label, fold = guesses(500, 7)
    parts = zip(
        *(count_labels(row, label, fold, n_folds=10, n_labels=7) for row in (predicted, predicted[::-1])), strict=True
    )
    hits, total = (np.stack(part, axis=1) for part in parts)
    levels = [macro_f1(hits[:, r], total[:, r], np.ones((1, 10)))[0] for r in range(2)]
    sums = {"ner.mlp.hits": hits, "ner.mlp.total": total}
    point = ProbeSignal().curves(sums, np.ones((1, 10)))[0]
    np.testing.assert_allclose(point, np.abs(np.diff(np.mean(levels, axis=0))), atol=1e-6)
    # Twice every fold: the same sums, but drawn trainings.
    drawn = ProbeSignal().curves(sums, np.full((50, 10), 2.0))
    assert len(np.unique(drawn.round(6), axis=0)) == 3


def test_a_resample_of_some_single_folds_draws_its_trainings():
    """Only the point estimate, every fold once, takes each training once."""
    predicted, label, fold = guesses(500, 7)
    parts = zip(
        *(count_labels(row, label, fold, n_folds=10, n_labels=7) for row in (predicted, predicted[::-1])), strict=True
    )
    hits, total = (np.stack(part, axis=1) for part in parts)
    sums = {"ner.mlp.hits": hits, "ner.mlp.total": total}
    mixed = np.tile([1.0, 1, 1, 1, 1, 1, 1, 1, 2, 0], (50, 1))
    assert len(np.unique(ProbeSignal().curves(sums, mixed).round(6), axis=0)) == 3


def test_selectivity_leaves_out_a_task_without_its_control(planted_sums):
    """It cannot be told there; the other tasks' curve stays what it is."""
    sums, _ = planted_sums
    signal = ProbeSignal(curve="selectivity")
    more = sums | {f"ner.mlp.{part}": sums[f"pos.mlp.{part}"] for part in ("hits", "total")}
    np.testing.assert_array_equal(signal.curves(more, np.ones((1, 8))), signal.curves(sums, np.ones((1, 8))))


def test_rare_and_empty_labels_do_not_count():
    """Labels under 20 test items are left out; labels unseen in training stay and score 0."""
    train = planted(1000, seed=0)
    dev = planted(500, seed=1)
    words = [item for tree in dev.trees for item in tree.words]
    for index in range(60):
        words[index] = replace(words[index], upos="RARE" if index < 19 else "NEW")
    labels, forms = [item.upos for item in words], [item.form for item in words]
    sums, metadata = fit_probes(
        train, split(dev.features, labels, forms, n_folds=8), ("pos",), replace(QUICK, epochs=2)
    )
    described = metadata["tasks"]["pos"]["mlp"]
    assert described["labels"] == ["C0", "C1", "C2", "C3", "NEW"]
    assert described["left_out"] == ["RARE"]
    assert described["unseen_in_training"] == ["NEW", "RARE"]
    assert sums["pos.mlp.hits"][..., 4].sum() == 0
    np.testing.assert_array_equal(sums["pos.mlp.total"][..., 4].sum(0), 41)


def test_tasks_that_cannot_be_scored_are_named_and_left_out():
    """A task without labels is skipped with its reason."""
    train, dev = planted(400, seed=0), planted(400, seed=1)
    config = replace(QUICK, epochs=1)
    sums, metadata = fit_probes(train, dev, ("pos", "srl"), config)
    assert "too few" in metadata["skipped"]["srl"]
    assert not any(name.startswith("srl") for name in sums)
    assert np.isfinite(ProbeSignal().curves(sums, np.ones((1, 8)))).all()


def test_layers_in_groups_give_the_same_counts(monkeypatch, planted_sums):
    """Where memory holds only a few layers at once, nothing changes but rounding, and all layers stand in order."""
    from mspgt_tl.signals import probe_fitting

    monkeypatch.setattr(probe_fitting, "layer_groups", lambda *_: [slice(0, 1), slice(1, 4), slice(4, 6)])
    sums, metadata = fit_probes(planted(2000, seed=0), planted(1000, seed=1), ("pos",), QUICK)
    assert {name: array.shape for name, array in sums.items()} == {n: a.shape for n, a in planted_sums[0].items()}
    np.testing.assert_allclose(f1_table(sums)[0], f1_table(planted_sums[0])[0], atol=0.02)
    losses, expected = (np.array(m["tasks"]["pos"]["mlp"]["held_out_loss"]) for m in (metadata, planted_sums[1]))
    np.testing.assert_allclose(losses, expected, atol=0.02)


@pytest.mark.parametrize(("layer_mb", "sizes"), [(1, [6]), (40, [2, 2, 2]), (300, [1] * 6)])
def test_groups_of_layers_fit_into_the_memory_given(layer_mb, sizes):
    """Of 100 MB; one layer at least is held."""
    from mspgt_tl.signals.probe_fitting import layer_groups

    found = layer_groups(6, layer_mb * 10**6, 100e6, "cpu")
    assert [part.stop - part.start for part in found] == sizes
    assert [part.stop for part in found[:-1]] == [part.start for part in found[1:]]


def test_vectors_of_words_train_as_arrays_do(planted_sums):
    """Vectors kept as bfloat16 give the F1 of float32 arrays."""
    from mspgt_tl.passes.words import Vectors

    splits = []
    for data in (planted(2000, seed=0), planted(1000, seed=1)):
        codes = np.zeros(np.moveaxis(data.features, 1, 0).shape, np.uint16)
        kept = Vectors(codes, data.features[:100].mean(0))
        for layer in range(6):
            kept.fill(layer, np.arange(len(data.features)), torch.from_numpy(data.features[:, layer]))
        splits.append(replace(data, features=kept))
    sums, _ = fit_probes(*splits, ("pos",), QUICK)
    np.testing.assert_allclose(f1_table(sums)[0], f1_table(planted_sums[0])[0], atol=0.02)


def test_bfloat16_products_give_the_f1_of_float32(monkeypatch):
    """Rounded products move F1 by less than another start does; the result says which were taken."""
    from mspgt_tl.signals import probe_fitting, probe_training

    tables = {}
    for dtype in (torch.float32, torch.bfloat16):
        for module in (probe_fitting, probe_training):
            monkeypatch.setattr(module, "product_dtype", lambda _, dtype=dtype: dtype)
        config = replace(QUICK, repeats=3)
        sums, metadata = fit_probes(
            planted(2000, seed=0, onset=1), planted(1000, seed=1, onset=1), ("pos",), config, kinds=("mlp",)
        )
        assert metadata["products"] == str(dtype).removeprefix("torch.")
        hits, total = (sums[f"pos.mlp.{part}"] for part in ("hits", "total"))
        tables[dtype] = np.stack([macro_f1(hits[:, r], total[:, r], np.ones((1, 8)))[0] for r in range(3)])
    wide, narrow = tables.values()
    spread = wide.std(axis=0, ddof=1)
    assert (np.abs(narrow.mean(0) - wide.mean(0)) < 2 * spread.max()).all()


@pytest.mark.parametrize("where", ["training", "test"])
def test_nan_activations_are_refused_by_layer(where):
    """The message names the layer."""
    train, dev = planted(200, seed=0), planted(200, seed=1)
    (train if where == "training" else dev).features[7, 2, 0] = np.inf
    with pytest.raises(ActivationError, match="activations of layer 2"):
        fit_probes(train, dev, ("pos",), QUICK)


def test_misfitting_splits_are_refused():
    """Folds below 0, missing folds and other shapes are callers' mistakes."""
    train, dev = planted(200, seed=0), planted(200, seed=1)
    with pytest.raises(DataError, match="counted from 0"):
        fit_probes(train, replace(dev, fold=dev.fold - 1), ("pos",), QUICK)
    with pytest.raises(DataError, match="needs `fold`"):
        fit_probes(train, replace(dev, fold=None), ("pos",), QUICK)
    with pytest.raises(DataError, match="same layers"):
        fit_probes(planted(200, seed=0, n_layers=5), dev, ("pos",), QUICK)
    with pytest.raises(DataError, match="beyond"):
        replace(train, features=train.features[:50])


@pytest.mark.usefixtures("unchecked_shapes")
def test_settings_are_checked():
    """Impossible settings are refused when they are made."""
    with pytest.raises(ConfigError, match="patience"):
        ProbeConfig(patience=0)
    with pytest.raises(ConfigError, match="'f1'"):
        ProbeSignal(curve=cast(Any, "f2"))


def test_thinning_keeps_the_stated_number_of_training_items():
    """`max_items` bounds training items, not test items."""
    _, metadata = fit_probes(
        planted(1000, seed=0),
        planted(500, seed=1),
        ("pos",),
        replace(QUICK, epochs=1, max_items=300),
    )
    described = metadata["tasks"]["pos"]["mlp"]
    assert described["n_train"] + described["n_held_out"] == 300
    assert described["n_test"] == 500


def test_progress_rises_to_one():
    """The caller sees the task and a percentage that ends at 100."""
    seen = list[tuple[str, float, float]]()
    fit_probes(
        planted(200, seed=0),
        planted(200, seed=1),
        ("pos",),
        replace(QUICK, epochs=2, patience=5),
        progress=lambda stage, done, total: seen.append((stage, done, total)),
    )
    done = [report[1] for report in seen]
    assert done == sorted(done)
    assert done[-1] == pytest.approx(100)
    assert {(stage, total) for stage, _, total in seen} == {("probes: pos", 100)}


def test_predict_takes_the_most_likely_label():
    """Weights that copy two channels predict the larger one."""
    features, _, inputs = small_problem()
    weights = [torch.zeros(3, 6, 2), torch.zeros(3, 1, 2)]
    weights[0][:, 0, 0] = weights[0][:, 1, 1] = 1
    mean, scale = feature_moments(features)
    expected = ((features - mean) / scale)[..., :2].argmax(-1).T
    np.testing.assert_array_equal(predict(inputs, np.arange(300)[:, None], weights), expected)


def test_registered_as_probe():
    """The registry finds the signal by its name."""
    assert SIGNALS["probe"] is ProbeSignal
