"""minicnn: AlexNet-style convnets by hand, and how transferable their layers are.

These names are the public API; README has an example. Each is loaded at first use.

Data
    Store: a file of images, labels and classes, opened for reading.
    prepare, Options: makes a store from archives or folders of images.
    ensure_demo: the demo set's path; draws the set at first use.

Training
    load_recipe, override, Config: settings from a recipe, changed by "KEY=VALUE".
    get_device: "auto", "cpu", "cuda", "cuda:N" or "emulated".
    Setup: store, device, settings and split that the runs of a comparison share.
    train_base: trains a base net on a task.
    transfer, transfer_depths: copies layers of a base, or of any run or file, freezes
        or fine-tunes them, and trains the rest; at one depth, or several in one pass.
    Network: layers with forward and backward passes; freezes and copies them.

Finished runs
    Run: a run folder: settings, metrics, result, weights.
    evaluate_run, predict: scores on the validation part; classes of image files.
    filters, curves: pictures of conv1's filters, and of loss and accuracy.
    export_torch: a file of weights that PyTorch loads.

Errors
    MinicnnError: bad input or a failed precondition, and what to do about it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minicnn.base.config import Config, load_recipe, override
    from minicnn.base.errors import MinicnnError
    from minicnn.data.store import Store
    from minicnn.data_prep.demo.store import ensure_demo
    from minicnn.data_prep.prepare import Options, prepare
    from minicnn.devices.device import get as get_device
    from minicnn.nn.network import Network
    from minicnn.results.export import export_torch
    from minicnn.results.inference import evaluate_run, predict
    from minicnn.results.pictures import curves, filters
    from minicnn.training.run import Run
    from minicnn.training.setup import Setup
    from minicnn.training.transfer import train_base, transfer, transfer_depths

__version__ = "0.1.0"

__all__ = ["Options", "Store", "ensure_demo", "prepare"]
__all__ += ["Config", "Network", "Setup", "get_device", "load_recipe", "override"]
__all__ += ["Run", "train_base", "transfer", "transfer_depths"]
__all__ += ["curves", "evaluate_run", "export_torch", "filters", "predict"]
__all__ += ["MinicnnError"]

_NAMES = {
    "base.config": ("Config", "load_recipe", "override"),
    "base.errors": ("MinicnnError",),
    "data.store": ("Store",),
    "data_prep.demo.store": ("ensure_demo",),
    "data_prep.prepare": ("Options", "prepare"),
    "devices.device": ("get_device",),
    "nn.network": ("Network",),
    "results.export": ("export_torch",),
    "results.inference": ("evaluate_run", "predict"),
    "results.pictures": ("curves", "filters"),
    "training.run": ("Run",),
    "training.setup": ("Setup",),
    "training.transfer": ("train_base", "transfer", "transfer_depths"),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Loads a public name (PEP 562); `import minicnn` alone loads nothing else."""
    if name not in _HOMES:
        raise AttributeError(f"module 'minicnn' has no attribute {name!r}")
    module = import_module(f"minicnn.{_HOMES[name]}")
    return getattr(module, "get" if name == "get_device" else name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
