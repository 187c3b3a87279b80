"""Batches: which rows, crops and labels; the mean image."""

from __future__ import annotations

import itertools
import os
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from minicnn.base.threads import HostThreads
from minicnn.data import loader
from minicnn.data.loader import Batch, Loader, Reader, mean_image
from minicnn.data.store import TRAIN, VAL, Contents, Store
from minicnn.devices import device
from tests.data.test_store import make as write

CLASSES, TRAINING, VALIDATION, SIDE = 5, 12, 3, 9


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Five classes of random images."""
    path = tmp_path_factory.mktemp("store") / "five.h5"
    each = TRAINING + VALIDATION
    labels = np.repeat(np.arange(CLASSES, dtype=np.int32), each)
    split = np.tile(np.repeat([TRAIN, VAL], [TRAINING, VALIDATION]), CLASSES)
    texts = [str(n) for n in range(CLASSES)]
    contents = Contents(
        (SIDE, SIDE + 1),
        labels,
        split.astype(np.uint8),
        [str(n) for n in range(len(labels))],
        texts,
        texts,
        [""] * CLASSES,
        {"source": "test", "resize": "warp", "orientation": "ignored"},
    )
    write(path, contents)
    return Store(path)


def make(images: Store, classes: tuple[int, ...] = (1, 3, 4), **options: int) -> Loader:
    return Loader(images, classes, crop=7, batch=8, seed=3, **options)


def kept(batch: Batch) -> Batch:
    """The batch with images that nothing overwrites."""
    return replace(batch, images=batch.images.copy())


def test_an_epoch_holds_every_training_row_once(images: Store) -> None:
    loader = make(images)
    rows = np.concatenate([loader._rows(step) for step in range(9)])
    expected = images.rows((1, 3, 4), "train")
    assert len(expected) == 36
    # 72 rows are two epochs; the border lies inside the fifth batch.
    first, second = rows[:36], rows[36:]
    assert np.array_equal(np.sort(first), expected)
    assert np.array_equal(np.sort(second), expected)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, expected)


def test_batches_depend_on_seed_and_step_alone(images: Store) -> None:
    forwards = [make(images).train_batch(step) for step in (0, 1, 5)]
    loader = make(images)
    loader.train_batch(17)
    backwards = [kept(loader.train_batch(step)) for step in (5, 1, 0)]
    for a, b in zip(forwards, reversed(backwards), strict=True):
        for name in ("images", "labels", "top", "left", "mirror"):
            assert np.array_equal(getattr(a, name), getattr(b, name))


def test_crops_and_mirrors_cover_their_range(images: Store) -> None:
    batches = [make(images).train_batch(step) for step in range(30)]
    tops = np.concatenate([batch.top for batch in batches])
    lefts = np.concatenate([batch.left for batch in batches])
    mirrors = np.concatenate([batch.mirror for batch in batches])
    # 240 draws of a fair coin: within five standard deviations of a half.
    assert abs(mirrors.mean() - 0.5) < 5 * 0.5 / 240**0.5
    # Top and left are drawn apart: every pair comes up.
    pairs = set(zip(tops.tolist(), lefts.tolist(), strict=True))
    assert pairs == set(itertools.product(range(3), range(4)))
    quiet = make(images, mirror=False).train_batch(0)
    assert not quiet.mirror.any()


def test_validation_is_whole_in_order_and_centred(images: Store) -> None:
    loader = make(images)
    batches = [kept(batch) for batch in loader.val_batches()]
    assert [len(batch.labels) for batch in batches] == [8, 1]
    expected = images.images[images.rows((1, 3, 4), "val")]
    assert np.array_equal(np.concatenate([b.images for b in batches]), expected)
    assert {*batches[0].top} == {1}
    assert {*batches[0].left} == {1}
    assert not batches[0].mirror.any()


def test_a_batch_holds_its_rows_until_the_next_is_asked_for(images: Store) -> None:
    classes = [4, 1, 3, 0, 2]
    loader, other = (make(images, classes=tuple(classes)) for _ in range(2))

    def holds(batch: Batch, rows: np.ndarray) -> bool:
        loader._helper.submit(int).result()  # the next has been read by now
        right = [classes.index(label) for label in images.labels[rows]]
        assert batch.labels.tolist() == right
        return np.array_equal(batch.images, images.images[rows])

    for step in range(5):
        assert holds(loader.train_batch(step), other._rows(step))
    for number, batch in enumerate(loader.val_batches()):
        assert holds(batch, loader.val[number * 8 :][:8])


def test_batches_are_read_into_the_same_two_arrays(images: Store) -> None:
    loader = Loader(images, (0, 1, 2), crop=7, batch=300, seed=0)
    for step in (0, 1):
        loader.train_batch(step)
    tracemalloc.start()
    try:
        for step in range(2, 12):
            images_read = loader.train_batch(step).images
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < images_read.nbytes


@pytest.mark.parametrize("threads", [1, 3])
def test_any_number_of_threads_reads_the_same(
    threads: int, images: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "PIECE", 1000)
    rows = np.random.default_rng(0).integers(0, len(images), 17)
    out = np.empty((20, SIDE, SIDE + 1, 3), np.uint8)
    reader = Reader(images)
    reader.threads = HostThreads(threads)
    read = reader.read(rows, out)
    assert np.shares_memory(read, out)
    assert np.array_equal(read, images.images[rows])


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="needs posix_fadvise")
def test_reads_are_announced_row_by_row(
    images: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _, *how: asked.append(how))
    rows, out = np.array([7, 2, 40]), np.empty((3, SIDE, SIDE + 1, 3), np.uint8)
    Reader(images).read(rows, out)
    assert len(asked) == 3
    whole = images.path.read_bytes()
    for row, (place, size, advice) in zip(rows, asked, strict=True):
        assert whole[place : place + size] == images.images[row].tobytes()
        assert advice == os.POSIX_FADV_WILLNEED


def test_reduced_data_keeps_the_same_few_of_each_class(images: Store) -> None:
    loader = make(images, images_per_class=4, subset_seed=1)
    labels = images.labels[loader.train]
    assert np.bincount(labels).tolist() == [0, 4, 0, 4, 4]
    assert set(loader.train) <= set(images.rows((1, 3, 4), "train"))
    again = Loader(images, (1, 3, 4), 7, 2, 99, True, 4, 1)
    assert np.array_equal(again.train, loader.train)
    other = make(images, images_per_class=4, subset_seed=2)
    assert not np.array_equal(other.train, loader.train)
    assert len(make(images, images_per_class=1000).train) == 36


@pytest.mark.parametrize("white", [False, True])
def test_mean_image_is_the_exact_mean(
    images: Store, white: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = images.rows((0, 2), "train")
    if white:  # sums as large as they get, of as many rows as are summed at a time
        monkeypatch.setattr(images, "images", np.full_like(images.images, 255))
        rows = np.tile(rows, 200)
    ticks: list[int] = []
    mean = mean_image(device.get("cpu", 2), images, rows, ticks.append)
    assert sum(ticks) == len(rows)
    expected = images.images[rows].astype(np.float64).mean(axis=0)
    assert mean.dtype == np.float32
    # One rounding to float32 of an exact sum.
    assert np.abs(mean - expected).max() <= 2**-24 * 256
