"""The training loop of one run or several: batches, and what is due after each.

Several runs train together where they see the same batches and have the same frozen
layers, as all depths of one source and target do: each batch is read once, passes the
frozen layers once (`Trunk`), and every `Trainee` learns from it. Each run ends with the
same bytes as if it were alone.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicnn.base.config import Config
from minicnn.base.errors import Stopped
from minicnn.base.interrupt import Interrupt
from minicnn.base.progress import Progress
from minicnn.data.loader import Batch, ImagesInMemory, Loader, mean_image
from minicnn.devices.recording import RecordedStep
from minicnn.nn.layers import Context
from minicnn.nn.network import Network
from minicnn.nn.trunk import Trunk
from minicnn.ops import augment
from minicnn.training.run import Run, locked
from minicnn.training.trainee import Diverged, Trainee

# A loss this close to ln K, after this share of the updates, has learnt nothing.
STUCK_MARGIN, STUCK_SHARE = 0.01, 0.1


class Inputs:
    """Turns batches into network input on the device: fixed buffers, one mean."""

    def __init__(self, network: Network, mean: NDArray[np.float32], batch: int) -> None:
        self.network, self.dev = network, network.dev
        self.mean = self.dev.from_host(mean)
        shape, dtype = (batch, *network.input_shape), network.precision.activations
        self.buffer = self.dev.empty(shape, dtype)
        # All images on the device, for batches that hold rows only.
        self.in_memory: ImagesInMemory | None = None

    def fill(self, batch: Batch) -> tuple[Any, Any]:
        """The batch's crops, mean subtracted, and its labels (N,).

        Both stay valid until the next call, and for each N they are the same arrays.
        """
        count, upload = len(batch.labels), self.dev.upload
        x, places = self.buffer[:count], np.arange(count)
        held: AbstractContextManager[Any]
        if batch.images is None:
            assert self.in_memory is not None
            held = nullcontext(self.in_memory.images)
            places = self.in_memory.places(batch.rows)
        else:
            held = self.dev.streamed(batch.images)
        with held as images:
            augment.crop_mirror(
                self.dev,
                images,
                self.mean,
                x,
                upload("rows", places),
                upload("top", batch.top),
                upload("left", batch.left),
                upload("mirror", batch.mirror),
                self.network.arch.scale,
                self.network.blocks,
            )
        return x, upload("labels", batch.labels)


def evaluate_together(
    trunk: Trunk,
    networks: Sequence[Network],
    inputs: Inputs,
    loader: Loader,
    label: str = "evaluation",
    stopping: Callable[[], bool] = lambda: False,
) -> list[dict[str, float]] | None:
    """Scores of a trunk's networks on the validation part, in one pass over it.

    Returns:
        `val_loss`, `val_top1` and `val_top5` of each network; None if `stopping`, which
        is asked before each batch, was true.
    """
    dev, count = inputs.dev, len(loader.val)
    totals = [dev.zeros((3,), np.float64) for _ in networks]
    repeated = RecordedStep(dev)

    def score() -> None:
        trunk.forward(x, networks)
        for network, sums in zip(networks, totals, strict=True):
            network.score(labels, sums)

    with Progress(count, "images", label, passing=True) as bar:
        for batch in loader.val_batches():
            if stopping():
                dev.synchronize()  # a graph must not be dropped while it runs
                return None
            x, labels = inputs.fill(batch)
            repeated(len(x), score)
            bar.update(len(batch.labels))
    scores = [(dev.to_host(sums) / count).tolist() for sums in totals]
    names = "val_loss", "val_top1", "val_top5"
    return [dict(zip(names, score, strict=True)) for score in scores]


@dataclass(eq=False)
class Trainer:
    """Runs that train together; most often one.

    Attributes:
        runs: all that were asked for, to look at.
        trainees: those of them that are not finished.
        config: settings of them all.
        loader: the target task's images; its seed is dropout's key as well.
        mean: (H,W,3), subtracted from every image; None takes that of the training
            images.
    """

    runs: list[Run]
    trainees: list[Trainee]
    config: Config
    loader: Loader
    mean: NDArray[np.float32] | None

    @property
    def label(self) -> str:
        """What is trained: "A3B", or "A1B..A7B"."""
        first, last = self.trainees[0].name, self.trainees[-1].name
        return first if first == last else f"{first}..{last}"

    def run(self) -> list[Diverged]:
        """Trains to the end, each run from its last checkpoint if it has one.

        The pass begins at the lowest step; a run takes part from its own step on.

        Returns:
            The errors of runs that diverged; the others are finished.

        Raises:
            Stopped: by Ctrl-C or SIGTERM, after checkpoints.
        """
        # The runs still in training, and the errors of those given up.
        self._active, self._given_up = list(self.trainees), list[Diverged]()
        if not self.trainees:
            return []
        with ExitStack() as stack:
            for trainee in self.trainees:
                stack.enter_context(locked(trainee.folder))
            self._interrupt = stack.enter_context(Interrupt())
            stack.callback(self.loader.close)
            self._resume()
            self._place_images()
            self._train()
            for trainee in self._active:
                trainee.finish(self.loader)
        return self._given_up

    def _resume(self) -> None:
        """Loads the newest checkpoints, and builds the trunk of frozen layers."""
        loader, networks = self.loader, [each.network for each in self.trainees]
        dev, batch = networks[0].dev, self.config.solver.batch
        means = [each.resume() for each in self.trainees]
        held = [mean for mean in (*means, self.mean) if mean is not None]
        if not held:
            with self._passing(len(loader.train), "mean image") as tick:
                held = [mean_image(dev, loader.store, loader.train, tick)]
        self._mean = held[0]
        self.trunk = Trunk(networks)
        self.trunk.plan(batch)
        self.inputs = Inputs(networks[0], self._mean, batch)
        self.repeated = RecordedStep(dev)
        self.context = Context.training(dev, loader.seed)

    def _place_images(self) -> None:
        """Brings all images within the device's reach if it has room for them."""
        loader, dev = self.loader, self.inputs.dev
        rows = np.union1d(loader.train, loader.val)
        size = len(rows) * loader.store.images[0].nbytes
        place = f"streamed from {loader.store.path}"
        if dev.has_room(size):
            with self._passing(len(rows), "reading images") as tick:
                self.inputs.in_memory = ImagesInMemory(dev, loader.store, rows, tick)
            loader.reads = False
            where = "in memory" if dev.on_host else "on the device"
            place = f"{where}: {size / 1e9:.3g} GB"
        if dev.has_kernels:
            print(f"{self.label}: images {place}", file=sys.stderr, flush=True)

    @contextmanager
    def _passing(self, count: int, what: str) -> Iterator[Callable[[int], None]]:
        """Progress of what comes before training; nothing is to save at a signal."""

        def tick(done: int) -> None:
            if self._interrupt.requested:
                raise Stopped(self._interrupt.signal_name)
            bar.update(done)

        with Progress(count, "images", f"{self.label}, {what}", passing=True) as bar:
            yield tick

    def _train(self) -> None:
        """The loop, with its progress and the record of the session."""
        names = [each.name for each in self.trainees]
        batch, total = self.config.solver.batch, self.config.solver.iterations
        began, firsts = time.time(), [each.step for each in self.trainees]
        done = min(firsts) * batch
        self._bar = bar = Progress(total * batch, "images", self.label, done)
        try:
            # An overflow shows in the loss, which is looked at when it is logged.
            with bar, np.errstate(all="ignore"):
                self._loop()
        finally:
            for trainee, first in zip(self.trainees, firsts, strict=True):
                trainee.log_session(began, first, bar.rate(), names)

    def _loop(self) -> None:
        """Steps and what is due after each, until the end or a signal.

        A checkpoint comes before the evaluation of the same step, so that a long
        evaluation that is cut short costs nothing: it is due again after resuming.
        """
        schedule, total = self.config.schedule, self.config.solver.iterations
        while self._active:
            step = min(each.step for each in self._active)
            trainees = [each for each in self._active if each.step == step]
            if step == total or (step > 0 and step % schedule.evaluate_every == 0):
                due = [each for each in trainees if each.evaluated_at < step]
                if self._evaluate(due) and step == total:
                    return
            if self._interrupt.requested:
                self._each(trainees, self._save)
                if self._active:
                    raise Stopped(self._interrupt.signal_name, step)
                return
            self._train_step(trainees)
            step += 1
            if step % schedule.log_every == 0 or step == total:
                losses = self._each(trainees, lambda each: f"{each.log():.3f}")
                if losses:
                    self._bar.update(0, f"loss {' '.join(losses)}")
            if step % schedule.checkpoint_every == 0 or step == total:
                self._each(trainees, self._save)

    def _train_step(self, trainees: list[Trainee]) -> None:
        """One update; what follows the preparations is recorded and repeated."""
        step = trainees[0].step
        x, labels = self.inputs.fill(self.loader.train_batch(step))
        self.context.step[...] = step
        for trainee in trainees:
            trainee.solver.set_rate(step)

        def work() -> None:
            self.trunk.forward(x, [each.network for each in trainees], self.context)
            for trainee in trainees:
                trainee.learn(labels)

        self.repeated((*(each.name for each in trainees), len(x)), work)
        for trainee in trainees:
            trainee.step += 1
            trainee.rows += len(x)
        self._bar.update(len(x))

    def _each(
        self, trainees: list[Trainee], work: Callable[[Trainee], Any]
    ) -> list[Any]:
        """work(trainee) for each run in training; gives up those that diverge."""
        done = []
        for trainee in trainees:
            if trainee not in self._active:
                continue
            try:
                done.append(work(trainee))
            except Diverged as error:
                self._active.remove(trainee)
                self._given_up.append(error)
                if self._active:
                    self._bar.message(f"{error}; the other runs go on")
        return done

    def _save(self, trainee: Trainee) -> None:
        if trainee.saved_at < trainee.step:
            trainee.save(self._mean)

    def _evaluate(self, trainees: list[Trainee]) -> bool:
        """Evaluation lines; False if a signal came before they were complete."""
        if not trainees:
            return True
        scores = evaluate_together(
            self.trunk,
            [each.network for each in trainees],
            self.inputs,
            self.loader,
            f"{self.label}, evaluation at step {trainees[0].step}",
            lambda: self._interrupt.requested,
        )
        if scores is None:
            return False
        for trainee, found in zip(trainees, scores, strict=True):
            trainee.evaluated(found)
            self._bar.message(
                f"{trainee.name} step {trainee.step}: val loss {found['val_loss']:.3f},"
                f" top-1 {found['val_top1']:.1%}, top-5 {found['val_top5']:.1%}"
            )
            self._advise(trainee, found["val_loss"])
        return True

    def _advise(self, trainee: Trainee, loss: float) -> None:
        """Warns where the loss is still that of a guess."""
        classes = len(set(self.loader.label_of.tolist()) - {-1})
        chance = math.log(classes)
        early = trainee.step < STUCK_SHARE * self.config.solver.iterations
        if not early and abs(loss - chance) < STUCK_MARGIN * chance:
            self._bar.message(
                f"warning: {trainee.name}: the loss is still ln {classes} = "
                f"{chance:.2f}, as by chance; if it stays there, try a higher or lower "
                "solver.lr, and look at the images with 'minicnn data show'"
            )
