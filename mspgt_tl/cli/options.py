"""Options that several commands share, spelled and described once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mspgt_tl.cli.console import parse_settings
from mspgt_tl.config import override, read_settings
from mspgt_tl.errors import ConfigError

WORK, DATA, MODEL = "The run", "Text and trees", "Loading the model"
"""Panels that help groups options under."""

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
    typer.Option(
        metavar="TEXT",
        help="Text file, or a dataset: hf:NAME, hf:NAME@SPLIT#COLUMN.",
        show_default="generated sentences",
        rich_help_panel=DATA,
    ),
]
SentencesOption = Annotated[
    int | None, typer.Option(min=1, help="Sentences of the text to use, in reading order.", rich_help_panel=DATA)
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FOLDER",
        help="Folder of the run; one that was stopped goes on there.",
        show_default="runs/NAME-TIME",
        rich_help_panel=WORK,
    ),
]
ConfigOption = Annotated[Path | None, typer.Option(metavar="FILE", help="TOML file of settings.", rich_help_panel=WORK)]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any other setting, such as epochs=5. Repeatable.",
        rich_help_panel=WORK,
    ),
]
StudySetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="One setting, e.g. detect.sentences=1000. Repeatable."),
]
SeedOption = Annotated[
    int | None,
    typer.Option(min=0, help="Seed of everything random.", show_default="0", rich_help_panel=WORK),
]
ScalesOption = Annotated[
    str | None,
    typer.Option(
        metavar="RANGES",
        help="Blocks of each scale, such as 0-3,4-8,9-11; or thirds.",
        show_default="cut at the detection's boundaries",
        rich_help_panel=WORK,
    ),
]
BackendOption = Annotated[
    str, typer.Option(help="hooked (HookedTransformer) or bridge (TransformerBridge).", rich_help_panel=MODEL)
]
DeviceOption = Annotated[str | None, typer.Option(help="cpu or cuda.", show_default="cpu", rich_help_panel=MODEL)]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        help="float32 or bfloat16.", show_default="float32 on the CPU, bfloat16 elsewhere", rich_help_panel=MODEL
    ),
]
NoParityFlag = Annotated[
    bool,
    typer.Option(
        "--no-parity", help="Skip the comparison with the Hugging Face model after loading.", rich_help_panel=MODEL
    ),
]
RemoteCodeFlag = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run code that comes with the model; the manifest says so.",
        rich_help_panel=MODEL,
    ),
]
ForceFlag = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Resume with other versions of the packages than the run began with; its manifest says so.",
        rich_help_panel=WORK,
    ),
]
QuickFlag = Annotated[
    bool,
    typer.Option(
        "--quick",
        help="A first answer with little data, marked as such; the full run in the same --out takes over what it can.",
        rich_help_panel=WORK,
    ),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON instead of tables.")]


def gather_settings(config: Path | None, pairs: list[str] | None) -> dict[str, Any]:
    """Return the settings of a TOML file with single ones over them.

    Raises:
        ConfigError: the file cannot be read, or a pair is none.
    """
    return override(read_settings(config) if config else {}, parse_settings(pairs or []))


def choose_folder(out: Path | None, default: Path, *, force: bool) -> Path:
    """Return the folder of a run; with `force`, what lies there may go on with the packages that are installed.

    Raises:
        ConfigError: force without a run to resume.
    """
    folder = out or default
    if force:
        from mspgt_tl.store import MANIFEST, allow_other_versions

        if not (folder / MANIFEST).is_file():
            raise ConfigError(f"--force resumes a run, and none lies in {folder}: give its folder with --out.")
        allow_other_versions(folder)
    return folder
