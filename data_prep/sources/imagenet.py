"""ImageNet (ILSVRC2012): the published archives, their extracted folders, Kaggle's.

The labels of the validation images come from whatever is there: the devkit archive,
Caffe's val.txt, Kaggle's LOC_val_solution.csv, folders per wnid. Where there are
several, they must agree. Names in the store are those of the extracted folders, so
that archives and folders give the same store.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

from minicnn.base.errors import MinicnnError
from minicnn.data.classes import ilsvrc2012
from minicnn.data_prep.sources.labelled import Found, Labelled, class_folders
from minicnn.data_prep.sources.mat5 import read_struct
from minicnn.data_prep.sources.tree import Place, Tree, read, tar_members

SIZE = 256
TRAIN_TAR, VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12"
_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_BASES = ("", "CLS-LOC", "Data/CLS-LOC", "ILSVRC/Data/CLS-LOC")  # the last are Kaggle's
_WNID = re.compile(r"n\d{8}")

Labels = dict[str, str]


def recognise(tree: Tree) -> Found | None:
    """Both archives, or train/<wnid>/ and val/, or one of each."""
    base = next((base for base in _BASES if _has_wnids(tree, _at(base, "train"))), None)
    if TRAIN_TAR not in tree.files and (base is None or not _has_val(tree, base)):
        return None
    folder = _at(base or "", "val")
    notes = []
    if TRAIN_TAR in tree.files:
        train = _train_archive(tree)
        if base is not None:
            notes.append(f"{TRAIN_TAR} is read; {_at(base, 'train')}/ beside it is not")
    else:
        train = class_folders(tree, _at(base or "", "train"))
    if VAL_TAR in tree.files:
        files, where = _val_archive(tree), VAL_TAR
    elif folder in tree.folders:
        files, where = dict(tree.under(folder)), folder
    else:
        raise MinicnnError(
            f"source {tree.source}: {TRAIN_TAR} but no {VAL_TAR} beside it; get it too"
        )
    files = {path: place for path, place in files.items() if _is_image(path)}
    labels, names = _val_labels(tree, files, where)
    val = [
        Labelled(labels[Path(path).name], f"val/{Path(path).name}", place)
        for path, place in files.items()
    ]
    return Found("imagenet", SIZE, "ignored", train, val, names, notes=notes)


def _at(base: str, name: str) -> str:
    return f"{base}/{name}" if base else name


def _is_image(path: str) -> bool:
    return Path(path).suffix.lower() in (".jpeg", ".jpg", ".png")


def _has_wnids(tree: Tree, folder: str) -> bool:
    names = tree.children(folder)
    return bool(names) and all(_WNID.fullmatch(name) for name in names)


def _has_val(tree: Tree, base: str) -> bool:
    return _at(base, "val") in tree.folders or VAL_TAR in tree.files


def _train_archive(tree: Tree) -> list[Labelled]:
    """The tar of tars, indexed without reading any image."""
    path, start = _archive(tree, TRAIN_TAR)
    images = []
    try:
        with open(path, "rb") as outer, open(path, "rb") as inner:
            end = start + tree.files[TRAIN_TAR].length
            for each in tar_members(outer, start, end):
                if not each.isreg():
                    continue
                wnid = Path(each.name).stem
                if Path(each.name).suffix != ".tar" or not _WNID.fullmatch(wnid):
                    raise MinicnnError(
                        f"source {tree.source}: {TRAIN_TAR} holds {each.name}, not one "
                        "tar per wnid; get the published archive"
                    )
                first = each.offset_data
                images += [
                    Labelled(
                        wnid,
                        f"train/{wnid}/{Path(image.name).name}",
                        Place(path, image.size, image.offset_data),
                    )
                    for image in tar_members(inner, first, first + each.size)
                    if image.isreg()
                ]
    except tarfile.TarError as error:
        raise _damaged(tree, TRAIN_TAR, error) from None
    return images


def _val_archive(tree: Tree) -> dict[str, Place]:
    path, start = _archive(tree, VAL_TAR)
    try:
        with open(path, "rb") as file:
            return {
                each.name.removeprefix("./").removeprefix("val/"): Place(
                    path, each.size, each.offset_data
                )
                for each in tar_members(file, start, start + tree.files[VAL_TAR].length)
                if each.isreg()
            }
    except tarfile.TarError as error:
        raise _damaged(tree, VAL_TAR, error) from None


def _archive(tree: Tree, name: str) -> tuple[str, int]:
    place = tree.files[name]
    if place.member:
        raise MinicnnError(f"source {tree.source}: {name} inside a zip; unpack the zip")
    return place.path, max(place.offset, 0)


def _damaged(tree: Tree, name: str, error: Exception) -> MinicnnError:
    return MinicnnError(
        f"source {tree.source}: {name} is damaged or truncated ({error}); get it again"
    )


def _val_labels(
    tree: Tree, files: dict[str, Place], where: str
) -> tuple[Labels, dict[str, str]]:
    """The wnid of every validation image by file name, and names of classes."""
    readers: tuple[Callable[[Tree, dict[str, Place]], tuple[str, Labels] | None], ...]
    readers = (_from_folders, _from_caffe, _from_kaggle)
    told = [answer for reader in readers if (answer := reader(tree, files))]
    devkit = _devkit(tree)
    names: dict[str, str] = {}
    if devkit:
        truth, names = devkit
        told.append(("the devkit", truth))
    if not told:
        raise MinicnnError(
            f"source {tree.source}: no labels for the images of {where}; put "
            f"{DEVKIT}.tar.gz, Caffe's val.txt or Kaggle's LOC_val_solution.csv beside "
            "it"
        )
    images = {Path(path).name for path in files}
    if len(images) != len(files):
        raise MinicnnError(f"source {tree.source}: {where} holds a file name twice")
    for teller, labels in told:
        odd = sorted(images ^ labels.keys())
        if odd:
            raise MinicnnError(
                f"source {tree.source}: {teller} labels {len(labels)} images, {where} "
                f"holds {len(images)} (first difference: {odd[0]}); they must be the "
                "same"
            )
    (first, labels), *others = told
    for teller, other in others:
        clashes = [name for name in labels if labels[name] != other[name]]
        if clashes:
            clash = min(clashes)
            raise MinicnnError(
                f"source {tree.source}: {clash} is {labels[clash]} by {first} but "
                f"{other[clash]} by {teller}; remove the wrong one"
            )
    return labels, names


def _from_folders(tree: Tree, files: dict[str, Place]) -> tuple[str, Labels] | None:
    nested = {path for path in files if "/" in path}
    if not nested:
        return None
    strange = next((path for path in files if not _WNID.match(path)), None)
    if strange or len(nested) != len(files):
        flat = strange or sorted(files.keys() - nested)[0]
        raise MinicnnError(
            f"source {tree.source}: val holds folders per wnid, and also {flat}; move "
            "it away"
        )
    return "val's folders", {
        Path(path).name: path.split("/", 1)[0] for path in sorted(files)
    }


def _from_caffe(tree: Tree, files: dict[str, Place]) -> tuple[str, Labels] | None:
    """Numbers count synsets.txt where it lies beside, else ILSVRC2012's wnids."""
    paths = [path for path in ("val.txt", "val/val.txt") if path in tree.files]
    if not paths:
        return None
    path = paths[0]
    beside = path.replace("val.txt", "synsets.txt")
    wnids = list(ilsvrc2012().wnids)
    if beside in tree.files:
        wnids = [line.split()[0] for line in tree.lines(beside)]
    labels: Labels = {}
    for line in tree.lines(path):
        name, _, number = line.rpartition(" ")
        if not number.isdecimal() or int(number) >= len(wnids):
            raise MinicnnError(
                f"source {tree.source}: {path}: line {line[:60]!r} is no file name and "
                f"class number under {len(wnids)}"
            )
        _put(tree, path, labels, Path(name).name, wnids[int(number)])
    return path, labels


def _from_kaggle(tree: Tree, files: dict[str, Place]) -> tuple[str, Labels] | None:
    path = "LOC_val_solution.csv"
    if path not in tree.files:
        return None
    labels: Labels = {}
    for line in tree.lines(path)[1:]:
        image, _, boxes = line.partition(",")
        wnid = (boxes.split() or [""])[0]
        if not _WNID.fullmatch(wnid):
            raise MinicnnError(
                f"source {tree.source}: {path}: line {line[:60]!r} names no wnid"
            )
        _put(tree, path, labels, f"{image}.JPEG", wnid)
    return path, labels


def _put(tree: Tree, path: str, labels: Labels, name: str, wnid: str) -> None:
    if labels.setdefault(name, wnid) != wnid:
        raise MinicnnError(
            f"source {tree.source}: {path} gives {name} two classes, {labels[name]} "
            f"and {wnid}"
        )


def _devkit(tree: Tree) -> tuple[Labels, dict[str, str]] | None:
    """Labels by file name, names by wnid. Ids are the devkit's own, 1 .. 1000."""
    archive, folder = f"{DEVKIT}.tar.gz", f"{DEVKIT}/data"
    found: dict[str, bytes] = {}
    try:
        if archive in tree.files:
            with tarfile.open(fileobj=io.BytesIO(read(tree.files[archive]))) as tar:
                for member in tar:
                    file = tar.extractfile(member)
                    if file is not None and member.name.startswith(folder):
                        found[Path(member.name).name] = file.read()
        elif f"{folder}/{_TRUTH}" in tree.files:
            found = {path: read(place) for path, place in tree.under(folder)}
        else:
            return None
        synsets = read_struct(found["meta.mat"], "synsets")
        wnids = {int(each["ILSVRC2012_ID"][0]): str(each["WNID"]) for each in synsets}
        names = {str(each["WNID"]): str(each["words"]) for each in synsets}
        truth = [wnids[int(line)] for line in found[_TRUTH].decode("ascii").split()]
    except (tarfile.TarError, EOFError, OSError, KeyError, ValueError) as error:
        raise MinicnnError(
            f"source {tree.source}: the devkit cannot be read ({error!r}); get "
            f"{archive} again"
        ) from None
    labels = {
        f"ILSVRC2012_val_{number:08d}.JPEG": wnid
        for number, wnid in enumerate(truth, 1)
    }
    return labels, names
