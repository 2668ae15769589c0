"""What the workers with weights share: the checkpoint found and checked, and a device's memory."""

from __future__ import annotations

import platform
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpc_embed import __version__
from hpc_embed.checkpoints.files import weight_files
from hpc_embed.errors import EnvironmentFault
from hpc_embed.registry import ANY_ENCODER
from hpc_embed.run.identity import copy_checkpoint, digest_of_checkpoint
from hpc_embed.run.plan import VECTOR_VERSION
from hpc_embed.workers.base import BaseEmbeddingWorker, EmbeddedBatch, Tokens

if TYPE_CHECKING:  # torch is imported inside a worker's process only
    import torch

TRIAL_WINDOW_TOKENS = 256
TRIAL_TOKEN = 5


class CheckpointWorker(BaseEmbeddingWorker):
    """A worker whose model has weights in a folder."""

    def folder(self) -> Path:
        """Where the checkpoint is read from: where it was planned, or the node's own copy of it."""
        planned = Path(self.identity.folder)
        if self.weights_copy is None:
            return planned
        return copy_checkpoint(planned, Path(self.weights_copy) / f"hpc-embed-{self.identity.digest[:16]}")

    def check_weights(self) -> None:
        if not weight_files(Path(self.identity.folder)):
            raise EnvironmentFault(
                f"{self.identity.folder}: the weights of {self.identity.name} are not there.",
                remedy="Put them where this node sees them, and plan again.",
            )
        is_packed = self.identity.registry_name != ANY_ENCODER.name
        if digest_of_checkpoint(self.folder(), is_packed=is_packed) != self.identity.digest:
            raise EnvironmentFault(
                f"{self.folder()}: the weights are not those that were planned.",
                remedy="Restore them, or plan into another --run-dir.",
            )


def _instructions() -> str:
    """What a CPU's products are computed with: `AVX512, MKL, OpenMP`."""
    import torch

    library = "MKL" if torch.backends.mkl.is_available() else "no MKL"  # type: ignore[no-untyped-call]
    threads = next((line for line in torch.__config__.parallel_info().splitlines() if "parallel backend" in line), "")
    return ", ".join([torch.backends.cpu.get_cpu_capability(), library, threads.rpartition(": ")[2] or "no threads"])


class LoadedOnDevice:
    """The half of a loaded model that any encoder has."""

    notes: tuple[str, ...] = ()
    proof = ""
    longest_window: int | None = None
    """Tokens, None for no limit."""

    def __init__(self, device: torch.device, precision: str, dimension: int, versions: dict[str, str]) -> None:
        import torch

        from hpc_embed.engine.device import describe, reset_peak

        self._device = device
        self.device = describe(device)
        self.precision = precision
        self.dimension = dimension
        self.versions = {
            "hpc_embed": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
            "vectors": str(VECTOR_VERSION),
            **({"cpu": _instructions()} if device.type == "cpu" else {}),
            **versions,
        }
        reset_peak(device)

    @abstractmethod
    def start(self, batch: Sequence[Tokens]) -> Callable[[], EmbeddedBatch]:
        """As the contract has it."""

    def measure_token_budget(self) -> int:
        """Measured on windows of one length."""
        from hpc_embed.engine.device import measure_token_budget

        length = min(TRIAL_WINDOW_TOKENS, self.longest_window or TRIAL_WINDOW_TOKENS)
        window = np.full(length, TRIAL_TOKEN, dtype=np.int64)

        def run_tokens(num_tokens: int) -> None:
            self.start([window] * (num_tokens // length))()

        return measure_token_budget(run_tokens, self._device)

    def is_out_of_memory(self, error: Exception) -> bool:
        """Of this kind of device."""
        from hpc_embed.engine.device import is_out_of_memory

        return is_out_of_memory(error)

    def release_memory(self) -> None:
        """Give back what the device's allocator keeps."""
        if self._device.type == "cuda":
            import torch

            torch.cuda.empty_cache()

    def peak_memory_bytes(self) -> int:
        """Since it was loaded."""
        from hpc_embed.engine.device import peak_bytes

        return peak_bytes(self._device)
