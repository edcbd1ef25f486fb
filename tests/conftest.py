"""Shared fixtures. Shape annotations of the purely numerical modules are checked while the tests run."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Behind `&` a shell lets Ctrl-C be ignored, here and in all processes that tests start and then interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from jaxtyping import config as shape_checks
from jaxtyping import install_import_hook

PACKAGE = Path(__file__).parents[1] / "mspgt_tl"


def numerical() -> Iterator[str]:
    """Yield every module that annotates shapes and computes with numpy alone.

    Elsewhere types of torch, pandas and xarray are there for type checkers only, and neither protocols nor pydantic's
    models can be checked.
    """
    other = ("TYPE_CHECKING", "torch", "pydantic", "CausalModel", "Accumulator")
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "from jaxtyping import" in text and not any(word in text for word in other):
            yield ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


install_import_hook(list(numerical()), "beartype.beartype")

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture
def unchecked_shapes() -> Iterator[None]:
    """Let callers' mistakes reach our own errors, which shape checks would come before."""
    shape_checks.update("jaxtyping_disable", True)
    yield
    shape_checks.update("jaxtyping_disable", False)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Keep torch to one thread: the models here are so small that more threads only wait for each other."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public corpora beside the checkout; tests that need it are skipped where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the public corpora are not beside this checkout (../shared/data)")
    return SHARED / "data"


@pytest.fixture(scope="session")
def mspgt() -> Callable[..., CompletedProcess[str]]:
    """A function that runs a command line in this process, which has imported torch already, and what a shell sees.

    What a process of its own is needed for (signals, what is imported, another environment) starts one itself.
    """

    def run(*arguments: str) -> CompletedProcess[str]:
        from mspgt_tl.cli import main

        out, err, code = StringIO(), StringIO(), 0
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            patch.setattr("sys.argv", ["mspgt", *arguments])
            warnings.simplefilter("default")
            with redirect_stdout(out), redirect_stderr(err):
                try:
                    main()
                except SystemExit as left:
                    code = int(left.code or 0)
        return CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of a random 8-block Llama with a tokenizer trained on generated sentences."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from mspgt_tl.corpora.grammar import generated_corpus
    from mspgt_tl.models.training import train_tokenizer

    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    tokenizer = train_tokenizer(iter(generated_corpus(seed=5, limit=500).sentences), 400)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def browser() -> Any:
    """A headless Chromium without network."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("needs chromium and chromedriver on the PATH")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd(
        "Network.emulateNetworkConditions",
        {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0},
    )
    yield driver
    driver.quit()


@pytest.fixture
def open_page(browser: Any) -> Callable[[Path, int], Any]:
    """A function that loads a page at a width, waits until its figures are drawn, and returns the browser."""
    from selenium.webdriver.support.ui import WebDriverWait

    def load(path: Path, width: int) -> Any:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get_log("performance")
        browser.get(path.as_uri())
        drawn = "return [...document.querySelectorAll('.plotly-graph-div')].every(d => d.querySelector('.main-svg'))"
        WebDriverWait(browser, 60).until(lambda driver: driver.execute_script(drawn))
        fits = """return [...document.querySelectorAll('.js-plotly-plot')].filter(d => d.clientWidth).every(
            d => Math.abs(d._fullLayout.width - d.clientWidth) < 2
              && Math.abs(d._fullLayout.height - d.clientHeight) < 2)"""
        WebDriverWait(browser, 20).until(lambda driver: driver.execute_script(fits))
        return browser

    return load


def planted_result(
    gaps: Sequence[int], n_layers: int = 12, *, noise: float = 0.05, seed: int = 0, rule: str = "mspgt"
) -> tuple[Any, Any]:
    """Three signals with a peak at each gap, resampled with noise, and what is found in them."""
    import numpy as np
    import xarray as xr

    from mspgt_tl.boundaries import find_boundaries

    rng = np.random.default_rng(seed)
    curves = 0.05 * rng.random((3, n_layers - 1))
    for gap in gaps:
        curves[:, gap - 1] += 1
    resampled = (curves + noise * rng.standard_normal((300, *curves.shape))).astype(np.float32)
    found = find_boundaries(curves, resampled=resampled.astype(np.float64), rule=rule, n_null=200)
    data = xr.Dataset(
        {
            "resampled": (("resample", "signal", "gap"), resampled),
            "weight": ("signal", found.weights),
            "gain": ("signal", found.gain),
            "boundary": ("found", np.array(found.boundaries, dtype=np.int64)),
            "verdict": ("found", np.array(found.verdicts, dtype=str)),
            "interval": (("found", "bound"), found.intervals),
        },
        attrs={"n_layers": n_layers},
    )
    return data, found


@pytest.fixture
def planted_run(tmp_path: Path) -> Callable[..., Path]:
    """Write a run of a model with planted boundaries and return its folder."""
    from mspgt_tl.store import Run

    def make(name: str, gaps: Sequence[int], n_layers: int = 12, **options) -> Path:
        folder = tmp_path / name.replace("@", "-").replace(":", "-")
        random_seed = int(name.rpartition(":")[2]) if "@random:" in name else None
        model = {"name": name, "architecture": "LlamaForCausalLM", "n_layers": n_layers, "random_seed": random_seed}
        Run.create(folder, {"model": model}).stage("result", lambda: planted_result(gaps, n_layers, **options)[0])
        return folder

    return make


def located(
    name: str,
    first: float,
    second: float,
    *,
    family: str = "a",
    n_layers: int = 100,
    spread: float = 0.0,
    draws: int = 400,
) -> Any:
    """Return a model with these gaps and normal draws around them."""
    import numpy as np

    from mspgt_tl.comparison.positions import Located

    rng = np.random.default_rng([ord(c) for c in name])
    drawn = np.array([first, second]) + spread * rng.standard_normal((draws, 2))
    interval = np.quantile(drawn, [0.025, 0.975], axis=0).T if draws else np.full((2, 2), np.nan)
    gaps = np.array([first, second], dtype=np.float64)
    return Located(name, family, name, n_layers, gaps, interval, ("supported", "supported"), drawn)


@pytest.fixture(name="located")
def located_fixture() -> Callable[..., Any]:
    return located


@pytest.fixture(name="planted_result")
def planted_result_fixture() -> Callable[..., tuple[Any, Any]]:
    return planted_result


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A Ray cluster of two workers on this machine, with a home of its own; its processes are gone afterwards."""
    import psutil

    home = Path(tempfile.mkdtemp(prefix="ray-"))  # sockets need short paths
    settings = {
        "HOME": str(home),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_gcs_server_port_wait_time_s": "120",
    }
    known = {child.pid for child in psutil.Process().children(recursive=True)}
    quiet = {"include_dashboard": False, "configure_logging": False, "log_to_driver": False}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        ray: Any = pytest.importorskip("ray", reason="needs the extra 'ray'")  # reads the settings as it is imported
        for attempt in range(5):
            try:
                ray.init(num_cpus=2, object_store_memory=100 * 1024**2, _temp_dir=str(home), **quiet)
                break
            except Exception:  # Ray gives itself 30 seconds to start, which a busy machine does not
                ray.shutdown()
                if attempt == 4:
                    raise
        yield
        ours = [child for child in psutil.Process().children(recursive=True) if child.pid not in known]
        ray.shutdown()
        for process in psutil.wait_procs(ours, timeout=5)[1]:
            process.kill()
    shutil.rmtree(home, ignore_errors=True)


def made_detection(name: str, at: Sequence[int], probe_at: int | None = None) -> Any:
    """Return a detection of 12 blocks whose three signals peak at these gaps, the probe perhaps at one more."""
    import numpy as np

    from mspgt_tl.boundaries import find_boundaries
    from mspgt_tl.config import DetectConfig, SignalConfig, to_plain
    from mspgt_tl.evidence import label_result, make_signals
    from mspgt_tl.pipeline.detection import Detection

    rng, gaps = np.random.default_rng(0), np.arange(1, 12)
    shape = 0.1 * rng.random((3, 11))
    for height, gap in zip((1.0, 0.9), at, strict=True):
        shape += height * np.exp(-4.0 * (gaps - gap) ** 2)
    if probe_at is not None:
        shape[1] += 0.7 * np.exp(-4.0 * (gaps - probe_at) ** 2)
    resampled = shape + 0.02 * rng.normal(size=(100, 3, 11))
    names = list(make_signals(SignalConfig()))
    found = find_boundaries(shape, resampled=resampled, names=names, n_null=200, seed=0)
    hsic = np.exp(-np.abs(np.arange(12)[:, None] - np.arange(12)) / 12)
    keys = [f"pos.{kind}.{part}" for kind in ("mlp", "linear", "control") for part in ("total", "hits")]
    counts = dict.fromkeys(keys, np.full((4, 2, 12, 3), 100.0))
    sums = {"probe": counts, "cka": {"hsic": hsic[None]}, "attention_jsd": {}}
    data = label_result(make_signals(SignalConfig()), sums, found, shape, resampled)
    identity = {"command": "detect", "config": to_plain(DetectConfig()), "model": {"name": name}}
    return Detection(data, {"identity": identity, "notes": {}, "stages": {}}, {}, None)


@pytest.fixture(scope="session")
def make_detection() -> Callable[..., Any]:
    """A function that makes a whole detection without a model: curves with peaks at known gaps."""
    return made_detection
