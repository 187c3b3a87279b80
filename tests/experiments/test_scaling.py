"""How cost grows: the fit by hand, the smallest tables, and what is written of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from minicnn.experiments.bench import scaling, scaling_points

# Of double-precision logarithms of a few numbers.
ROUNDING = 1e-12
# Bytes that are allocated, and what the system counts besides: pages, the allocator's.
SIZE, BESIDE = 32 << 20, 1 << 20


def test_the_exponent_by_hand() -> None:
    assert scaling.exponent([2, 4, 16], [6, 12, 48]) == pytest.approx(1, abs=ROUNDING)
    # 3·n², and a constant.
    assert scaling.exponent([1, 10], [3, 300]) == pytest.approx(2, abs=ROUNDING)
    assert scaling.exponent([1, 10, 100], [7, 7, 7]) == pytest.approx(0, abs=ROUNDING)
    # Logarithms to base 2 are (0, 1, 2) and (0, 0, 3): the slope of the best line is
    # Σ(x−1)(y−1) / Σ(x−1)² = (1 + 0 + 2) / 2.
    assert scaling.exponent([1, 2, 4], [1, 1, 8]) == pytest.approx(1.5, abs=ROUNDING)
    assert scaling.exponent([8], [1]) is None
    assert scaling.exponent([1, 2], [0, 1]) is None


def test_growth_and_shares_by_hand() -> None:
    rows = [{"n": 1, "a": 5}, {"n": 2, "a": 5}, {"n": 4, "a": 20}]
    slopes = {"all": pytest.approx(1.0), "last": pytest.approx(2.0)}
    first, last = scaling.growth(rows, "a"), scaling.growth(rows[1:], "a")
    # (0, 1, 2) and (0, 0, 2) in base 2: (1·(2/3) + 1·(4/3)) / 2.
    assert first == slopes
    assert last == {"all": pytest.approx(2.0), "last": pytest.approx(2.0)}
    assert scaling.each(rows, scaling.Measure("a", "", "s")) == [5, 2.5, 5]
    assert scaling.each(rows, scaling.Measure("a", "", "B", True)) == [None, 0, 5]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.01234, "12.3 ms"),
        (1.0, "1.00 s"),
        (256.4, "256 s"),
        (3.2e-7, "320 ns"),
        (-0.0015, "-1.50 ms"),
        (5e-10, "0.50 ns"),
        (None, "–"),
        (0, "–"),
    ],
)
def test_numbers_for_people(value: float | None, said: str) -> None:
    assert scaling.human(value, "s") == said


def test_memory_is_what_is_taken_inside() -> None:
    if not scaling_points.memory_bytes("VmHWM"):
        pytest.skip("the system does not say what a process takes")
    code = f"""if True:
        from minicnn.experiments.bench.scaling_points import memory
        before, row = bytes(range(256)) * {2 * SIZE // 256}, {{}}
        del before
        with memory(row):
            held = bytes(range(256)) * {SIZE // 256}
            del held
        print(row["memory"])
    """
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert int(ended.stdout) == pytest.approx(SIZE, abs=BESIDE)


def test_the_largest_process_begun_is_found() -> None:
    if not scaling_points.memory_bytes("VmHWM"):
        pytest.skip("the system does not say what a process takes")
    code = f"import time; held = bytes(range(256)) * {SIZE // 256}; time.sleep(1)"
    ours = bytes(range(256)) * (4 * SIZE // 256)  # this process is not to be counted
    row: dict[str, Any] = {}
    with scaling_points.watched(row):
        subprocess.run([sys.executable, "-c", code], check=True)
    assert SIZE < row["worker"] < 2 * SIZE  # the interpreter itself takes less
    assert len(ours) > 2 * SIZE


def run(*arguments: str) -> Any:
    result = CliRunner().invoke(scaling.main, arguments)
    assert result.exit_code == 0, result.output
    return result


def test_a_table_of_the_smallest_sizes(tmp_path: Path) -> None:
    out, figure = tmp_path / "out.json", tmp_path / "out.png"
    options = ["--only", "store", "--points", "2", "--folder", str(tmp_path)]
    result = run(*options, "--json", str(out), "--figure", str(figure))
    found = json.loads(out.read_text())
    assert set(found["provenance"]) == {"date", "machine", "command", "commit"}
    (series,) = found["tables"]["store"]["series"]
    assert [row["n"] for row in series["rows"]] == [1000, 10000]
    # 64·64·3 bytes an image; opening takes little more memory for ten times as many.
    assert [row["pixels"] for row in series["rows"]] == [12_288_000, 122_880_000]
    assert series["rows"][1]["memory"] < series["rows"][1]["pixels"] / 4
    keys = [measure.key for measure in scaling.TABLES["store"].measures]
    assert list(series["each"]) == list(series["exponents"]) == keys
    assert "10,000 rows" in result.output
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert set(tmp_path.iterdir()) == {out, figure}


def test_an_unknown_table_is_one_line() -> None:
    result = CliRunner().invoke(scaling.main, ["--only", "batch,bath"])
    assert result.exit_code == 2
    assert "'bath': choose of batch, size, prepare, study, store" in result.output


def test_a_point_that_fails_says_why() -> None:
    with pytest.raises(scaling.click.ClickException, match="'caffenet65': unknown"):
        scaling.point("step", arch="caffenet65", batch=1)


def test_a_step_on_another_size() -> None:
    own = scaling_points.step("caffenet32", 2)
    larger = scaling_points.step("caffenet32", 2, crop=56)
    assert own["seconds"] > 0
    # Twice the height and width: conv1 has four times the outputs; the whole, without
    # padding at its edges, a little more.
    assert 4 < larger["flops"] / own["flops"] < 6
    assert larger["planned"] > own["planned"]


def test_a_source_is_prepared(tmp_path: Path) -> None:
    scaling_points.draw_jpegs(str(tmp_path), [10, 20])
    row = scaling_points.prepare(
        str(tmp_path / "20"), str(tmp_path / "20.h5"), jobs=1, size=16
    )
    assert row["seconds"] > 0
    assert row["worker"] == 0  # the work is done here
