"""One run's part of a training: its updates, metrics, checkpoints and result.

A run folder holds: `config.toml` (everything that decides the numbers), `task.json`
(the classes, in the order of the outputs), `layers.json` (what was copied, drawn,
frozen), `metrics.jsonl`, `checkpoints/`, `result.json`, and `env.json` (where and when:
the only file that differs between a run that was stopped, or trained together with
others, and one that was not).
"""

from __future__ import annotations

import json
import math
import os
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicnn.base import precision
from minicnn.base.errors import MinicnnError
from minicnn.base.files import read_json, write_atomically, write_json
from minicnn.data.loader import Loader
from minicnn.nn.network import Network
from minicnn.training import checkpoint
from minicnn.training.checkpoint import Checkpoint
from minicnn.training.environment import describe
from minicnn.training.run import BEST, read_metrics
from minicnn.training.setup import Setup, identity
from minicnn.training.solver import Solver, learning_rate, scale_rates
from minicnn.training.source import Source
from minicnn.training.treatment import RANDOM, Treatment


class Diverged(MinicnnError):
    """A run's loss or weights are no longer finite numbers; other runs may go on."""


def run_seed(seed: int, name: str) -> int:
    """The Philox key of a run: its seed, and a name's CRC-32 in the upper word.

    Initial weights are keyed by the treatment's full name, so that no two runs of a
    comparison share any: a selffer that drew the base's own upper layers again would
    find its way back too easily.

    Sample order, crops, mirrors, dropout and frozen random filters are keyed by its
    family, the name without the depth. All depths of one source, target and treatment
    then see the same batches through the same masks: a curve over n compares paired
    runs, and one pass over the data can train them all.
    """
    return seed | zlib.crc32(name.encode()) << 32


def draw_start(
    network: Network, treatment: Treatment, seed: int, weights: Mapping[str, Any]
) -> None:
    """Gives a network the weights that its training begins with: drawn, or copied.

    `seed` is the comparison's, and `weights` by name what layers are copied from.
    """
    network.draw(run_seed(seed, treatment.name))
    if treatment.copied:
        network.copy_layers(weights, treatment.copied)
    elif treatment.source == RANDOM:
        network.draw(run_seed(seed, treatment.family), treatment.n)


class Trainee:
    """A run that is being trained, in its folder.

    Its network is as the run starts: weights copied or drawn, layers frozen.

    Args:
        outputs: features of the last layer.
        source: what layers are copied from, if any are.
    """

    def __init__(
        self, setup: Setup, treatment: Treatment, outputs: int, source: Source | None
    ) -> None:
        self.treatment, self.config = treatment, setup.config
        self.name, self.folder = treatment.name, setup.folder(treatment)
        self.identity = identity(setup, treatment)
        types = precision.get(self.config.network.precision)
        self.network = network = Network(setup.arch, outputs, setup.dev, None, types)
        draw_start(network, treatment, setup.seed, source.weights if source else {})
        network.freeze(treatment.frozen)
        scale_rates(network, self.config.solver)
        still = treatment.copied, treatment.finetune_after
        self.solver = Solver(network, setup.config.solver, still)
        self.step = 0
        self.saved_at = self.evaluated_at = -1
        # Sums since the last training line, and the rows that they count.
        self.totals = network.dev.zeros((3,), np.float64)
        self.rows = 0
        self.frozen_before = network.hashes(network.frozen)
        self.checkpoints = self.folder / checkpoint.FOLDER
        self.metrics = self.folder / "metrics.jsonl"
        # Told of each record of the metrics.
        self.observers: list[Callable[[dict[str, Any]], object]] = []

    def write_layers(self) -> None:
        """Writes which tensors were copied or drawn, and are frozen or trained."""
        copied, origin = self.treatment.copied, self.treatment.source_label
        table = [
            {
                "layer": p.index,
                "tensor": p.name,
                "shape": list(p.shape),
                "origin": f"copied from {origin}"
                if p.index <= copied
                else "drawn afresh",
                "state": "frozen" if p.index <= self.network.frozen else "trained",
            }
            for p in self.network.params
        ]
        write_json(self.folder / "layers.json", table)

    def learn(self, labels: Any) -> None:
        """Backward and update by labels (N,), after the forward pass in training.

        Nothing here may depend on the step but what lies on the device: it is recorded
        and repeated. The learning rate is set, and the step counted, by the trainer.
        """
        self.network.score(labels, self.totals, gradient=True)
        self.network.backward()
        self.solver.update()

    def _loss(self) -> float:
        """The mean loss since the last training line; `Diverged` if not finite."""
        loss = self.network.dev.to_host(self.totals).tolist()[0] / max(self.rows, 1)
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {loss}")
        return loss

    def _diverged(self, what: str) -> Diverged:
        kept = f"step {self.saved_at}" if self.saved_at >= 0 else "none yet"
        return Diverged(
            f"{self.name}: {what} at step {self.step}: training diverged; lower "
            f"solver.lr (now {self.config.solver.lr:g}) and start with --fresh; last "
            f"good checkpoint kept: {kept}"
        )

    def log(self) -> float:
        """Writes a training line, the mean loss since the last one, and returns it."""
        loss = self._loss()
        lr = learning_rate(self.config.solver, self.step - 1)
        self._append({"step": self.step, "loss": loss, "lr": lr})
        self.totals[...] = 0
        self.rows = 0
        return loss

    def evaluated(self, scores: dict[str, float]) -> None:
        """Writes an evaluation line."""
        self._append({"step": self.step, **scores})
        self.evaluated_at = self.step

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
        for tell in self.observers:
            tell(record)

    def save(self, mean: NDArray[np.float32]) -> None:
        """Writes a checkpoint; `Diverged` if loss or weights are not finite numbers."""
        self._loss()
        weights = self.network.tensors()
        if not all(np.isfinite(w).all() for w in weights.values()):
            raise self._diverged("a weight is not finite")
        totals = self.network.dev.to_host(self.totals).tolist()
        extra = {"totals": totals, "rows": self.rows}
        state = Checkpoint(self.step, weights, self.solver.tensors(), mean, extra)
        checkpoint.save(self.checkpoints, state)
        self.saved_at = self.step

    def resume(self) -> NDArray[np.float32] | None:
        """Takes the last good checkpoint, and drops metrics written after it.

        Returns:
            The checkpoint's mean image, or None where there is no checkpoint.
        """
        self.checkpoints.mkdir(exist_ok=True)
        found = checkpoint.latest(self.checkpoints)
        if found:
            self.network.load(found.weights)
            self.solver.load(found.momentum)
            self.step = self.saved_at = found.step
            totals = np.array(found.extra["totals"])
            self.totals[...] = self.network.dev.from_host(totals)
            self.rows = found.extra["rows"]
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
        return found.mean if found else None

    def _sessions(self) -> list[dict[str, Any]]:
        """The entries of env.json."""
        try:
            sessions = read_json(self.folder / "env.json")["sessions"]
            return [dict(each) for each in sessions]
        except (MinicnnError, KeyError, TypeError, ValueError):
            return []  # a record for people: not worth a failed training

    def log_session(
        self, began: float, first: int, rate: float, together: list[str]
    ) -> None:
        """Adds this session to env.json: where, when, which steps, how fast.

        Its first step, its time, in seconds since the epoch, and its images a second;
        the latter two are of all runs of the pass.
        """
        entry = {
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
            "seconds": round(time.time() - began, 3),
            "first_step": first,
            "last_step": self.step,
            "images_per_second": round(rate, 1),
            "trained_together": together,
            **describe(self.network.dev),
        }
        sessions = {"sessions": [*self._sessions(), entry]}
        write_json(self.folder / "env.json", sessions)

    def finish(self, loader: Loader) -> None:
        """Writes result.json, if every frozen tensor's bytes are what they were."""
        evaluations = [r for r in read_metrics(self.metrics) if "val_top1" in r]
        best = sorted((r["val_top1"] for r in evaluations), reverse=True)[:BEST]
        last = evaluations[-1]
        if self.network.hashes(self.network.frozen) != self.frozen_before:
            raise MinicnnError(f"{self.name}: a frozen tensor changed in training")
        result = {
            **self.identity,
            "iterations": self.step,
            "train_images": len(loader.train),
            "val_images": len(loader.val),
            "top1": last["val_top1"],
            "top5": last["val_top5"],
            "loss": last["val_loss"],
            "top1_mean_of_10_best": sum(best) / BEST if len(best) == BEST else None,
            "evaluations": len(evaluations),
            "frozen_layers": self.network.frozen,
            "frozen_unchanged": True,
            "frozen_sha256": self.frozen_before,
            "weights_sha256": self.network.hashes(self.network.arch.depth),
        }
        write_json(self.folder / "result.json", result)
