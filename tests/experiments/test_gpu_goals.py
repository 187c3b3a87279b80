"""Which goals a record of gpu_check meets, misses, or does not measure."""

from __future__ import annotations

from typing import Any

from minicnn.experiments.gpu_goals import verdicts


def net(device: str, **ratios: float) -> dict[str, Any]:
    """A record of bench_torch.py: PyTorch's modes and their times over minicnn's."""
    names = {
        name: name.replace("_", " ").replace("last", "channels_last") for name in ratios
    }
    theirs = [
        {"name": names[name], "precision": name[:4], "ratios": {name[:4]: ratio}}
        for name, ratio in ratios.items()
    ]
    about = {"arch": "caffenet", "batch": 256, "device": device}
    tried = [{"mode": name} for name in names.values()]
    return {"nets": [{**about, "theirs": theirs, "tried": tried}], "state": "ok"}


def test_goals_are_met_or_not_or_not_measured() -> None:
    def judged(results: Any) -> list[str]:
        return [each.verdict for each in verdicts(results)]

    assert judged({}) == ["not measured"] * 4
    step = {"arch": "caffenet", "batch": 256, "precision": "bf16", "step": 4.2e-3}
    step["environment"] = {"device": "cuda"}
    results = {
        "bench": step,
        "eager": net("cuda", bf16_last=3, bf16_last_graph=2.4, tf32_last_graph=1.4),
        "compiled": net("cuda", bf16_last_compiled_graph=2.0),
        "autotuned": net("cuda", bf16_last_autotuned_graph=2.1),
        "fp32": net("cuda", fp32_NCHW_graph=1.6, fp32_last_graph=1.7),
        "skipped": {"state": "skipped", "summary": "no PyTorch"},
    }
    # fp32 is ahead of all that was timed, but not all modes were.
    assert judged(results) == ["met", "met", "not met", "not measured"]
    assert [str(each) for each in verdicts(results)] == [
        "a step of caffenet, batch 256, bf16, in at most 4.2 ms: met (4.20 ms)",
        "caffenet, batch 256, bf16: at least 2.0 × PyTorch's best: met "
        "(2.00, bf16 channels_last compiled graph, of minicnn's bf16)",
        "caffenet, batch 256, tf32: at least 1.5 × PyTorch's best: not met "
        "(1.40, tf32 channels_last graph, of minicnn's tf32)",
        "caffenet, batch 256, fp32: at least 1.5 × PyTorch's best: not measured "
        "(1.60, fp32 NCHW graph, of minicnn's fp32; fp32 NCHW was not tried)",
    ]
    # What is as exact counts, too, if the tests found it so.
    results["fp32"]["nets"][0]["theirs"][0]["ratios"]["tf32x3"] = 1.65
    assert verdicts(results)[3].found.startswith("1.60, fp32 NCHW graph")
    results["tests"] = {"state": "ok"}
    found = verdicts(results)[3].found
    assert found.startswith("1.65, fp32 NCHW graph, of minicnn's tf32x3;")
    more = {"fp32_NCHW": 2, "fp32_last": 2, "fp32_last_compiled_graph": 1.5}
    results["more"] = net("cuda", **more)
    assert judged(results)[3] == "not measured"
    # A mode that failed was tried.
    results["failed"] = net("cuda")
    results["failed"]["nets"][0]["tried"] = [{"mode": "fp32 NCHW compiled graph"}]
    results["compiled"] = net("cuda", bf16_last_compiled_graph=1.99)
    results["bench"] = {**step, "step": 4.3e-3}
    assert judged(results) == ["not met", "not met", "not met", "met"]
    # A CPU's times prove nothing, nor do those of another batch or net.
    host = {"environment": {"device": "cpu"}}
    ahead = net("cpu", fp32_NCHW=9.0)
    assert judged({"a": {**step, **host}, "b": ahead}) == ["not measured"] * 4
    for what in ({"batch": 16}, {"arch": "caffenet64"}):
        other = net("cuda", fp32_NCHW=9.0)
        other["nets"][0].update(what)
        assert judged({"a": {**step, **what}, "b": other}) == ["not measured"] * 4
