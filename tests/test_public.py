"""The public API: what `import minicnn` names, and README's example of it."""

from __future__ import annotations

import ast
import pydoc
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import minicnn

ROOT = Path(__file__).parents[1]


def test_help_shows_the_public_api() -> None:
    text = pydoc.plain(pydoc.render_doc(minicnn))
    about = minicnn.__doc__ or ""
    for name in minicnn.__all__:
        assert pydoc.getdoc(getattr(minicnn, name)), name
        assert re.search(rf"^    (class |\w+ = )?{name}\b", text, re.M), name
        assert re.search(rf"^    (\w+, )*{name}\b.*:", about, re.M), name


def test_type_checkers_see_what_is_loaded() -> None:
    tree = ast.parse(Path(minicnn.__file__).read_text(encoding="utf-8"))
    seen = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("minicnn"):
            module = import_module(str(node.module))
            for each in node.names:
                seen[each.asname or each.name] = getattr(module, each.name)
    assert seen == {name: getattr(minicnn, name) for name in minicnn.__all__}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(minicnn, "nothing")  # noqa: B009


def test_import_loads_nothing_else() -> None:
    code = "import sys, minicnn; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    loaded = done.stdout.split()
    assert "minicnn" in loaded, done.stderr
    assert not {"numpy", "h5py", "minicnn.base"} & set(loaded)


def test_readmes_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands, but for fewer updates."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(block.splitlines()) <= 15
    short = block.replace("iterations=300", "iterations=3")
    assert short != block
    monkeypatch.chdir(tmp_path)
    exec(compile(short, "README.md", "exec"), {})
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {"my-runs", "filters.png", "curves.png", "net.safetensors"}


def test_every_environment_variable_has_its_row() -> None:
    folders = ("minicnn", "data_prep", "experiments", "tests")
    files = [path for each in folders for path in (ROOT / each).rglob("*.py")]
    code = "".join(path.read_text(encoding="utf-8") for path in files)
    page = (ROOT / "docs" / "variables.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(MINICNN_\w+)`", page, re.M)
    assert sorted(rows) == sorted(set(re.findall(r'"(MINICNN_[A-Z_]+)"', code)))


def test_every_public_name_is_on_its_page() -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    shown = re.findall(r"^::: ([\w.]+)\.(\w+)$", page, re.M)
    found = [getattr(import_module(module), name) for module, name in shown]
    assert all(getattr(minicnn, name) in found for name in minicnn.__all__)
