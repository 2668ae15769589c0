"""The folder where Triton and Inductor keep what they compile for a GPU: on the node's own disk, and ours alone.

Their default is the home folder, which a cluster has on a file server that a thousand tasks would meet at once.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

VARIABLES = {"TRITON_CACHE_DIR": "triton", "TORCHINDUCTOR_CACHE_DIR": "inductor"}


def choose_kernel_cache() -> None:
    """Name it in the environment, before torch is imported; what somebody chose stays, as does the default where
    there is no such folder."""
    folder = _folder()
    if folder is not None:
        for variable, name in VARIABLES.items():
            os.environ.setdefault(variable, str(folder / name))


def _folder() -> Path | None:
    """In TMPDIR, made by us for nobody else, and on a file system from which programs run: libraries are loaded."""
    folder = Path(tempfile.gettempdir()) / f"hpc-embed-kernels-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        facts = folder.lstat()
        is_ours = stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid() and not facts.st_mode & 0o077
        runs_programs = not os.statvfs(folder).f_flag & os.ST_NOEXEC
    except OSError:
        return None
    return folder if is_ours and runs_programs else None
