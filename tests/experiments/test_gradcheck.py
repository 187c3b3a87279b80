"""`minicnn gradcheck` passes on every device, and fails where anything is off."""

from __future__ import annotations

import inspect
import json
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from minicnn.cli.main import cli
from minicnn.devices import device
from minicnn.devices.device import Device
from minicnn.experiments.proofs import gradcheck
from minicnn.nn.pool_layers import PoolLRNLayer
from minicnn.ops import (
    Forms,
    Op,
    augment,
    dropout,
    lrn,
    pool,
    pool_lrn,
    sgd,
    softmax,
    space_to_depth,
)
from minicnn.ops.conv import conv

# Small beside any change of a formula, large beside every limit but the network's in
# float32.
FACTOR = 1 + 1e-4
# Name in the table, op, and each of its outputs.
OUTPUTS = [
    pytest.param(name, each, output, id=f"{name} {each.__name__} {output}")
    for name, each, outputs in (
        ("conv", conv.forward, "y"),
        ("conv", conv.backward_data, "dx"),
        ("conv", conv.backward_weights, "dw db"),
        ("relu", conv.relu_backward, "dy"),
        ("pool", pool.forward, "y"),
        ("pool", pool.backward, "dx"),
        ("lrn", lrn.forward, "y scale"),
        ("lrn", lrn.backward, "dx"),
        ("pool_lrn", pool_lrn.forward, "u y"),
        ("pool_lrn", pool_lrn.backward, "dx"),
        ("space_to_depth", space_to_depth.block_filters, "blocked"),
        ("space_to_depth", space_to_depth.unblock_gradient, "dw"),
        ("dropout", dropout.apply, "y"),
        ("softmax", softmax.cross_entropy, "totals dlogits"),
        ("sgd", sgd.update, "w v"),
        ("augment", augment.crop_mirror, "y"),
    )
    for output in outputs.split()
]


def test_everything_passes(dev: Device) -> None:
    checks = gradcheck.gradcheck(dev)
    assert [c for c in checks if not c.ok] == []
    kinds = {(c.op, c.against, c.dtype) for c in checks}
    for name in gradcheck.OPS:
        assert (name, "reference", "float32") in kinds
        # In NumPy the reference in float64 is that very function.
        other = dev.has_kernels or dev.native
        assert ((name, "reference", "float64") in kinds) == other
        differentiable = name not in ("sgd", "augment")
        assert ((name, "differences", "float64") in kinds) == differentiable
    networks = {c.case for c in checks if c.op == "network"}
    frozen = {f"layers 1-{n} frozen" for n in (2, 5, 7)}
    assert networks == {"all layers trained", *frozen}


def spoil(monkeypatch: pytest.MonkeyPatch, each: Op, form: str, output: str) -> None:
    """Makes a form of an op write an output that is off by a little."""
    right, signature = each.forms, inspect.signature(each.forms)

    def wrong(dev: Device, *args: Any, **kwargs: Any) -> Forms:
        forms = right(dev, *args, **kwargs)
        array = signature.bind(dev, *args, **kwargs).arguments[output]

        def run() -> None:
            getattr(forms, form)()
            if array is not None:
                array[...] *= FACTOR

        return forms._replace(**{form: run})

    monkeypatch.setattr(each, "forms", wrong)


def first_case_only(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = gradcheck.CASES[name]
    monkeypatch.setitem(gradcheck.CASES, name, lambda: cases()[:1])


@pytest.mark.parametrize(("name", "each", "output"), OUTPUTS)
def test_a_kernel_that_is_off_by_a_little_fails(
    name: str, each: Op, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dev = device.get("emulated", 1)
    spoil(monkeypatch, each, "kernel", output)
    first_case_only(name, monkeypatch)
    checks = gradcheck.gradcheck(dev, [name])
    failed = {(c.against, c.dtype) for c in checks if not c.ok}
    assert failed >= {("reference", "float64"), ("reference", "float32")}
    if output.startswith("d"):
        assert ("differences", "float64") in failed


def test_one_unwritten_number_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    right = lrn.backward.forms

    def unwritten(*args: Any, **named: Any) -> Forms:
        forms = right(*args, **named)
        dx = named["dx"] if named else args[5]

        def kernel() -> None:
            forms.kernel()
            dx[1, 2, 0, 3] = np.nan

        return forms._replace(kernel=kernel)

    monkeypatch.setattr(lrn.backward, "forms", unwritten)
    first_case_only("lrn", monkeypatch)
    checks = gradcheck.gradcheck(device.get("emulated", 1), ["lrn"])
    against = [c for c in checks if c.against == "reference"]
    assert [c.error for c in against] == [np.inf] * 2
    assert {c.where for c in against} == {"dx[1,2,0,3]"}


def test_a_network_whose_layer_hands_down_a_wrong_gradient_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backward = PoolLRNLayer.backward

    def wrong(self: PoolLRNLayer, dy: Any) -> Any:
        return backward(self, dy) * FACTOR

    monkeypatch.setattr(PoolLRNLayer, "backward", wrong)
    checks = gradcheck.gradcheck(device.get("cpu"), ["network"])
    failed = [c for c in checks if not c.ok]
    # With layers 1 and 2 frozen no gradient passes an LRN.
    assert [(c.case, c.against) for c in failed] == [
        ("all layers trained", "differences")
    ]
    assert failed[0].where.startswith(("dconv1", "dconv2"))


def invoke(*argv: str) -> Any:
    return CliRunner().invoke(cli, ["gradcheck", "--device=cpu", *argv])


def test_the_command_prints_a_table_and_json(monkeypatch: pytest.MonkeyPatch) -> None:
    good = invoke("--op=pool", "--op=relu")
    assert good.exit_code == 0
    assert "checks on cpu, 0 failed." in good.stdout
    spoil(monkeypatch, pool.backward, "numpy", "dx")
    bad = invoke("--op=pool", "--json")
    assert bad.exit_code == 1
    record = json.loads(bad.stdout)
    assert record["device"] == "cpu"
    assert {each["op"] for each in record["checks"]} == {"pool"}
    assert any(not each["ok"] for each in record["checks"])
    table = invoke("--op=pool").stdout
    assert "FAILED" in table
    assert "dx[" in table
