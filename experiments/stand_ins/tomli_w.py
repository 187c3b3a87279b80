"""Takes the place of tomli-w in `gpu_check.py` on a machine that has it not.

It writes what run folders hold, sections of texts, numbers and truth values, and no
other TOML.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def dumps(sections: Mapping[str, Mapping[str, Any]]) -> str:
    """The sections as TOML; JSON writes such values the same way."""
    lines = []
    for section, values in sections.items():
        lines.append(f"[{section}]")
        for key, value in values.items():
            lines.append(f"{key} = {json.dumps(value, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"
