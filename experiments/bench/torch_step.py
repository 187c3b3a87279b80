"""The same network and training step in PyTorch, in every way that may be its fastest.

The step does what `bench.Step` does: forward with LRN and dropout, cross-entropy,
backward, SGD with momentum, decay and each parameter's multipliers, on one batch of
random images. These lie on the device with the mean subtracted: PyTorch is spared the
augmentation.

PyTorch is handed in as `torch`, so that only `require` needs it to be there.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from minicnn.base.errors import MinicnnError
from minicnn.devices.device import Device
from minicnn.experiments.bench.ops import Step
from minicnn.nn import architectures as specs

MOMENTUM, DECAY = 0.9, 5e-4
WARM_UP = 3  # steps before one is captured as a graph: libraries choose their kernels


@dataclass(frozen=True)
class Mode:
    """One way to run the step.

    Attributes:
        precision: "fp32", "tf32", or "bf16" (autocast; the weights stay float32).
        channels_last: whether activations and filters lie so, that is NHWC, in memory.
        compiled: by `torch.compile`: its `mode`, or None for the layers as they are.
        graph: whether the whole step is captured once as a CUDA graph, and replayed.
    """

    precision: str = "fp32"
    channels_last: bool = False
    compiled: str | None = None
    graph: bool = False

    @property
    def name(self) -> str:
        """Such as "bf16 channels_last compiled graph"."""
        parts = [self.precision, "channels_last" if self.channels_last else "NCHW"]
        if self.compiled:
            parts.append("compiled" if self.compiled == "default" else "autotuned")
        return " ".join([*parts, "graph"] if self.graph else parts)


def modes(cuda: bool) -> list[Mode]:
    """All modes worth trying on a GPU or a CPU; those that compile, the slow ones,
    last."""
    if not cuda:
        return [
            Mode(channels_last=last, compiled=compiled)
            for compiled in (None, "default")
            for last in (False, True)
        ]
    # Tensor cores read channels_last; for plain fp32 either may be faster.
    layouts = [("fp32", False), ("fp32", True), ("tf32", True), ("bf16", True)]
    eager = [
        Mode(p, last, graph=graph) for p, last in layouts for graph in (False, True)
    ]
    compiled = [Mode(p, last, "default", True) for p, last in reversed(layouts)]
    # This mode tries many kernels for each product; we capture the graph, not it.
    tuned = Mode("bf16", True, "max-autotune-no-cudagraphs", True)
    return [*eager, *compiled, tuned]


def require(dev: Device) -> Any:
    """PyTorch, set up to be compared on that device for the rest of the process.

    Raises:
        MinicnnError: the device is emulated, there is no PyTorch, or none for the
            device.
    """
    if dev.name == "emulated":
        raise MinicnnError(
            "--against torch: the emulator's times compare with nothing; use --device "
            "cpu or cuda"
        )
    try:
        import torch
    except ImportError:
        raise MinicnnError(
            "--against torch: PyTorch is not installed; it is the extra 'compare': "
            "pip install 'minicnn-transfer[compare]'"
        ) from None
    if not dev.on_host:
        if not torch.cuda.is_available():
            raise MinicnnError(
                f"--against torch: PyTorch {torch.__version__} finds no GPU; install a "
                "build of it for CUDA, or use --device cpu"
            )
        torch.cuda.set_device(int(dev.name.partition(":")[2] or 0))
    torch.set_num_threads(dev.threads)
    torch.backends.cudnn.benchmark = True  # the fastest convolutions
    torch.compiler.reset()  # it keeps few compiled forms of a function
    # Of how compiled code might be faster, in the middle of our tables.
    warnings.simplefilter("ignore")
    return torch


def build(torch: Any, arch: specs.Architecture, outputs: int) -> Any:
    """An architecture as a PyTorch module; parameters named as `export` names them."""
    nn = torch.nn
    layers: OrderedDict[str, Any] = OrderedDict()
    channels = 3
    for spec in arch.layers:
        if isinstance(spec, specs.Conv):
            geometry = spec.window, spec.stride, spec.pad
            layers[spec.name] = nn.Conv2d(
                channels, spec.features, *geometry, groups=spec.groups
            )
            layers[f"relu{spec.index}"] = nn.ReLU(inplace=True)
            channels = spec.features
        elif isinstance(spec, specs.Pool):
            layers[spec.name] = nn.MaxPool2d(spec.window, spec.stride, ceil_mode=True)
        elif isinstance(spec, specs.LRN):
            parameters = spec.size, spec.alpha, spec.beta, spec.k
            layers[spec.name] = nn.LocalResponseNorm(*parameters)
        elif isinstance(spec, specs.Dropout):
            layers[spec.name] = nn.Dropout(spec.rate)
        else:
            layers.setdefault("flatten", nn.Flatten())
            layers[spec.name] = nn.LazyLinear(spec.features or outputs)
            if spec.relu:
                layers[f"relu{spec.index}"] = nn.ReLU(inplace=True)
    module = nn.Sequential(layers)
    with torch.no_grad():
        module(torch.zeros(1, 3, arch.crop, arch.crop))  # gives fc6 its size
    return module


def optimizer(torch: Any, net: Any, lr: float = 0.0) -> Any:
    """SGD with Caffe's multipliers: biases at twice the rate, without decay.

    Args:
        lr: the rate; 0, as in `minicnn bench`, changes no time and keeps the weights.
    """
    weights = [p for name, p in net.named_parameters() if name.endswith("weight")]
    biases = [p for name, p in net.named_parameters() if name.endswith("bias")]
    groups = [
        {"params": weights},
        {"params": biases, "lr": 2 * lr, "weight_decay": 0.0},
    ]
    # One kernel, or one loop over the threads, for many parameters.
    return torch.optim.SGD(groups, lr, MOMENTUM, weight_decay=DECAY, fused=True)


def use(torch: Any, precision: str) -> None:
    """Allows TF32 in products and convolutions, or forbids it."""
    # Whoever allows bfloat16 allows the more exact TF32 in what remains float32.
    allowed = precision != "fp32"
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def make(
    torch: Any, net: Any, images: Any, labels: Any, mode: Mode
) -> Callable[[], None]:
    """A training step that can be repeated without end, as a function.

    Args:
        net: of `build`; is moved to the device, in the mode's memory format.
        images: float32 (N,3,H,W), on the device.
        labels: int64 (N,).
    """
    layout = torch.channels_last if mode.channels_last else torch.contiguous_format
    net = net.to(images.device, memory_format=layout).train()
    images = images.contiguous(memory_format=layout)
    update = optimizer(torch, net)
    narrow, kind = mode.precision == "bf16", images.device.type

    def score(images: Any, labels: Any) -> Any:
        logits = net(images).float()
        return torch.nn.functional.cross_entropy(logits, labels)

    # Sizes never change; PyTorch would take two modes for one of changing sizes.
    how = {"mode": mode.compiled, "dynamic": False}
    run = torch.compile(score, **how) if mode.compiled else score

    def step() -> None:
        use(torch, mode.precision)
        update.zero_grad(set_to_none=True)
        with torch.autocast(kind, torch.bfloat16, enabled=narrow):
            loss = run(images, labels)
        loss.backward()
        update.step()

    return captured(torch, step) if mode.graph else step


def captured(torch: Any, step: Callable[[], None]) -> Callable[[], None]:
    """A step as one CUDA graph, which launches all of its kernels at once."""
    here, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(here)
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            step()
    here.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    replay: Callable[[], None] = graph.replay
    return replay


def batch_of(torch: Any, step: Step) -> tuple[Any, Any]:
    """A step's images as its network sees them, and their labels.

    Returns:
        On PyTorch's device, float32 (N,3,crop,crop) and int64 (N,).
    """
    x, _ = step.inputs.fill(step.batch)
    seen = torch.from_numpy(step.dev.to_host(x)).permute(0, 3, 1, 2).contiguous()
    labels = torch.from_numpy(step.batch.labels).long()
    place = torch.device(step.dev.name)
    return seen.to(place), labels.to(place)
