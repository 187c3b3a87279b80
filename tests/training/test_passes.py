"""Depths as texts, and which treatments one pass over the data trains."""

from __future__ import annotations

import pytest

from minicnn.base.errors import MinicnnError
from minicnn.training.treatment import Treatment, parse_depths, passes


def test_depths_as_texts() -> None:
    texts = {
        "3": [3],
        "1-7": [1, 2, 3, 4, 5, 6, 7],
        "5-5": [5],
        "1,3,5": [1, 3, 5],
        "6, 1-3": [1, 2, 3, 6],
    }
    assert [parse_depths(text) for text in texts] == list(texts.values())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "--n : not a number of layers"),
        ("1,", "--n 1,: not a number of layers"),
        ("1-2-3", "--n 1-2-3: not a number"),
        ("1.5", "--n 1.5: not a number"),
        ("0-3", "--n 0: must be 1..7"),
        ("-2", "--n -2: must be 1..7"),
        ("1-999999999", "--n 999999999: must be 1..7"),
        ("7-1", "--n 7-1: write the lower number first"),
        ("1-3,2", "--n 1-3,2: names a depth twice"),
    ],
)
def test_texts_that_name_no_depths(text: str, said: str) -> None:
    with pytest.raises(MinicnnError) as refused:
        parse_depths(text)
    assert str(refused.value).startswith(said)


def test_what_has_no_trunk_to_share_is_refused() -> None:
    with pytest.raises(MinicnnError, match="--share-trunk --finetune: layers that are"):
        passes("A", [1, 2], finetune=True, share_trunk=True)
    with pytest.raises(MinicnnError, match="--share-trunk --n 3: needs two depths"):
        passes("A", [3], share_trunk=True)
    alone = [[Treatment("B", "A", n, True)] for n in (1, 2)]
    assert passes("A", [1, 2], finetune=True) == alone
    kept = [[Treatment("A", "A", n, keep=1) for n in (1, 2)]]
    assert passes("A", [1, 2], "A", keep=1, share_trunk=True) == kept
