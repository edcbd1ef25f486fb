"""What belongs to the model and what to the corpus, with planted answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from itertools import combinations, product

import numpy as np
import pytest
import xarray as xr
from scipy.stats import spearmanr

from mspgt_tl.boundaries import find_boundaries
from mspgt_tl.comparison.dependence import (
    Observed,
    _place,
    _resize,
    compare_corpora,
    read_boundary,
    recurrence_p,
)
from mspgt_tl.errors import ConfigError, DataError

Gaps = tuple[int, ...]
MODELS, CORPORA = ("ada", "bea", "cleo"), ("wiki", "ewt", "rules")
PLACES: tuple[Gaps, ...] = ((3, 14), (8, 19), (6, 11))


@cache
def detection(gaps: Gaps, n_layers: int = 24, rule: str = "mspgt", seed: int = 0) -> xr.Dataset:
    """Three signals with peaks at these gaps above a little noise by seed; without gaps they are flat."""
    rng = np.random.default_rng(seed)
    curves = 0.05 * rng.random((3, n_layers - 1))
    for gap in gaps:
        curves[:, gap - 1] += 1
    resampled = curves + 0.05 * rng.standard_normal((40, *curves.shape))
    found = find_boundaries(curves, resampled=resampled, rule=rule, n_null=100)
    return xr.Dataset(
        {
            "curve": (("signal", "gap"), curves),
            "resampled": (("resample", "signal", "gap"), resampled.astype(np.float32)),
            "weight": ("signal", found.weights),
            "gain": ("signal", found.gain),
            "fused": ("gap", found.fused),
            "boundary": ("found", np.array(found.boundaries, dtype=np.int64)),
            "verdict": ("found", np.array(found.verdicts, dtype=str)),
            "interval": (("found", "bound"), found.intervals),
        },
        coords={"signal": ["cka", "probe", "attention_jsd"]},
        attrs={"n_layers": n_layers},
    )


def nowhere(model: int, corpus: int) -> Gaps:
    return ()


def study(
    text: Callable[[int, int], Gaps], shuffled: Callable = nowhere, twin: Callable = nowhere, n: int = 3
) -> list[Observed]:
    """Models on corpora, on their shuffled versions, and twins, with gaps by the numbers of model and corpus."""
    found = []
    for (m, model), (c, corpus) in product(enumerate(MODELS), list(enumerate(CORPORA))[:n]):
        found.append(Observed(detection(text(m, c), seed=c), model, corpus))
        found.append(Observed(detection(shuffled(m, c), seed=3 + c), model, f"{corpus} shuffled", shuffled_of=corpus))
        found.append(Observed(detection(twin(m, c), seed=c), f"{model} twin", corpus, twin_of=(model,)))
    return found


def test_boundaries_fixed_by_the_model():
    """The same on every corpus, not on shuffled text, not in the twin: `model`, and all variance between models."""
    found = compare_corpora(study(lambda m, c: PLACES[m]))
    assert found.boundaries["gap"].tolist() == [g for m in range(3) for _ in CORPORA for g in PLACES[m]]
    assert set(found.boundaries["reading"]) == {"model"}
    assert found.boundaries["supported"].all() and (found.boundaries["reason"] == "").all()
    assert (found.boundaries[["recurs_corpora", "n_corpora"]] == 2).all(axis=None)
    assert (found.boundaries["near_corpora"] == 1).all() and (found.boundaries["chance_corpora"] < 0.3).all()
    shares = found.shares.set_index("quantity")
    assert shares.index.tolist() == ["LI", "IG", "cka", "probe", "attention_jsd", "fused"]
    assert shares["share_model"].tolist()[:2] == pytest.approx([1, 1])
    assert shares["share_corpus"].tolist()[:2] == pytest.approx([0, 0], abs=1e-12)
    assert shares["p_corpus"].tolist()[:2] == [1, 1]
    assert (shares["share_model"] > 0.95).all() and (shares["p_model"] == shares["smallest_p_model"]).all()
    assert shares["smallest_p_model"].tolist() == pytest.approx([1 / 36] * 6)


def test_boundaries_fixed_by_the_corpus():
    """The same in every model, elsewhere on every other corpus: `corpus`, and all variance between corpora."""
    found = compare_corpora(study(lambda m, c: PLACES[c]))
    assert set(found.boundaries["reading"]) == {"corpus"}
    assert found.shares["share_corpus"].tolist() == pytest.approx([1] * 6, abs=1e-9)
    assert (found.shares["p_corpus"] == found.shares["smallest_p_corpus"]).all()


def test_boundaries_that_need_no_sentences():
    """Shuffled words give the same ones: `words`."""
    found = compare_corpora(study(lambda m, c: PLACES[m], shuffled=lambda m, c: PLACES[m], n=2))
    assert set(found.boundaries["reading"]) == {"words"}
    assert (found.boundaries["near_shuffled"] == 1).all()


def test_boundaries_that_need_no_training():
    """The random-weight twin has them: `architecture`, whatever the shuffled text says."""
    found = compare_corpora(study(lambda m, c: PLACES[m], lambda m, c: PLACES[m], lambda m, c: PLACES[m], n=2))
    assert set(found.boundaries["reading"]) == {"architecture"}
    assert set(found.boundaries["reason"]) == {"it also recurs on shuffled text"}


def test_each_boundary_is_read_on_its_own():
    """The first is the model's; the second moves with the corpus in this model alone."""
    found = compare_corpora(study(lambda m, c: (PLACES[m][0], (14, 18, 22)[c]) if m == 0 else PLACES[m]))
    rows = found.boundaries[found.boundaries["model"] == "ada"]
    assert rows["recurs_corpora"].tolist() == [2, 0] * 3
    assert rows["reading"].tolist()[1::2] == ["unclear"] * 3
    assert rows["reason"].tolist()[1].startswith("it recurs on no other corpus, and in 0 of 2 other models")


def test_one_corpus_says_nothing_about_corpora():
    """nan with the reason in every share, and `unclear`."""
    found = compare_corpora(study(lambda m, c: PLACES[m], n=1))
    assert set(found.boundaries["reason"]) == {"no other real corpus was run"}
    assert found.boundaries["p_corpora"].isna().all()
    assert found.shares[["share_model", "share_corpus", "p_model", "p_corpus"]].isna().all(axis=None)
    assert found.shares["reason"].str.contains("of 3 models and 1 corpora").all()


def test_without_shuffles_and_twins_the_model_is_not_named():
    """What would take the word away has to have been run."""
    real = [one for one in study(lambda m, c: PLACES[m]) if not one.shuffled and not one.random_weights]
    row = compare_corpora(real).boundaries.iloc[0]
    assert row["reading"] == "unclear" and row["reason"].count("was run") == 2
    assert (row["n_shuffled"], row["n_twins"]) == (0, 0) and np.isnan(row["near_twins"])


def test_signals_that_did_not_see_the_corpus_are_named():
    """Probes read the same treebank beside every text: their curve recurs by construction."""
    some = study(lambda m, c: PLACES[m])
    wiki, ewt = some[0].result["curve"], some[3].result
    curve = ewt["curve"].where(ewt["signal"] != "probe", wiki)
    some[3] = Observed(ewt.assign(curve=curve), "ada", "ewt")
    rows = compare_corpora(some).boundaries.set_index(["model", "corpus"])
    assert set(rows.loc[("ada", "wiki"), "reason"]) == {"probe did not see the corpus"}
    assert set(rows.loc[("ada", "rules"), "reason"]) == {""}


def test_recurrence_is_counted_resample_by_resample():
    """Of the 30 resamples in which gap 15 was found, the other corpus has it elsewhere in ten."""
    lost, moved = detection((5, 15)).copy(deep=True), detection((5, 15), seed=1).copy(deep=True)
    lost["resampled"][:10, :, 14] = 0
    moved["resampled"][5:20, :, 18] = moved["resampled"][5:20, :, 14]
    moved["resampled"][5:20, :, 14] = 0
    rows = compare_corpora([Observed(lost, "ada", "wiki"), Observed(moved, "ada", "ewt")]).recurrence
    assert rows["near"].tolist()[:2] == [1, pytest.approx(20 / 30)]


def test_where_random_gaps_always_come_near_nothing_recurs():
    """Two of four gaps are within one of gap 2 however they fall."""
    rows = compare_corpora([Observed(detection((2, 4), 5), "ada", corpus) for corpus in ("wiki", "ewt")]).recurrence
    first = rows[rows["gap"] == 2]
    assert (first["near"] == 1).all() and (first["chance"] == 1).all() and not first["recurs"].any()


def test_shuffled_text_speaks_for_its_own_corpus():
    """Only where the shuffled version of this corpus has the boundaries."""
    found = compare_corpora(study(lambda m, c: PLACES[m], shuffled=lambda m, c: PLACES[m] if c == 1 else ()))
    assert found.boundaries.groupby("corpus")["reading"].unique().to_dict() == {
        "wiki": ["model"],
        "ewt": ["words"],
        "rules": ["model"],
    }


def test_recurrence_that_chance_explains_is_unclear():
    """One other corpus and one boundary: random gaps come near in 13 %; two other models: in 20 %."""
    none = {"corpora": [False], "shuffled": [False], "twins": [False], "models": [True, True]}
    reading, reason = read_boundary(none, {"corpora": 1.0, "models": 0.2})
    assert reading == "unclear" and reason.endswith(
        "2 of 2 other models on this one; random gaps would do as well in 20%"
    )
    assert read_boundary(none, {"corpora": 1.0, "models": 0.04}) == ("corpus", "")
    assert read_boundary(
        {"corpora": [True], "shuffled": [False], "twins": [False], "models": []}, {"corpora": 0.13, "models": np.nan}
    ) == ("unclear", "it recurs on all 1 other corpora, but random gaps would do as well in 13%")


def test_a_model_without_boundaries_keeps_its_row():
    """Missing with the reason; those who have some are compared with none."""
    found = compare_corpora(
        [Observed(detection(g), "ada", c) for c, g in zip(CORPORA, ((), (5,), (5, 9)), strict=True)]
    )
    assert found.boundaries["reason"].tolist()[0] == "no boundary was found"
    assert np.isnan(found.boundaries["gap"].tolist()[0])
    none = found.recurrence[found.recurrence["other_corpus"] == "wiki"]
    assert (none["near"] == 0).all() and (none["chance"] == 0).all() and none["nearest"].isna().all()


def test_the_published_rule_tests_no_existence():
    """Whether such a boundary is supported is unknown."""
    found = compare_corpora([Observed(detection((3, 14), rule="paper"), "ada", "wiki")])
    assert found.boundaries["supported"].tolist() == [None, None]


def test_without_resamples_recurrence_is_unknown():
    """Shares and intervals are nan with the reason; correlations stay."""
    bare = [Observed(detection((3, 14)).drop_vars("resampled"), "ada", corpus) for corpus in CORPORA]
    found = compare_corpora(bare)
    assert found.recurrence["near"].isna().all() and set(found.recurrence["reason"]) == {"no bootstrap resamples"}
    assert set(found.boundaries["reading"]) == {"unclear"} and found.boundaries["p_corpora"].isna().all()
    assert found.curves["correlation"].tolist() == pytest.approx([1] * len(found.curves))
    assert found.curves["low"].isna().all() and found.curves["reason"].str.contains("no interval").all()


def test_an_unknown_p_names_neither_model_nor_corpus():
    """A boundary found in no resample leaves the p of both unknown."""
    met = {"corpora": [True, True], "shuffled": [False], "twins": [False], "models": [True, True]}
    unknown = {"corpora": np.nan, "models": np.nan}
    assert read_boundary(met, unknown)[0] == "unclear"
    assert read_boundary(met | {"corpora": [False, False]}, unknown | {"corpora": 1.0})[0] == "unclear"
    assert read_boundary(met, {"corpora": 0.01, "models": np.nan}) == ("model", "")
    assert read_boundary(met | {"twins": [None]}, {"corpora": 0.01, "models": 0.01})[0] == "unclear"


def test_models_of_other_depth_are_compared_by_relative_depth():
    """Gap 5 of 20 layers is gap 3 of 12; the other way round it is 5 again; curves meet at the shallower's gaps."""
    found = compare_corpora(
        [Observed(detection((5,), 20), "deep", "wiki"), Observed(detection((3,), 12), "flat", "wiki")]
    )
    assert found.recurrence["near"].tolist() == [1, 1]
    assert found.recurrence["chance"].tolist() == pytest.approx([3 / 11, 3 / 19])
    assert (found.curves["correlation"].abs() <= 1).all()


def test_curves_are_correlated_by_rank():
    """Spearman's correlation with what the two results share beside it, and an interval around it."""
    some = study(lambda m, c: PLACES[(m + c) % 3], n=2)[:9]
    curves = compare_corpora(some).curves
    fused = curves[curves["curve"] == "fused"].set_index(["model", "corpus", "other_model", "other_corpus"])
    row = fused.loc[("ada", "wiki", "bea", "wiki")]
    first, other = (next(o for o in some if (o.model, o.corpus) == key) for key in (row.name[:2], row.name[2:]))
    expected = spearmanr(first.result["fused"], other.result["fused"]).statistic
    assert row["correlation"] == pytest.approx(expected) and row["low"] < row["high"]
    twins = fused[fused["twins"]]
    assert twins["correlation"].isna().all() and twins["reason"].str.contains("left out of the fusion").all()
    assert set(fused["pair"]) == {"same model, other corpus", "other model, same corpus", "other both"}


def test_recurrence_p_counts_sets_of_random_gaps():
    """Against all pairs of gaps of two other results, one by one."""
    one = Observed(detection((3, 8), 12), "ada", "wiki")
    pairs = list(combinations(range(1, 12), 2))
    times = [sum(any(abs(g - b) <= 1 for g in pair) for b in (3, 8)) for pair in pairs]
    for reached in range(5):
        expected = np.mean([a + b >= reached for a, b in product(times, times)])
        assert recurrence_p(one, [one, one], reached) == pytest.approx(expected)


def test_shares_take_complete_cells_only():
    """Models without two boundaries somewhere are left out of the positions, and named."""
    shares = compare_corpora(study(lambda m, c: (5,) if (m, c) == (1, 1) else PLACES[m])).shares.set_index("quantity")
    assert (shares.loc["LI", "n_models"], shares.loc["cka", "n_models"]) == (2, 3)
    assert shares.loc["LI", "reason"] == "not two boundaries: bea on ewt; left out, having no complete row: bea"
    assert (shares.loc["LI", "chance_model"], shares.loc["LI", "chance_corpus"]) == (1 / 5, 2 / 5)
    assert (shares.loc["cka", "reason"], shares.loc["cka", "chance_model"]) == ("", 2 / 8)


def test_what_is_the_same_everywhere_has_no_shares():
    """No variance between anything."""
    every = [Observed(detection(PLACES[0]), model, corpus) for model, corpus in product(MODELS, CORPORA)]
    shares = compare_corpora(every).shares
    assert shares["share_model"].isna().all() and shares["reason"].str.contains("same everywhere").all()


def test_tables_can_be_written_as_json():
    """No nan, no numpy."""
    plain = compare_corpora(study(lambda m, c: PLACES[m])[:4]).to_plain()
    assert list(json.loads(json.dumps(plain, allow_nan=False))) == ["boundaries", "recurrence", "curves", "shares"]


def test_bad_inputs_are_refused():
    """Names that nothing has, a cell twice, no result, an old one, one model with two depths."""
    one, there = Observed(detection((3, 14)), "ada", "wiki"), detection((3, 14))
    with pytest.raises(ConfigError, match=r"Unknown corpus 'wikki'. Did you mean 'wiki'\?"):
        compare_corpora([one, Observed(there, "ada", "wiki shuffled", shuffled_of="wikki")])
    with pytest.raises(ConfigError, match="Unknown model 'eda'"):
        compare_corpora([one, Observed(there, "twin", "wiki", twin_of=("eda",))])
    with pytest.raises(ConfigError, match="ada on wiki is there twice"):
        compare_corpora([one, one])
    with pytest.raises(DataError, match="got none"):
        compare_corpora([])
    with pytest.raises(DataError, match="lacks fused"):
        compare_corpora([Observed(there.drop_vars("fused"), "ada", "wiki")])
    with pytest.raises(DataError, match="n_layers 24 in one result and 12"):
        compare_corpora([one, Observed(detection((3,), 12), "ada", "ewt")])


def test_gaps_of_another_depth_go_to_the_nearest_one() -> None:
    """Gap 7 of 12 is 4.67 of 8, so gap 5: a boundary at gap 6 is near it and one at gap 3 is not."""
    for other, near in ((6, 1.0), (3, 0.0)):
        found = compare_corpora(
            [Observed(detection((7,), 12), "ada", "wiki"), Observed(detection((other,), 8), "bea", "wiki")]
        )
        rows = found.recurrence
        assert rows[rows["model"] == "ada"]["near"].tolist() == [near]


def test_curves_are_read_at_relative_depths() -> None:
    """A curve that is its own relative depth stays that with fewer gaps; one of as many gaps is left alone."""
    depth = np.arange(1, 30) / 30
    np.testing.assert_allclose(_resize(np.stack([depth, 2 * depth]), 11), np.outer([1, 2], np.arange(1, 12) / 12))
    np.testing.assert_array_equal(_resize(depth, 29), depth)


@pytest.mark.parametrize(("gap", "place"), [(1, 1), (15, 6), (29, 11)])
def test_places_in_another_model_are_gaps_of_it(gap: int, place: int) -> None:
    """The nearest in relative depth, from the first gap to the last: 1, 15 and 29 of 30 blocks in 12."""
    assert _place(gap, 30, 12) == place
