"""Writing a store goes on where it stopped: interrupted, killed, a torn journal."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import h5py
import pytest
from click.testing import CliRunner

from minicnn.base.errors import MinicnnError
from minicnn.base.files import held_alone
from minicnn.cli.data import data as data_commands
from minicnn.data.store import Store
from minicnn.data_prep import prepare as module
from minicnn.data_prep import workers
from minicnn.data_prep.prepare import Outcome
from tests.support import prepare_sources as make
from tests.support.preparing import CHUNK, count_conversions, only_the_store, run

PATIENCE = 10.0  # seconds in which workers end whose parent was killed


@pytest.fixture
def right(source: Path, target: Path) -> bytes:
    """The store's bytes, were nothing to stop it; it is not there."""
    run(source, target)
    made = target.read_bytes()
    target.unlink()
    return made


def interrupted(source: Path, target: Path, chunks: int) -> Outcome:
    """Prepares until a SIGTERM of our own in the last of so many chunks."""
    with pytest.MonkeyPatch.context() as patch:
        count_conversions(patch, stop_at=chunks)
        return run(source, target)


def test_interrupted_run_goes_on_where_it_stopped(
    source: Path, target: Path, right: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = interrupted(source, target, 3)
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
    interrupted(source, target, 5)
    partial = target.with_name("store.h5.partial")
    with h5py.File(partial) as file:
        offset = file["images"].id.get_offset()
    with partial.open("r+b") as file:
        file.seek(offset + 5 * 16 * 16 * 3)  # row 5, in the second chunk
        file.write(b"damage")
    # row 8 or 9 is a's last image that is not held out: the third chunk
    make.put(source / "a" / "009.png", make.picture((1, 2, 3), "PNG", (99, 50)))
    planned = module.open_source(source, source / "unused").contents.files
    held_out = "a/009.png" not in planned[:9]
    starts = count_conversions(monkeypatch)
    run(source, target)
    assert sorted(starts) == [4, *([] if held_out else [8]), 20, 24]
    made = Store(target)
    row = made.files.index("a/009.png")
    assert (made.images[row] == (1, 2, 3)).all()
    size = sum(path.stat().st_size for path in source.rglob("*.png"))
    assert made.attributes["source_bytes"] == size


@pytest.mark.parametrize(
    ("tear", "kept"),
    [
        (lambda lines: [*lines[:-1], lines[-1][:20]], 2),
        (lambda lines: [lines[0][:30]], 0),
        (lambda lines: [b"{}\n"], 0),
        (lambda lines: [*lines[:2], b'{"start":4,"sou\n', *lines[3:]], 2),
    ],
    ids=["last line", "header", "empty header", "line in the middle"],
)
def test_torn_journal(
    source: Path,
    target: Path,
    right: bytes,
    tear: Callable[[list[bytes]], list[bytes]],
    kept: int,
) -> None:
    interrupted(source, target, 3)
    journal = target.with_name("store.h5.partial.journal")
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(tear(lines)))
    assert run(source, target).kept == kept * CHUNK
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


@pytest.mark.parametrize("change", [{"size": 20}, {"exact": True}])
def test_unfinished_work_with_other_options_is_kept(
    source: Path, target: Path, change: dict[str, object]
) -> None:
    interrupted(source, target, 3)
    with pytest.raises(MinicnnError, match=r"with other options.*discard it with --f"):
        run(source, target, **change)
    assert run(source, target).kept == 3 * CHUNK
    assert run(source, target, **change, fresh=True).converted == 25
    decoder = Store(target).attributes["decoder"]
    assert decoder.endswith(", exact") == ("exact" in change)


def test_killed_at_the_very_end(
    source: Path, target: Path, right: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the store is marked complete, and after it has its name."""

    def killed(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(module, "sync", killed)
        with pytest.raises(SystemExit):
            run(source, target)
    assert not target.exists()
    assert run(source, target).kept == 25
    assert target.read_bytes() == right
    journal = target.with_name("store.h5.partial.journal")
    journal.write_text('{"fingerprint":"left"}\n')
    assert run(source, target).state == "already"
    assert only_the_store(target)


def test_two_at_once(source: Path, target: Path) -> None:
    refused = pytest.raises(MinicnnError, match=r"store\.h5: another process")
    with held_alone(target.with_name("store.h5.partial.lock"), ""), refused:
        run(source, target)
    assert run(source, target).state == "done"
    assert only_the_store(target)


def large(tmp_path: Path, target: Path) -> list[str]:
    """A command that prepares more images than a test waits for."""
    source = make.class_folders(tmp_path / "big", {"a": 90, "b": 90}, size=64)
    command = [sys.executable, "-m", "minicnn", "data", "prepare", str(source)]
    return [*command, f"--output={target}", "--size=400", "-j2"]


def begun(command: list[str], target: Path, lines: int) -> subprocess.Popen[bytes]:
    """The command in a session of its own, once its journal has so many lines."""
    process = subprocess.Popen(command, start_new_session=True)
    journal = target.with_name("store.h5.partial.journal")
    while not (journal.exists() and journal.read_bytes().count(b"\n") >= lines):
        assert process.poll() is None
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_it_cleanly(
    tmp_path: Path, target: Path, number: signal.Signals
) -> None:
    command = large(tmp_path, target)
    process = begun(command, target, 2)
    process.send_signal(number)
    process.communicate()
    assert process.returncode == 128 + number
    assert not target.exists()
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    kept = re.search(r"(\d+) kept", again.stdout)
    assert kept
    assert int(kept[1]) > 0
    assert only_the_store(target)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("work", ["open_source", "check_disk"])
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


def test_killed_twice_gives_the_same_bytes(tmp_path: Path, target: Path) -> None:
    command = large(tmp_path, target)
    subprocess.run(command, check=True)
    right = target.read_bytes()
    target.unlink()
    process = begun(command, target, 2)
    process.kill()
    process.wait()
    until = time.monotonic() + PATIENCE
    with suppress(ProcessLookupError):  # its workers end, too
        while True:
            os.killpg(process.pid, 0)
            assert time.monotonic() < until
            time.sleep(0.01)
    process = begun(command, target, 3)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run(command, check=True)
    assert target.read_bytes() == right
    assert only_the_store(target)
