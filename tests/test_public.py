"""The public API: what `import minicnn` names."""

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
