"""minicnn's training step beside PyTorch's, measured in one process, in turns.

First both networks are given the same weights and the same batch, and must compute the
same loss, before and after one update. Then every mode of PyTorch that `torch_step`
knows is timed alone, and the two fastest of each precision take turns with minicnn: a
round is a turn of each, and a turn a few steps. So whatever else the machine does
meets all alike. What counts is the median of the rounds.

Both keep off the cores while the other runs: minicnn's threads sleep between steps, and
PyTorch's, as many, stop spinning during a pause before each turn. minicnn's turns also
augment their images, of which PyTorch is spared. The machine should be idle: PyTorch's
threads wait for each other after every layer, so that other work slows them down more.
How many processors were busy before is a part of the result.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from minicnn.base.errors import MinicnnError
from minicnn.base.progress import Progress
from minicnn.devices.device import Device
from minicnn.experiments.bench import torch_step
from minicnn.experiments.bench.busy import busy_cores
from minicnn.experiments.bench.comparison import AS_EXACT, Comparison, Tried, Turns
from minicnn.experiments.bench.ops import OUTPUTS, Step
from minicnn.experiments.bench.torch_step import Mode
from minicnn.nn.torch_layout import to_torch

ROUNDS = 9
TURN = 0.5  # seconds of a turn, or one step if that takes longer
PAUSE = 0.05  # seconds; OpenMP's threads spin for a few milliseconds
FASTEST = 2  # modes of each precision that take turns
# Of the update between the two losses, CaffeNet's own: it moves them by far more than
# TOLERANCE.
RATE = 0.01
# Relative, of a loss. float32's roundings through eight layers make 1e-6 of it, and a
# GPU's library may choose convolutions that round off more (Winograd's).
TOLERANCE = 1e-4
OURS = "minicnn"


class TorchFailed(MinicnnError):
    """PyTorch is absent or failed; nothing of minicnn did."""


@contextmanager
def theirs(what: str) -> Iterator[None]:
    """Of PyTorch's work alone: what fails in it raises TorchFailed.

    minicnn's work must have ended before: a GPU reports errors to whoever waits next.
    """
    try:
        yield
    except Exception as error:  # of its own many kinds, and of its libraries'
        failed = f"--against torch: PyTorch failed in {what}: {first_line(error)}"
        raise TorchFailed(failed) from error


def first_line(error: Exception) -> str:
    """Its kind and the first line of what it says."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


@dataclass
class Contender:
    """A step that can be timed."""

    name: str
    precision: str
    step: Callable[[], None]
    synchronize: Callable[[], None]

    def turn(self, count: int) -> float:
        """Seconds of a step, of `count` in a row."""
        time.sleep(PAUSE)
        self.synchronize()
        began = time.perf_counter()
        for _ in range(count):
            self.step()
        self.synchronize()
        return (time.perf_counter() - began) / count

    def settled(self) -> float:
        """Seconds of a step, once libraries have compiled and chosen what they run."""
        self.turn(torch_step.WARM_UP)
        first = self.turn(1)
        return min(self.turn(steps(first)) for _ in range(2))


def steps(seconds: float) -> int:
    """How many steps of so many seconds make a turn."""
    return max(1, round(TURN / seconds))


def require(dev: Device) -> Any:
    """PyTorch, ready for that device.

    Raises:
        MinicnnError: the device is emulated.
        TorchFailed: there is no PyTorch, or none for the device.
    """
    if dev.name == "emulated":
        raise MinicnnError(
            "--against torch: the emulator's times compare with nothing; use --device "
            "cpu or cuda"
        )
    try:
        import torch
    except ImportError:
        raise TorchFailed(
            "--against torch: PyTorch is not installed; it is the extra 'compare': "
            "pip install 'minicnn-transfer[compare]'"
        ) from None
    if _on_gpu(dev) and not torch.cuda.is_available():
        raise TorchFailed(
            f"--against torch: PyTorch {torch.__version__} finds no GPU; install a "
            "build of it for CUDA, or use --device cpu"
        )
    return torch


def _on_gpu(dev: Device) -> bool:
    return dev.name.startswith("cuda")


def compare(dev: Device, arch: str, batch: int, *how: Any) -> Comparison:
    """As `comparing`, once all rounds are over."""
    *_, made = comparing(dev, arch, batch, *how)
    return made


def comparing(
    dev: Device,
    arch: str,
    batch: int,
    rounds: int = ROUNDS,
    modes: Sequence[Mode] | None = None,
) -> Iterator[Comparison]:
    """Measures a training step of a network, 1000 classes, beside PyTorch's.

    Args:
        batch: images.
        modes: of PyTorch; None takes all that suit the device.

    Yields:
        What there is before the first round, and after each.

    Raises:
        MinicnnError: minicnn fails, or computes another loss than PyTorch.
        TorchFailed: PyTorch is absent, or fails in every mode.
    """
    torch = require(dev)
    for what, value in (("--batch", batch), ("--rounds", rounds)):
        if value < 1:
            raise MinicnnError(f"{what} {value}: must be at least 1")
    modes = torch_step.modes(_on_gpu(dev)) if modes is None else modes
    busy = busy_cores()
    with torch_step.settings(torch, dev.threads), np.errstate(all="ignore"):
        place = on_torch(torch, dev)
        losses = check(torch, dev, place, arch, batch)
        about = arch, batch, dev.name, dev.threads, torch.__version__, busy, losses
        names = rivals(modes, _on_gpu(dev))
        ours = [_ours(dev, arch, batch, precision) for precision in names]
        step = Step(dev, arch, batch)
        label = f"bench {arch}, batch {batch}, against PyTorch"
        with Progress(len(modes) + rounds, "measurements", label) as bar:
            tried, best = _try_all(torch, place, step, modes, bar)
            yield Comparison(*about, tried, [], [])
            if not best:
                raise TorchFailed(f"--against torch: failed in all; {tried[0].error}")
            for turns in _take_turns([*ours, *best], rounds, bar):
                yield Comparison(*about, tried, turns[: len(ours)], turns[len(ours) :])


def rivals(modes: Sequence[Mode], on_gpu: bool) -> list[str]:
    """minicnn's precisions beside those of PyTorch's modes.

    Args:
        on_gpu: whether those that are as exact as another are not the same.
    """
    names = dict.fromkeys(mode.precision for mode in modes)
    if on_gpu:
        for name in list(names):
            names |= dict.fromkeys(AS_EXACT.get(name, ()))
    return list(names)


def _ours(dev: Device, arch: str, batch: int, precision: str) -> Contender:
    """minicnn's step in a precision, which has run: eagerly, captured, and again."""
    step = Step(dev, arch, batch, precision)
    step.recorded()
    made = Contender(OURS, precision, step.resident, dev.synchronize)
    made.turn(torch_step.WARM_UP)
    return made


def on_torch(torch: Any, dev: Device) -> Any:
    """PyTorch's name of the device, made the current one."""
    if not _on_gpu(dev):
        return torch.device("cpu")
    place = torch.device("cuda", int(dev.name.partition(":")[2] or 0))
    torch.cuda.set_device(place)
    return place


def batch_of(torch: Any, place: Any, step: Step) -> tuple[Any, Any]:
    """A step's images as the networks see them, cut by plain indexing, and labels.

    Returns:
        On PyTorch's device, float32 (N,3,crop,crop) and int64 (N,).
    """
    arch, batch = step.network.arch, step.batch
    assert batch.images is not None
    mean = step.dev.to_host(step.inputs.mean)
    crops = []
    for number, image in enumerate(batch.images):
        top, left = batch.top[number], batch.left[number]
        inside = slice(top, top + arch.crop), slice(left, left + arch.crop)
        crop = (image - mean)[inside] * arch.scale
        crops.append(crop[:, ::-1] if batch.mirror[number] else crop)
    seen = np.ascontiguousarray(np.stack(crops).transpose(0, 3, 1, 2), np.float32)
    step.dev.synchronize()  # what fails of minicnn's work must not show as PyTorch's
    with theirs("copying a batch"):
        labels = torch.from_numpy(batch.labels).long()
        return torch.from_numpy(seen).to(place), labels.to(place)


def check(
    torch: Any, dev: Device, place: Any, arch: str, batch: int
) -> dict[str, list[float]]:
    """The losses of both networks on the same weights and batch, of two updates.

    Raises:
        MinicnnError: they differ, and a comparison would say nothing.
        TorchFailed: PyTorch computes none.
    """
    step = Step(dev, arch, batch, lr=RATE)
    network = step.network
    weights = to_torch(network.arch, network.tensors())
    images, targets = batch_of(torch, place, step)
    with theirs("building the network"):
        net = torch_step.build(torch, network.arch, OUTPUTS)
        net.load_state_dict({name: torch.from_numpy(w) for name, w in weights.items()})
        net = net.to(place).eval()
        torch_step.use(torch, "fp32")
        update = torch_step.optimizer(torch, net, RATE)
    x, labels = step.inputs.fill(step.batch)
    ours, others = [], []
    for _ in range(2):
        network.forward(x)
        ours.append(network.scored(labels, gradient=True).loss / batch)
        network.backward()
        step.solver.set_rate(0)
        step.solver.update()
        dev.synchronize()
        with theirs("a float32 step"):
            loss = torch.nn.functional.cross_entropy(net(images), targets)
            others.append(loss.item())
            update.zero_grad()
            loss.backward()
            update.step()
    if not np.allclose(ours, others, rtol=TOLERANCE, atol=0):
        raise MinicnnError(
            f"--against torch: on the same weights and batch the losses are {ours} "
            f"here and {others} in PyTorch; 'minicnn gradcheck' says whether an op is "
            "off"
        )
    return {OURS: ours, "torch": others}


def _try_all(
    torch: Any, place: Any, step: Step, modes: Sequence[Mode], bar: Progress
) -> tuple[list[Tried], list[Contender]]:
    """Times each mode alone, and keeps the fastest of each precision."""
    tried: list[Tried] = []
    best: dict[str, list[tuple[float, Contender]]] = {}
    images, labels = batch_of(torch, place, step)
    cuda = place.type == "cuda"
    wait = torch.cuda.synchronize if cuda else step.dev.synchronize

    def timed(mode: Mode) -> Tried:
        torch.manual_seed(0)
        about = mode.name, mode.precision
        try:
            net = torch_step.build(torch, step.network.arch, OUTPUTS).to(place)
            work = torch_step.make(torch, net, images, labels, mode)
            contender = Contender(*about, work, wait)
            seconds = contender.settled()
        except Exception as error:  # no compiler, no memory: the others go on
            return Tried(*about, None, first_line(error))
        kept = best.setdefault(mode.precision, [])
        kept.append((seconds, contender))
        kept.sort(key=lambda each: each[0])
        del kept[FASTEST:]
        return Tried(*about, seconds)

    for mode in modes:
        with theirs(mode.name):
            tried.append(timed(mode))
            gc.collect()  # the memory of those that are out is wanted
            if cuda:
                torch.cuda.empty_cache()
        bar.update(1, mode.name)
    return tried, [contender for kept in best.values() for _, contender in kept]


def _take_turns(
    contenders: Sequence[Contender], rounds: int, bar: Progress
) -> Iterator[list[Turns]]:
    """Seconds of each contender's steps in the rounds so far, after each."""

    def whose(each: Contender) -> AbstractContextManager[None]:
        return nullcontext() if each.name == OURS else theirs(each.name)

    counts = []
    for each in contenders:
        with whose(each):
            counts.append(steps(each.settled()))
    times: list[list[float]] = [[] for _ in contenders]
    for _ in range(rounds):
        for each, count, taken in zip(contenders, counts, times, strict=True):
            with whose(each):
                taken.append(each.turn(count))
        bar.update(1)
        yield [
            Turns(each.name, each.precision, list(taken))
            for each, taken in zip(contenders, times, strict=True)
        ]
