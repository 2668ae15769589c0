"""What a checkpoint's authors allow: told by the registry, by stage-model, or by the model card."""

from __future__ import annotations

import re
from pathlib import Path

from hpc_embed.checkpoints.files import CARD

NON_COMMERCIAL_MARKS = ("-nc", "non-commercial", "noncommercial", "research-only")


def licence_of_card(folder: Path) -> str:
    """The `license` of a model card's front matter, empty without one."""
    try:
        text = (folder / CARD).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    if not text.startswith("---"):
        return ""
    front = text[3:].partition("\n---")[0]
    found = re.search(r"^license(?:_name)?:[ \t]*[\"']?([^\"'\n]+)", front, flags=re.MULTILINE)
    return found.group(1).strip() if found else ""


def is_non_commercial(licence: str) -> bool:
    """Whether a licence forbids commercial use, by its name."""
    return any(mark in licence.lower() for mark in NON_COMMERCIAL_MARKS)
