"""Writing a store where something is wrong: bad files, full disks, bad options."""

from __future__ import annotations

import errno
import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from minicnn.base.errors import MinicnnError
from minicnn.base.interrupt import Interrupt
from minicnn.data.store import EXCLUDED, Store
from minicnn.data_prep import layout, workers
from minicnn.data_prep import prepare as module
from minicnn.data_prep.demo.store import prepare_demo
from tests.support import prepare_sources as make
from tests.support.preparing import count_conversions, only_the_store, run


def spoil(source: Path) -> None:
    (source / "a" / "003.png").write_bytes(b"")
    data = (source / "b" / "004.png").read_bytes()
    (source / "b" / "004.png").write_bytes(data[: len(data) // 2])
    size = (source / "c" / "001.png").stat().st_size
    (source / "c" / "001.png").write_bytes(b"?" * size)


BAD = ["a/003.png", "b/004.png", "c/001.png"]


def test_bad_files_fail_by_default_and_are_all_named(
    source: Path, target: Path
) -> None:
    spoil(source)
    with pytest.raises(MinicnnError, match=r"3 of 25 .*: empty file;") as caught:
        run(source, target)
    assert "\n" not in str(caught.value)
    assert not target.exists()
    report = target.with_name("store.h5.bad.txt").read_text()
    assert sorted(line.split("\t")[0] for line in report.splitlines()) == BAD
    assert "a/003.png\tempty file" in report


def test_mended_files_are_read_again_and_nothing_else(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(source, target)
    right = target.read_bytes()
    good = {path: (source / path).read_bytes() for path in BAD}
    spoil(source)
    with pytest.raises(MinicnnError):
        run(source, target, fresh=True)
    assert target.read_bytes() == right  # the old store is unharmed
    target.unlink()
    for path, data in good.items():
        (source / path).write_bytes(data)
    starts = count_conversions(monkeypatch)
    run(source, target)
    assert len(starts) <= len(BAD)
    assert target.read_bytes() == right
    assert only_the_store(target)  # the report is gone too


def test_skipped_files_are_excluded(source: Path, target: Path) -> None:
    spoil(source)
    outcome = run(source, target, on_error="skip")
    assert sorted(path for path, _ in outcome.bad or []) == BAD
    made = Store(target)
    excluded = np.flatnonzero(made.split == EXCLUDED)
    assert sorted(made.files[row] for row in excluded) == BAD
    assert not made.images[excluded].any()
    kept = np.concatenate([made.rows([0, 1, 2], part) for part in ("train", "val")])
    assert len(kept) == 22
    assert run(source, target, on_error="skip").state == "already"


def test_a_file_cut_short_after_listing_is_bad(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = make.imagenet_archives(tmp_path / "a") / "ILSVRC2012_img_val.tar"
    make.add_devkit(archive.parent)
    plan = module.open_source

    def then_cut(*arguments: object, **options: object) -> object:
        result = plan(*arguments, **options)
        archive.write_bytes(archive.read_bytes()[:1000])
        return result

    monkeypatch.setattr(module, "open_source", then_cut)
    with pytest.raises(MinicnnError, match="8 of 20 images cannot be read"):
        run(archive.parent, target)


def test_too_little_disk_is_seen_before_the_work(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 12_000_000})
    monkeypatch.setattr(layout.shutil, "disk_usage", lambda _: usage)
    for make_store in (partial(run, source), prepare_demo):
        with pytest.raises(MinicnnError, match=r"needs 0\.0. GB, .* has 0\.01 GB free"):
            make_store(target)
        assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("where", ["check_disk", "convert"])
def test_a_disk_that_fills_up(
    source: Path, target: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, where, full)
        with pytest.raises(MinicnnError, match="the disk is full"):
            run(source, target)
    assert not target.exists()
    assert run(source, target).state == "done"
    assert only_the_store(target)


@pytest.mark.parametrize(
    ("name", "value"),
    [("size", 0), ("resize", "crop"), ("jobs", 0), ("on_error", "ask")],
)
def test_bad_options(source: Path, target: Path, name: str, value: object) -> None:
    named = f"{name.replace('_', '-')} {value!r}: expected"
    with pytest.raises(MinicnnError, match=named):
        run(source, target, **{name: value})
    assert list(target.parent.iterdir()) == []


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_one_line() -> None:
    with (
        workers.Workers(2) as pool,
        pytest.raises(MinicnnError, match="worker process was killed"),
    ):
        list(pool.unordered(die, [1, 2, 3], Interrupt()))
