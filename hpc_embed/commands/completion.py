"""`hpc-embed completion`: a script that has a shell ask this program what could come next."""

from __future__ import annotations

from argcomplete.shell_integration import shellcode

from hpc_embed.config import CompletionSettings


def run(settings: CompletionSettings) -> int:
    """Print it."""
    print(shellcode(["hpc-embed"], use_defaults=False, shell=settings.shell), end="")
    return 0
