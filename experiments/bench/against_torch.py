"""minicnn's training step beside PyTorch's: the tables of docs/performance.md.

    python -m minicnn.experiments.bench.against_torch [--net ARCH IMAGES]...
        [--device cpu] [--threads N] [--rounds 9] [--precision fp32|tf32|bf16]
        [--eager] [--layers] [--json FILE] [--record]

First both networks are given the same weights and the same batch, and must compute the
same loss, before and after one update. Then every mode of PyTorch that `torch_step`
knows takes turns with minicnn, in one process: a round is a turn of each, and a turn a
few steps. docs/performance.md says why. `--layers` then times each of the eight layers
alone, forward and backward: minicnn's ops by `minicnn bench`, PyTorch's layers as they
are (compiled ones have no layers), in the memory format that was the faster for the
whole step. `--record` keeps the result in experiments/results and writes its tables
into docs/performance.md.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

from minicnn.base.errors import MinicnnError
from minicnn.base.progress import Progress
from minicnn.devices import device as devices
from minicnn.devices.device import Device
from minicnn.experiments.bench import ops, torch_step
from minicnn.experiments.bench.ops import OUTPUTS, Record, Step
from minicnn.experiments.bench.provenance import (
    NETS,
    ROOT,
    busy_cores,
    insert,
    json_option,
    keep,
    nets_option,
    provenance,
)
from minicnn.experiments.bench.torch_step import Mode
from minicnn.experiments.printing import markdown
from minicnn.nn import architectures
from minicnn.nn.torch_layout import to_torch
from minicnn.training.environment import describe

PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "experiments" / "results"
# minicnn's precisions that are as exact as one of PyTorch's, if not that one alone.
AS_EXACT = {"fp32": ("fp32", "tf32x3")}
ROUNDS = 9
TURN = 0.5  # seconds of a turn, or one step if that takes longer
PAUSE = 0.05  # seconds; OpenMP's threads spin for a few milliseconds
# Of the update between the two losses, CaffeNet's own: it moves them by far more than
# TOLERANCE.
RATE = 0.01
# Relative, of a loss. float32's roundings through eight layers make 1e-6 of it, and a
# GPU's library may choose convolutions that round off more (Winograd's).
TOLERANCE = 1e-4

TIMES = "ms (least–most)", "images/s"
HEAD = ("network", "batch", "minicnn", *TIMES, "PyTorch's best", *TIMES, "ratio")


@dataclass
class Contender:
    """A step that can be timed, which has run.

    Attributes:
        steps: in a turn.
        seconds: of a step in each round.
    """

    name: str
    precision: str
    step: Callable[[], object]
    dev: Device
    steps: int = 1
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Runs until libraries have compiled and chosen what they run."""
        for self.steps in (torch_step.WARM_UP, 1):
            taken = self.turn()
        self.steps = max(1, round(TURN / taken))

    def turn(self) -> float:
        """Seconds of a step."""
        time.sleep(PAUSE)
        self.dev.synchronize()  # PyTorch's work, too
        began = time.perf_counter()
        for _ in range(self.steps):
            self.step()
        self.dev.synchronize()
        return (time.perf_counter() - began) / self.steps

    def turns(self, batch: int) -> Record:
        """Its rounds so far, for JSON; the median is what counts."""
        median = statistics.median(self.seconds)
        about = {"name": self.name, "precision": self.precision}
        rate = {"median": median, "images_per_second": batch / median}
        return {**about, "seconds": [*self.seconds], **rate}


def comparing(
    dev: Device, arch: str, batch: int, rounds: int, modes: Sequence[Mode]
) -> Iterator[Record]:
    """Measures a training step of a network, 1000 classes, beside PyTorch's.

    Yields:
        What there is after each round: "ours" and "theirs", their turns; "failed",
        modes with their errors; "busy", the processors that other programs used before;
        "losses" of one batch, before and after an update, by whose.

    Raises:
        MinicnnError: minicnn computes another loss than PyTorch, or that fails in every
            mode.
    """
    torch = torch_step.require(dev)
    record: Record = {"arch": arch, "batch": batch, "device": dev.name}
    record |= {"threads": dev.threads, "busy": busy_cores(), "failed": {}}
    label = f"bench {arch}, batch {batch}, against PyTorch"
    bar = Progress(len(modes) + rounds, "measurements", label)
    with np.errstate(all="ignore"), bar:
        step = Step(dev, arch, batch, lr=RATE)
        images, labels = torch_step.batch_of(torch, step)
        record["losses"] = losses(torch, step, images, labels)
        ours, theirs = [], []
        for kind in dict.fromkeys(mode.precision for mode in modes):
            names = (kind,) if dev.on_host else AS_EXACT.get(kind, (kind,))
            for name in names:
                timed = Step(dev, arch, batch, name)
                timed.recorded()
                ours.append(Contender("minicnn", name, timed.resident, dev))
        for mode in modes:
            torch.manual_seed(0)
            try:
                net = torch_step.build(torch, step.network.arch, OUTPUTS)
                work = torch_step.make(torch, net, images, labels, mode)
                theirs.append(Contender(mode.name, mode.precision, work, dev))
            except Exception as error:  # no compiler, no memory: the others go on
                why = f"{type(error).__name__}: {error}".splitlines()[0]
                record["failed"][mode.name] = why
            bar.update(1, mode.name)
        if not theirs:
            why = record["failed"] or f"{dev.name} has none of that precision"
            raise MinicnnError(f"--against torch: no mode of PyTorch works: {why}")
        for _ in range(rounds):
            for each in (*ours, *theirs):
                each.seconds.append(each.turn())
            bar.update(1)
            record["ours"] = [each.turns(batch) for each in ours]
            record["theirs"] = [each.turns(batch) for each in theirs]
            yield record


def fastest(net: Record) -> dict[str, Record]:
    """PyTorch's fastest mode in each precision."""
    slowest_first = sorted(net["theirs"], key=lambda turns: -turns["median"])
    return {turns["precision"]: turns for turns in slowest_first}


def losses(torch: Any, step: Step, images: Any, labels: Any) -> dict[str, list[float]]:
    """The losses of both networks on the same weights and batch, of two updates.

    Raises:
        MinicnnError: they differ, and a comparison would say nothing.
    """
    network = step.network
    weights = to_torch(network.arch, network.tensors())
    ours, theirs = [], []
    net = torch_step.build(torch, network.arch, OUTPUTS)
    net.load_state_dict({name: torch.from_numpy(w) for name, w in weights.items()})
    net = net.to(images.device).eval()
    torch_step.use(torch, "fp32")
    update = torch_step.optimizer(torch, net, RATE)
    x, targets = step.inputs.fill(step.batch)
    for _ in range(2):
        loss = torch.nn.functional.cross_entropy(net(images), labels)
        theirs.append(loss.item())
        update.zero_grad()
        loss.backward()
        update.step()
        network.forward(x)
        ours.append(network.scored(targets, gradient=True).loss / len(images))
        network.backward()
        step.solver.set_rate(0)
        step.solver.update()
    if not np.allclose(ours, theirs, rtol=TOLERANCE, atol=0):
        raise MinicnnError(
            f"--against torch: on the same weights and batch the losses are {ours} "
            f"here and {theirs} in PyTorch; 'minicnn gradcheck' says whether an op is "
            "off"
        )
    return {"minicnn": ours, "torch": theirs}


def layer_of(name: str) -> str:
    """The paper's layer that a part or an op's place belongs to, such as "layer 5"."""
    return f"layer {name[-1]}" if name[-1:].isdigit() else ""


def our_layers(dev: Device, arch: str, batch: int) -> dict[str, float]:
    """Seconds of each layer's ops, of the loss and of the update; without the rest."""
    others = {"softmax.cross_entropy": "loss", "sgd.update": "update"}
    taken: dict[str, float] = {}
    for row in ops.bench(dev, arch, batch)["rows"]:
        if name := layer_of(row["place"]) or others.get(row["op"]):
            taken[name] = taken.get(name, 0.0) + row["seconds"]
    return taken


def their_layers(dev: Device, arch: str, batch: int, last: bool) -> dict[str, float]:
    """Seconds of each layer of PyTorch's, of the loss and of the update, float32."""
    torch, shape = torch_step.require(dev), architectures.get(arch)
    layout = torch.channels_last if last else torch.contiguous_format
    place = torch.device(dev.name)
    net = torch_step.build(torch, shape, OUTPUTS).to(place, memory_format=layout)
    parts: dict[str, list[Any]] = {}
    for name, module in net.named_children():
        parts.setdefault(layer_of(name) or "layer 6", []).append(module)
    x = torch.randn(batch, 3, shape.crop, shape.crop, device=place)
    x = x.contiguous(memory_format=layout)
    labels = torch.zeros(batch, dtype=torch.long, device=place)
    taken: dict[str, float] = {}

    def time(name: str, work: Any) -> None:
        part = Contender(name, "fp32", work, dev)
        taken[name] = min(part.turn(), part.turn())

    torch_step.use(torch, "fp32")
    for name, modules in parts.items():
        part = torch.nn.Sequential(*modules).train()
        y = part(x).detach()
        dy = torch.randn_like(y)

        def both(part: Any = part, x: Any = x, dy: Any = dy) -> None:
            part.zero_grad()
            part(x).backward(dy)

        time(name, both)
        x = y.requires_grad_()  # from the second layer on, x has a gradient too
    score = torch.nn.functional.cross_entropy
    time("loss", lambda: score(x, labels).backward())
    time("update", torch_step.optimizer(torch, net).step)
    return taken


def measure(
    dev: Device,
    nets: Sequence[tuple[str, int]],
    rounds: int = ROUNDS,
    wanted: Callable[[Mode], bool] = lambda mode: True,
    by_layer: bool = False,
    out: Path | None = None,
) -> Record:
    """The comparisons of all networks; see `comparing`.

    Args:
        nets: architectures and images.
        wanted: of the modes of PyTorch that suit the device.
        out: where what there is so far is written after every round, so that little is
            lost where time ends, or PyTorch fails.
    """
    modes = [mode for mode in torch_step.modes(not dev.on_host) if wanted(mode)]
    result: Record = {
        "provenance": provenance(),
        "environment": describe(dev),
        "torch": torch_step.require(dev).__version__,
        "rounds": rounds,
        "nets": [],
    }
    for arch, batch in nets:
        done = result["nets"]
        for net in comparing(dev, arch, batch, rounds, modes):
            result["nets"] = [*done, net]
            keep(out, result)
        if by_layer:
            best = fastest(net).get("fp32", {"name": "channels_last"})
            last = "channels_last" in best["name"]
            ours = our_layers(dev, arch, batch)
            theirs = their_layers(dev, arch, batch, last)
            both = {name: (ours[name], theirs[name]) for name in sorted(ours)}
            net |= {"channels_last": last, "layers": both}
    keep(out, result)
    return result


def report(result: Record) -> str:
    """The result's table, one row a network and precision, and where it is from."""

    def cells(turns: Record) -> tuple[str, str]:
        numbers = turns["median"], min(turns["seconds"]), max(turns["seconds"])
        median, least, most = (f"{1e3 * each:.2f}" for each in numbers)
        return f"{median} ({least}–{most})", f"{turns['images_per_second']:,.1f}"

    rows, parts = [], []
    for net in result["nets"]:
        ours = {turns["precision"]: turns for turns in net["ours"]}
        for kind, theirs in fastest(net).items():
            for name in AS_EXACT.get(kind, (kind,)):
                if name in ours:
                    row = [net["arch"], str(net["batch"]), name, *cells(ours[name])]
                    ratio = theirs["median"] / ours[name]["median"]
                    rows.append([*row, theirs["name"], *cells(theirs), f"{ratio:.2f}"])
        failed = net["failed"].items()
        parts += [f"PyTorch failed in {mode}: {why}" for mode, why in failed]
    about, machine = result["provenance"], result["environment"]
    device = machine.get("gpu") or f"{machine['threads']} threads, {about['machine']}"
    busy = [net["busy"] for net in result["nets"] if net["busy"] is not None]
    said = f", {max(busy):.1f} processors busy with other programs" if busy else ""
    origin = (
        f"Medians of {result['rounds']} rounds; {device}{said}; PyTorch "
        f"{result['torch']}, NumPy {machine['numpy']}, {machine['blas']}; "
        f"{about['date']}, commit {about['commit']}: `{about['command']}`"
    )
    parts += [layers_table(net) for net in result["nets"] if "layers" in net]
    return "\n\n".join([markdown(HEAD, rows), origin, *parts])


def layers_table(net: Record) -> str:
    """A network's layers, one row each."""
    layout = "channels_last" if net["channels_last"] else "NCHW"
    title = f"{net['arch']}, batch {net['batch']}"
    head = title, "minicnn ms", f"PyTorch fp32 {layout} ms", "ratio"
    rows = [
        (name, f"{ours * 1e3:.2f}", f"{theirs * 1e3:.2f}", f"{theirs / ours:.2f}")
        for name, (ours, theirs) in net["layers"].items()
    ]
    return markdown(head, rows)


@click.command()
@nets_option
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--threads", type=int, help="CPU threads of both; default: all cores.")
@click.option("--rounds", type=click.IntRange(1), default=ROUNDS, show_default=True)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "tf32", "bf16"]),
    help="Of PyTorch's modes; default: all.",
)
@click.option("--eager", is_flag=True, help="Nothing compiled, which takes minutes.")
@click.option("--layers", "by_layer", is_flag=True, help="Also time each layer alone.")
@json_option
@click.option("--record", is_flag=True, help="Keep the result, and write its table.")
def main(
    nets: tuple[tuple[str, int], ...],
    device: str,
    threads: int | None,
    rounds: int,
    precision: str | None,
    eager: bool,
    by_layer: bool,
    out: Path | None,
    record: bool,
) -> None:
    """minicnn's training step beside PyTorch's."""

    def wanted(mode: Mode) -> bool:
        return precision in (None, mode.precision) and not (eager and mode.compiled)

    try:
        dev = devices.get(device, threads)
        kind = "cpu" if dev.on_host else "cuda"
        result = measure(dev, nets or NETS[kind], rounds, wanted, by_layer, out)
    except MinicnnError as error:
        raise click.ClickException(str(error)) from None
    text = report(result)
    click.echo(text)
    if record:
        date = result["provenance"]["date"]
        keep(RESULTS / f"{date}-bench-torch-{kind}.json", result)
        PAGE.write_text(insert(PAGE.read_text(), f"bench-torch {kind}", text))


if __name__ == "__main__":
    main()
