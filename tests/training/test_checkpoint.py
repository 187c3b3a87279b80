"""Checkpoint files: round trip, equal bytes, damage found, fallback."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from minicnn.base.errors import MinicnnError
from minicnn.training import checkpoint
from minicnn.training.checkpoint import Checkpoint


def make(step: int) -> Checkpoint:
    rng = np.random.default_rng(step)

    def tensor(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    return Checkpoint(
        step,
        {"conv1.w": tensor(4, 3, 3, 3), "conv1.b": tensor(4)},
        {"conv1.b": tensor(4)},
        tensor(8, 8, 3),
        {"loss_sum": 0.1 + step, "loss_count": 3},
    )


def equal(a: Checkpoint, b: Checkpoint) -> bool:
    parts = [(a.weights, b.weights), (a.momentum, b.momentum)]
    return (
        (a.step, a.extra) == (b.step, b.extra)
        and np.array_equal(a.mean, b.mean)
        and all(x.keys() == y.keys() for x, y in parts)
        and all(np.array_equal(x[k], y[k]) for x, y in parts for k in x)
    )


def test_every_bit_comes_back_and_equal_states_give_equal_bytes(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, make(7))
    assert path.name == "step-00000007.safetensors"
    assert equal(checkpoint.load(path), make(7))
    before = path.read_bytes()
    assert checkpoint.save(tmp_path, make(7)).read_bytes() == before


def test_only_the_last_two_are_kept_and_no_litter(tmp_path: Path) -> None:
    (tmp_path / ".step-00000007.safetensors.partial").write_bytes(b"cut off by a kill")
    for step in (1, 2, 30):
        checkpoint.save(tmp_path, make(step))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step-00000002.safetensors", "step-00000030.safetensors"]


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "truncated":
        del content[-10:]
    elif how == "empty":
        content.clear()
    elif how == "flipped bit":
        content[-5] ^= 4
    elif how == "no header":
        content[:16] = b"\xff" * 16
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["truncated", "empty", "flipped bit", "no header"])
def test_damage_falls_back_to_the_one_before_and_says_so(
    how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checkpoint.latest(tmp_path) is None
    first = checkpoint.save(tmp_path, make(1))
    damage(checkpoint.save(tmp_path, make(2)), how)
    found = checkpoint.latest(tmp_path)
    assert found is not None
    assert equal(found, make(1))
    [said] = capsys.readouterr().err.splitlines()
    assert "step-00000002.safetensors" in said
    assert "falling back" in said
    damage(first, how)
    with pytest.raises(MinicnnError, match="every checkpoint is damaged; --fresh"):
        checkpoint.latest(tmp_path)


def test_any_flipped_bit_of_the_header_is_noticed(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, make(7))
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    rng = np.random.default_rng(0)
    for place in rng.integers(0, 8 * header, 600):
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        # Some flips mean nothing: a space of padding, an escape of the same letter.
        try:
            found = checkpoint.load(path)
        except MinicnnError:
            continue
        assert equal(found, make(7)), f"bit {place}"
