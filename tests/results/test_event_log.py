"""Event files against metrics.jsonl, read by TensorBoard's own reader."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from minicnn.base.errors import MinicnnError
from minicnn.cli.main import cli
from minicnn.results import pictures
from minicnn.results.event_log import EventLog
from minicnn.training import transfer
from minicnn.training.run import Run
from minicnn.training.transfer import Setup, Treatment
from tests.support.runs import make_store
from tests.support.training import SETTINGS, make_setup, stopped_at


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    """23 updates of a miniature network."""
    return make_setup(make_store(tmp_path / "store.h5"), tmp_path / "runs")


def train(setup: Setup) -> Run:
    """baseA, with a log."""
    trainer = transfer.start(setup, Treatment("A"))
    for trainee in trainer.trainees:
        trainee.observers.append(EventLog(trainee))
    trainer.run()
    return trainer.runs[0]


def test_tensorboard_reads_what_the_metrics_say(setup: Setup) -> None:
    reason = "needs tensorboard (extra: tensorboard)"
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason=reason
    )
    with stopped_at(13, 2):
        train(setup)
    run = train(setup)
    events = reader.EventAccumulator(str(run.folder), {"scalars": 0, "images": 0})
    events.Reload()
    for key in ("loss", "lr", "val_loss", "val_top1"):
        part = "evaluation" if key.startswith("val") else "training"
        told = [(e.step, np.float32(e.value)) for e in events.Scalars(f"{part}/{key}")]
        written = [(r["step"], np.float32(r[key])) for r in run.metrics() if key in r]
        assert told == written, key
    last = events.Images("filters")[-1]
    shown = np.asarray(Image.open(io.BytesIO(last.encoded_image_string)))
    expected = 255 * pictures.mosaic(run.checkpoint.weights["conv1.w"])
    assert (last.step, shown.shape) == (23, expected.shape)
    assert np.abs(shown - expected).max() <= 0.5


def test_the_command_logs(setup: Setup) -> None:
    pytest.importorskip("tensorboard", reason="needs tensorboard (extra: tensorboard)")
    line = ["train-base", "--task", "A", "--data", str(setup.store), "--runs"]
    line += [str(setup.runs), "--log", "tensorboard", "--recipe", "demo"]
    line += [f"--set={each}" for each in SETTINGS]
    done = CliRunner().invoke(cli, line, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert len(list(setup.folder(Treatment("A")).glob("events.out.*"))) == 1


def test_without_tensorboard(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    with pytest.raises(
        MinicnnError, match=r"pip install 'minicnn-transfer\[tensorboard\]'"
    ):
        train(setup)


def test_curves_follow_a_run_to_its_end(setup: Setup, tmp_path: Path) -> None:
    trainer = transfer.start(setup, Treatment("A"))
    path, drawn = tmp_path / "curves.svg", []
    [trainee] = trainer.trainees
    looks = threading.Thread(
        target=pictures.follow, args=(trainer.runs, path, 0.01), daemon=True
    )
    looks.start()

    def wait(record: dict) -> None:
        if "val_loss" in record:  # until it is drawn so far
            before = path.stat().st_mtime_ns if path.exists() else 0
            for _ in range(1000):
                if path.exists() and path.stat().st_mtime_ns != before:
                    drawn.append(record["step"])
                    return
                looks.join(0.01)

    trainee.observers.append(wait)
    trainer.run()
    looks.join(30)
    assert not looks.is_alive()
    assert drawn == [10, 20, 23]
    finished = path.read_bytes()
    pictures.curves(trainer.runs, path)
    assert path.read_bytes() == finished
