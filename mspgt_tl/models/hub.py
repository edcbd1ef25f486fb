"""Fetches a model from the Hugging Face hub into its cache, without any code, and pins the commit.

The files then are a folder like any other: one path loads them. The cache is `huggingface_hub`'s own, so what was
fetched once is there without a network, and an interrupted download goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mspgt_tl.errors import ModelError
from mspgt_tl.escape import describe_error
from mspgt_tl.models.names import HubName, Source, unknown_model
from mspgt_tl.models.tokenizer_files import FILES
from mspgt_tl.models.weight_files import INDICES

_DESCRIPTION = (
    *("config.json", "generation_config.json", "adapter_config.json", "*/adapter_config.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt"),
    *FILES,
    *INDICES,
)
_SAFE, _PICKLED = ("model.safetensors", "model-*.safetensors"), ("pytorch_model.bin", "pytorch_model-*.bin")


def fetch(
    wanted: HubName, *, weights: bool = True, code: bool = False, check: Callable[[Source], Any] | None = None
) -> Source:
    """Return a hub model's files in the local cache, fetched where they are not there yet.

    The configuration comes first, so that what cannot be loaded is refused before gigabytes are fetched. Weights are
    left out for a random-weight twin. Pickled weights are fetched only where there are no others.

    Args:
        check: called with the files when only configuration and tokenizer lie there; raises to spare the weights.
        code: also fetch Python files.

    Raises:
        UnknownModelError: the hub has no such model.
        ModelError: it is gated, the network fails, or the model is not one that can be loaded.
    """
    patterns = [*_DESCRIPTION, *(["*.py"] if code else [])]
    folder = _download(wanted, wanted.revision, patterns)
    commit = folder.name
    if not (folder / "config.json").is_file():
        raise ModelError(f"'{wanted.repo}' on the hub is no transformers model: it holds no config.json.")
    if check:
        check(Source(wanted.name, folder, folder, wanted.random_seed, revision=commit))
    if weights and wanted.random_seed is None:
        for kind in (_SAFE, _PICKLED):
            folder = _download(wanted, commit, [*patterns, *kind])
            if any(path for pattern in kind for path in folder.glob(pattern)):
                break
    return Source(wanted.name, folder, folder, wanted.random_seed, revision=commit)


def _download(wanted: HubName, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return Path(snapshot_download(wanted.repo, revision=revision, allow_patterns=patterns))
    except GatedRepoError as error:
        raise ModelError(
            f"'{wanted.repo}' is gated: accept its licence on its page there, and set HF_TOKEN to a token of yours."
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(f"'{wanted.repo}' has no revision '{revision}' on the hub.") from error
    except RepositoryNotFoundError as error:
        raise unknown_model(wanted.name) from error
    except Exception as error:  # the hub's client fails in many ways: no network, rate limited, a full disk
        raise ModelError(
            f"No folder '{wanted.name}' is here, and {wanted.repo} could not be fetched from the Hugging Face hub: "
            f"{describe_error(error)} Run it again to go on where it stopped; without a network, download it elsewhere "
            "and give its folder."
        ) from error
