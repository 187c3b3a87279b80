"""Splits: the published halves, the rules, and what bad files and names say."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

import pytest

from minicnn.base.errors import MinicnnError
from minicnn.data.classes import ClassList, class_index, ilsvrc2012
from minicnn.data.splits import Task, other, split_report, split_table, task_classes

IMAGENET = ilsvrc2012()
# Of each published half: the start of the SHA-256 of its class indices (decimal, one
# space between), and the published MD5 of its list of validation files
# (github.com/yosinski/convnet_transfer, make_reduced_datasets.sh). The indices were
# found equal to the published ones by those MD5s.
PUBLISHED = """
random-0        A 8c4edb040dd53498 2f10009e20d77eb7007cf70674958b94
random-0        B 2ae05f6090b50aaf cce39b383d681345c873faf2c0c28d33
random-1        A f528c242c2c5a71f 9ab48b6420504e32ff4498e7d8569f8b
random-1        B adec40ba824b687d 57522f5e2aa69547846089f5197c8a6b
random-2        A 655a3d377c416c42 03d05b6565ab9176baccdd05d746bfd1
random-2        B 6e38a5ac261d97a2 18de8b37378e07e60dc602b6130eeeb2
random-3        A 3db058e1b9b147b9 46086440ddde128f169f23331998499d
random-3        B c0c98a782ac51cfa e5f9f0895fd0d49a8ac0b804ec891282
natural-manmade A a7434010fef07469 4fb63c72229ba07106a558127192cb9f
natural-manmade B b20f6779fc74a4e2 f03be5732fb6bc7928ee53397b043613
"""
HALVES = [line.split() for line in PUBLISHED.splitlines() if line]

WNIDS = ["n1", "n2", "n3", "n4", "n5"]
NAMES = ["crane", "cat", "crane", "cup", "car"]
GROUPS = ["natural", "natural", "manmade", "manmade", "manmade"]
CLASSES = ClassList(WNIDS, NAMES, GROUPS)


def classes(split: str, task: str) -> tuple[int, ...]:
    return task_classes(split, task, CLASSES).classes


@pytest.mark.parametrize(("split", "task", "digest", "_"), HALVES)
def test_published_halves(split: str, task: str, digest: str, _: str) -> None:
    found = task_classes(split, task, IMAGENET).classes
    text = " ".join(map(str, found))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest


def test_published_checksums() -> None:
    """The published MD5s themselves; they need Caffe's list of validation labels."""
    path = Path(os.environ.get("MINICNN_TEST_DATA", "")) / "caffe" / "val.txt"
    if not path.is_file():
        pytest.skip("needs MINICNN_TEST_DATA/caffe/val.txt (Caffe's caffe_ilsvrc12)")
    rows = [line.split() for line in path.read_text().splitlines()]
    for split, task, _, published in HALVES:
        found = task_classes(split, task, IMAGENET).classes
        place = {str(label): at for at, label in enumerate(found)}
        lines = [f"{name} {place[label]}\n" for name, label in rows if label in place]
        assert hashlib.md5("".join(lines).encode()).hexdigest() == published, split


def test_the_class_list() -> None:
    assert len(IMAGENET.wnids) == len(set(IMAGENET.wnids)) == 1000
    assert list(IMAGENET.wnids) == sorted(IMAGENET.wnids)
    assert IMAGENET.names[1] == "goldfish"
    assert set(IMAGENET.groups) == {"natural", "manmade"}


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**32 - 1])
@pytest.mark.parametrize("count", [2, 5, 40])
def test_random_halves_share_nothing_and_leave_nothing(seed: int, count: int) -> None:
    ids = [f"c{number:02d}" for number in range(count)]
    listed = ClassList(ids, ids, [""] * count)
    tasks = [task_classes(f"random-{seed}", task, listed) for task in "AB"]
    assert sorted(tasks[0].classes + tasks[1].classes) == list(range(count))
    assert [len(task.classes) for task in tasks] == [count // 2, count - count // 2]
    assert all(list(task.classes) == sorted(task.classes) for task in tasks)


def test_natural_manmade_by_the_class_list_where_the_store_is_silent() -> None:
    picked = [0, 999, 403]
    wnids = [IMAGENET.wnids[index] for index in picked]
    listed = ClassList(wnids, wnids, [""] * 3)
    for task, expected in (("A", (0,)), ("B", (1, 2))):
        found = task_classes("natural-manmade", task, listed)
        assert found.classes == expected


def test_a_groups_file_overrides(tmp_path: Path) -> None:
    path = tmp_path / "groups.toml"
    path.write_text('natural = ["cup"]\nmanmade = ["n1"]\n')
    for groups, right in ((None, (0, 1)), (path, (1, 3))):
        found = task_classes("natural-manmade", "A", CLASSES, groups)
        assert found.classes == right


@pytest.mark.parametrize(
    ("task", "groups", "told"),
    [
        ("A", ["natural", "", "", "manmade", ""], r"n2 \(cat\).* 2 others.*--groups"),
        ("B", ["natural"] * 5, "no class of 5 is in task B"),
    ],
)
def test_groups_that_make_no_task(task: str, groups: list[str], told: str) -> None:
    with pytest.raises(MinicnnError, match=told):
        task_classes("natural-manmade", task, ClassList(WNIDS, NAMES, groups))


def test_a_split_file_names_classes_by_id_or_name(tmp_path: Path) -> None:
    path = tmp_path / "split.toml"
    path.write_text('A = ["cup", "n1"]\nB = ["cat", "n3"]\n')
    assert classes(f"file:{path}", "A") == (0, 3)
    assert classes(f"file:{path}", "B") == (1, 2)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('A = ["cat"]\nB = ["crane"]', "n1, n3"),
        ('A = ["cat", "n2"]\nB = ["cup"]', "'n2' is listed in A and again in A"),
    ],
)
def test_bad_split_files(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "split.toml"
    path.write_text(text)
    with pytest.raises(MinicnnError, match=f"^{re.escape(str(path))}: .*{told}.*$"):
        classes(f"file:{path}", "A")


def test_all() -> None:
    assert classes("all", "all") == (0, 1, 2, 3, 4)


def test_one_class_has_no_halves() -> None:
    with pytest.raises(MinicnnError, match="no class of 1"):
        task_classes("random-0", "A", ClassList(["n1"], ["cat"], [""]))


def test_the_other_task() -> None:
    assert (other("A"), other("B")) == ("B", "A")
    with pytest.raises(MinicnnError, match="'all'"):
        other("all")


def test_an_id_comes_before_a_name() -> None:
    assert class_index("cat", ClassList(["dog", "cat"], ["cat", "dog"], ["", ""])) == 1


def test_report_and_table() -> None:
    report = split_report(Task("random-0", "B", (1, 4)), CLASSES)
    assert json.loads(json.dumps(report)) == {
        "split": "random-0",
        "task": "B",
        "classes": [
            {"index": 1, "wnid": "n2", "name": "cat"},
            {"index": 4, "wnid": "n5", "name": "car"},
        ],
    }
    head, *rows = split_table(report).splitlines()
    assert "random-0" in head
    assert "2 classes" in head
    assert [row.split() for row in rows] == [["1", "n2", "cat"], ["4", "n5", "car"]]
