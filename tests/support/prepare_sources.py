"""Builds small sources in the published layouts, out of images of one colour each.

And opens them, to see what was recognised.
"""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from minicnn.data_prep.sources.labelled import Source
from minicnn.data_prep.sources.recognise import open_source

WNIDS = ["n01440764", "n01443537", "n02123045", "n04557648"]
# The devkit's own order is not that of the sorted wnids.
DEVKIT_IDS = {"n02123045": 1, "n01440764": 2, "n04557648": 3, "n01443537": 4}
TRAIN_EACH, VAL_EACH = 3, 2


def colour(*key: object) -> tuple[int, int, int]:
    """A colour that belongs to a key."""
    word = zlib.crc32(repr(key).encode())
    return word & 255, word >> 8 & 255, word >> 16 & 255


def picture(
    rgb: tuple[int, int, int], kind: str = "JPEG", size: tuple[int, int] = (20, 14)
) -> bytes:
    """An image file of one colour."""
    file = io.BytesIO()
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    Image.new("RGB", size, rgb).save(file, kind, **options)
    return file.getvalue()


def put(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    return put(path, tar_bytes(members, mode))


def tar_bytes(members: dict[str, bytes], mode: str = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def archives(
    folder: Path, train: dict[str, dict[str, bytes]], val: dict[str, bytes]
) -> Path:
    """ImageNet's two archives, without labels: training images by wnid and name."""
    tars = {f"{wnid}.tar": tar_bytes(members) for wnid, members in train.items()}
    tar(folder / "ILSVRC2012_img_train.tar", tars)
    tar(folder / "ILSVRC2012_img_val.tar", val)
    return folder


def devkit(ids: dict[str, int], truth: list[str]) -> dict[str, bytes]:
    """The devkit's files, of ids by wnid and the wnid of each validation image."""
    lines = "".join(f"{ids[wnid]}\n" for wnid in truth)
    base = "ILSVRC2012_devkit_t12"
    return {
        f"{base}/data/meta.mat": meta_mat(ids),
        f"{base}/data/ILSVRC2012_validation_ground_truth.txt": lines.encode(),
        f"{base}/readme.txt": b"about the devkit",
    }


def val_truth() -> list[str]:
    """The wnid of validation image 1, 2, …: neither sorted nor in order of ids."""
    return [WNIDS[number * 3 % 4] for number in range(4 * VAL_EACH)]


def val_names() -> list[str]:
    return [f"ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, 4 * VAL_EACH + 1)]


def train_members(wnid: str) -> dict[str, bytes]:
    names = [f"{wnid}_{number}.JPEG" for number in (7, 10026, 3)]
    return {name: picture(colour(name)) for name in names}


def imagenet_archives(folder: Path) -> Path:
    """The two archives, without labels."""
    val = {name: picture(colour(name)) for name in val_names()}
    return archives(folder, {wnid: train_members(wnid) for wnid in WNIDS[::-1]}, val)


def imagenet_folders(folder: Path, nested: bool) -> Path:
    """The archives extracted; val flat, or in folders per wnid."""
    for wnid in WNIDS:
        for name, data in train_members(wnid).items():
            put(folder / "train" / wnid / name, data)
    for name, wnid in zip(val_names(), val_truth(), strict=True):
        place = folder / "val" / wnid if nested else folder / "val"
        put(place / name, picture(colour(name)))
    return folder


def add_devkit(folder: Path, as_folder: bool = False) -> None:
    members = devkit(DEVKIT_IDS, val_truth())
    if as_folder:
        for name, data in members.items():
            put(folder / name, data)
    else:
        tar(folder / "ILSVRC2012_devkit_t12.tar.gz", members, "w:gz")


def add_caffe(folder: Path) -> None:
    """Class numbers as Caffe publishes them, among ILSVRC2012's 1000."""
    numbers = {"n01440764": 0, "n01443537": 1, "n02123045": 281, "n04557648": 898}
    pairs = zip(val_names(), val_truth(), strict=True)
    put(folder / "val.txt", "".join(f"{name} {numbers[w]}\n" for name, w in pairs))


def add_kaggle(folder: Path) -> None:
    pairs = zip(val_names(), val_truth(), strict=True)
    lines = [f"{name[:-5]},{wnid} 1 2 3 4 {wnid} 5 6 7 8 \n" for name, wnid in pairs]
    text = "ImageId,PredictionString\n" + "".join(lines[::-1])
    put(folder / "LOC_val_solution.csv", text)


def meta_mat(ids: dict[str, int]) -> bytes:
    """A MATLAB file with fields, types and shape as in the devkit's `synsets`."""
    kinds = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object)]
    synsets = [(float(number), wnid, "word, other") for wnid, number in ids.items()]
    file = io.BytesIO()
    table = np.array(synsets, kinds)[:, None]
    savemat(file, {"synsets": table}, do_compression=True)
    return file.getvalue()


def imagenet_of(folder: Path, samples: list[Path]) -> None:
    """The published archives of real files, each once in training and validation."""
    samples = samples[::-1]
    wnids = [path.name.split("_")[0] for path in samples]
    data = [path.read_bytes() for path in samples]
    train = {w: {f"{w}_1.JPEG": each} for w, each in zip(wnids, data, strict=True)}
    val = {f"ILSVRC2012_val_{n:08d}.JPEG": each for n, each in enumerate(data, 1)}
    archives(folder, train, val)
    ids = {wnid: number for number, wnid in enumerate(wnids, 1)}
    tar(folder / "ILSVRC2012_devkit_t12.tar.gz", devkit(ids, wnids), "w:gz")


def tiny_imagenet(write: Callable[[str, bytes], object]) -> None:
    """Tiny ImageNet's tree, handed file by file to `write`."""
    truth = val_truth()
    for wnid in WNIDS:
        for number in range(TRAIN_EACH):
            name = f"{wnid}_{number}.JPEG"
            data = picture(colour(name), size=(64, 64))
            write(f"train/{wnid}/images/{name}", data)
        write(f"train/{wnid}/{wnid}_boxes.txt", b"x\t0\t0\t9\t9\n")
    lines = []
    for number, wnid in enumerate(truth):
        name = f"val_{number}.JPEG"
        write(f"val/images/{name}", picture(colour(name), size=(64, 64)))
        lines.append(f"{name}\t{wnid}\t0\t0\t9\t9\n")
    write("val/val_annotations.txt", "".join(lines).encode())
    write("wnids.txt", "\n".join(WNIDS[::-1]).encode())
    write("words.txt", b"n01440764\tsomething else, tench\nn99999999\tunused\n")
    write("test/images/test_0.JPEG", picture((1, 2, 3)))


def cifar_members() -> dict[str, bytes]:
    """Records of random pixels: 2 coarse classes, 3 fine ones."""
    draw = np.random.default_rng(0)

    def records(count: int) -> bytes:
        table = draw.integers(0, 256, (count, 3074), np.uint8)
        table[:, 0], table[:, 1] = 1, np.arange(count) % 3
        return table.tobytes()

    top = "cifar-100-binary"
    return {
        f"{top}/train.bin": records(9),
        f"{top}/test.bin": records(6),
        f"{top}/fine_label_names.txt": b"apple\nbear\nclock\n\n",
        f"{top}/coarse_label_names.txt": b"x\ny\n",
    }


def class_folders(folder: Path, classes: dict[str, int], size: int = 20) -> Path:
    """Class folders with so many images each, of a colour by class and number."""
    for name, count in classes.items():
        for number in range(count):
            data = picture(colour(name, number), "PNG", (size, size))
            put(folder / name / f"{number:03d}.png", data)
    return folder


def opened(path: Path, **options: object) -> Source:
    return open_source(path, path.parent / "scratch.tar", **options)


def about(source: Source) -> tuple[object, int, object]:
    """Its kind, its own size, and what happens to EXIF orientation."""
    known = source.contents
    return known.attributes["source"], known.size[0], known.attributes["orientation"]


def rows(source: Source) -> list[tuple[int, str, str]]:
    """(part, wnid, file name) of each row."""
    known = source.contents
    wnids = [known.wnids[label] for label in known.labels]
    names = [Path(name).name for name in known.files]
    return list(zip(known.split.tolist(), wnids, names, strict=True))
