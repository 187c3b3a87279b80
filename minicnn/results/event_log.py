"""TensorBoard's event files beside metrics.jsonl: losses, rates, scores, filters."""

from __future__ import annotations

import io
import time
from typing import Any

from minicnn.base.errors import MinicnnError
from minicnn.results.pictures import mosaic
from minicnn.training.trainee import Trainee


class EventLog:
    """Writes each record of a run's metrics as events, and filters with evaluations.

    Raises:
        MinicnnError: tensorboard is not installed.
    """

    def __init__(self, trainee: Trainee) -> None:
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer import event_file_writer
        except ImportError:
            raise MinicnnError(
                "--log tensorboard: needs tensorboard; install it with pip install "
                "'minicnn-transfer[tensorboard]'"
            ) from None
        self.trainee, self._event, self._summary = trainee, event_pb2, summary_pb2
        self._writer = event_file_writer.EventFileWriter(str(trainee.folder))
        self._began = False

    def __call__(self, record: dict[str, Any]) -> None:
        """Writes one record."""
        if not self._began:  # what an earlier session wrote from here on is void
            start = self._event.SessionLog(status=self._event.SessionLog.START)
            self._write(record["step"], session_log=start)
            self._began = True
        value = self._summary.Summary.Value
        values = [
            value(tag=f"{'evaluation' if 'val' in key else 'training'}/{key}", **number)
            for key, number in ((k, {"simple_value": v}) for k, v in record.items())
            if key != "step"
        ]
        if "val_loss" in record:
            values.append(value(tag="filters", image=self._filters()))
        self._write(record["step"], summary=self._summary.Summary(value=values))
        self._writer.flush()

    def _write(self, step: int, **content: Any) -> None:
        event = self._event.Event(wall_time=time.time(), step=step, **content)
        self._writer.add_event(event)

    def _filters(self) -> Any:
        """The first layer's filters, as a PNG."""
        from PIL import Image

        network = self.trainee.network
        picture = mosaic(network.dev.to_host(network.params[0].value))
        content = io.BytesIO()
        Image.fromarray((255 * picture).round().astype("uint8")).save(content, "PNG")
        height, width = picture.shape[:2]
        return self._summary.Summary.Image(
            height=height,
            width=width,
            colorspace=3,
            encoded_image_string=content.getvalue(),
        )
