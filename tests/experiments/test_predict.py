"""What kernels should take: walks by hand, launches by hand, and a whole step."""

from __future__ import annotations

import functools
import struct
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from minicnn.base.errors import MinicnnError
from minicnn.base.precision import BF16
from minicnn.devices import nvrtc
from minicnn.devices.nvrtc import KernelReport
from minicnn.experiments import predict
from minicnn.experiments.bench.ops import Call
from minicnn.experiments.predict import Prediction
from minicnn.experiments.ptx_walk import Walk, special
from minicnn.nn import architectures
from minicnn.ops import dropout
from minicnn.ops.conv import conv
from minicnn.ops.conv.shape import ConvShape
from tests.support.runs import MINIATURE

# Threads beyond the end leave; the others add numbers up, n of them, by fours, and the
# rest one by one, and copy 16 bytes on every fourth pass but the last, where they fill.
SUM = """kernel(
	.param .u64 sum_param_0,
	.param .align 4 .b8 sum_param_1[12]
)
.maxntid 256, 1, 1
{
	.reg .pred 	%p<9>;
	ld.param.u64 	%rd1, [sum_param_0];
	ld.param.u32 	%r1, [sum_param_1+4];
	mov.u32 	%r2, %ctaid.x;
	mov.u32 	%r3, %ntid.x;
	mov.u32 	%r4, %tid.x;
	mad.lo.s32 	%r5, %r2, %r3, %r4;
	setp.ge.s32 	%p1, %r5, 1000;
	@%p1 bra 	$L__BB0_5;

	mov.f32 	%f1, 0f00000000;
	mov.u32 	%r6, 0;

$L__BB0_1:
	add.s32 	%r6, %r6, 4;
	setp.lt.s32 	%p2, %r6, %r1;
	selp.b32 	%r7, 16, 0, %p2;
	// begin inline asm
	cp.async.cg.shared.global [%r8], [%rd1], 16, %r7;
	// end inline asm
	@%p2 bra 	$L__BB0_1;

	ld.global.nc.u32 	%r9, [%rd1+-4];

$L__BB0_3:
	add.s32 	%r9, %r9, -1;
	setp.ne.s32 	%p3, %r9, 0;
	@%p3 bra 	$L__BB0_3;

	setp.gt.ftz.f32 	%p4, %f1, %f2;
	@%p4 bra 	$L__BB0_5;

	st.global.f32 	[%rd1], %f1;

$L__BB0_5:
	ret;

}
"""


def parameters(address: int, n: int) -> list[bytes]:
    return [struct.pack("<Q", address), struct.pack("<3i", 7, n, 9)]


def test_a_walk_by_hand() -> None:
    walk = Walk(SUM)
    assert len(walk.code) == 23
    asked = []

    def load(address: int, size: int) -> int | None:
        asked.append((address, size))
        return 3

    grid, block = (4, 1, 1), (256, 1, 1)
    # n = 10: three passes by four, of which the last copies nothing; then three by one.
    # A float decides nothing, so that the store runs.
    found = walk.count(parameters(4096, 10), load, special(grid, block, 3, 100))
    assert found.instructions == 8 + 2 + 3 * 5 + 1 + 3 * 3 + 2 + 1 + 1
    assert found.copied == 2 * 16
    assert asked == [(4092, 4)]
    # Thread 3·256 + 232 is the first beyond the end.
    found = walk.count(parameters(4096, 10), load, special(grid, block, 3, 231))
    assert found.instructions > 10
    found = walk.count(parameters(4096, 10), load, special(grid, block, 3, 232))
    assert found.instructions == 8 + 1
    # A table that cannot be read: the loop over it ends at once.
    found = walk.count(
        parameters(4096, 10), lambda *_: None, special(grid, block, 0, 0)
    )
    assert found.instructions == 8 + 2 + 3 * 5 + 1 + 3 + 2 + 1 + 1


def test_threads_know_who_they_are() -> None:
    # Block 7 of 3 × 2 × 5 is (1, 0, 1); thread 35 of 8 × 4 × 2 is (3, 0, 1).
    found = special((3, 2, 5), (8, 4, 2), 7, 35)
    assert [found[f"%ctaid.{axis}"] for axis in "xyz"] == [1, 0, 1]
    assert [found[f"%tid.{axis}"] for axis in "xyz"] == [3, 0, 1]
    assert [found[f"%nctaid.{axis}"] for axis in "xyz"] == [3, 2, 5]
    assert [found[f"%ntid.{axis}"] for axis in "xyz"] == [8, 4, 2]
    assert found["%laneid"] == 3


@pytest.mark.parametrize(
    ("instruction", "value"),
    [
        ("add.s32 %r9, %r1, 1;", -(2**31)),  # of 2^31 − 1
        ("mul.wide.s32 %r9, %r2, 8;", -40),
        ("mul.hi.u32 %r9, %r2, 2;", 1),
        ("div.s32 %r9, %r2, 2;", -2),
        ("rem.s32 %r9, %r2, 2;", -1),
        ("shr.s32 %r9, %r2, 1;", -3),
        ("shr.u32 %r9, %r2, 28;", 15),
        ("and.b32 %r9, %r2, 7;", 3),
        ("cvt.u64.u32 %r9, %r2;", 2**32 - 5),
        ("cvt.s64.s32 %r9, %r2;", -5),
        ("cvt.u32.u64 %r9, 4294967299;", 3),
        ("setp.lt.u32 %r9, %r2, 3;", 0),
        ("setp.lt.s32 %r9, %r2, 3;", 1),
        ("selp.b32 %r9, 4, 5, %p1;", 4),
        ("or.pred %r9, %p1, %p7;", 1),  # %p7 is unknown
        ("and.pred %r9, %p2, %p7;", 0),
        ("not.pred %r9, %p2;", 1),
        ("max.s32 %r9, %r2, 3;", 3),
        ("neg.s32 %r9, %r2;", 5),
        ("add.s32 %r9, %r8, 1;", None),  # %r8 is unknown
        ("cvt.rzi.ftz.s32.f32 %r9, %f1;", None),
    ],
)
def test_integers(instruction: str, value: int | None) -> None:
    # %r9 is compared with what it should be; only if equal does the walk end early.
    expected = 12345 if value is None else value
    walk = Walk(
        "{ \n"
        "mov.u32 %r1, 2147483647;\nmov.s32 %r2, -5;\n"
        "setp.eq.s32 %p1, 1, 1;\nsetp.eq.s32 %p2, 1, 2;\n"
        f"{instruction}\n"
        f"setp.eq.s64 %p3, %r9, {expected};\n"
        "@%p3 bra $end;\nmov.u32 %r3, 0;\n$end:\nret;\n}"
    )
    assert [each.weight for each in walk.code[:4]] == [1] * 4
    weight = 17 if instruction[:3] in ("div", "rem") else 1
    length = walk.count([], lambda *_: None, {}).instructions
    assert length == weight + (8 if value is None else 7)


def test_a_launch_by_hand() -> None:
    # A warp runs nine moves, a division and a branch: 9 + 17 + 1, and returns.
    lines = [f"mov.u32 %r{number}, {number};" for number in range(9)]
    lines.append("div.s32 %r1, %r8, %r2;")
    text = "\n".join(["{", *lines, "bra $end;", *lines, "mov.u32 %r1, 0;"])
    report = KernelReport(
        "f<float>", "sm_90", 0, 0, 0, 0, 0, 0, text + "\n$end:\nret;\n}"
    )
    x, y = np.zeros(1 << 20, np.float32), np.zeros(1 << 20, np.float32)
    arguments = {"x": x, "y": y, "rate": 0.5, "seed": 0, "stream": 0, "step": None}
    call = Call("drop6", dropout.apply, arguments)
    kernel = SimpleNamespace(name="f<float>", instance=SimpleNamespace(group="float"))
    launch = kernel, (200, 1, 1), (96, 1, 1), [x, y, np.int32(3), None], 0
    found = predict.predict(call, launch, report, alone=True)
    assert (found.blocks, found.warps) == (200, 3)
    assert found.parts["memory"] == pytest.approx(2 * 4 * 2**20 / 4.3e12)
    # 132 processors, two rounds of blocks; 4 instructions a clock.
    rounds = 2 * 132 / 200
    issue = rounds * 200 * 3 * (9 + 17 + 2) / (132 * 4 * 1.755e9)
    assert found.parts["issue"] == pytest.approx(issue)
    assert (found.parts["products"], found.parts["cache"]) == (0, 0)
    assert found.bound == "memory"
    assert found.seconds == pytest.approx(2 * 4 * 2**20 / 4.3e12 + 1.5e-6)
    # Beside others, an op's launch moves its own arrays, once each.
    assert predict.moved(call, (*launch[:3], [x, None], 0), alone=False) == 4 * 2**20


@functools.cache
def compiled(file: str, dtype: Any) -> dict[str, KernelReport]:
    try:
        reports = nvrtc.compile_report(file, predict.ARCH, dtype)
    except MinicnnError as error:
        pytest.skip(str(error))
    return {report.name: report for report in reports}


def test_conv2_forward_by_hand() -> None:
    shape = ConvShape(256, 27, 27, 96, 256, 5, 5, pad=(2, 2), groups=2)
    dev = predict.DryDevice()
    x, y = (dev.empty((256, 27, 27, c), BF16) for c in (96, 256))
    w, b = dev.empty((256, 5, 5, 48), BF16), dev.zeros((256,), BF16)
    arguments = {"x": x, "w": w, "b": b, "y": y, "shape": shape, "relu": True}
    call = Call("conv2", conv.forward, arguments)
    (launch,) = predict.launched(dev, call)
    name = "conv_forward<bf16, 256, 128, 8>"
    assert launch[0].name == name
    report = compiled("conv.cu", BF16)[name]
    found = predict.predict(call, launch, report, alone=True)
    # 186,624 pixels in 729 tiles of 256, 2 groups: 1458 blocks on 132 processors, which
    # take 12 rounds of 11.05.
    assert found.blocks == 1458
    rounds = 12 * 132 / 1458
    # 2·256·27·27·256·1200 operations at 63 % of 790 TFLOP/s.
    products = rounds * 2 * 256 * 27 * 27 * 256 * 1200 / (790e12 * 0.63)
    assert found.parts["products"] == pytest.approx(products)
    # 38 steps of K copy 32 numbers of 2 bytes of 256 + 128 lines; one more at most.
    lines = rounds * 1458 * 384 * 64 / 5.5e12
    assert 38 * lines <= found.parts["cache"] * (1 + 1e-9) <= 39 * lines * (1 + 1e-9)
    # A step of a warp is 64 mma, 16 ldmatrix, and 110 to 240 others in machine code.
    step = rounds * 1458 * 8 / (132 * 4 * 1.755e9)
    assert 38 * 190 * step < found.parts["issue"] < 45 * 320 * step
    moved = 2 * (256 * 27 * 27 * (96 + 256) + 256 * 1200 + 256)
    assert found.parts["memory"] == pytest.approx(moved / 4.3e12)


def test_instructions_are_about_those_of_the_machine() -> None:
    for name, report in compiled("conv.cu", BF16).items():
        if name.endswith(", 8>"):  # others copy numbers in loops that ptxas unrolls
            about = sum(each.weight for each in Walk(report.ptx).code)
            assert 0.8 < report.instructions / about < 1.1, name


@pytest.mark.parametrize("precision", predict.PRECISIONS)
def test_a_step_without_running_it(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(architectures.ARCHITECTURES, "miniature", MINIATURE)
    names: list[str] = []

    def fake(ptx: str) -> Walk:
        return Walk("{\nret;\n}")

    class Reports(dict[str, KernelReport]):
        def __missing__(self, name: str) -> KernelReport:
            names.append(name)
            return KernelReport(name, "sm_90", 0, 0, 0, 0, 0, 1, "{\nret;\n}")

    monkeypatch.setattr(predict, "_walk", fake)
    found = predict.predictions(Reports(), "miniature", 2, precision)
    assert [each.kernel for each in found] == names
    ops = [each.op for each in found]
    assert ops[0] == "augment.crop_mirror"
    assert ops[-1] == "sgd.update"
    assert {f"conv{n}" for n in range(1, 6)} < {each.place for each in found}
    kinds = [each.kernel.partition("<")[0] for each in found]
    assert kinds.count("conv_backward_weights") == 8
    assert kinds.count("conv_backward_data") == 7
    assert all(each.parts["products"] > 0 for each in found if "conv_" in each.kernel)
    assert predict.total(found) == pytest.approx(sum(each.seconds for each in found))


def test_sums_by_kernel() -> None:
    parts = {"memory": 1e-6, "issue": 3e-6}
    found = [Prediction("", "", name, 1, 1, parts) for name in ("f", "g", "f")]
    assert predict.by_kernel(found) == {
        "f": (2, pytest.approx(9e-6)),
        "g": (1, pytest.approx(4.5e-6)),
    }
    assert predict.total(found) == pytest.approx(13.5e-6)
    # 133 blocks: one processor has two, while 131 wait for its second.
    assert [predict.evenness(blocks) for blocks in (132, 264, 66)] == [1, 1, 2]
    assert predict.evenness(133) == 264 / 133
