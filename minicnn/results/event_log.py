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
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError:
            raise MinicnnError(
                "--log tensorboard: needs tensorboard; install it with pip install "
                "'minicnn-transfer[tensorboard]'"
            ) from None
        self.trainee, self._event, self._summary = trainee, Event, Summary
        self._writer = EventFileWriter(str(trainee.folder))
        # Comes first: what an earlier session wrote from that step on is void.
        self._contents: list[dict[str, Any]] = [
            {"session_log": SessionLog(status=SessionLog.START)}
        ]

    def __call__(self, record: dict[str, Any]) -> None:
        """Writes one record."""
        values = []
        for key, number in record.items():
            tag = f"{'evaluation' if 'val' in key else 'training'}/{key}"
            if key != "step":
                values.append(self._summary.Value(tag=tag, simple_value=number))
        if "val_loss" in record:
            values.append(self._summary.Value(tag="filters", image=self._filters()))
        self._contents.append({"summary": self._summary(value=values)})
        for content in self._contents:
            when = {"wall_time": time.time(), "step": record["step"]}
            self._writer.add_event(self._event(**when, **content))
        self._contents.clear()
        self._writer.flush()

    def _filters(self) -> Any:
        """The first layer's filters, as a PNG."""
        from PIL import Image

        network = self.trainee.network
        picture = mosaic(network.dev.to_host(network.params[0].value))
        content = io.BytesIO()
        Image.fromarray((255 * picture).round().astype("uint8")).save(content, "PNG")
        height, width = picture.shape[:2]
        size = {"height": height, "width": width, "colorspace": 3}
        return self._summary.Image(**size, encoded_image_string=content.getvalue())
