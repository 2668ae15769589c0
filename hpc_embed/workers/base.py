"""The contract that every model's worker keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hpc_embed.errors import EnvironmentFault
from hpc_embed.model import KINDS, Kind
from hpc_embed.progress import Events, WorkerReady
from hpc_embed.registry import find_model
from hpc_embed.run.canary import SEQUENCES, encode
from hpc_embed.run.files import make_folder
from hpc_embed.run.identity import ModelIdentity
from hpc_embed.run.plan import Embedding

KERNELS = ("attention", "chains")
"""Versions that say by what a device computes."""
Tokens = NDArray[np.integer]
"""The tokens of one window, special ones included."""


class EmbeddedBatch(NamedTuple):
    """What the model makes of a batch of B windows."""

    vectors_BD: NDArray[np.float32]
    """One of each window, or without pooling one of each of its tokens, in their order."""
    num_tokens_B: NDArray[np.int32]
    """Tokens of each window that a vector was pooled from, or that have one."""
    num_real_tokens: int
    """Tokens of the windows, special ones included."""
    num_computed_tokens: int
    """Tokens that the forward pass ran over; more than the real ones only where something was padded."""

    @property
    def num_rows_B(self) -> NDArray[np.int32]:
        """Vectors of each window."""
        num_windows = len(self.num_tokens_B)
        if len(self.vectors_BD) == num_windows:
            return np.ones_like(self.num_tokens_B)
        num_pooled = (len(self.vectors_BD) - int(self.num_tokens_B.sum())) // max(num_windows, 1)
        return self.num_tokens_B + np.int32(num_pooled)


class LoadedModel(Protocol):
    """A model on its device."""

    device: str
    """For people: the device's name."""
    precision: str
    dimension: int
    versions: dict[str, str]
    notes: tuple[str, ...]
    """For people: what this device cannot do, and how it goes on without."""
    proof: str
    """For people: beside what the checkpoint has proven itself here; empty for a model without one."""

    def tokenise(self, sequences: Sequence[bytes]) -> Sequence[Tokens]:
        """Tokens of each window; may run in a thread beside the device."""

    def start(self, batch: Sequence[Tokens]) -> Callable[[], EmbeddedBatch]:
        """Begin a batch; the returned function waits for its end."""

    def measure_token_budget(self) -> int:
        """Most tokens in one batch that the free memory holds, measured."""

    def is_out_of_memory(self, error: Exception) -> bool:
        """True where a smaller batch may succeed."""

    def release_memory(self) -> None:
        """Give back what is cached, after a batch that found no room."""

    def peak_memory_bytes(self) -> int:
        """Most memory in use on the device since the model was loaded."""


class FailedFile(NamedTuple):
    """A shard file that could not be embedded, and why."""

    path: Path
    message: str


class Outcome(NamedTuple):
    """Every path of `file_subset`, in exactly one of two lists."""

    processed: list[Path]
    failed: list[FailedFile]


class BaseEmbeddingWorker(ABC):
    """Embeds shard files on one device.

    Instances hold configuration only and pickle, so that a spawned process can receive one; the device
    is touched first inside `process_files_worker`.
    """

    def __init__(
        self,
        identity: ModelIdentity,
        embedding: Embedding,
        *,
        num_threads: int | None = None,
        weights_copy: str | None = None,
        force_precision: bool = False,
        needs_proof: bool = True,
    ) -> None:
        self.identity = identity
        self.embedding = embedding
        self.num_threads = num_threads
        """Threads of the CPU back end, None for the library's own choice."""
        self.weights_copy = weights_copy
        """Folder on the node's own disk for a copy of the weights, None to read them where they are."""
        self.force_precision = force_precision
        """True to compute in a precision that the device has no instructions for."""
        self.needs_proof = needs_proof
        """False to embed with a checkpoint that has not shown here that it gives the reference's vectors."""

    @property
    def kind(self) -> Kind:
        """Of the model; a plan of an older version does not say it of one that transformers runs."""
        known = find_model(self.identity.registry_name).kind
        return next((kind for kind in KINDS if kind == self.identity.kind), known)

    @abstractmethod
    def load(self, device_id: int | str) -> LoadedModel:
        """Put the model on a device: a GPU's index, or `cpu`.

        Raises EnvironmentFault for missing or damaged weights, or a device that is not there.
        """

    def get_optimal_batch_size(self, device: int | str) -> int:
        """The token budget that this device's free memory holds, measured on the loaded model."""
        return self.load(device).measure_token_budget()

    def process_files_worker(
        self,
        file_subset: Iterable[Path | None],
        device_id: int | str,
        batch_size: int | None,
        output_dir: Path,
        *,
        fingerprint: str = "",
        work_dir: Path | None = None,
        piece_seconds: float = 15.0,
        events: Events | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        digests: Mapping[str, str] | None = None,
    ) -> Outcome:
        """Embed shard files one after the other, each published beside the embedding of the next.

        `file_subset` may be any iterable; one that waits for more yields None now and then meanwhile, so that a
        fault of what is being published is noticed. `batch_size` is the token budget, None to measure it. Outputs
        and markers go to `output_dir`, pieces to `work_dir`. A shard's own fault is recorded in the outcome. A
        fault of the device or of the machine is raised, and the process should end; so is Interrupted, once
        `should_stop` says so, after the finished windows are published. `digests` are those of shard files by name,
        proven where they are read; a file without one is taken as it is.
        """
        from hpc_embed.workers.loop import Loop

        events = events or _Nowhere()
        work = work_dir or output_dir / "work"
        make_folder(work)  # here and not with each piece: a run folder that is moved away must not grow again
        model = self.load(device_id)
        canary = self._canary(model)
        token_budget = batch_size or model.measure_token_budget()
        kernels = ", ".join(f"{name} by {model.versions[name]}" for name in KERNELS if name in model.versions)
        events.put(WorkerReady(model.device, model.precision, token_budget, model.dimension, kernels, model.notes))
        with ThreadPoolExecutor(1, "pieces") as writer:
            loop = Loop(
                model=model,
                token_budget=token_budget,
                outputs=output_dir,
                work=work,
                fingerprint=fingerprint,
                piece_seconds=piece_seconds,
                events=events,
                should_stop=should_stop,
                writer=writer,
                canary=canary,
                digests=digests or {},
            )
            return loop.embed_shards(file_subset)

    def _canary(self, model: LoadedModel) -> str:
        """What this device makes of the one window that every worker embeds; without pooling, the mean of its rows."""
        sequence = SEQUENCES[self.kind]
        vector_D = model.start(model.tokenise([sequence]))().vectors_BD.mean(axis=0)
        if not np.isfinite(vector_D).all():
            raise EnvironmentFault(
                f"{self.identity.name}: NaN or infinity for the canary, before the first batch: the weights in "
                f"{self.identity.folder or 'the checkpoint'} are suspect, or overflow in {model.precision}.",
                remedy="Compare the checkpoint with the published one, and try --precision fp32.",
            )
        return encode(vector_D)


class _Nowhere:
    def put(self, event: object) -> None:
        """Drop it."""
