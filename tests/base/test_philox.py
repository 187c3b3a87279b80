"""Philox4x32-10: published vectors, the counter's layout, and what is drawn from it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from minicnn.base import philox
from minicnn.base.philox import Stream
from tests.support.reference.dropout import philox as block

# Random123's known answers for philox4x32, 10 rounds: counter, key, result.
ONES = 0xFFFFFFFF
KNOWN = [
    ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
SEED = 0xFEDCBA98_76543210
STEP = 0x12345678_9ABCDEF0


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(
    counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    columns = np.array([counter, counter], np.uint32).T
    found = philox.philox4x32(columns, key)
    assert found.dtype == np.uint32
    assert found.T.tolist() == [list(expected)] * 2
    assert block(counter, key) == expected  # type: ignore[arg-type]


def test_words_come_from_the_counter_as_documented() -> None:
    key = (SEED & 0xFFFFFFFF, SEED >> 32)
    step = (STEP & 0xFFFFFFFF, STEP >> 32)
    expected = [
        word for at in range(5) for word in block((at, Stream.CROP, *step), key)
    ]
    assert philox.words(SEED, Stream.CROP, STEP, 18).tolist() == expected[:18]


def test_any_stretch_can_be_drawn_on_its_own() -> None:
    whole = philox.words(1, Stream.ORDER, 2, 40)
    for start, count in itertools.product([0, 1, 3, 4, 7, 16], [0, 1, 4, 9]):
        part = philox.words(1, Stream.ORDER, 2, count, start=start)
        assert part.tolist() == whole[start : start + count].tolist()


def test_the_last_word_of_a_stream() -> None:
    last = block(((1 << 32) - 1, Stream.ORDER, 0, 0), (7, 0))[3]
    assert philox.words(7, Stream.ORDER, 0, 1, start=(1 << 34) - 1).tolist() == [last]


def test_seed_stream_and_step_each_matter() -> None:
    keys = [(0, 1, 0), (1, 1, 0), (1 << 32, 1, 0), (0, 2, 0), (0, 1, 1)]
    keys.append((0, 1, 1 << 32))
    drawn = {tuple(philox.words(*key, 4).tolist()) for key in keys}
    assert len(drawn) == len(keys)


def test_streams_do_not_overlap() -> None:
    bases = Stream.DROPOUT, Stream.WEIGHTS  # to which a layer's number is added
    used = [int(stream) for stream in Stream if stream not in bases]
    used += [base + layer for base in bases for layer in range(99)]
    assert len(set(used)) == len(used)


@pytest.mark.parametrize("below", [29, 1 << 32])
def test_integers_are_multiply_shift(below: int) -> None:
    words = philox.words(3, Stream.CROP, 5, 1000)
    found = philox.integers(3, Stream.CROP, 5, 1000, below)
    assert found.tolist() == [int(word) * below // (1 << 32) for word in words]


def test_permutation_sorts_its_documented_keys() -> None:
    # So many that some keys agree in their upper 16 bits.
    words = philox.words(4, Stream.ORDER, 9, 4000).tolist()
    keys = [high << 32 | low for high, low in zip(*[iter(words)] * 2, strict=True)]
    expected = sorted(range(2000), key=keys.__getitem__)
    assert philox.permutation(4, Stream.ORDER, 9, 2000).tolist() == expected
    assert philox.permutation(4, Stream.ORDER, 8, 2000).tolist() != expected


@pytest.mark.parametrize("count", [0, 1, 6, 7])
def test_normal_is_box_muller(count: int) -> None:
    words = philox.words(11, Stream.WEIGHTS, 0, 8).tolist()
    expected: list[float] = []
    for a, b in zip(words[::2], words[1::2], strict=True):
        radius = math.sqrt(-2 * math.log((a + 1) / 2**32))
        angle = 2 * math.pi * b / 2**32
        expected += [radius * math.cos(angle), radius * math.sin(angle)]
    found = philox.normal(11, Stream.WEIGHTS, count)
    assert found.dtype == np.float64
    # Both compute in float64; libraries' sines differ in the last bits.
    np.testing.assert_allclose(found, expected[:count], rtol=0, atol=1e-14)
