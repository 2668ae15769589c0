"""The reference implementations, slow and dense: what ours is verified against, and measured beside.

ESM-2 is transformers' EsmModel. DNABERT-2's published code no longer loads on current libraries, so its forward
pass stands here as a textbook would have it; the tests hold it to numbers from the authors' own code.
"""

# B = windows, N = tokens of the longest one, H = heads, K = head dimension, D = hidden

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear

from hpc_embed.engine.dnabert import DnaBertShape, alibi_slopes
from hpc_embed.engine.esm2 import Esm2Shape

Reference = Callable[[Tensor, int, int], Tensor]
"""Right-padded tokens [B, N], the padding's id and a number of layers, to the hidden states [B, N, D] after them."""


def esm2_reference(
    source: Path | tuple[Esm2Shape, Mapping[str, Tensor]], device: torch.device, dtype: torch.dtype = torch.float32
) -> Reference:
    """transformers' EsmModel from a checkpoint's folder, or from a shape and its tensors."""
    from transformers import EsmConfig, EsmModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    if isinstance(source, Path):
        model = EsmModel.from_pretrained(source, add_pooling_layer=False, dtype=dtype, local_files_only=True)
    else:
        shape, tensors = source
        config = EsmConfig(
            vocab_size=shape.vocabulary,
            mask_token_id=32,
            pad_token_id=1,
            hidden_size=shape.hidden,
            num_hidden_layers=shape.num_layers,
            num_attention_heads=shape.num_heads,
            intermediate_size=shape.intermediate,
            max_position_embeddings=1026,
            position_embedding_type="rotary",
            token_dropout=True,
            attention_probs_dropout_prob=0.0,
            hidden_dropout_prob=0.0,
            layer_norm_eps=shape.layer_norm_eps,
        )
        with device:  # drawing numbers for a large model takes a CPU minutes
            model = EsmModel(config, add_pooling_layer=False)
        report = model.load_state_dict({name.removeprefix("esm."): t for name, t in tensors.items()}, strict=False)
        unread = [name for name in report.missing_keys if not name.startswith(("contact_head", "embeddings.position"))]
        assert not unread, unread
    model = model.train(False).to(device, dtype)

    @torch.inference_mode()
    def run(tokens_BN: Tensor, padding: int, layer: int) -> Tensor:
        is_real_BN = tokens_BN.ne(padding)
        is_last = layer == model.config.num_hidden_layers
        # without a mask transformers takes a faster way, right where nothing is padded
        mask_BN = None if is_real_BN.all() else is_real_BN
        out = model(tokens_BN, attention_mask=mask_BN, output_hidden_states=not is_last)
        hidden_BND: Tensor = out.last_hidden_state if is_last else out.hidden_states[layer]
        return hidden_BND

    return run


def dnabert_reference(shape: DnaBertShape, tensors: Mapping[str, Tensor], device: torch.device) -> Reference:
    """DNABERT-2 (Zhou et al., 2024) dense and padded: explicit scores, the ALiBi bias and the mask added to them."""
    w = {name.removeprefix("bert."): tensor.to(device) for name, tensor in tensors.items()}
    slopes_H11 = torch.tensor(alibi_slopes(shape.num_heads), device=device)[:, None, None]

    def dense(x: Tensor, name: str) -> Tensor:
        return linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def norm(x: Tensor, name: str) -> Tensor:
        return layer_norm(x, (shape.hidden,), w[f"{name}.weight"], w[f"{name}.bias"], shape.layer_norm_eps)

    @torch.inference_mode()
    def run(tokens_BN: Tensor, padding: int, layer: int) -> Tensor:
        places_N = torch.arange(tokens_BN.shape[1], device=device)
        bias_HNN = -slopes_H11 * (places_N[:, None] - places_N).abs()
        bias_BHNN = bias_HNN.masked_fill(tokens_BN.eq(padding)[:, None, None], float("-inf"))
        x_BND = w["embeddings.word_embeddings.weight"][tokens_BN] + w["embeddings.token_type_embeddings.weight"][0]
        x_BND = norm(x_BND, "embeddings.LayerNorm")
        for index in range(layer):
            name = f"encoder.layer.{index}"
            qkv = dense(x_BND, f"{name}.attention.self.Wqkv")
            q, k, v = qkv.view(*tokens_BN.shape, 3, shape.num_heads, -1).permute(2, 0, 3, 1, 4)
            weights_BHNN = (q @ k.transpose(-1, -2) / math.sqrt(shape.head_dim) + bias_BHNN).softmax(-1)
            mixed_BND = (weights_BHNN @ v).transpose(1, 2).flatten(2)
            out_BND = dense(mixed_BND, f"{name}.attention.output.dense")
            x_BND = norm(out_BND + x_BND, f"{name}.attention.output.LayerNorm")
            gate, value = dense(x_BND, f"{name}.mlp.gated_layers").chunk(2, dim=-1)
            x_BND = norm(dense(gelu(gate) * value, f"{name}.mlp.wo") + x_BND, f"{name}.mlp.layernorm")
        return x_BND

    return run
