"""An encoder over packed rows, in plain torch, as its family's table says.

The residual stream, norms, rotary tables and attention's result are float32; in BF16 the dense layers alone run in
BF16, their weights cast once; in FP8 these multiply in FP8.
"""

# T = packed tokens, D = hidden, H = heads, K = head dimension, W = H * K, F = feed-forward, V = vocabulary

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import embedding

from hpc_embed.engine import fp8
from hpc_embed.engine.attention import available_back_ends, make_attention, why_not
from hpc_embed.engine.batches import PackedBatch
from hpc_embed.engine.device import describe
from hpc_embed.engine.exactness import sum_in_one_order
from hpc_embed.engine.fusion import why_plain
from hpc_embed.engine.layers import Assembly, Layer, dtype_of
from hpc_embed.engine.rotary import Rotary
from hpc_embed.errors import EnvironmentFault
from hpc_embed.families.family import Family, Shape


class Encoder:
    """A family's encoder with its weights on a device."""

    def __init__(
        self,
        family: Family,
        shape: Shape,
        tensors: Mapping[str, Tensor],
        *,
        source: str,
        device: torch.device,
        precision: str,
    ) -> None:
        """Take the weights by their published names; EnvironmentFault names what is missing or misshapen."""
        self.family, self.shape = family, shape
        self._device = device
        self._dtype = dtype_of(precision)
        if device.type == "cuda" and self._dtype == torch.bfloat16:
            sum_in_one_order(device)
        if precision == "fp8" and (reason := fp8.why_not(device)) is not None:
            raise EnvironmentFault(
                f"--precision fp8: {describe(device)} with torch {torch.__version__}: {reason}.",
                remedy="Install a newer torch, or plan with --precision auto into another --run-dir.",
            )
        assembly = Assembly(family, shape, tensors, source, device, precision)
        self._embeddings_VD, self._embedding_norm = assembly.embeddings(), assembly.embedding_norm()
        self._layers = [assembly.layer(index) for index in range(shape.num_layers)]
        self._inverse_frequencies = assembly.inverse_frequencies()
        self._final_norm = assembly.final_norm()
        self.bias = assembly.bias()
        assembly.finish()
        kind = None if self.bias is None else self.bias.kind
        self.attention_back_ends = available_back_ends(device, shape.head_dim, self._dtype, bias=kind)
        self.dropped: dict[str, str] = {}
        """Back ends that failed where they were tried, and how."""
        for name in self.attention_back_ends:
            self.use_attention(name)
            if name == self.attention_back_ends[-1] or (reason := self._why_not()) is None:
                break
            self.dropped[name] = reason

    @property
    def notes(self) -> tuple[str, ...]:
        """What this device does without, for people."""
        notes = [f"attention by {name} is left out: {reason}" for name, reason in self.dropped.items()]
        if self._device.type == "cuda" and (reason := why_plain()) is not None:
            notes.append(f"chains compiled: no, steps between the products run one by one ({reason})")
        return tuple(notes)

    def use_attention(self, name: str) -> None:
        """Use one of `attention_back_ends`, the first of which is the one at first."""
        self.attention_name, self._attend = name, make_attention(name, self.bias)

    def _why_not(self) -> str | None:
        """What is wrong with the back end in use here."""
        sizes = self.shape.num_heads, self.shape.head_dim
        return why_not(self._attend, *sizes, self._rotary, self.bias, self._device, self._dtype)

    def __call__(self, batch: PackedBatch, layer: int) -> Tensor:
        """Hidden states [T, D] in float32 after `layer` layers, 0 for the embeddings; with the final norm after
        the last, where the family has one."""
        return self.states(batch, [layer])[layer]

    @torch.inference_mode()
    def states(self, batch: PackedBatch, layers: Sequence[int]) -> dict[int, Tensor]:
        """Those after each of `layers`, of one pass; each is what a pass up to that layer gives, bit for bit."""
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._dtype == torch.bfloat16):
            run = self._pre_norm if self.family.block == "pre_norm" else self._post_norm
            return {layer: x_TD for layer, x_TD in enumerate(run(batch, max(layers))) if layer in layers}

    def _pre_norm(self, batch: PackedBatch, num_layers: int) -> Iterator[Tensor]:
        """x + attention(norm(x)), then x + feed_forward(norm(x)): the states after 0, 1, … layers."""
        x_TD = self._embedded(batch)
        yield x_TD
        rotary = self._rotary(batch)
        normed_TD = self._layers[0].attention_norm(x_TD) if num_layers else x_TD
        for number, layer in enumerate(self._layers[:num_layers], start=1):
            out_TW = self._mixed(layer, normed_TD, rotary, batch)
            x_TD, normed_TD = layer.feed_forward_norm.after_sum(layer.attention_out, out_TW, x_TD)
            inner_TF = layer.feed_forward(normed_TD)
            if number < num_layers:
                following = self._layers[number].attention_norm
                x_TD, normed_TD = following.after_sum(layer.feed_forward_out, inner_TF, x_TD)
            else:
                x_TD = layer.feed_forward_out.plus(inner_TF, x_TD)
                if number == self.shape.num_layers and self._final_norm is not None:
                    x_TD = self._final_norm(x_TD)
            yield x_TD

    def _post_norm(self, batch: PackedBatch, num_layers: int) -> Iterator[Tensor]:
        """norm(x + attention(x)), then norm(x + feed_forward(x)): the states after 0, 1, … layers."""
        x_TD = input_TD = self._embedded(batch)
        yield x_TD
        rotary = self._rotary(batch)
        for layer in self._layers[:num_layers]:
            out_TW = self._mixed(layer, input_TD, rotary, batch)
            x_TD, input_TD = layer.attention_norm.of_sum(layer.attention_out, out_TW, x_TD)
            inner_TF = layer.feed_forward(input_TD)
            x_TD, input_TD = layer.feed_forward_norm.of_sum(layer.feed_forward_out, inner_TF, x_TD)
            yield x_TD

    def _mixed(self, layer: Layer, input_TD: Tensor, rotary: Rotary | None, batch: PackedBatch) -> Tensor:
        """Attention [T, W] over the heads, before its last product."""
        qkv_T3W = layer.queries_keys_values(input_TD)
        with torch.autocast(self._device.type, enabled=False):
            out_THK = self._attend(qkv_T3W.view(-1, 3, self.shape.num_heads, self.shape.head_dim), rotary, batch)
        return out_THK.flatten(1)

    def _embedded(self, batch: PackedBatch) -> Tensor:
        x_TD = embedding(batch.tokens_T, self._embeddings_VD)
        return x_TD if self._embedding_norm is None else self._embedding_norm(x_TD)

    def _rotary(self, batch: PackedBatch) -> Rotary | None:
        return None if self._inverse_frequencies is None else Rotary(self._inverse_frequencies, batch)
