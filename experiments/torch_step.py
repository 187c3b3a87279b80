"""PyTorch's time for the training step that `minicnn bench` measures.

    python experiments/torch_step.py [--arch caffenet] [--batch 256] [--device cuda]
        [--mode fp32] ... [--json FILE]

The same network, LRN and dropout included, the same loss, and SGD with momentum, decay
and each parameter's multipliers, on random images that already lie on the device, mean
subtracted (so PyTorch is spared the augmentation). Times are medians, between CUDA
events or by the wall clock.

Modes: fp32 (TF32 off), tf32, bf16 (autocast, channels_last), compiled (bf16 through
torch.compile).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import statistics
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

if __name__ == "__main__":  # runs from a tree that is not installed, too
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

MODES = ("fp32", "tf32", "bf16", "compiled")
OUTPUTS = 1000
WARM_UP, STEPS = 5, 20
HOST_SECONDS = 5.0  # that the steps on a CPU may take


def build(torch: Any, name: str, outputs: int = OUTPUTS) -> Any:
    """An architecture of minicnn as a PyTorch module, its parameters named alike."""
    from minicnn import architectures as specs

    nn = torch.nn
    arch = specs.get(name)
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


def optimizer(torch: Any, net: Any, fused: bool) -> Any:
    """Caffe's multipliers: biases at twice the rate, without decay."""
    named = list(net.named_parameters())
    groups = [
        {"params": [p for n, p in named if n.endswith("weight")]},
        {
            "params": [p for n, p in named if n.endswith("bias")],
            "lr": 0.0,
            "weight_decay": 0.0,
        },
    ]
    # The rate is 0, as in `minicnn bench`: it changes no time.
    return torch.optim.SGD(groups, 0.0, 0.9, weight_decay=5e-4, fused=fused)


def make_step(torch: Any, arch: str, batch: int, device: str, mode: str) -> Any:
    """A training step as a function."""
    from minicnn import architectures

    cuda = device.startswith("cuda")
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = mode != "fp32"
    torch.backends.cudnn.allow_tf32 = mode != "fp32"
    crop = architectures.get(arch).crop
    net = build(torch, arch).to(device).train()
    x = torch.randn(batch, 3, crop, crop, device=device)
    labels = torch.randint(0, OUTPUTS, (batch,), device=device)
    casting: Callable[[], Any] = contextlib.nullcontext
    if mode in ("bf16", "compiled"):
        last = torch.channels_last
        net, x = net.to(memory_format=last), x.contiguous(memory_format=last)

        def casting() -> Any:
            return torch.autocast("cuda" if cuda else "cpu", torch.bfloat16)

    update = optimizer(torch, net, fused=cuda)
    run = torch.compile(net) if mode == "compiled" else net

    def step() -> None:
        update.zero_grad(set_to_none=True)
        with casting():
            loss = torch.nn.functional.cross_entropy(run(x).float(), labels)
        loss.backward()
        update.step()

    return step


def seconds(torch: Any, step: Callable[[], None], cuda: bool) -> float:
    """The median time of a step, after a warm-up."""
    if not cuda:
        step()
        times: list[float] = []
        while len(times) < STEPS and sum(times) < HOST_SECONDS:
            began = time.perf_counter()
            step()
            times.append(time.perf_counter() - began)
        return statistics.median(times)
    for _ in range(WARM_UP):
        step()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(STEPS + 1)]
    torch.cuda.synchronize()
    marks[0].record()
    for mark in marks[1:]:
        step()
        mark.record()
    torch.cuda.synchronize()
    pairs = itertools.pairwise(marks)
    return statistics.median(a.elapsed_time(b) / 1e3 for a, b in pairs)


@click.command()
@click.option("--arch", default="caffenet", show_default=True)
@click.option("--batch", default=256, show_default=True, help="Images a step.")
@click.option("--device", default="cuda", show_default=True, help="PyTorch's name.")
@click.option("--mode", "modes", multiple=True, type=click.Choice(MODES))
@click.option("--threads", type=int, help="CPU threads.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Result file.")
def main(
    arch: str,
    batch: int,
    device: str,
    modes: tuple[str, ...],
    threads: int | None,
    out: Path | None,
) -> None:
    """PyTorch's time for a training step."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    records = []
    for mode in modes or ("fp32",):
        record: dict[str, Any] = {"mode": mode}
        try:
            step = make_step(torch, arch, batch, device, mode)
            taken = seconds(torch, step, device.startswith("cuda"))
            record |= {"seconds": taken, "images_per_second": batch / taken}
            said = f"{taken * 1e3:.3f} ms, {batch / taken:,.0f} images/s"
        except Exception as error:  # one may lack a compiler, or memory; others go on
            said = record["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
        records.append(record)
        click.echo(f"{arch}, batch {batch}, {device}, {mode}: {said}")
        if out:  # after each: a later one may run out of time
            report = {"torch": torch.__version__, "arch": arch, "batch": batch}
            out.write_text(json.dumps({**report, "modes": records}, indent=2) + "\n")


if __name__ == "__main__":
    main()
