"""minicnn's training step beside PyTorch's, measured in one process, in turns.

First both networks are given the same weights and the same batch, and must compute the
same loss, before and after one update. Then every mode of PyTorch that `torch_step`
knows is timed alone, and the two fastest of each precision take turns with minicnn: a
round is a turn of each, and a turn a few steps. docs/performance.md says why.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minicnn.base.errors import MinicnnError
from minicnn.base.progress import Progress
from minicnn.devices.device import Device
from minicnn.experiments.bench import comparison, torch_step
from minicnn.experiments.bench.comparison import Record
from minicnn.experiments.bench.ops import OUTPUTS, Step
from minicnn.experiments.bench.provenance import busy_cores
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


def first_line(error: BaseException) -> str:
    """Its kind and the first line of what it says."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


@dataclass
class Contender:
    """A step that can be timed.

    Attributes:
        steps: in a turn.
        seconds: of a step in each round.
    """

    name: str
    precision: str
    step: Callable[[], None]
    synchronize: Callable[[], None]
    steps: int = 1
    seconds: list[float] = field(default_factory=list)

    def turn(self, count: int) -> float:
        """Seconds of a step, of `count` in a row."""
        time.sleep(PAUSE)
        with nullcontext() if self.name == OURS else theirs(self.name):
            self.synchronize()
            began = time.perf_counter()
            for _ in range(count):
                self.step()
            self.synchronize()
        return (time.perf_counter() - began) / count

    def settled(self) -> float:
        """Seconds of a step, once libraries have compiled and chosen what they run."""
        self.turn(torch_step.WARM_UP)
        self.steps = max(1, round(TURN / self.turn(1)))
        return min(self.turn(self.steps) for _ in range(2))

    def turns(self, batch: int) -> Record:
        """Its rounds so far, for JSON; the median is what counts."""
        median = statistics.median(self.seconds)
        about = {"name": self.name, "precision": self.precision}
        rate = {"median": median, "images_per_second": batch / median}
        return {**about, "seconds": [*self.seconds], **rate}


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
    if not dev.on_host and not torch.cuda.is_available():
        raise TorchFailed(
            f"--against torch: PyTorch {torch.__version__} finds no GPU; install a "
            "build of it for CUDA, or use --device cpu"
        )
    return torch


def compare(dev: Device, arch: str, batch: int, *how: Any) -> Record:
    """As `comparing`, once all rounds are over."""
    *_, made = comparing(dev, arch, batch, *how)
    return made


def comparing(
    dev: Device,
    arch: str,
    batch: int,
    rounds: int = ROUNDS,
    modes: Sequence[Mode] | None = None,
) -> Iterator[Record]:
    """Measures a training step of a network, 1000 classes, beside PyTorch's.

    Args:
        batch: images.
        modes: of PyTorch; None takes all that suit the device.

    Yields:
        What there is before the first round, and after each: `comparison.compared`,
        and "torch", its version; "busy", the processors that other programs used
        before; "losses" of one batch, before and after an update, by whose; "tried",
        each mode alone, with its seconds or its error.

    Raises:
        MinicnnError: minicnn fails, or computes another loss than PyTorch.
        TorchFailed: PyTorch is absent, or fails in every mode.
    """
    torch = require(dev)
    for what, value in (("--batch", batch), ("--rounds", rounds)):
        if value < 1:
            raise MinicnnError(f"{what} {value}: must be at least 1")
    modes = torch_step.modes(not dev.on_host) if modes is None else modes
    record: Record = {"arch": arch, "batch": batch, "device": dev.name}
    record |= {"threads": dev.threads, "torch": torch.__version__, "busy": busy_cores()}
    torch_step.prepare(torch, dev.threads)
    label = f"bench {arch}, batch {batch}, against PyTorch"
    with np.errstate(all="ignore"):
        place = on_torch(torch, dev)
        record["losses"] = check(torch, dev, place, arch, batch)
        kinds = [mode.precision for mode in modes]
        if not dev.on_host:
            kinds = [name for kind in kinds for name in comparison.as_exact(kind)]
        ours = [_ours(dev, arch, batch, kind) for kind in dict.fromkeys(kinds)]
        with Progress(len(modes) + rounds, "measurements", label) as bar:
            step = Step(dev, arch, batch)
            record["tried"], best = _try_all(torch, place, step, modes, bar)
            yield record | comparison.compared([], [])
            if not best:
                failed = record["tried"][0]["error"]
                raise TorchFailed(f"--against torch: failed in all; {failed}")
            for each in (*ours, *best):
                each.settled()
            for _ in range(rounds):
                for each in (*ours, *best):
                    each.seconds.append(each.turn(each.steps))
                bar.update(1)
                turns = ([each.turns(batch) for each in some] for some in (ours, best))
                yield record | comparison.compared(*turns)


def _ours(dev: Device, arch: str, batch: int, precision: str) -> Contender:
    """minicnn's step in a precision, which has run: eagerly, captured, and again."""
    step = Step(dev, arch, batch, precision)
    step.recorded()
    made = Contender(OURS, precision, step.resident, dev.synchronize)
    made.turn(torch_step.WARM_UP)
    return made


def on_torch(torch: Any, dev: Device) -> Any:
    """PyTorch's name of the device, made the current one."""
    if dev.on_host:
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
    dev.synchronize()
    ours, others = [], []
    with theirs("a float32 step"):
        images, targets = batch_of(torch, place, step)
        net = torch_step.build(torch, network.arch, OUTPUTS)
        net.load_state_dict({name: torch.from_numpy(w) for name, w in weights.items()})
        net = net.to(place).eval()
        torch_step.use(torch, "fp32")
        update = torch_step.optimizer(torch, net, RATE)
        for _ in range(2):
            loss = torch.nn.functional.cross_entropy(net(images), targets)
            others.append(loss.item())
            update.zero_grad()
            loss.backward()
            update.step()
    x, labels = step.inputs.fill(step.batch)
    for _ in range(2):
        network.forward(x)
        ours.append(network.scored(labels, gradient=True).loss / batch)
        network.backward()
        step.solver.set_rate(0)
        step.solver.update()
    if not np.allclose(ours, others, rtol=TOLERANCE, atol=0):
        raise MinicnnError(
            f"--against torch: on the same weights and batch the losses are {ours} "
            f"here and {others} in PyTorch; 'minicnn gradcheck' says whether an op is "
            "off"
        )
    return {OURS: ours, "torch": others}


def _try_all(
    torch: Any, place: Any, step: Step, modes: Sequence[Mode], bar: Progress
) -> tuple[list[Record], list[Contender]]:
    """Times each mode alone, and keeps the fastest of each precision."""
    tried: list[Record] = []
    best: dict[str, list[tuple[float, Contender]]] = {}
    images, labels = batch_of(torch, place, step)
    cuda = place.type == "cuda"
    wait = torch.cuda.synchronize if cuda else step.dev.synchronize

    def seconds(mode: Mode) -> float:
        gc.collect()  # the memory of those that are out is wanted
        if cuda:
            torch.cuda.empty_cache()
        torch.manual_seed(0)
        net = torch_step.build(torch, step.network.arch, OUTPUTS).to(place)
        work = torch_step.make(torch, net, images, labels, mode)
        contender = Contender(mode.name, mode.precision, work, wait)
        taken = contender.settled()
        kept = best.setdefault(mode.precision, [])
        kept.append((taken, contender))
        kept.sort(key=lambda each: each[0])
        del kept[FASTEST:]
        return taken

    for mode in modes:
        about = {"mode": mode.name, "precision": mode.precision}
        try:
            tried.append({**about, "seconds": seconds(mode), "error": ""})
        except Exception as error:  # no compiler, no memory: the others go on
            why = first_line(error.__cause__ or error)
            tried.append({**about, "seconds": None, "error": why})
        bar.update(1, mode.name)
    return tried, [contender for kept in best.values() for _, contender in kept]
