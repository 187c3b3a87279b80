"""Writing a store: content, resuming, killing, bad files, full disks."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from minicnn import store
from minicnn.cli_data import data as data_commands
from minicnn.data_prep import layout, workers
from minicnn.data_prep import prepare as module
from minicnn.data_prep.prepare import Options, Outcome, prepare
from minicnn.errors import MinicnnError
from minicnn.experiments import kill_prepare
from minicnn.store import EXCLUDED, TRAIN, VAL, Store
from tests import prepare_sources as make

JPEG_ERROR = 3  # 8-bit rounding in the colour transform; one colour, quality 100
CHUNK = 4  # rows, so that small sources have several chunks


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK_IMAGES", CHUNK)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """25 images of 3 classes, each of its own colour; 3 are held out."""
    return make.class_folders(tmp_path / "source", {"a": 10, "b": 9, "c": 6})


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out" / "store.h5"


@pytest.fixture(autouse=True)
def out_folder(target: Path) -> None:
    target.parent.mkdir()


def run(source: Path, target: Path, **options: object) -> Outcome:
    return prepare(source, target, Options(**{"size": 16, "jobs": 1, **options}))


def only_the_store(target: Path) -> bool:
    return [path.name for path in target.parent.iterdir()] == [target.name]


def interrupt_after(monkeypatch: pytest.MonkeyPatch, chunks: int) -> None:
    """A SIGTERM of our own in the middle of the conversion."""
    convert, calls = workers.convert, []

    def counted(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == chunks:
            os.kill(os.getpid(), signal.SIGTERM)
        return convert(*arguments)

    monkeypatch.setattr(module, "convert", counted)


def count_conversions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """First rows of the chunks that are converted from here on."""
    convert, starts = workers.convert, []

    def counted(recipe: workers.Recipe, chunk: workers.Chunk) -> workers.Done:
        starts.append(chunk.start)
        return convert(recipe, chunk)

    monkeypatch.setattr(module, "convert", counted)
    return starts


def test_every_row_is_its_image(source: Path, target: Path) -> None:
    outcome = run(source, target)
    assert (outcome.state, outcome.rows, outcome.converted) == ("done", 25, 25)
    made = Store(target)
    assert made.split.tolist() == [TRAIN] * 22 + [VAL] * 3
    assert made.labels.tolist() == [0] * 9 + [1] * 8 + [2] * 5 + [0, 1, 2]
    assert made.wnids == made.names == ["a", "b", "c"]
    for row, path in enumerate(made.files):
        name, number = path.removesuffix(".png").split("/")
        assert made.wnids[made.labels[row]] == name
        assert (made.images[row] == make.colour(name, int(number))).all()
        assert made.crc32[row] == zlib.crc32(made.images[row].tobytes())
    assert made.attributes["orientation"] == "applied"
    assert made.attributes["resize"] == "warp"
    size = sum(path.stat().st_size for path in source.rglob("*.png"))
    assert made.attributes["source_bytes"] == size
    assert only_the_store(target)


def test_plain_h5py_reads_it(source: Path, target: Path) -> None:
    run(source, target)
    with h5py.File(target) as file:
        assert file["images"].shape == (25, 16, 16, 3)
        assert file["images"].chunks is None
        row = list(file["files"].asstr()).index("c/003.png")
        assert tuple(file["images"][row, 5, 5]) == make.colour("c", 3)


def test_archives_folders_and_any_number_of_jobs_give_the_same_bytes(
    tmp_path: Path, target: Path
) -> None:
    archives = make.imagenet_archives(tmp_path / "a")
    folders = make.imagenet_folders(tmp_path / "b", nested=False)
    contents = []
    for folder, jobs in ((archives, 1), (folders, 1), (archives, 3)):
        make.add_devkit(folder)
        run(folder, target, size=24, jobs=jobs, fresh=True)
        contents.append(target.read_bytes())
    assert contents[0] == contents[1] == contents[2]
    made = Store(target)
    for row, path in enumerate(made.files):
        difference = made.images[row].astype(int) - make.colour(Path(path).name)
        assert abs(difference).max() <= JPEG_ERROR


def test_cifar_rows_are_its_records(tmp_path: Path, target: Path) -> None:
    members = make.cifar_members()
    archive = make.tar(tmp_path / "cifar-100-binary.tar.gz", members, "w:gz")
    prepare(archive, target, Options(jobs=1))
    record = members["cifar-100-binary/train.bin"][4 * 3074 :][2:3074]
    planes = np.frombuffer(record, np.uint8).reshape(3, 32, 32)
    made = Store(target)
    row = made.files.index("train.bin#00004")
    np.testing.assert_array_equal(made.images[row], planes.transpose(1, 2, 0))
    assert only_the_store(target)


def test_same_command_again_says_done(source: Path, target: Path) -> None:
    run(source, target)
    before = target.stat()
    assert run(source, target).state == "already"
    assert target.stat().st_mtime_ns == before.st_mtime_ns
    assert only_the_store(target)


@pytest.mark.parametrize("change", ["options", "file"])
def test_another_store_is_not_overwritten(
    source: Path, target: Path, change: str
) -> None:
    run(source, target)
    before = target.read_bytes()
    size = 12
    if change == "file":
        size = 16
        make.put(source / "a" / "000.png", make.picture((1, 2, 3), "PNG", (99, 50)))
    with pytest.raises(MinicnnError, match="--fresh"):
        run(source, target, size=size)
    assert target.read_bytes() == before
    assert only_the_store(target)
    run(source, target, size=size, fresh=True)
    assert Store(target).image_size == (size, size)


def test_what_is_no_store_is_not_overwritten(source: Path, target: Path) -> None:
    target.write_text("my thesis")
    with pytest.raises(MinicnnError, match="not a readable HDF5 file"):
        run(source, target)
    assert target.read_text() == "my thesis"


def test_interrupted_run_goes_on_where_it_stopped(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(source, target)
    right = target.read_bytes()
    target.unlink()
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        outcome = run(source, target)
    assert (outcome.state, outcome.signal_name) == ("interrupted", "SIGTERM")
    assert outcome.converted == 3 * CHUNK
    assert not target.exists()
    starts = count_conversions(monkeypatch)
    outcome = run(source, target)
    assert starts == [12, 16, 20, 24]
    assert (outcome.kept, outcome.converted) == (12, 13)
    assert target.read_bytes() == right
    assert only_the_store(target)


def test_only_damaged_or_changed_chunks_are_done_again(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(patch, 5)
        run(source, target)
    partial = target.with_name("store.h5.partial")
    with h5py.File(partial) as file:
        offset = file["images"].id.get_offset()
    with partial.open("r+b") as file:
        file.seek(offset + 5 * 16 * 16 * 3)  # row 5, in the second chunk
        file.write(b"damage")
    # row 8 or 9 is a's last image that is not held out: the third chunk
    make.put(source / "a" / "009.png", make.picture((1, 2, 3), "PNG", (99, 50)))
    held_out = "a/009.png" not in _planned(source)[:9]
    starts = count_conversions(monkeypatch)
    run(source, target)
    assert sorted(starts) == [4, *([] if held_out else [8]), 20, 24]
    made = Store(target)
    row = made.files.index("a/009.png")
    assert (made.images[row] == (1, 2, 3)).all()
    size = sum(path.stat().st_size for path in source.rglob("*.png"))
    assert made.attributes["source_bytes"] == size


def _planned(source: Path) -> list[str]:
    return module.open_source(source, source / "unused").files


@pytest.mark.parametrize("tear", ["line", "header", "empty header", "middle"])
def test_torn_journal(
    source: Path, target: Path, tear: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(source, target)
    right = target.read_bytes()
    target.unlink()
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        run(source, target)
    journal = target.with_name("store.h5.partial.journal")
    lines = journal.read_bytes().splitlines(keepends=True)
    if tear == "line":
        lines[-1] = lines[-1][:20]
    elif tear == "header":
        lines = [lines[0][:30]]
    elif tear == "empty header":
        lines = [b"{}\n"]
    else:
        lines[2] = b'{"start":4,"sou\n'
    journal.write_bytes(b"".join(lines))
    kept = (2 if tear in ("line", "middle") else 0) * CHUNK
    assert run(source, target).kept == kept
    assert target.read_bytes() == right


def test_a_line_after_a_torn_one_counts(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b'{"fingerprint":"x"}\n{"start":0,"sou')
    done = workers.Done(8, 99, [1, 2], [(9, "empty file")])
    journal = module.Journal(path)
    journal.note(done)
    journal.close()
    again = module.Journal(path)
    assert again.done == {8: done}
    again.close()


def test_exact_is_recorded_and_not_mixed(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make.class_folders(tmp_path / "jpegs", {"a": 5, "b": 5}, "JPEG", 40)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        run(source, target, exact=True)
    with pytest.raises(MinicnnError, match="with other options"):
        run(source, target)
    assert run(source, target, exact=True).kept == CHUNK
    assert Store(target).attributes["decoder"].endswith(", exact")
    with pytest.raises(MinicnnError, match="with other options"):
        run(source, target)
    run(source, target, fresh=True)
    assert "exact" not in Store(target).attributes["decoder"]


def test_without_a_compiler_the_bytes_are_the_same(
    tmp_path: Path,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = tmp_path / "jpegs"
    for number in range(6):
        noise = Image.effect_noise((30 + 9 * number, 70 - 9 * number), 90)
        path = source / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise.save(path)
    run(source, target)
    right = target.read_bytes()
    assert ("Pillow" in capsys.readouterr().err) == (not module.resample.compiled())
    monkeypatch.setattr(module.resample, "compiled", lambda: "")
    run(source, target, fresh=True)
    assert target.read_bytes() == right
    assert "Pillow resizes, to the same bytes but slower" in capsys.readouterr().err


def test_unfinished_work_with_other_options_is_kept(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        run(source, target)
    with pytest.raises(MinicnnError, match="discard it with --fresh"):
        run(source, target, size=20)
    assert run(source, target).kept == 3 * CHUNK
    assert run(source, target, size=20, fresh=True).converted == 25


def test_killed_at_the_very_end(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the store is marked complete, and after it has its name."""
    run(source, target)
    right = target.read_bytes()
    target.unlink()

    class KilledError(Exception):
        pass

    def killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(module, "sync", killed)
        with pytest.raises(KilledError):
            run(source, target)
    assert not target.exists()
    assert run(source, target).kept == 25
    assert target.read_bytes() == right
    journal = target.with_name("store.h5.partial.journal")
    journal.write_text('{"fingerprint":"left"}\n')
    assert run(source, target).state == "already"
    assert only_the_store(target)


def test_two_at_once(source: Path, target: Path) -> None:
    journal = module.Journal(target.with_name("store.h5.partial.journal"))
    with pytest.raises(MinicnnError, match="another process"):
        run(source, target)
    journal.close()
    assert run(source, target).state == "done"


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
    with pytest.raises(MinicnnError, match=r"needs 0\.02 GB, .* has 0\.01 GB free"):
        run(source, target)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("where", ["lay_out", "convert"])
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


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a tmpfs needs root")
def test_a_real_full_disk(source: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no permission to mount a tmpfs")
    try:
        with pytest.raises(MinicnnError, match="free some space"):
            run(source, small / "s.h5", size=1024)  # 79 MB
        assert list(small.iterdir()) == []
        (small / "ballast").write_bytes(bytes(23 << 20))
        with pytest.raises(MinicnnError, match="free some space"):
            run(source, small / "s.h5", size=256)
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size 0"),
        ({"resize": "crop"}, "resize 'crop'"),
        ({"jobs": 0}, "jobs 0"),
        ({"on_error": "ask"}, "on-error 'ask'"),
        ({"val_fraction": 1.5}, "--val-fraction 1.5"),
    ],
)
def test_bad_options(
    source: Path, target: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(MinicnnError, match=message):
        run(source, target, **options)
    assert list(target.parent.iterdir()) == []


def test_target_in_no_folder(source: Path, tmp_path: Path) -> None:
    with pytest.raises(MinicnnError, match="does not exist"):
        run(source, tmp_path / "absent" / "store.h5")


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_one_line() -> None:
    recipe = workers.Recipe("unused", 0, 1, "warp", "ignored", "image")
    with (
        workers.Workers(2) as pool,
        pytest.raises(MinicnnError, match="worker process was killed"),
    ):
        list(pool.unordered(die, recipe, [1, 2, 3], lambda: False))


def test_command_line(source: Path, target: Path) -> None:
    arguments = ["prepare", str(source), "-o", str(target), "--size", "8", "-j", "1"]
    result = CliRunner().invoke(data_commands, arguments)
    assert result.exit_code == 0
    assert re.search(r"25 images, 25 of them prepared in .* images/s", result.output)
    result = CliRunner().invoke(data_commands, arguments)
    assert "done already: 25 images" in result.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_it_cleanly(
    tmp_path: Path, target: Path, number: signal.Signals
) -> None:
    source = make.class_folders(tmp_path / "big", {"a": 90, "b": 90}, size=64)
    options = ["--size", "400", "-j", "2"]
    process = kill_prepare.start(source, target, options)
    journal = target.with_name("store.h5.partial.journal")
    while not (journal.exists() and journal.read_bytes().count(b"\n") >= 2):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    process.communicate()
    assert process.returncode == 128 + number
    assert not target.exists()
    kept, _ = kill_prepare.finish(source, target, options)
    assert kept > 0
    assert only_the_store(target)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("work", ["open_source", "lay_out"])
def test_signals_before_the_first_image(
    work: str,
    number: signal.Signals,
    source: Path,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, work, lambda *_, **__: os.kill(os.getpid(), number))
    # What is there without `prepare`'s own would end the tests.
    before = signal.signal(number, lambda *_: None)
    try:
        result = CliRunner().invoke(
            data_commands, ["prepare", str(source), "-o", str(target)]
        )
    finally:
        restored = signal.signal(number, before)
    assert restored is not before
    assert result.exit_code == 128 + number
    assert result.stderr.startswith(f"Stopped by {number.name}; the same command")
    assert not target.exists()


def test_killed_three_times_gives_the_same_bytes(tmp_path: Path) -> None:
    source = make.class_folders(tmp_path / "big", {"a": 150, "b": 150}, size=64)
    folder = tmp_path / "kills"
    folder.mkdir()
    options = ["--size", "200", "-j", "2"]
    _, trials = kill_prepare.run(source, 2, folder, options)
    assert len(trials) == 3
    assert all(trial.same for trial in trials)


TEST_DATA = os.environ.get("MINICNN_TEST_DATA")
WORST = 1  # grey level: Pillow 13 may begin with the columns, and round there


@pytest.mark.skipif(not TEST_DATA, reason="MINICNN_TEST_DATA is not set")
def test_real_imagenet_files_in_the_published_layout(
    tmp_path: Path, target: Path
) -> None:
    samples = sorted(Path(TEST_DATA or "", "imagenet-samples").glob("*.JPEG"))
    make.imagenet_of(tmp_path / "archives", samples)
    for exact in (False, True):
        options = Options(jobs=2, exact=exact, fresh=True)
        prepare(tmp_path / "archives", target, options)
        made = Store(target)
        assert made.image_size == (256, 256)
        assert len(made) == 2 * len(samples)
        for path in samples:
            wnid = path.name.split("_")[0]
            rows = np.flatnonzero(made.labels == made.wnids.index(wnid))
            assert made.split[rows].tolist() == [TRAIN, VAL]
            with Image.open(path) as image:
                plain = image.convert("RGB").resize((256, 256), 2)  # 2: bilinear
            difference = made.images[rows[0]] - np.asarray(plain, int)
            assert abs(difference).max() <= (0 if exact else WORST)
            np.testing.assert_array_equal(made.images[rows[0]], made.images[rows[1]])


def test_a_store_is_a_function_of_its_contents(tmp_path: Path) -> None:
    """Also a second later: HDF5 would otherwise note the time."""
    contents = store.Contents(
        (2, 2),
        np.zeros(3, np.int32),
        np.zeros(3, np.uint8),
        ["x", "y", "ž"],
        ["a"],
        ["b"],
        [""],
        {"resize": "warp"},
    )
    create: Callable[[str], bytes] = lambda name: (  # noqa: E731
        store.create(tmp_path / name, contents),
        (tmp_path / name).read_bytes(),
    )[1]
    first = create("1")
    time.sleep(1.1)
    assert create("2") == first
