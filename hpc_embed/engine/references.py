"""The reference implementations, slow and dense: what ours is verified against, and measured beside.

transformers' own models where it has them. Nucleotide Transformer v2 is its EsmModel with another feed-forward put in.
DNABERT-2's published code no longer loads on current libraries, so its forward pass stands here as a textbook would
have it; the tests hold it to numbers from the authors' own code.
"""

# B = windows, N = tokens of the longest one, H = heads, K = head dimension, D = hidden, F = feed-forward

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear, silu

from hpc_embed.engine.biases import alibi_slopes
from hpc_embed.errors import EnvironmentFault, in_one_line
from hpc_embed.families.family import Shape

Reference = Callable[[Tensor, int, int], Tensor]
"""Right-padded tokens [B, N], the padding's id and a number of layers, to the hidden states [B, N, D] after them."""
FP32 = torch.float32


def esm2_reference(
    shape: Shape, tensors: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype = FP32
) -> Reference:
    """transformers' EsmModel."""
    from transformers import EsmModel

    with device:  # drawing numbers for a large model takes a CPU minutes
        model = EsmModel(_esm_config(shape, token_dropout=True), add_pooling_layer=False)
    return _running(model, tensors, device, dtype, "esm.")


def nucleotide_reference(
    shape: Shape, tensors: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype = FP32
) -> Reference:
    """transformers' EsmModel with SwiGLU in the place of its feed-forwards."""
    from transformers import EsmModel

    with device:
        model = EsmModel(_esm_config(shape, token_dropout=False), add_pooling_layer=False)
        for layer in model.encoder.layer:
            layer.intermediate = _SwiGlu(shape.hidden, shape.intermediate)
            layer.output.dense = torch.nn.Linear(shape.intermediate, shape.hidden, bias=False)
    return _running(model, tensors, device, dtype, "esm.")


def esmc_reference(
    shape: Shape, tensors: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype = FP32
) -> Reference:
    """transformers' EsmcModel."""
    config = theirs("EsmcConfig")(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        layer_norm_eps=shape.eps,
    )
    with device:
        model = theirs("EsmcModel")(config)
    return _running(model, tensors, device, dtype, "esmc.")


def t5_reference(
    shape: Shape,
    tensors: Mapping[str, Tensor],
    device: torch.device,
    dtype: torch.dtype = FP32,
    *,
    feed_forward: str = "relu",
) -> Reference:
    """transformers' T5EncoderModel."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=shape.vocabulary,
        d_model=shape.hidden,
        d_kv=shape.head_dim,
        d_ff=shape.intermediate,
        num_layers=shape.num_layers,
        num_heads=shape.num_heads,
        relative_attention_num_buckets=shape.num_buckets,
        relative_attention_max_distance=shape.max_distance,
        layer_norm_epsilon=shape.eps,
        feed_forward_proj=feed_forward,
    )
    with device:
        model = T5EncoderModel(config)
    return _running(model, _tied(tensors), device, dtype, "")


def _tied(tensors: Mapping[str, Tensor], source: str = "") -> dict[str, Tensor]:
    """T5's embedding under both of its names; EnvironmentFault where a file has two that differ."""
    found = {name: tensors[name] for name in TIED if name in tensors}
    if len(found) == len(TIED) and not torch.equal(*found.values()):
        raise EnvironmentFault(
            f"{source}: {' and '.join(TIED)} differ, so nobody can tell which counts.", remedy="Take one of them out."
        )
    return {**tensors, **dict.fromkeys(TIED, next(iter(found.values())))}


def theirs(name: str) -> Any:
    """A class of transformers; EnvironmentFault where the installed version does not have it yet."""
    import transformers

    try:
        return getattr(transformers, name)
    except AttributeError as error:
        raise EnvironmentFault(
            f"transformers {transformers.__version__} has no {name}, beside which this checkpoint proves itself.",
            remedy="pip install --upgrade transformers; or go on with --no-proof, and the dataset says so.",
        ) from error


def _esm_config(shape: Shape, *, token_dropout: bool) -> Any:
    from transformers import EsmConfig

    return EsmConfig(
        vocab_size=shape.vocabulary,
        mask_token_id=32 if token_dropout else 2,
        pad_token_id=1,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        intermediate_size=shape.intermediate,
        max_position_embeddings=1026,
        position_embedding_type="rotary",
        token_dropout=token_dropout,
        attention_probs_dropout_prob=0.0,
        hidden_dropout_prob=0.0,
        layer_norm_eps=shape.eps,
    )


class _SwiGlu(torch.nn.Module):
    """silu of one half times the other (Shazeer, 2020)."""

    def __init__(self, hidden: int, intermediate: int) -> None:
        super().__init__()
        self.dense = torch.nn.Linear(hidden, 2 * intermediate, bias=False)

    def forward(self, x_BND: Tensor) -> Tensor:
        gate_BNF, value_BNF = self.dense(x_BND).chunk(2, dim=-1)
        inner_BNF: Tensor = silu(gate_BNF) * value_BNF
        return inner_BNF


def published_reference(
    family: str, folder: Path, tensors: Mapping[str, Tensor], device: torch.device
) -> Reference | None:
    """transformers' own model of a checkpoint, as large as it makes it by config.json, made on the device; None for a
    family or a form of checkpoint that it has none of.

    Raises EnvironmentFault for a tensor that it wants and does not find.
    """
    if family not in MODEL_CLASSES or (family == "esmc" and "layers.0.self_attn.q_proj.weight" not in tensors):
        return None
    config_class, model_class = map(theirs, MODEL_CLASSES[family])
    options = {"add_pooling_layer": False} if family == "esm2" else {}
    config = config_class.from_pretrained(folder, local_files_only=True)
    with device:
        model = model_class(config, **options)
    if model_class.__name__ == "T5EncoderModel":
        tensors = _tied(tensors, str(folder))
    return _running(model, tensors, device, FP32, "", source=str(folder))


def _running(
    model: Any,
    tensors: Mapping[str, Tensor],
    device: torch.device,
    dtype: torch.dtype,
    prefix: str,
    *,
    source: str = "",
) -> Reference:
    """A model of transformers with these tensors in it; EnvironmentFault for one that it wants and is not there."""
    try:
        report = model.load_state_dict({name.removeprefix(prefix): t for name, t in tensors.items()}, strict=False)
        unread = [name for name in report.missing_keys if not name.startswith(UNREAD)]
    except RuntimeError as error:  # sizes that differ
        unread = [in_one_line(error)]
    if unread:
        raise EnvironmentFault(
            f"{source}: transformers does not find {unread[0]} in it, so there is nothing to compare with.",
            remedy="Verify a checkpoint that transformers has written.",
        )
    return _run_of(model, device, dtype)


def _run_of(model: Any, device: torch.device, dtype: torch.dtype) -> Reference:
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


def dnabert_reference(shape: Shape, tensors: Mapping[str, Tensor], device: torch.device) -> Reference:
    """DNABERT-2 (Zhou et al., 2024) dense and padded: explicit scores, the ALiBi bias and the mask added to them."""
    w = {name.removeprefix("bert."): tensor.to(device) for name, tensor in tensors.items()}
    slopes_H11 = torch.tensor(alibi_slopes(shape.num_heads), device=device)[:, None, None]

    def dense(x: Tensor, name: str) -> Tensor:
        return linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def norm(x: Tensor, name: str) -> Tensor:
        return layer_norm(x, (shape.hidden,), w[f"{name}.weight"], w[f"{name}.bias"], shape.eps)

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


REFERENCES: dict[str, Callable[[Shape, Mapping[str, Tensor], torch.device], Reference]] = {
    "esm2": esm2_reference,
    "dnabert": dnabert_reference,
    "esmc": esmc_reference,
    "t5": t5_reference,
    "ankh": partial(t5_reference, feed_forward="gated-gelu"),
    "nucleotide_transformer": nucleotide_reference,
}
"""By family."""
MODEL_CLASSES = {
    "esm2": ("EsmConfig", "EsmModel"),
    "esmc": ("EsmcConfig", "EsmcModel"),
    "t5": ("T5Config", "T5EncoderModel"),
    "ankh": ("T5Config", "T5EncoderModel"),
}
"""transformers' own. By their names and not by its Auto classes, which ask whether to run remote code."""
TIED = ("shared.weight", "encoder.embed_tokens.weight")
UNREAD = ("contact_head", "embeddings.position", "rotary_embeddings")
"""What transformers' models have and a forward pass does not need."""
