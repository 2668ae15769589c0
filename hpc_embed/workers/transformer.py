"""The packed encoders of our families behind the worker contract."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hpc_embed.checkpoints.face import Face, take
from hpc_embed.checkpoints.files import weight_files
from hpc_embed.checkpoints.tensors import plain_name
from hpc_embed.families import FAMILIES
from hpc_embed.families.family import Family, Shape
from hpc_embed.families.parts import form_of
from hpc_embed.registry import find_model
from hpc_embed.run.identity import UNTRAINED_SEED
from hpc_embed.workers.base import EmbeddedBatch, LoadedModel, Tokens
from hpc_embed.workers.loaded import CheckpointWorker, LoadedOnDevice

UNPROVEN = "none, by --no-proof"

if TYPE_CHECKING:  # torch is imported inside a worker's process only
    import torch
    from torch import Tensor

    from hpc_embed.engine.encoder import Encoder
    from hpc_embed.engine.references import Reference
    from hpc_embed.engine.tokens import Tokeniser


class TransformerWorker(CheckpointWorker):
    """Runs the packed encoder of any family."""

    @property
    def family(self) -> Family:
        """The table that says how the model computes."""
        return FAMILIES[find_model(self.identity.registry_name).family]

    def make_encoder(self, device: torch.device, precision: str) -> Encoder:
        """The encoder on its device."""
        from hpc_embed.engine.encoder import Encoder

        shape, tensors = self.shape_and_tensors()
        return Encoder(self.family, shape, tensors, source=self.identity.name, device=device, precision=precision)

    def make_tokeniser(self) -> Tokeniser:
        """The function from sequences to tokens."""
        from hpc_embed.engine.tokens import make_tokeniser

        return make_tokeniser(self.family, self.shape(), None if self.identity.is_untrained else self.folder())

    def make_reference(self, device: torch.device) -> Reference:
        """The reference implementation with the same weights."""
        from hpc_embed.engine.checkpoints import in_other_form
        from hpc_embed.engine.references import REFERENCES, published_reference

        shape, tensors = self.shape_and_tensors()
        if self.identity.is_untrained:
            return REFERENCES[self.family.name](shape, tensors, device)
        tensors = {plain_name(name): tensor for name, tensor in tensors.items()}
        published = published_reference(self.family.name, self.folder(), tensors, device)
        if published is not None:
            return published
        form = form_of(self.family, tensors)
        first = in_other_form(tensors, shape.num_layers, form, self.family.names[0])
        return REFERENCES[self.family.name](shape, first, device)

    def shape(self) -> Shape:
        """Dimensions: the published ones of an untrained model, else those of the checkpoint."""
        if not self.identity.is_untrained:
            shape = take(Face(self.folder())).shape
        else:
            shape = find_model(self.identity.registry_name).shape
        assert shape is not None
        return shape

    def shape_and_tensors(self) -> tuple[Shape, dict[str, Tensor]]:
        """Dimensions, and the checkpoint's tensors or random ones."""
        from hpc_embed.engine.checkpoints import read_weights
        from hpc_embed.engine.weights import random_weights

        shape = self.shape()
        if self.identity.is_untrained:
            return shape, random_weights(self.family, shape, UNTRAINED_SEED)
        return shape, read_weights(weight_files(self.folder()))

    def load(self, device_id: int | str) -> LoadedModel:
        """Check the weights against the plan, and put the model on its device."""
        import torch

        from hpc_embed.engine.device import choose_precision, find_device

        if self.num_threads:
            torch.set_num_threads(self.num_threads)
        device = find_device(device_id)
        precision = choose_precision(self.embedding.precision, device, force=self.force_precision)
        if not self.identity.is_untrained:
            self.check_weights()
        return self._proven(device, precision)

    def _proven(self, device: torch.device, precision: str) -> LoadedModel:
        """The model on its device, once it has shown here that it gives the reference's vectors."""
        from hpc_embed.workers.proof import proven

        def load() -> LoadedTransformer:
            return LoadedTransformer(self, self.make_encoder(device, precision), device, precision)

        if self.identity.is_untrained:
            return load()
        if not self.needs_proof:
            loaded = load()
            loaded.proof = UNPROVEN
            return loaded
        return proven(self, load, device, precision)


def chains_of(device: torch.device) -> dict[str, str]:
    """For a GPU, in what the steps between the products run."""
    from hpc_embed.engine.fusion import form_of_chains

    return {"chains": form_of_chains()} if device.type == "cuda" else {}


class LoadedTransformer(LoadedOnDevice):
    def __init__(self, worker: TransformerWorker, encoder: Encoder, device: torch.device, precision: str) -> None:
        self._outputs = worker.embedding.outputs
        dimension = encoder.shape.hidden * self._outputs.width
        super().__init__(device, precision, dimension, {"attention": encoder.attention_name, **chains_of(device)})
        self.notes = encoder.notes
        self.encoder = encoder
        self.tokeniser = worker.make_tokeniser()

    def tokenise(self, sequences: Sequence[bytes]) -> Sequence[Tokens]:
        return self.tokeniser(sequences)

    def start(self, batch: Sequence[Tokens]) -> Callable[[], EmbeddedBatch]:
        """Queue the batch on the device, and the copy of its vectors behind it."""
        from hpc_embed.engine.embedding import embed_outputs
        from hpc_embed.engine.transfers import to_host

        num_tokens = sum(map(len, batch))
        tokeniser = self.tokeniser
        made = embed_outputs(self.encoder, batch, self._outputs, self._device, tokeniser.special, tokeniser.letters_V)
        vectors_BD = to_host(made.vectors_BD)
        return lambda: EmbeddedBatch(vectors_BD(), made.num_tokens_B, num_tokens, made.num_computed_tokens)
