"""The files of a folder, a zip or a tar, listed alike, and read by any process.

A `Tree` maps relative paths to `Place`s. A place says where a file's bytes lie, in
plain values that travel to worker processes; `read` fetches them. Archives are indexed
once and read in place: nothing is unpacked, except that a compressed tar is first
decompressed into a scratch file.
"""

from __future__ import annotations

import lzma
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from minicnn.base.errors import MinicnnError, reason

# What reading a damaged archive raises; of gzip and bz2 an OSError without a number.
_DAMAGE = tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError


class Place(NamedTuple):
    """Where the bytes of one file are.

    Attributes:
        path: a file, or the archive that holds it.
        length: bytes.
        offset: first byte inside `path`; −1 where `path` is the file itself.
        member: name inside the zip `path`, or "".
    """

    path: str
    length: int
    offset: int = -1
    member: str = ""


@dataclass
class Tree:
    """Files by relative path ('/' between parts), and all folders, empty ones too.

    A lone top folder (`tiny-imagenet-200/`) is stripped, so that a folder and an
    archive of it have the same paths; `top` is the name of the last one.
    """

    source: Path
    files: dict[str, Place] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    top: str = ""

    def error(self, text: str) -> MinicnnError:
        """To be raised; names the source."""
        return MinicnnError(f"source {self.source}: {text}")

    def children(self, folder: str) -> list[str]:
        """Names of the folders directly inside `folder` ("" is the top), sorted."""
        prefix = f"{folder}/" if folder else ""
        below = [path for path in self.folders if path.startswith(prefix)]
        return sorted({path.removeprefix(prefix).split("/", 1)[0] for path in below})

    def under(self, folder: str) -> Iterator[tuple[str, Place]]:
        """Files anywhere below `folder`, by their path relative to it."""
        prefix = f"{folder}/" if folder else ""
        for path, place in self.files.items():
            if path.startswith(prefix):
                yield path.removeprefix(prefix), place

    def lines(self, path: str) -> list[str]:
        """The non-empty lines of a text file."""
        try:
            text = read(self.files[path]).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise MinicnnError(
                f"{self.source}: {path}: not UTF-8 text ({error})"
            ) from None
        return [line.strip() for line in text.splitlines() if line.strip()]

    def add(self, path: str, place: Place | None) -> bool:
        """Takes a file, or a folder where `place` is None; False if it is hidden."""
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if any(part.startswith(".") or part == "__MACOSX" for part in parts):
            return False
        for depth in range(1, len(parts) + (place is None)):
            self.folders.add("/".join(parts[:depth]))
        if place is not None:
            self.files["/".join(parts)] = place
        return True

    def stripped(self) -> Tree:
        """The tree without its lone top folders."""
        tops = {path.split("/", 1)[0] for path in (*self.files, *self.folders)}
        if len(tops) != 1 or not self.folders:
            return self
        (top,) = tops
        folders = {path.removeprefix(f"{top}/") for path in self.folders - {top}}
        return Tree(self.source, dict(self.under(top)), folders, top).stripped()


def open_tree(source: Path, scratch: Path) -> Tree:
    """Lists a folder, zip, tar or compressed tar.

    Args:
        scratch: where a compressed tar is decompressed to; left there for the caller.

    Raises:
        MinicnnError: no such path, no archive, or a damaged one.
    """
    if source.is_dir():
        return _folder_tree(source)
    if not source.exists():
        raise Tree(source).error("no such file or folder")
    try:
        if tarfile.is_tarfile(source):
            return _tar_tree(source, scratch)
        if zipfile.is_zipfile(source):
            return _zip_tree(source)
    except (*_DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise Tree(source).error(
            f"a damaged or truncated archive ({error}); get it again"
        ) from None
    raise Tree(source).error(
        "not a folder, a zip or a tar; give the folder or archive that holds the images"
    )


def read(place: Place) -> bytes:
    """The bytes of one file; fewer than its length where it has been cut short."""
    if place.member:
        return _zip_archive(place.path).read(place.member)
    if place.offset < 0:
        return Path(place.path).read_bytes()
    archive = _archive(place.path)
    archive.seek(place.offset)
    return archive.read(place.length)


def tar_members(file: BinaryIO, start: int, end: int) -> Iterator[tarfile.TarInfo]:
    """Headers of the tar that lies in bytes start .. end of an open file.

    `offset_data` counts from the file's first byte, so a tar inside a tar is read in
    place.

    Raises:
        tarfile.TarError: damaged, or a member runs past `end`.
    """
    file.seek(start)
    with tarfile.TarFile(fileobj=file) as archive:
        while (member := archive.next()) is not None and member.offset < end:
            if member.isreg() and member.offset_data + member.size > end:
                raise tarfile.ReadError(f"{member.name} runs past the end")
            yield member
            # Or the headers of a million files would stay in memory.
            archive.members.clear()  # type: ignore[attr-defined]


@lru_cache(maxsize=4)
def _zip_archive(path: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


@lru_cache(maxsize=4)
def _archive(path: str) -> BinaryIO:
    return open(path, "rb")


def _folder_tree(source: Path) -> Tree:
    tree = Tree(source)
    seen: set[tuple[int, int]] = set()

    def walk(folder: str, relative: str) -> None:
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            where = relative or "."
            raise tree.error(f"{where} is reached twice through links; remove one")
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = relative + entry.name
                if entry.is_file():
                    tree.add(path, Place(entry.path, entry.stat().st_size))
                elif entry.is_dir() and tree.add(path, None):
                    walk(entry.path, f"{path}/")

    try:
        walk(str(source.resolve()), "")
    except OSError as error:
        raise tree.error(reason(error)) from None
    return tree.stripped()


def _zip_tree(source: Path) -> Tree:
    tree, path = Tree(source), str(source.resolve())
    with zipfile.ZipFile(source) as archive:
        for info in archive.infolist():
            place = Place(path, info.file_size, member=info.filename)
            if info.flag_bits & 1:
                raise tree.error(f"{info.filename} is encrypted; unpack it first")
            tree.add(info.filename, None if info.is_dir() else place)
    return tree.stripped()


def _tar_tree(source: Path, scratch: Path) -> Tree:
    tree, path = Tree(source), _plain_tar(source, scratch)
    with open(path, "rb") as file:
        for member in tar_members(file, 0, path.stat().st_size):
            if member.isdir():
                tree.add(member.name, None)
            elif member.isreg():
                place = Place(str(path.resolve()), member.size, member.offset_data)
                tree.add(member.name, place)
    return tree.stripped()


def _plain_tar(source: Path, scratch: Path) -> Path:
    """The tar itself, or `scratch`, which a compressed one is decompressed into."""
    with suppress(tarfile.ReadError), tarfile.open(source, "r:"):
        return source
    with tarfile.open(source) as packed, open(scratch, "wb") as plain:
        stream = cast(BinaryIO, packed.fileobj)  # what tarfile decompresses from
        stream.seek(0)
        shutil.copyfileobj(stream, plain, 1 << 20)
    return scratch
