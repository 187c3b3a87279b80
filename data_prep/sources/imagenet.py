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
from collections.abc import Iterator
from pathlib import Path

from minicnn.data.classes import ilsvrc2012
from minicnn.data_prep.sources.labelled import Found, Labelled, class_folders
from minicnn.data_prep.sources.mat5 import read_struct
from minicnn.data_prep.sources.tree import Place, Tree, read, tar_members

SIZE = 256
TRAIN_TAR, VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12"
_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_SOLUTION = "LOC_val_solution.csv"  # Kaggle's
_BASES = ("", "CLS-LOC/", "Data/CLS-LOC/", "ILSVRC/Data/CLS-LOC/")  # the last: Kaggle's
_WNID = re.compile(r"n\d{8}")

Labels = dict[str, str]  # wnids by file name
Told = dict[str, Labels]  # by what tells them; empty where it is not there


def recognise(tree: Tree) -> Found | None:
    """Both archives, or train/<wnid>/ and val/, or one of each."""
    base = next((base for base in _BASES if _has_wnids(tree, f"{base}train")), None)
    archived, folder = TRAIN_TAR in tree.files, f"{base or ''}val"
    has_val = VAL_TAR in tree.files or folder in tree.folders
    if not archived and (base is None or not has_val):
        return None
    notes = []
    if archived:
        train = _train_archive(tree)
        if base is not None:
            notes.append(f"{TRAIN_TAR} is read; {base}train/ beside it is not")
    else:
        train = class_folders(tree, f"{base}train")
    if VAL_TAR in tree.files:
        where, listed = VAL_TAR, _val_archive(tree)
    elif folder in tree.folders:
        where, listed = folder, dict(tree.under(folder))
    else:
        raise tree.error(f"{TRAIN_TAR} but no {VAL_TAR} beside it; get it too")
    files = {
        path: place
        for path, place in listed.items()
        if Path(path).suffix.lower() in (".jpeg", ".jpg", ".png")
    }
    labels, names = _val_labels(tree, files, where)
    val = [
        Labelled(labels[Path(path).name], f"val/{Path(path).name}", place)
        for path, place in files.items()
    ]
    return Found("imagenet", SIZE, train, val, names, notes)


def _has_wnids(tree: Tree, folder: str) -> bool:
    names = tree.children(folder)
    return bool(names) and all(_WNID.fullmatch(name) for name in names)


def _members(
    tree: Tree, name: str, inside: tarfile.TarInfo | None = None
) -> Iterator[tuple[tarfile.TarInfo, Place]]:
    """The regular files of an archive, or of a tar inside it, by their headers alone.

    Raises:
        MinicnnError: it is in a zip, or damaged.
    """
    place = tree.files[name]
    if place.member:
        raise tree.error(f"{name} inside a zip; unpack the zip")
    start, size = max(place.offset, 0), place.length
    if inside:
        start, size = inside.offset_data, inside.size
    try:
        with open(place.path, "rb") as file:
            for each in tar_members(file, start, start + size):
                if each.isreg():
                    yield each, Place(place.path, each.size, each.offset_data)
    except tarfile.TarError as error:
        raise tree.error(
            f"{name} is damaged or truncated ({error}); get it again"
        ) from None


def _train_archive(tree: Tree) -> list[Labelled]:
    """The images of the tar of tars."""
    images = []
    for each, _ in _members(tree, TRAIN_TAR):
        wnid = Path(each.name).stem
        if Path(each.name).suffix != ".tar" or not _WNID.fullmatch(wnid):
            raise tree.error(
                f"{TRAIN_TAR} holds {each.name}, not one tar per wnid; get the "
                "published archive"
            )
        for image, place in _members(tree, TRAIN_TAR, each):
            path = f"train/{wnid}/{Path(image.name).name}"
            images.append(Labelled(wnid, path, place))
    return images


def _val_archive(tree: Tree) -> dict[str, Place]:
    return {
        each.name.removeprefix("./").removeprefix("val/"): place
        for each, place in _members(tree, VAL_TAR)
    }


def _val_labels(
    tree: Tree, files: dict[str, Place], where: str
) -> tuple[Labels, dict[str, str]]:
    """The wnid of every validation image by file name, and names of classes."""
    told = {**_from_folders(tree, files), **_from_caffe(tree), **_from_kaggle(tree)}
    truth, names = _devkit(tree)
    told |= truth
    if not told:
        raise tree.error(
            f"no labels for the images of {where}; put {DEVKIT}.tar.gz, Caffe's "
            f"val.txt or Kaggle's {_SOLUTION} beside it"
        )
    images = {Path(path).name for path in files}
    if len(images) != len(files):
        raise tree.error(f"{where} holds a file name twice")
    for teller, labels in told.items():
        odd = sorted(images ^ labels.keys())
        if odd:
            raise tree.error(
                f"{teller} labels {len(labels)} images, {where} holds {len(images)} "
                f"(first difference: {odd[0]}); they must be the same"
            )
    (first, labels), *others = told.items()
    for teller, other in others:
        clashes = [name for name in labels if labels[name] != other[name]]
        if clashes:
            clash = min(clashes)
            raise tree.error(
                f"{clash} is {labels[clash]} by {first} but {other[clash]} by {teller};"
                " remove the wrong one"
            )
    return labels, names


def _from_folders(tree: Tree, files: dict[str, Place]) -> Told:
    nested = {path for path in files if "/" in path}
    if not nested:
        return {}
    strange = next((path for path in files if not _WNID.match(path)), None)
    if strange or len(nested) != len(files):
        flat = strange or sorted(files.keys() - nested)[0]
        raise tree.error(f"val holds folders per wnid, and also {flat}; move it away")
    labels = {Path(path).name: path.split("/", 1)[0] for path in sorted(files)}
    return {"val's folders": labels}


def _from_caffe(tree: Tree) -> Told:
    """Numbers count synsets.txt where it lies beside, else ILSVRC2012's wnids."""
    path = next((each for each in ("val.txt", "val/val.txt") if each in tree.files), "")
    if not path:
        return {}
    beside = path.replace("val.txt", "synsets.txt")
    wnids = list(ilsvrc2012().wnids)
    if beside in tree.files:
        wnids = [line.split()[0] for line in tree.lines(beside)]
    labels: Labels = {}
    for line in tree.lines(path):
        name, _, number = line.rpartition(" ")
        if not number.isdecimal() or int(number) >= len(wnids):
            raise tree.error(
                f"{path}: line {line[:60]!r} is no file name and class number under "
                f"{len(wnids)}"
            )
        _put(tree, path, labels, Path(name).name, wnids[int(number)])
    return {path: labels}


def _from_kaggle(tree: Tree) -> Told:
    if _SOLUTION not in tree.files:
        return {}
    labels: Labels = {}
    for line in tree.lines(_SOLUTION)[1:]:
        image, _, boxes = line.partition(",")
        wnid = (boxes.split() or [""])[0]
        if not _WNID.fullmatch(wnid):
            raise tree.error(f"{_SOLUTION}: line {line[:60]!r} names no wnid")
        _put(tree, _SOLUTION, labels, f"{image}.JPEG", wnid)
    return {_SOLUTION: labels}


def _put(tree: Tree, path: str, labels: Labels, name: str, wnid: str) -> None:
    if labels.setdefault(name, wnid) != wnid:
        raise tree.error(f"{path} gives {name} two classes, {labels[name]} and {wnid}")


def _devkit(tree: Tree) -> tuple[Told, dict[str, str]]:
    """What it tells, and names by wnid. Ids are the devkit's own, 1 .. 1000."""
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
            return {}, {}
        synsets = read_struct(found["meta.mat"], "synsets")
        wnids = {int(each["ILSVRC2012_ID"][0]): str(each["WNID"]) for each in synsets}
        truth = [wnids[int(line)] for line in found[_TRUTH].decode("ascii").split()]
    except (tarfile.TarError, EOFError, OSError, KeyError, ValueError) as error:
        raise tree.error(
            f"the devkit cannot be read ({error!r}); get {archive} again"
        ) from None
    labels = {
        f"ILSVRC2012_val_{number:08d}.JPEG": wnid
        for number, wnid in enumerate(truth, 1)
    }
    names = {str(each["WNID"]): str(each["words"]) for each in synsets}
    return {"the devkit": labels}, names
