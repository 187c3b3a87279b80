"""The training loop: batches, updates, evaluation, metrics, checkpoints, resume.

A run folder holds: `config.toml` (everything that decides the numbers), `task.json`
(the classes, in the order of the outputs), `layers.json` (what was copied, drawn,
frozen), `metrics.jsonl`, `checkpoints/`, `result.json`, and `env.json` (where and when:
the only file that differs between a run that was stopped and one that was not).
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicnn import checkpoint
from minicnn.checkpoint import Checkpoint
from minicnn.config import Config
from minicnn.environment import describe
from minicnn.errors import MinicnnError, Stopped
from minicnn.files import read_json, write_atomically, write_json
from minicnn.interrupt import Interrupt
from minicnn.layers import Context
from minicnn.loader import Batch, Loader
from minicnn.network import Network
from minicnn.ops import augment
from minicnn.ops.softmax import Score
from minicnn.progress import Progress
from minicnn.run import Run, read_metrics
from minicnn.solver import Solver, learning_rate

BEST = 10
# A loss this close to ln K, after this share of the updates, has learnt nothing.
STUCK_MARGIN, STUCK_SHARE = 0.01, 0.1


class Inputs:
    """Turns batches into network input on the device: fixed buffers, one mean."""

    def __init__(self, network: Network, mean: NDArray[np.float32], batch: int) -> None:
        self.network, self.dev = network, network.dev
        self.mean = self.dev.from_host(mean)
        crop = network.arch.crop
        self.buffer = self.dev.empty((batch, crop, crop, 3), network.dtype)

    def fill(self, batch: Batch) -> tuple[Any, Any]:
        """The batch's crops, mean subtracted, (N,crop,crop,3), and its labels (N,).

        Both stay valid until the next call.
        """
        x = self.buffer[: len(batch.images)]
        upload = self.dev.upload
        augment.crop_mirror(
            self.dev,
            upload("images", batch.images),
            self.mean,
            x,
            upload("top", batch.top),
            upload("left", batch.left),
            upload("mirror", batch.mirror),
            self.network.arch.scale,
        )
        return x, upload("labels", batch.labels)


def evaluate(
    network: Network,
    inputs: Inputs,
    loader: Loader,
    stopping: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
    """Loss, top-1 and top-5 over the whole validation part, by centre crop.

    Args:
        stopping: asked before each batch; True gives up.

    Returns:
        The scores, or None if given up.
    """
    totals = network.dev.zeros((3,), np.float64)
    for batch in loader.val_batches():
        if stopping():
            return None
        x, labels = inputs.fill(batch)
        network.forward(x)
        network.score(labels, totals)
    score = Score(*network.dev.to_host(totals).tolist())
    count = len(loader.val)
    return {
        "val_loss": score.loss / count,
        "val_top1": score.top1 / count,
        "val_top5": score.top5 / count,
    }


class Trainer:
    """One run in one folder.

    Args:
        folder: the run folder, with its config.toml.
        config: settings.
        network: freshly started: weights copied or drawn, layers frozen.
        loader: the target task's images.
        mean: makes the (H,W,3) that is subtracted from every image; called when there
            is no checkpoint that holds it.
        seed: of this run; dropout's key.
        identity: entries that result.json opens with.
    """

    def __init__(
        self,
        folder: Path,
        config: Config,
        network: Network,
        loader: Loader,
        mean: Callable[[], NDArray[np.float32]],
        seed: int,
        identity: dict[str, Any],
    ) -> None:
        self.folder, self.config, self.network = folder, config, network
        self.loader, self.seed, self.identity = loader, seed, identity
        self.make_mean = mean
        self.solver = Solver(network, config.solver)
        self.step = 0
        self.saved_at = self.evaluated_at = -1
        # Sums since the last training line, and the rows they are of.
        self.totals = network.dev.zeros((3,), np.float64)
        self.rows = 0
        self.frozen_before = network.hashes(network.frozen)
        self.checkpoints = folder / "checkpoints"
        self.metrics = folder / "metrics.jsonl"

    def opened(self) -> Run:
        """The run folder, to look at."""
        return Run(self.folder)

    def run(self) -> dict[str, Any]:
        """Trains to the end, from the last checkpoint if there is one.

        Returns:
            What result.json holds.

        Raises:
            Stopped: by Ctrl-C or SIGTERM, after a checkpoint.
            MinicnnError: the loss is not a number, or the disk is full.
        """
        self.checkpoints.mkdir(exist_ok=True)
        total, solver = self.config.solver.iterations, self.config.solver
        with locked(self.folder), Interrupt() as interrupt:
            self._resume()
            done = self.step * solver.batch
            bar = Progress(total * solver.batch, "images", self.folder.name, done)
            began, first = time.time(), self.step
            self.network.plan(solver.batch)
            inputs = Inputs(self.network, self.mean, solver.batch)
            try:
                # An overflow shows in the loss, which is looked at when it is logged.
                with bar, np.errstate(all="ignore"):
                    self._loop(inputs, bar, interrupt)
            finally:
                self.loader.close()
                self._log_session(began, first, bar.rate())
            return self._finish()

    def _loop(self, inputs: Inputs, bar: Progress, interrupt: Interrupt) -> None:
        """Steps and what is due after each, until the end or a signal.

        A checkpoint comes before the evaluation of the same step, so that a long
        evaluation that is cut short costs nothing: it is due again after resuming.
        """
        schedule, total = self.config.schedule, self.config.solver.iterations
        while True:
            ends = self.step == total
            due = self.step > 0 and self.step % schedule.evaluate_every == 0
            if (due or ends) and self.evaluated_at < self.step:
                self._evaluate(inputs, bar, interrupt)
            if ends and self.evaluated_at == total:
                return
            if interrupt.requested:
                if self.saved_at < self.step:
                    self._save()
                raise Stopped(interrupt.signal_name, self.step)
            self._train_step(inputs, bar)
            ends = self.step == total
            if self.step % schedule.log_every == 0 or ends:
                self._log(bar)
            if self.step % schedule.checkpoint_every == 0 or ends:
                self._save()

    def _train_step(self, inputs: Inputs, bar: Progress) -> None:
        batch = self.loader.train_batch(self.step)
        network = self.network
        x, labels = inputs.fill(batch)
        network.forward(x, Context(True, self.seed, self.step))
        network.score(labels, self.totals, gradient=True)
        network.backward()
        self.solver.update(self.step)
        self.step += 1
        self.rows += len(batch.labels)
        bar.update(len(batch.labels))

    def _loss(self) -> float:
        """The mean loss since the last training line; waits for the device.

        Raises:
            MinicnnError: it is not a finite number.
        """
        score = Score(*self.network.dev.to_host(self.totals).tolist())
        loss = score.loss / max(self.rows, 1)
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {loss}")
        return loss

    def _diverged(self, what: str) -> MinicnnError:
        kept = f"step {self.saved_at}" if self.saved_at >= 0 else "none yet"
        return MinicnnError(
            f"{self.folder.name}: {what} at step {self.step}: training diverged; lower "
            f"solver.lr (now {self.config.solver.lr:g}) and start with --fresh; last "
            f"good checkpoint kept: {kept}"
        )

    def _log(self, bar: Progress) -> None:
        """A training line: the mean loss since the last one."""
        loss = self._loss()
        lr = learning_rate(self.config.solver, self.step - 1)
        self._append({"step": self.step, "loss": loss, "lr": lr})
        self.totals[...] = 0
        self.rows = 0
        bar.update(0, f"loss {loss:.3f}")

    def _evaluate(self, inputs: Inputs, bar: Progress, interrupt: Interrupt) -> None:
        """An evaluation line, unless a signal comes before it is complete."""
        loader = self.loader
        scores = evaluate(self.network, inputs, loader, lambda: interrupt.requested)
        if scores is None:
            return
        self._append({"step": self.step, **scores})
        self.evaluated_at = self.step
        bar.message(
            f"{self.folder.name} step {self.step}: val loss "
            f"{scores['val_loss']:.3f}, top-1 {scores['val_top1']:.1%}, "
            f"top-5 {scores['val_top5']:.1%}"
        )
        self._advise(scores["val_loss"], bar)

    def _advise(self, loss: float, bar: Progress) -> None:
        """A word when nothing has been learnt yet."""
        classes = len(set(self.loader.label_of.tolist()) - {-1})
        chance = math.log(classes)
        early = self.step < STUCK_SHARE * self.config.solver.iterations
        if not early and abs(loss - chance) < STUCK_MARGIN * chance:
            bar.message(
                f"warning: the loss is still ln {classes} = {chance:.2f}, as by "
                "chance; if it stays there, try a higher or lower solver.lr, and look "
                "at the images with 'minicnn data show'"
            )

    def _append(self, record: dict[str, Any]) -> None:
        try:
            with self.metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise MinicnnError(
                f"{self.metrics}: cannot be written ({error.strerror}); run the same "
                f"command again to go on from step {max(self.saved_at, 0)}"
            ) from None

    def _save(self) -> None:
        self._loss()
        weights = self.network.tensors()
        if not all(np.isfinite(w).all() for w in weights.values()):
            raise self._diverged("a weight is not finite")
        totals = self.network.dev.to_host(self.totals).tolist()
        extra = {"totals": totals, "rows": self.rows}
        momentum = self.solver.tensors()
        state = Checkpoint(self.step, weights, momentum, self.mean, extra)
        checkpoint.save(self.checkpoints, state)
        self.saved_at = self.step

    def _resume(self) -> None:
        """Takes the last good checkpoint, and drops metrics written after it."""
        found = checkpoint.latest(self.checkpoints, print_warning)
        if found:
            self.network.load(found.weights)
            self.solver.load(found.momentum)
            self.step = self.saved_at = found.step
            self.totals[...] = self.network.dev.from_host(
                np.array(found.extra["totals"])
            )
            self.rows = found.extra["rows"]
        self.mean = found.mean if found else self.make_mean()
        if self.metrics.exists():
            kept = [r for r in read_metrics(self.metrics) if r["step"] <= self.step]
            text = "".join(json.dumps(record) + "\n" for record in kept)
            write_atomically(self.metrics, text.encode())
            steps = [r["step"] for r in kept if "val_top1" in r]
            self.evaluated_at = max(steps, default=-1)
        if self.network.hashes(self.network.frozen) != self.frozen_before:
            raise MinicnnError(
                f"{self.folder}: the frozen layers of its checkpoint are not those of "
                "the base it was started from; --fresh starts it over"
            )

    def _log_session(self, began: float, first: int, rate: float) -> None:
        """Adds this session to env.json: where, when, which steps, how fast."""
        path = self.folder / "env.json"
        try:
            sessions = list(read_json(path)["sessions"])
        except (MinicnnError, KeyError, TypeError):
            sessions = []  # a record for people: not worth a failed training
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began))
        entry = {
            "began": stamp,
            "seconds": round(time.time() - began, 3),
            "first_step": first,
            "last_step": self.step,
            "images_per_second": round(rate, 1),
            **describe(self.network.dev),
        }
        write_json(path, {"sessions": [*sessions, entry]})

    def _finish(self) -> dict[str, Any]:
        evaluations = [r for r in read_metrics(self.metrics) if "val_top1" in r]
        best = sorted((r["val_top1"] for r in evaluations), reverse=True)[:BEST]
        last = evaluations[-1]
        after = self.network.hashes(self.network.frozen)
        weights = self.network.hashes(8)
        result = {
            **self.identity,
            "iterations": self.step,
            "train_images": len(self.loader.train),
            "val_images": len(self.loader.val),
            "top1": last["val_top1"],
            "top5": last["val_top5"],
            "loss": last["val_loss"],
            "top1_mean_of_10_best": sum(best) / len(best),
            "evaluations": len(evaluations),
            "frozen_layers": self.network.frozen,
            "frozen_unchanged": after == self.frozen_before,
            "frozen_sha256": after,
            "weights_sha256": weights,
        }
        if not result["frozen_unchanged"]:
            raise MinicnnError(
                f"{self.folder.name}: a frozen tensor changed in training"
            )
        write_json(self.folder / "result.json", result)
        return result


def print_warning(text: str) -> None:
    """One plain line on standard error."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a run folder alone.

    Raises:
        MinicnnError: another process trains in it.
    """
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise MinicnnError(
                f"{folder}: another minicnn is training in it; wait for it, or choose "
                "another folder by --runs"
            ) from None
        yield
