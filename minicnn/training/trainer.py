"""The training loop of one run or several: batches, and what is due after each.

Several runs train together where they see the same batches and have the same frozen
layers, as all depths of one source and target do: each batch is read once, passes the
frozen layers once (`Trunk`), and every `Trainee` learns from it. Each run ends with the
same bytes as if it were alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicnn.base.config import Config
from minicnn.base.errors import MinicnnError, Stopped
from minicnn.base.interrupt import Interrupt
from minicnn.base.progress import Progress
from minicnn.data.images_in_memory import ImagesInMemory
from minicnn.data.loader import Batch, Loader, mean_image
from minicnn.devices.recording import RecordedStep
from minicnn.nn.layers import Context
from minicnn.nn.network import Network
from minicnn.nn.trunk import Trunk
from minicnn.ops import augment
from minicnn.ops.softmax import Score
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
        x = self.buffer[: len(batch.labels)]
        upload = self.dev.upload
        with self._images(batch) as (images, rows):
            augment.crop_mirror(
                self.dev,
                images,
                self.mean,
                x,
                upload("rows", rows),
                upload("top", batch.top),
                upload("left", batch.left),
                upload("mirror", batch.mirror),
                self.network.arch.scale,
                self.network.blocks,
            )
        return x, upload("labels", batch.labels)

    @contextmanager
    def _images(self, batch: Batch) -> Iterator[tuple[Any, NDArray[np.int64]]]:
        """Images on the device, and the batch's places among them."""
        if batch.images is None:
            assert self.in_memory is not None
            yield self.in_memory.images, self.in_memory.places(batch.rows)
        else:
            with self.dev.streamed(batch.images) as images:
                yield images, np.arange(len(batch.rows))


def evaluate_together(
    trunk: Trunk,
    networks: Sequence[Network],
    inputs: Inputs,
    loader: Loader,
    label: str = "evaluation",
    stopping: Callable[[], bool] = lambda: False,
) -> list[dict[str, float]] | None:
    """Scores of a trunk's networks on the validation part, in one pass over it.

    Args:
        label: what is being done, for the progress.
        stopping: asked before each batch; True gives up.

    Returns:
        `val_loss`, `val_top1` and `val_top5` of each network, or None if given up.
    """
    dev = inputs.dev
    totals = [dev.zeros((3,), np.float64) for _ in networks]
    count = len(loader.val)
    with Progress(count, "images", label, passing=True) as bar:
        for batch in loader.val_batches():
            if stopping():
                return None
            x, labels = inputs.fill(batch)
            trunk.forward(x, networks)
            for network, sums in zip(networks, totals, strict=True):
                network.score(labels, sums)
            bar.update(len(batch.labels))
    scores = [Score(*dev.to_host(sums).tolist()) for sums in totals]
    return [
        {
            "val_loss": score.loss / count,
            "val_top1": score.top1 / count,
            "val_top5": score.top5 / count,
        }
        for score in scores
    ]


class Trainer:
    """Runs that train together; most often one.

    Args:
        runs: all that were asked for, to look at.
        trainees: those of them that are not finished.
        config: settings of them all.
        loader: the target task's images.
        mean: (H,W,3), subtracted from every image; None takes that of the training
            images.
        seed: dropout's key.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        trainees: Sequence[Trainee],
        config: Config,
        loader: Loader,
        mean: NDArray[np.float32] | None,
        seed: int,
    ) -> None:
        self.runs, self.trainees = runs, trainees
        self.config, self.loader, self.mean, self.seed = config, loader, mean, seed
        # The runs still in training, and the errors of those given up.
        self._active = list(trainees)
        self._given_up: list[Diverged] = []

    @property
    def label(self) -> str:
        """What is trained: "A3B", or "A1B..A7B"."""
        first, last = self.trainees[0].name, self.trainees[-1].name
        return first if first == last else f"{first}..{last}"

    def run(self) -> None:
        """Trains to the end, each run from its last checkpoint if it has one.

        The pass begins at the lowest step; a run takes part from its own step on.

        Raises:
            Stopped: by Ctrl-C or SIGTERM, after checkpoints.
            Diverged: of some runs; the others are finished.
            MinicnnError: the disk is full, or a run is in use.
        """
        if not self.trainees:
            return
        with ExitStack() as stack:
            for trainee in self.trainees:
                stack.enter_context(locked(trainee.folder))
            interrupt = stack.enter_context(Interrupt())
            stack.callback(self.loader.close)
            self._resume(interrupt)
            self._train(interrupt)
            for trainee in self._active:
                trainee.finish(self.loader)
        if self._given_up:
            raise Diverged("; ".join(map(str, self._given_up)))

    def _resume(self, interrupt: Interrupt) -> None:
        """Loads the newest checkpoints, and builds the trunk of frozen layers."""
        means = [each.resume() for each in self.trainees]
        held = [mean for mean in (self.mean, *means) if mean is not None]
        mean = held[0] if held else self._mean_image(interrupt)
        frozen = [each.frozen_before.items() for each in self.trainees]
        trunk = max(frozen, key=len)
        if not all(each <= trunk for each in frozen) or not all(
            np.array_equal(each, mean) for each in held
        ):
            names = ", ".join(each.name for each in self.trainees)
            raise MinicnnError(
                f"{names}: their frozen layers or mean images differ, so that one pass "
                "cannot train them; train them one after another"
            )
        self.mean = mean
        networks = [each.network for each in self.trainees]
        self.trunk = Trunk(networks)
        self.trunk.plan(self.config.solver.batch)
        self.inputs = Inputs(networks[0], mean, self.config.solver.batch)
        self.repeated = RecordedStep(networks[0].dev)
        self.context = Context.training(networks[0].dev, self.seed)
        self._place_images(interrupt)

    def _mean_image(self, interrupt: Interrupt) -> NDArray[np.float32]:
        """The training images' mean."""
        loader, dev = self.loader, self.trainees[0].network.dev
        with self._passing(len(loader.train), "mean image", interrupt) as tick:
            return mean_image(dev, loader.store, loader.train, tick)

    def _place_images(self, interrupt: Interrupt) -> None:
        """Brings all images within the device's reach if it has room for them."""
        loader, dev = self.loader, self.inputs.dev
        rows = np.union1d(loader.train, loader.val)
        size = len(rows) * loader.store.images[0].nbytes
        self.images_at = f"images streamed from {loader.store.path}"
        if dev.has_room(size):
            with self._passing(len(rows), "reading images", interrupt) as tick:
                self.inputs.in_memory = ImagesInMemory(dev, loader.store, rows, tick)
            loader.reads = False
            place = "in memory" if dev.on_host else "on the device"
            self.images_at = f"images {place}: {size / 1e9:.3g} GB"

    @contextmanager
    def _passing(
        self, count: int, what: str, interrupt: Interrupt
    ) -> Iterator[Callable[[int], None]]:
        """Progress of what comes before training; nothing is to save at a signal."""

        def tick(done: int) -> None:
            if interrupt.requested:
                raise Stopped(interrupt.signal_name)
            bar.update(done)

        with Progress(count, "images", f"{self.label}, {what}", passing=True) as bar:
            yield tick

    def _train(self, interrupt: Interrupt) -> None:
        """The loop, with its progress and the record of the session."""
        names = [each.name for each in self.trainees]
        solver = self.config.solver
        began, firsts = time.time(), [each.step for each in self.trainees]
        done = min(firsts) * solver.batch
        bar = Progress(solver.iterations * solver.batch, "images", self.label, done)
        try:
            # An overflow shows in the loss, which is looked at when it is logged.
            with bar, np.errstate(all="ignore"):
                if self.inputs.dev.has_kernels:
                    bar.message(f"{self.label}: {self.images_at}")
                self._loop(bar, interrupt)
        finally:
            for trainee, first in zip(self.trainees, firsts, strict=True):
                trainee.log_session(began, first, bar.rate(), names)

    def _loop(self, bar: Progress, interrupt: Interrupt) -> None:
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
                if self._evaluate(due, bar, interrupt) and step == total:
                    return
            if interrupt.requested:
                self._each(trainees, self._save, bar)
                if self._active:
                    raise Stopped(interrupt.signal_name, step)
                return
            self._train_step(trainees, bar)
            step += 1
            if step % schedule.log_every == 0 or step == total:
                self._log(trainees, bar)
            if step % schedule.checkpoint_every == 0 or step == total:
                self._each(trainees, self._save, bar)

    def _train_step(self, trainees: Sequence[Trainee], bar: Progress) -> None:
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
            trainee.advance(len(x))
        bar.update(len(x))

    def _each(
        self,
        trainees: Sequence[Trainee],
        work: Callable[[Trainee], None],
        bar: Progress,
    ) -> None:
        """Calls work(trainee) for each run in training; gives up diverged ones."""
        for trainee in trainees:
            if trainee not in self._active:
                continue
            try:
                work(trainee)
            except Diverged as error:
                self._active.remove(trainee)
                self._given_up.append(error)
                if self._active:
                    bar.message(f"{error}; the other runs go on")

    def _save(self, trainee: Trainee) -> None:
        if trainee.saved_at < trainee.step:
            assert self.mean is not None
            trainee.save(self.mean)

    def _log(self, trainees: Sequence[Trainee], bar: Progress) -> None:
        losses: list[str] = []
        self._each(trainees, lambda each: losses.append(f"{each.log():.3f}"), bar)
        if losses:
            bar.update(0, f"loss {' '.join(losses)}")

    def _evaluate(
        self, trainees: Sequence[Trainee], bar: Progress, interrupt: Interrupt
    ) -> bool:
        """Evaluation lines; False if a signal came before they were complete."""
        if not trainees:
            return True
        networks = [each.network for each in trainees]
        scores = evaluate_together(
            self.trunk,
            networks,
            self.inputs,
            self.loader,
            f"{self.label}, evaluation at step {trainees[0].step}",
            lambda: interrupt.requested,
        )
        if scores is None:
            return False
        for trainee, found in zip(trainees, scores, strict=True):
            trainee.evaluated(found)
            loss = found["val_loss"]
            bar.message(
                f"{trainee.name} step {trainee.step}: val loss {loss:.3f}, "
                f"top-1 {found['val_top1']:.1%}, top-5 {found['val_top5']:.1%}"
            )
            self._advise(trainee, loss, bar)
        return True

    def _advise(self, trainee: Trainee, loss: float, bar: Progress) -> None:
        """Warns where the loss is still that of a guess."""
        classes = len(set(self.loader.label_of.tolist()) - {-1})
        chance = math.log(classes)
        early = trainee.step < STUCK_SHARE * self.config.solver.iterations
        if not early and abs(loss - chance) < STUCK_MARGIN * chance:
            bar.message(
                f"warning: {trainee.name}: the loss is still ln {classes} = "
                f"{chance:.2f}, as by chance; if it stays there, try a higher or lower "
                "solver.lr, and look at the images with 'minicnn data show'"
            )
