"""What `mutmut run` left, per folder: killed, survived, without a test; the survivors by name."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

NOT_OURS = ("skipped", "not checked")


def main() -> int:
    """Print the table."""
    listing = subprocess.run(
        [str(Path(sys.executable).with_name("mutmut")), "results", "--all", "true"],
        capture_output=True,
        text=True,
        check=True,
    )
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    survivors = []
    for line in listing.stdout.splitlines():
        name, _, outcome = line.strip().rpartition(": ")
        if not name.startswith("hpc_embed.") or outcome in NOT_OURS:
            continue
        counts[".".join(name.split(".")[:2])][outcome] += 1
        if outcome not in ("killed", "timeout", "caught by type check"):
            survivors.append(f"{outcome}: {name}")
    for folder, outcomes in sorted(counts.items()):
        caught = outcomes["killed"] + outcomes["timeout"] + outcomes["caught by type check"]
        print(f"{folder:<24}{caught / outcomes.total():6.1%} of {outcomes.total()}: {dict(outcomes)}")
    print("\n".join(sorted(survivors)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
