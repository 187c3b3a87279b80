"""What the convolutions are predicted to take: one kernel by hand, and all together."""

from __future__ import annotations

from dataclasses import replace

import pytest
from click.testing import CliRunner

from minicnn.experiments import predict_conv
from minicnn.ops.conv_plan import DATA, FORWARD, WEIGHTS, Plan
from minicnn.precision import BF16


def test_conv2_forward_by_hand() -> None:
    shape = replace(predict_conv.CAFFENET["conv2"], n=256)
    one = predict_conv.predict(FORWARD, shape, BF16)
    # 186,624 pixels in 729 tiles of 256, 2 groups: 1458 blocks on 132 processors.
    assert (one.how.tile, one.rounds) == ((256, 128, 8), 12)
    assert {name: round(seconds * 1e9) for name, seconds in one.step.items()} == {
        # 2·256·128·32 operations at 790e12·0.63/132 a second
        "mma": 556,
        # 8 warps read 64 + 64 lines of 64 bytes, 384 are written: 128 bytes a clock
        "shared": 401,
        # 384·64 bytes at 5.5e12/132 a second
        "cache": 590,
        # 8 warps · (64 mma + 16 ldmatrix + 200 others), 4 a clock
        "issue": 319,
    }
    # 38 steps, and 256·128 sums of 2 bytes at 5.5e12/132 a second: 24.0 µs, 12 times.
    assert one.seconds == pytest.approx(12 * (38 * 590e-9 + 1573e-9), rel=1e-3)
    # 2·256·27·27·256·1200 operations
    assert one.ideal == pytest.approx(114.7e9 / (790e12 * 0.63), rel=1e-3)


def test_memory_bounds_what_has_few_products() -> None:
    # One image: fc6's 9216·4096 weights of 2 bytes at 4.3e12 bytes a second.
    one = predict_conv.predict(FORWARD, predict_conv.CAFFENET["fc6"], BF16)
    assert one.seconds > 17.5e-6
    assert predict_conv.warp_tile(Plan(DATA, BF16, (256, 48, 8), 1, 1)) == (64, 48)
    assert predict_conv.warp_tile(Plan(WEIGHTS, BF16, (128, 256, 8), 1, 1)) == (64, 64)


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_table_has_every_kernel(precision: str) -> None:
    result = CliRunner().invoke(predict_conv.main, ["--precision", precision])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    # 8 layers of 3 kernels, less conv1's images' gradient; a head and a sum.
    assert len(lines) == 1 + 23 + 1
    assert "predicted" in lines[-1]
