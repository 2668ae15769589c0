"""Any encoder that transformers knows natively behind the worker contract."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hpc_embed.checkpoints.any_encoder import native_model
from hpc_embed.checkpoints.config import read_config
from hpc_embed.errors import EnvironmentFault
from hpc_embed.model import POOLINGS, WITH_SPECIAL
from hpc_embed.run.outputs import Outputs
from hpc_embed.workers.base import EmbeddedBatch, LoadedModel, Tokens
from hpc_embed.workers.loaded import CheckpointWorker, LoadedOnDevice

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from hpc_embed.engine.any_encoder import AnyEncoder

PROBES = (
    b"GATTACAGTCCAGTTCAAGCTTGA",
    b"GATCCTGAAGTCTAGGCATTACGCCAATGTCGTA" * 12,
    b"A",
    b"GATTACAGTCCAGTTCAAGCTTGACCATGGTTC",
    b"GATTACACCTGAATCGGTACTCAGTATTGCACA",
)
"""Letters of proteins and of DNA: a short window first, and last two that begin alike."""


class NativeWorker(CheckpointWorker):
    """Runs what has no table of ours."""

    def load(self, device_id: int | str) -> LoadedModel:
        """Check the weights against the plan, and let transformers put the model on its device."""
        import torch

        from hpc_embed.engine.device import choose_precision, find_device

        if self.num_threads:
            torch.set_num_threads(self.num_threads)
        device = find_device(device_id)
        precision = choose_precision(self.embedding.precision, device, force=self.force_precision)
        self.check_weights()
        return _LoadedNative(self, device, precision)


class _LoadedNative(LoadedOnDevice):
    def __init__(self, worker: NativeWorker, device: torch.device, precision: str) -> None:
        import transformers

        from hpc_embed.engine.any_encoder import AnyEncoder
        from hpc_embed.engine.any_tokeniser import NativeTokeniser

        folder, self._outputs = worker.folder(), worker.embedding.outputs
        tokeniser = NativeTokeniser(folder, worker.kind)
        self.tokenise: Callable[[Sequence[bytes]], Sequence[Tokens]] = tokeniser
        probes = self.tokenise(PROBES)
        self._encoder = AnyEncoder(folder, device, precision, probes, self._outputs.layers)
        _check_plan(folder, self._encoder)
        check_poolings(
            worker.identity.name, self._outputs, probes, sees_only_backwards=self._encoder.sees_only_backwards
        )
        self.notes, self.longest_window = (*tokeniser.notes, *self._encoder.notes), self._encoder.longest
        versions = {"transformers": transformers.__version__, "attention": self._encoder.attention_name}
        super().__init__(device, precision, self._encoder.hidden * self._outputs.width, versions)
        self.proof = (
            f"transformers {transformers.__version__} itself, attention by {self._encoder.attention_name}; tried on "
            "this start beside one window at a time"
        )

    def start(self, batch: Sequence[Tokens]) -> Callable[[], EmbeddedBatch]:
        """Queue the batch on the device, and the copy of its vectors behind it."""
        from hpc_embed.engine.transfers import to_host

        num_tokens = sum(map(len, batch))
        made = self._encoder.embed(batch, self._outputs)
        vectors_BD = to_host(made.vectors_BD)
        return lambda: EmbeddedBatch(vectors_BD(), made.num_tokens_B, num_tokens, made.num_computed_tokens)


def _check_plan(folder: Path, encoder: AnyEncoder) -> None:
    """EnvironmentFault where config.json, which planning went by, tells other dimensions than the model has."""
    planned = native_model("", read_config(folder), folder, None, "")
    for what, told, found in (
        ("layers", planned.num_layers, encoder.num_layers),
        ("numbers a vector", planned.dimension, encoder.hidden),
    ):
        if told != found:
            raise EnvironmentFault(
                f"{folder / 'config.json'}: it tells of {told} {what}, the model has {found}.",
                remedy="Choose another --model; no plan can be made for this one.",
            )


def check_poolings(name: str, outputs: Outputs, probes: Sequence[Tokens], *, sees_only_backwards: bool) -> None:
    """EnvironmentFault for a pooling that would say nothing of a record: of what a tokeniser or a model leaves out."""
    faults: dict[str, str] = {}
    if not all((probe >= 0).any() for probe in probes):
        faults |= {
            pooling: "its tokenizer calls every token special" for pooling in POOLINGS if pooling not in WITH_SPECIAL
        }
    if any(probe[0] >= 0 for probe in probes):
        faults["cls"] = "its tokenizer puts no token in front"
    elif sees_only_backwards:
        faults["cls"] = "the first token's vector is the same for every record, since no token sees those behind it"
    for pooling in outputs.poolings:
        if pooling in faults:
            raise EnvironmentFault(
                f"--pooling {pooling}: {name}: {faults[pooling]}.",
                remedy=f"Plan with --pooling {', '.join(each for each in POOLINGS if each not in faults)}, "
                "into another --run-dir.",
            )
