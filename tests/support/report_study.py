"""A study folder as the engine and the trainer leave it, made up without training."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from minicnn.experiments.study.folder import Study
from minicnn.experiments.study.plans import Node, resolve
from minicnn.nn.network import tensor_hashes
from tests.support.runs import make_run

CLASSES = 20
IMAGES = 100
FILTERS = (12, 5, 5, 3)
LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
SECONDS = 12.5
RATE = 800.0

EVERY = ["base", "selffer", "transfer", "selffer+", "transfer+"]
PLAN: dict[str, Any] = {
    "name": "made-up",
    "data": "made-up.h5",
    "recipe": "demo",
    "settings": {"solver": {"iterations": 400, "batch": 32}},
    "nets": [
        {"splits": ["random-0", "random-1"], "treatments": EVERY},
        {"split": "random-0", "treatments": ["random"], "targets": ["B"]},
        {
            "split": "natural-manmade",
            "seeds": [0, 1],
            "treatments": ["base", "transfer"],
        },
    ],
}
TINY: dict[str, Any] = PLAN | {
    "nets": [
        {"split": "random-0", "treatments": ["base", "transfer"], "depths": [2, 3]},
    ]
}

# Losses in parts of the base's accuracy, by kind and n: the paper's, but larger.
_LOSS = {
    "selffer": (0, 0, 0.02, 0.08, 0.12, 0.05, 0.01),
    "transfer": (0, 0.01, 0.05, 0.12, 0.2, 0.22, 0.3),
    "selffer+": (-0.02,) * 7,
    "transfer+": (-0.03, -0.03, -0.04, -0.04, -0.05, -0.05, -0.05),
    "random": (0.2, 0.4, 0.6, 0.7, 0.75, 0.8, 0.8),
}


def accuracy(node: Node, rng: np.random.Generator) -> float:
    """A made-up top-1 with a little noise."""
    if node.kind == "reduced":
        base = 0.1 + 0.05 * math.log2(node.config.data.images_per_class)
        return round(base + rng.normal(0, 0.004), 4)
    natural = node.split == "natural-manmade"
    base = (0.66 if node.treatment.target == "A" else 0.56) if natural else 0.6
    loss = 0.0
    if node.treatment.n:
        kind = node.kind.removesuffix("-keep")
        loss = _LOSS[kind][node.treatment.n - 1] * (1.8 if natural else 1)
        loss *= 0.5**node.treatment.keep
    return round(base * (1 - loss) + rng.normal(0, 0.004), 4)


def _weights(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    weights = {}
    for layer in LAYERS:
        shape = FILTERS if layer == "conv1" else (4, 1, 1, 4)
        weights[f"{layer}.w"] = rng.normal(0, 0.1, shape).astype("f4")
        weights[f"{layer}.b"] = rng.normal(0, 0.1, shape[:1]).astype("f4")
    return weights


def _metrics(top1: float, iterations: int) -> list[dict[str, float]]:
    """Curves that end at this top-1."""
    records = []
    for step in range(iterations // 40, iterations + 1, iterations // 40):
        part = 1 - math.exp(-4 * step / iterations)
        records.append({"step": step, "loss": 3 - 2.2 * part, "lr": 0.01})
        if step % (iterations // 10) == 0:
            score = top1 * part / (1 - math.exp(-4))
            records.append(
                {"step": step, "val_loss": 3.0, "val_top1": score, "val_top5": score}
            )
    return records


def _copied(node: Node, base: dict[str, np.ndarray] | None) -> dict[str, np.ndarray]:
    """The net's weights: frozen layers are the base's, fine-tuned ones moved."""
    t = node.treatment
    weights = _weights(zlib.crc32(node.id.encode()))
    if base is None:
        return weights
    rng = np.random.default_rng(3)
    for number, layer in enumerate(LAYERS[: t.n + t.keep], 1):
        for name in (f"{layer}.w", f"{layer}.b"):
            trained = t.finetune or number > t.n
            moved = rng.normal(0, 0.02, base[name].shape).astype("f4")
            weights[name] = base[name] + moved if trained else base[name]
    return weights


def write_json(path: Path, value: Any) -> None:
    """As the trainer does, but without waiting for the disk."""
    path.write_text(json.dumps(value))


def write_net(
    study: Study, node: Node, top1: float, base: dict[str, np.ndarray] | None
) -> dict[str, np.ndarray]:
    """Writes the run folder of one net and returns its weights."""
    t, folder, config = node.treatment, study.run(node), node.config
    about = {"name": t.name, "treatment": t.kind, "source": t.source}
    about |= {"target": t.target, "n": t.n, "finetune": t.finetune, "keep": t.keep}
    about |= {"split": node.split, "seed": node.seed}
    store = {"store": str(study.store), "store_identity": study.identity}
    weights, iterations = _copied(node, base), config.solver.iterations
    lines = "".join(json.dumps(each) + "\n" for each in _metrics(top1, iterations))
    whole = (config.network.arch, weights, np.zeros((2, 2, 3)), CLASSES, lines)
    make_run(folder, *whole, config, iterations, **about, **store)
    hashes = tensor_hashes(weights)
    frozen = {n: h for n, h in hashes.items() if LAYERS.index(n[:-2]) < t.frozen}
    table = [{"layer": LAYERS.index(name[:-2]) + 1, "tensor": name} for name in weights]
    write_json(folder / "layers.json", table)
    images = config.data.images_per_class or IMAGES
    result = {
        **about,
        "iterations": iterations,
        "train_images": images * CLASSES,
        "val_images": 200,
        "top1": top1,
        "top5": min(1.0, top1 + 0.2),
        "loss": 1.5,
        "top1_mean_of_10_best": round(top1 - 0.01, 4),
        "evaluations": 10,
        "frozen_layers": t.frozen,
        "frozen_unchanged": True,
        "frozen_sha256": frozen,
        "weights_sha256": hashes,
    }
    write_json(folder / "result.json", result)
    session = {"began": "2026-01-02T03:04:05Z", "seconds": SECONDS, "first_step": 0}
    session |= {"last_step": iterations, "images_per_second": RATE}
    session |= {"minicnn": "0.1.0", "device": "cpu", "threads": 2, "processor": "P"}
    write_json(folder / "env.json", {"sessions": [session]})
    return weights


def open_plan(folder: Path, plan: dict[str, Any], store: Path) -> Study:
    """Makes a study folder that holds its plan and nothing else."""
    resolved = resolve(plan, "a test")
    study = Study(
        folder=folder,
        name=resolved.name,
        recipe=resolved.recipe,
        published=resolved.published,
        store=store,
        identity="0123456789abcdef",
        tasks={},
        groups=None,
        nodes=resolved.nodes,
    )
    folder.mkdir(parents=True)
    (folder / "plan.toml").write_text(tomli_w.dumps(study.to_dict()))
    return study


def make_study(folder: Path, plan: dict[str, Any] = PLAN) -> Study:
    """Writes a study folder with every net of a plan's TOML finished."""
    study = open_plan(folder, plan, Path("/made-up.h5"))
    rng = np.random.default_rng(0)
    bases: dict[str, dict[str, np.ndarray]] = {}
    for node in study.nodes:
        weights = write_net(study, node, accuracy(node, rng), bases.get(node.base))
        if node.kind == "base":
            bases[node.id] = weights
    return study
