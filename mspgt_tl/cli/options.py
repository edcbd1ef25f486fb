"""Options that several commands share, spelled and described once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from mspgt_tl.cli.console import parse_settings, resumable
from mspgt_tl.config import override, read_settings
from mspgt_tl.errors import ConfigError
from mspgt_tl.store import MANIFEST, QUICK, allow_other_versions

WORK, DATA, MODEL = "The run", "Text and trees", "Loading the model"
"""Panels that help groups options under."""


def option(panel: str, told: str, *names: str, default: str | bool = True, **how: Any) -> Any:
    """Return an option of a panel with its help; `default` is what help shows in place of None."""
    return typer.Option(*names, help=told, show_default=default, rich_help_panel=panel, **how)


def out_option(default: str | bool = True) -> Any:
    """Return the option of a run's folder."""
    told = "Folder of the run; one that was stopped goes on there."
    return option(WORK, told, "--out", default=default, metavar="FOLDER")


ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="An embedded model (see `mspgt models`), a Hugging Face folder, a GGUF file, or a hub name.",
    ),
]
ModelOrRunArgument = Annotated[
    str, typer.Argument(metavar="MODEL_OR_RUN", help="A model as for `mspgt detect`, or the folder of a detection.")
]
CorpusOption = Annotated[
    str | None,
    option(
        DATA, "Text file, or a dataset: hf:NAME, hf:NAME@SPLIT#COLUMN.", default="generated sentences", metavar="TEXT"
    ),
]
SentencesOption = Annotated[int | None, option(DATA, "Sentences of the text to use, in reading order.", min=1)]
StudySetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="One setting, e.g. detect.sentences=1000. Repeatable."),
]
ScalesOption = Annotated[
    str | None,
    option(
        WORK,
        "Blocks of each scale, such as 0-3,4-8,9-11; or thirds.",
        default="cut at the detection's boundaries",
        metavar="RANGES",
    ),
]
ForceFlag = Annotated[
    bool,
    option(
        WORK, "Resume with other versions of the packages than the run began with; its manifest says so.", "--force"
    ),
]
SeedOption = Annotated[int, option(WORK, "Seed of everything random.", min=0)]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON instead of tables.")]


@dataclass(frozen=True)
class RunOptions:
    """Where a run lies, and what every command that makes one is told."""

    out_folder: Annotated[Path | None, out_option("runs/NAME-TIME")] = None
    config: Annotated[Path | None, option(WORK, "TOML file of settings.", metavar="FILE")] = None
    set_: Annotated[
        list[str] | None,
        option(WORK, "Any other setting, such as epochs=5. Repeatable.", "--set", metavar="NAME=VALUE"),
    ] = None
    seed: Annotated[int | None, option(WORK, "Seed of everything random.", default="0", min=0)] = None
    quick: Annotated[
        bool,
        option(
            WORK,
            "A first answer with little data, marked as such; the full run in the same --out takes over what it can.",
            "--quick",
        ),
    ] = False

    @contextmanager
    def started(self, default: Path, *, force: bool) -> Iterator[dict[str, Any]]:
        """Yield the arguments that the pipeline takes of these; after Ctrl-C it is said how the run goes on.

        Args:
            default: the run's folder where none is given.

        Raises:
            ConfigError: the file of settings cannot be read, a setting is no pair, or force without a run to resume.
        """
        settings = override(read_settings(self.config) if self.config else {}, parse_settings(self.set_ or []))
        folder = choose_folder(self.out_folder, default, force=force)
        with resumable(folder / QUICK if self.quick else folder, given=self.out_folder):
            yield {"out": folder, "config": settings, "seed": self.seed, "quick": self.quick, "progress": True}


@dataclass(frozen=True)
class LoadingOptions:
    """How a model is loaded."""

    backend: Annotated[str, option(MODEL, "hooked (HookedTransformer) or bridge (TransformerBridge).")] = "hooked"
    device: Annotated[str | None, option(MODEL, "cpu or cuda.", default="cpu")] = None
    dtype: Annotated[
        str | None, option(MODEL, "float32 or bfloat16.", default="float32 on the CPU, bfloat16 elsewhere")
    ] = None
    no_parity: Annotated[
        bool, option(MODEL, "Skip the comparison with the Hugging Face model after loading.", "--no-parity")
    ] = False
    trust_remote_code: Annotated[
        bool, option(MODEL, "Run code that comes with the model; the manifest says so.", "--trust-remote-code")
    ] = False

    def arguments(self) -> dict[str, Any]:
        """Return these as the pipeline takes them."""
        asked = asdict(self)
        return {"parity": not asked.pop("no_parity"), **asked}


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take each field of a parameter that is a dataclass as an option, in the parameter's place."""
    said = inspect.signature(command, eval_str=True).parameters
    groups: dict[str, Any] = {name: one.annotation for name, one in said.items() if is_dataclass(one.annotation)}
    options: list[inspect.Parameter] = []
    for name, one in said.items():
        inner = inspect.signature(groups[name], eval_str=True).parameters.values() if name in groups else [one]
        options += [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in inner]

    @wraps(command)
    def run(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        command(**given)

    shown: Any = run
    shown.__signature__ = inspect.Signature(options)
    shown.__annotations__ = {each.name: each.annotation for each in options}
    return run


def choose_folder(out: Path | None, default: Path, *, force: bool) -> Path:
    """Return the folder of a run; with `force`, what lies there may go on with the packages that are installed.

    Raises:
        ConfigError: force without a run to resume.
    """
    folder = out or default
    if force:
        if not (folder / MANIFEST).is_file():
            raise ConfigError(f"--force resumes a run, and none lies in {folder}: give its folder with --out.")
        allow_other_versions(folder)
    return folder
