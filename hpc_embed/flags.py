"""Settings as words of a command line, spelled as the parser of `arguments` reads them."""

from __future__ import annotations

import json


def flags_of(settings: object) -> list[str]:
    """A group of settings, those at their default left out."""
    default = type(settings)()
    changed = {name: value for name, value in vars(settings).items() if value != getattr(default, name)}
    return [flag(name, value) for name, value in changed.items()]


def flag(name: str, value: object) -> str:
    """One setting in one word: `--retry-failed`, `--no-report`, `--max-tries=5`, `--bind=["/data"]`."""
    dashed = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{dashed}" if value else f"--no-{dashed}"
    text = json.dumps(value) if isinstance(value, tuple | list | dict) else str(value)
    return f"--{dashed}={text}"
