"""Writes a store from a source: parallel, resumable after a kill at any moment.

Everything but the pixels is known before any image is read, so the file is laid out
first, at its full size, as STORE.partial. Worker processes then each read, decode and
resize a chunk of images and write its rows at their place; the parent notes the chunk,
with the checksum of every row, in STORE.partial.journal. The same command again checks
the noted chunks against the file and does only the others. At last the checksums go
in, the store is marked complete and takes its name.
"""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from minicnn.base.errors import MinicnnError, Stopped, reason
from minicnn.base.files import check_target, held_alone
from minicnn.base.interrupt import Interrupt, raising
from minicnn.base.progress import Progress
from minicnn.data import store
from minicnn.data.images import RESIZES
from minicnn.data_prep.journal import Journal
from minicnn.data_prep.layout import Files, check_disk, is_there, plan, sync
from minicnn.data_prep.sources.labelled import Source
from minicnn.data_prep.sources.recognise import open_source
from minicnn.data_prep.workers import Chunk, Recipe, Workers, convert, is_intact

ON_ERROR = ("fail", "skip")

_CHUNK_BYTES, _CHUNK_IMAGES = 8 << 20, 256


@dataclass(frozen=True)
class Options:
    """What a store is made with.

    Attributes:
        size: height and width; None takes the source's own.
        resize: "warp" or "short-center".
        val_fraction: held out of each class where the source has no val; None is 0.1.
        seed: of the held-out choice.
        groups: TOML file with lists `natural` and `manmade`.
        on_error: "fail" makes no store while a file is bad; "skip" excludes it.
        jobs: worker processes; None takes all cores.
        exact: whole decodes, and the bytes of Pillow's `resize`; see `to_rgb`.
        fresh: begin anew, and replace a store that is there.
    """

    size: int | None = None
    resize: str = "warp"
    val_fraction: float | None = None
    seed: int = 0
    groups: Path | None = None
    on_error: str = "fail"
    jobs: int | None = None
    fresh: bool = False
    exact: bool = False


@dataclass
class Outcome:
    """How `prepare` ended.

    Attributes:
        state: "done", "already" (the store was there) or "interrupted".
        rows: images in the store, excluded ones counted.
        kept: rows that an earlier, stopped run had finished.
        converted: rows done now.
        seconds: what they took.
        bad: (path, reason) of every image that was left out.
        signal_name: what interrupted.
    """

    state: str
    rows: int = 0
    kept: int = 0
    converted: int = 0
    seconds: float = 0.0
    bad: list[tuple[str, str]] | None = None
    signal_name: str = ""


def prepare(source: Path, target: Path, options: Options | None = None) -> Outcome:
    """Makes the store `target` of the images in `source`.

    Starts worker processes: a script that calls it needs the usual
    `if __name__ == "__main__":`.

    Args:
        source: see `open_source`.
        target: the HDF5 file to make.

    Raises:
        MinicnnError: an unusable source, option or target; bad files under "fail".
    """
    options, files = options or Options(), Files(target)
    _check(options)
    check_target(target)
    refusal = f"store {target}: another process is preparing it; wait for it"
    try:
        with held_alone(files.lock, refusal):
            journal = Journal(files.journal)
            try:
                with raising():
                    opened = open_source(
                        source,
                        files.scratch,
                        options.val_fraction,
                        options.seed,
                        options.groups,
                    )
                return _Preparation(opened, files, journal, options).run()
            finally:
                files.scratch.unlink(missing_ok=True)
                journal.close()
                if not files.partial.exists():
                    files.journal.unlink(missing_ok=True)
                files.lock.unlink(missing_ok=True)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise MinicnnError(f"store {target}: {reason(error)}") from None
        raise MinicnnError(
            f"store {target}: the disk is full; free some space, the same command then "
            "goes on where it stopped"
        ) from None
    except Stopped as stop:  # while the source is listed or the store laid out
        return Outcome("interrupted", signal_name=stop.signal_name)
    except KeyboardInterrupt:  # a second one
        return Outcome("interrupted", signal_name="SIGINT")


def _check(options: Options) -> None:
    if options.resize not in RESIZES:
        raise MinicnnError(f"resize {options.resize!r}: expected one of {RESIZES}")
    if options.on_error not in ON_ERROR:
        raise MinicnnError(f"on-error {options.on_error!r}: expected one of {ON_ERROR}")
    if options.size is not None and not 1 <= options.size <= 4096:
        raise MinicnnError(f"size {options.size}: expected 1 to 4096 pixels")
    if options.jobs is not None and options.jobs < 1:
        raise MinicnnError(f"jobs {options.jobs}: expected at least 1")


class _Preparation:
    def __init__(
        self, source: Source, files: Files, journal: Journal, options: Options
    ) -> None:
        self.source, self.files, self.journal = source, files, journal
        self.options = options
        self.plan = plan(source, options.size or 0, options.resize, options.exact)
        self.about = self.plan.attributes
        self.header = {key: str(self.about[key]) for key in ("fingerprint", "decoder")}
        self.rows, self.size = len(source.places), self.plan.size[0]

    def run(self) -> Outcome:
        with raising():
            if not self._resumes():
                keys = "fingerprint", "source_bytes"
                wanted = {key: self.about[key] for key in keys}
                other = "made from another source or with other options"
                if is_there(self.files.target, wanted, other, self.options.fresh):
                    self.files.partial.unlink(missing_ok=True)
                    return Outcome("already", self.rows)
                self.journal.begin({})
                self.files.partial.unlink(missing_ok=True)
                check_disk(self.plan, self.files.target)
                store.create(self.files.partial, self.plan)
                self.journal.begin(self.header)
        for note in self.source.notes:
            print(f"note: {note}", file=sys.stderr, flush=True)
        with Interrupt() as interrupt, Workers(self.options.jobs) as workers:
            outcome = self._convert(workers, interrupt)
        if outcome.state == "done":
            outcome.bad = self._finish()
        return outcome

    def _resumes(self) -> bool:
        """Whether unfinished work is there that this command continues.

        Raises:
            MinicnnError: there is some, but of another source or other options.
        """
        found, wanted = self.journal.header, self.header
        if self.options.fresh or not found or not self.files.partial.exists():
            return False
        if found["fingerprint"] != wanted["fingerprint"]:
            raise MinicnnError(
                f"store {self.files.partial}: unfinished, from another source or with "
                "other options; finish it with those, or discard it with --fresh"
            )
        if found["decoder"] != wanted["decoder"]:
            raise MinicnnError(
                f"store {self.files.partial}: begun with {found['decoder']}, here is "
                f"{wanted['decoder']}, whose pixels may differ; discard it with --fresh"
            )
        return True

    def _convert(self, workers: Workers, interrupt: Interrupt) -> Outcome:
        """Does every chunk that is not done yet."""
        with h5py.File(self.files.partial, "r") as file:
            offset = file["images"].id.get_offset()
        recipe = Recipe(
            str(self.files.partial.resolve()),
            offset,
            self.size,
            self.options.resize,
            str(self.about["orientation"]),
            str(self.about["source"]),
            self.options.exact,
        )
        kept = self._check_done(workers, recipe, interrupt)
        todo = [each for each in self._chunks() if each.start not in self.journal.done]
        work, began = partial(convert, recipe), time.monotonic()
        with Progress(self.rows, "images", "preparing", initial=kept) as progress:
            for _, done in workers.unordered(work, todo, interrupt):
                self.journal.note(done)
                progress.update(len(done.crc32))
            converted = progress.done - kept
        seconds = time.monotonic() - began
        state = "done" if kept + converted == self.rows else "interrupted"
        return Outcome(
            state, self.rows, kept, converted, seconds, None, interrupt.signal_name
        )

    def _chunks(self) -> Iterator[Chunk]:
        step = max(1, min(_CHUNK_BYTES // (3 * self.size**2), _CHUNK_IMAGES))
        for start in range(0, self.rows, step):
            yield Chunk(start, self.source.places[start : start + step])

    def _check_done(
        self, workers: Workers, recipe: Recipe, interrupt: Interrupt
    ) -> int:
        """Forgets noted chunks that must be done again; returns the rows of the rest.

        Those are chunks whose files have changed since, that had bad files (which may
        be mended by now), or whose rows have lost their checksums.
        """
        done, self.journal.done = self.journal.done, {}
        noted = [
            old
            for chunk in self._chunks()
            if (old := done.get(chunk.start)) is not None
            and not old.bad
            and len(old.crc32) == len(chunk.places)
            and old.source_bytes == chunk.source_bytes
        ]
        if not noted:
            return 0
        total = sum(len(old.crc32) for old in noted)
        check = partial(is_intact, recipe)
        with Progress(total, "images", "checking what is done") as progress:
            for old, intact in workers.unordered(check, noted, interrupt):
                progress.update(len(old.crc32))
                if intact:
                    self.journal.done[old.start] = old
        return sum(len(old.crc32) for old in self.journal.done.values())

    def _finish(self) -> list[tuple[str, str]]:
        """Writes what is known only now, marks the store complete, names it.

        Returns:
            The bad files, which the report lists, too.

        Raises:
            MinicnnError: there are some, and they are not to be skipped.
        """
        files, size = self.files, self.about["source_bytes"]
        done = [self.journal.done[start] for start in sorted(self.journal.done)]
        rows = [row for each in done for row, _ in each.bad]
        bad = [(self.plan.files[row], why) for each in done for row, why in each.bad]
        if bad:
            lines = [f"{path}\t{why}\n" for path, why in bad]
            files.report.write_text("".join(lines), encoding="utf-8")
        else:
            files.report.unlink(missing_ok=True)
        if bad and self.options.on_error == "fail":
            path, why = bad[0]
            raise MinicnnError(
                f"{len(bad)} of {self.rows} images cannot be read, all listed in "
                f"{files.report}; the first: {path}: {why}; mend them, or leave them "
                "out with --on-error skip: what is done is kept"
            )
        split = self.plan.split.copy()
        split[rows] = store.EXCLUDED
        with h5py.File(files.partial, "r+") as file:
            file["crc32"][...] = np.concatenate([each.crc32 for each in done])
            file["split"][...] = split
            file.attrs.modify("source_bytes", np.int64(size))
        store.mark_complete(files.partial)
        sync(files.partial)
        files.partial.rename(files.target)
        sync(files.target.parent)
        return bad
