"""Changes the numerical modules one small mistake at a time and counts how many the tests notice.

    python .ci/mutants.py                  every named mistake, and a sample of each module's
    python .ci/mutants.py --named          the named ones alone
    python .ci/mutants.py boundaries nulls --each 30

Mistakes are made on the syntax tree: a comparison takes or loses its equality or turns around, an operator becomes its
opposite, a number moves by one or doubles, `min` becomes `max`, `and` becomes `or`, a condition is negated. Messages,
annotations and docstrings are left alone. The sample is drawn by a seed, so a run can be repeated. A mistake counts as
noticed when a test of the module fails, or takes five times the processor time that it takes without it; what is
equivalent to the original counts as not noticed, so the rate is a lower bound.

Tests run in a copy of the repository, each in a fork of one process that has the heavy libraries loaded.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import random
import resource
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]

MODULES: dict[str, tuple[str, ...]] = {
    "boundaries": (),
    "evidence": ("comparison/test_positions",),
    "audit": (),
    "nulls": (),
    "profile": (),
    "rivals": (),
    "stats": (),
    "signals/cka": ("signals/test_rivals_contract",),
    "signals/cka_variants": ("signals/test_rivals_contract", "signals/test_cka"),
    "signals/block_influence": ("signals/test_rivals_contract",),
    "signals/matrix_entropy": ("signals/test_rivals_contract",),
    "signals/intrinsic_dimension": ("signals/test_rivals_contract",),
    "signals/attention_jsd": (),
    "signals/probe": (),
    "signals/cka_blocks": ("signals/test_rivals_contract",),
    "signals/first_token": ("signals/test_rivals_contract",),
    "signals/logit_lens": ("signals/test_rivals_contract",),
    "theory/fisher": (),
    "theory/bottleneck": (),
    "theory/mutual_information": (),
    "theory/rate_distortion": (),
    "theory/closure": (),
    "theory/noise_effects": ("theory/test_closure", "theory/test_rate_distortion"),
    "theory/streams": ("theory/test_mutual_information",),
    "interventions/philox": (),
    "interventions/dose": (),
    "interventions/alternatives": (),
    "interventions/next_token": (),
    "interventions/noise": (),
    "interventions/units": ("interventions/test_noise",),
    "comparison/dependence": (),
    "comparison/layout": (),
    "comparison/families": (),
    "comparison/effects": (),
    "comparison/positions": (),
    "comparison/models": (),
    "comparison/replicates": (),
    "comparison/rival_agreement": (),
    "predictions/advice": (),
    "predictions/chance": (),
    "predictions/judging": (),
    "predictions/measuring": ("predictions/test_judging",),
    "predictions/registry": (),
    "calibration/score": (),
    "metrics/diversity": (),
}
"""Module, and tests beside its mirror."""

NAMED: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("intervals of 90 % (paired)", "LEVEL = 0.95\n", "LEVEL = 0.9\n", ("test_stats.py",)),
    (
        "intervals of 90 % (boundaries)",
        'quantile(drawn, TAILS, method="inverted_cdf") + 1',
        'quantile(drawn, (0.05, 0.95), method="inverted_cdf") + 1',
        ("test_boundaries.py",),
    ),
    (
        "intervals of 90 % (Fisher)",
        "self.resample(resamples), TAILS",
        "self.resample(resamples), (0.05, 0.95)",
        ("theory/test_fisher.py",),
    ),
    (
        "reliability below zero",
        "np.maximum(0, 1 - np.divide(error",
        "np.maximum(-1e9, 1 - np.divide(error",
        ("test_boundaries.py",),
    ),
    ("no floor of reliability", "trust[i] < MIN_RELIABILITY:", "trust[i] < 0.1:", ("test_boundaries.py",)),
    ("second p not nested", "max(either, min(both, given_first))", "min(both, given_first)", ("test_nulls.py",)),
    ("contrast over six neighbours", "WINDOW = 4\n", "WINDOW = 6\n", ("test_nulls.py",)),
    (
        "probes share the text's draws",
        'seed=2 * seed + (signal.resampled_with == "trees")',
        "seed=2 * seed",
        ("test_evidence.py",),
    ),
    ("rows of two keys", "MIN_KEYS = 4\n", "MIN_KEYS = 2\n", ("signals/test_attention_jsd.py",)),
    (
        "top-p keeps one more",
        "share.cumsum(-1) - share >= self.top_p",
        "share.cumsum(-1) - share > self.top_p",
        ("interventions/test_generation.py::test_top_p_keeps_the_fewest_tokens_that_reach_it",),
    ),
    (
        "no mixing with the constant prediction",
        "best = POOL[int(held_out.mean(axis=1).argmax())]",
        "best = 1.0",
        ("theory/test_mutual_information.py",),
    ),
    (
        "Fisher's denominator not resampled",
        "total = counts @ denominator",
        "total = counts.sum(axis=1) * denominator.mean()",
        ("theory/test_fisher.py",),
    ),
    (
        "gaps of other depths rounded down",
        "np.clip(np.rint(gap * other / n_layers)",
        "np.clip(np.floor(gap * other / n_layers)",
        ("comparison/test_dependence.py",),
    ),
    (
        "the observed signs are no permutation",
        "return (as_far + 1) / (permutations + 1)",
        "return as_far / permutations",
        ("test_stats.py",),
    ),
    (
        "depth over gaps (page, boundaries)",
        'percent(gap / int(data.attrs["n_layers"])),',
        'percent(gap / (int(data.attrs["n_layers"]) - 1)),',
        ("test_dashboard.py::test_depth_is_the_gap_over_the_number_of_blocks",),
    ),
    (
        "depth over gaps (page, all gaps)",
        'depth = percent(gap / int(data.attrs["n_layers"]))',
        'depth = percent(gap / (int(data.attrs["n_layers"]) - 1))',
        ("test_dashboard.py::test_depth_is_the_gap_over_the_number_of_blocks",),
    ),
    (
        "depth over gaps (command)",
        'number(row["gap"] / n_layers, ".1%")',
        'number(row["gap"] / (n_layers - 1), ".1%")',
        ("test_cli.py::test_depth_is_the_gap_over_the_number_of_blocks",),
    ),
    (
        "conditions on the wrong rows",
        "which = (rows.index % len(conditions)).tolist()",
        "which = ((rows.index + 1) % len(conditions)).tolist()",
        ("interventions/test_sweep.py",),
    ),
)
"""What goes wrong, the source as it is, the source with the mistake, and the tests that must notice."""

LOADED = ("pandas", "pytest", "scipy.stats", "sklearn.model_selection", "statsmodels.api", "torch", "xarray")
"""What the tests import, loaded once for all forks."""

COMPARED = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
OPERATED = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div}
OPERATED |= {ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.Pow: ast.Mult, ast.LShift: ast.RShift}
NAMES = {"min": "max", "max": "min", "amin": "amax", "amax": "amin", "minimum": "maximum", "maximum": "minimum"}
NAMES |= {"argmin": "argmax", "argmax": "argmin", "any": "all", "all": "any", "floor": "rint", "rint": "floor"}
NAMES |= {"sum": "mean", "mean": "sum", "log": "log1p", "sqrt": "square", "median": "mean"}
SILENT = (ast.Raise, ast.JoinedStr, ast.AnnAssign, ast.Assert, ast.Import, ast.ImportFrom)


@dataclass(frozen=True)
class Mistake:
    path: Path
    source: str
    what: str
    tests: tuple[Path, ...]


def spots(tree: ast.AST) -> Iterator[tuple[ast.AST, str, ast.AST]]:
    """Return what can be exchanged: the node, the field or item of its parent, and the node in its place."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, SILENT) and not (isinstance(node, ast.AnnAssign) and node.value is not None):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.AnnAssign) and "ClassVar" in ast.unparse(node.annotation):
            continue  # what a signal is called, and where it stands
        yield from changes(node)
        # Annotations and defaults of parameters say what is expected; only bodies compute.
        if isinstance(node, ast.FunctionDef):
            for statement in node.body:
                yield from changes(statement)
                yield from spots(statement)
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            yield from changes(node.value)
            yield from spots(node.value)
        elif isinstance(node, ast.Subscript):
            yield from changes(node.value)
            yield from spots(node.value)
            yield from spots(node.slice)
        else:
            yield from spots(node)


def changes(node: ast.AST) -> Iterator[tuple[ast.AST, str, ast.AST]]:
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARED:
        yield node, "ops", [COMPARED[type(node.ops[0])]()]
    elif (
        isinstance(node, ast.BinOp) and type(node.op) in OPERATED and not isinstance(node.left, ast.Constant | ast.Name)
    ) or (isinstance(node, ast.BinOp) and type(node.op) in OPERATED and not _is_text(node)):
        yield node, "op", OPERATED[type(node.op)]()
    elif isinstance(node, ast.BoolOp):
        yield node, "op", ast.Or() if isinstance(node.op, ast.And) else ast.And()
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
        yield node, "op", ast.UAdd()
    elif isinstance(node, ast.Constant) and type(node.value) is int and abs(node.value) < 10_000:
        yield node, "value", node.value + 1
    elif isinstance(node, ast.Constant) and type(node.value) is float and abs(node.value) > 1e-6:
        yield node, "value", node.value * 2
    elif isinstance(node, ast.Attribute) and node.attr in NAMES:
        yield node, "attr", NAMES[node.attr]
    elif isinstance(node, ast.Name) and node.id in NAMES:
        yield node, "id", NAMES[node.id]
    elif isinstance(node, ast.If):
        yield node, "test", ast.UnaryOp(op=ast.Not(), operand=node.test)


def _is_text(node: ast.BinOp) -> bool:
    return any(isinstance(part, ast.Constant) and isinstance(part.value, str) for part in (node.left, node.right))


def mistakes(path: Path, tests: tuple[Path, ...]) -> list[Mistake]:
    """Return every mistake of a file, as whole sources."""
    source = path.read_text(encoding="utf-8")
    tree, found, seen = ast.parse(source), [], set()
    for node, field, value in spots(tree):
        before = getattr(node, field)
        line, was = getattr(node, "lineno", 0), ast.unparse(node).split("\n")[0]
        setattr(node, field, value)
        ast.fix_missing_locations(tree)
        now = ast.unparse(node).split("\n")[0]
        changed = ast.unparse(tree)
        setattr(node, field, before)
        if changed not in seen:
            seen.add(changed)
            found.append(Mistake(path, changed, f"{path.relative_to(ROOT)}:{line}: {was[:70]} -> {now[:70]}", tests))
    return found


def locate(module: str) -> Path:
    path = ROOT / "mspgt_tl" / f"{module}.py"
    if not path.exists():
        raise SystemExit(f"There is no {path}; mend MODULES.")
    return path


def tests_of(path: Path, others: tuple[str, ...]) -> tuple[Path, ...]:
    below = path.relative_to(ROOT / "mspgt_tl")
    mirror = Path("tests") / below.parent / f"test_{below.stem}.py"
    found = [mirror, *(Path("tests") / f"{other}.py" for other in others)]
    if not (ROOT / mirror).exists():
        found.remove(mirror)
    if not found:
        raise SystemExit(f"{path} has no tests; mend MODULES.")
    return tuple(found)


def run_tests(copy: Path, tests: tuple[Path, ...], limit: float) -> tuple[bool, float]:
    """Return whether the tests pass within so many seconds of the processor, and how many they took.

    Not by the clock: on a busy machine everything would be late and count as noticed.
    """
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit) + 1, int(limit) + 1))
        quiet = os.open(copy / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        os.chdir(copy)
        sys.path[:0] = [str(copy)]
        code = 70
        try:
            import pytest

            options = ["-x", "-q", "-n0", "-p", "no:cacheprovider", "-p", "no:nbmake", "-m", "not slow and not browser"]
            options += ["-o", "addopts=--strict-markers --import-mode=importlib", f"--basetemp={copy}/tmp"]
            options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
            code = int(pytest.main([*options, *map(str, tests)]))
        except BaseException:
            traceback.print_exc()
        finally:
            # Never back into the caller, which would take the copy down.
            sys.stderr.flush()
            os._exit(code)
    _, status, used = os.wait4(child, 0)
    return status == 0, used.ru_utime + used.ru_stime


def named() -> list[Mistake]:
    found = []
    for what, before, after, tests in NAMED:
        there = [p for p in sorted((ROOT / "mspgt_tl").rglob("*.py")) if before in p.read_text(encoding="utf-8")]
        if len(there) != 1 or there[0].read_text(encoding="utf-8").count(before) != 1:
            raise SystemExit(f"The source of '{what}' is in {len(there)} files; mend NAMED: {before!r}")
        source = there[0].read_text(encoding="utf-8").replace(before, after)
        found.append(Mistake(there[0], source, f"named: {what}", tuple(Path("tests") / test for test in tests)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", help="such as nulls or signals/cka; all by default")
    parser.add_argument("--each", type=int, default=8, help="mistakes drawn for each module")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--named", action="store_true", help="the named mistakes alone")
    parser.add_argument("--least", type=float, default=0.9, help="smallest share that must be noticed")
    arguments = parser.parse_args()
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    for library in LOADED:
        importlib.import_module(library)
    importlib.import_module("torch").set_num_threads(1)
    drawn = [] if arguments.modules else named()
    for module in () if arguments.named else arguments.modules or MODULES:
        path = locate(module)
        all_of_it = mistakes(path, tests_of(path, MODULES.get(module, ())))
        random.Random(f"{arguments.seed}{module}").shuffle(all_of_it)
        drawn += all_of_it[: arguments.each]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "repository"
        ignored = shutil.ignore_patterns("__pycache__", ".venv*", ".git", "runs", "work")
        shutil.copytree(ROOT, copy, ignore=ignored)
        sys.exit(judge(drawn, copy, arguments.least))


def judge(drawn: list[Mistake], copy: Path, least: float) -> int:
    usual: dict[tuple[Path, ...], float] = {}
    survivors, by_module = [], dict[Path, list[bool]]()
    for mistake in drawn:
        if mistake.tests not in usual:
            fine, took = run_tests(copy, mistake.tests, 600)
            if not fine:
                print((copy / "output").read_text()[-3000:])
                print(f"The tests {', '.join(map(str, mistake.tests))} fail without any mistake.")
                return 2
            usual[mistake.tests] = took
        there = copy / mistake.path.relative_to(ROOT)
        original = there.read_text(encoding="utf-8")
        there.write_text(mistake.source, encoding="utf-8")
        survived, _ = run_tests(copy, mistake.tests, 5 * usual[mistake.tests] + 10)
        there.write_text(original, encoding="utf-8")
        by_module.setdefault(mistake.path, []).append(not survived)
        print(f"{'not noticed' if survived else 'noticed':12} {mistake.what}", flush=True)
        survivors += [mistake.what] * survived
    for path, noticed in by_module.items():
        print(f"{path.relative_to(ROOT)!s:50} {sum(noticed):3} of {len(noticed)}")
    n = len(drawn)
    rate = 1 - len(survivors) / n
    print(f"{n - len(survivors)} of {n} mistakes noticed ({rate:.0%}); {least:.0%} are needed.")
    return 0 if rate >= least else 1


if __name__ == "__main__":
    main()
