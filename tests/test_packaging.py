"""What is declared is what is imported, and the lock holds it."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mspgt_tl

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CORE = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = {name: [Requirement(line) for line in lines] for name, lines in PROJECT["optional-dependencies"].items()}

BY_OTHERS = {"netcdf4", "pyarrow"}
"""Used without an import: xarray and pandas pick them up to write their files."""

NEWER = {"compression"}
"""Modules of the standard library that some of the allowed versions of Python lack."""


def names(requirements: list[Requirement]) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in requirements}


def imported(*folders: Path) -> set[str]:
    """Return the distributions whose modules the files below these folders import."""
    modules = set()
    for path in (path for folder in folders for path in folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.add(node.module.split(".")[0])
    owners = packages_distributions()
    # Modules of our own: the package, and scripts that lie beside each other.
    ours = {"mspgt_tl"} | {path.stem for folder in folders for path in folder.rglob("*.py")}
    foreign = modules - ours - set(sys.stdlib_module_names) - NEWER
    return {canonicalize_name(owners[module][0] if module in owners else module) for module in foreign}


def test_the_package_declares_what_it_imports() -> None:
    """Every import of the package is a requirement, optional ones in an extra, and no requirement is idle."""
    found = imported(ROOT / "mspgt_tl")
    optional = (lines for name, lines in EXTRAS.items() if name not in ("dev", "docs"))
    assert found <= names(CORE).union(*map(names, optional))
    assert names(CORE) - BY_OTHERS <= found


def test_the_tests_declare_what_they_import() -> None:
    """The development extra and the core hold all that tests and benchmarks import."""
    assert imported(ROOT / "tests") <= names(CORE) | names(EXTRAS["dev"])


def test_the_site_declares_what_it_imports() -> None:
    """The core and the docs extra hold all that the site is built with; its pictures also need a browser."""
    assert imported(ROOT / "docs") <= names(CORE) | names(EXTRAS["docs"]) | {"selenium"}
    assert imported(ROOT / "docs/_ext") <= names(CORE) | names(EXTRAS["docs"])


def locked() -> dict[str, list[str]]:
    """Return the versions of the lock by name; several where Python's version or the platform decides."""
    found: dict[str, list[str]] = {}
    for name, version in re.findall(
        r"^([a-z0-9.-]+)==([^\s;]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE
    ):
        found.setdefault(canonicalize_name(name), []).append(version)
    return found


@pytest.mark.parametrize("requirement", [*CORE, *EXTRAS["dev"], *EXTRAS["docs"]], ids=str)
def test_the_lock_holds_every_requirement(requirement: Requirement) -> None:
    """In a version that pyproject allows; `make lock` remakes it. torch is installed by its own step."""
    if requirement.name == "torch":
        version = re.search(r"TORCH_VERSION := (\S+)", (ROOT / "Makefile").read_text())
        assert version and requirement.specifier.contains(version[1])
        return
    versions = locked().get(canonicalize_name(requirement.name), [])
    assert versions and all(requirement.specifier.contains(version) for version in versions), "run `make lock`"


def test_every_locked_package_has_a_hash() -> None:
    """pip refuses the whole file otherwise; the CUDA libraries of torch stay out."""
    text = (ROOT / "requirements.lock").read_text()
    blocks = re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)[1:]
    assert len(blocks) > 100
    assert all("--hash=sha256:" in block for block in blocks)
    assert not [name for name in locked() if name.startswith(("nvidia-", "cuda-", "triton"))]


def test_every_requirement_has_a_reason() -> None:
    """A comment stands above each requirement or above its group."""
    reason = ""
    for line in (ROOT / "pyproject.toml").read_text().splitlines():
        if line.strip().startswith("#"):
            reason = line
        elif not line.strip() or line.startswith(("[", "]")):
            reason = ""
        elif match := re.match(r'    "([A-Za-z0-9_.\[\]-]+)[<>=!]', line):
            assert reason, f"no reason stands above {match[1]}"


def test_the_version_is_the_one_of_the_package() -> None:
    assert mspgt_tl.__version__ == PROJECT["version"]


def test_types_are_marked_as_there() -> None:
    """Type checkers of other projects read our annotations only beside a py.typed."""
    assert (Path(mspgt_tl.__file__).parent / "py.typed").exists()
