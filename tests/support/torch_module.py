"""The PyTorch module that docs/export.md shows, as it stands there."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

DOCUMENT = Path(__file__).parents[2] / "docs" / "export.md"


def torch_module() -> Any:
    """What the document's Python block defines: `CaffeNet`, `load`, `NETS`, `torch`.

    Skips the test where PyTorch is not installed.
    """
    pytest.importorskip("torch", reason="needs PyTorch (extra: compare)")
    text = DOCUMENT.read_text(encoding="utf-8")
    blocks = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    block = next(each for each in blocks if "class CaffeNet" in each)
    names: dict[str, Any] = {"__name__": "docs_export"}
    exec(compile(block, str(DOCUMENT), "exec"), names)
    return SimpleNamespace(**names)
