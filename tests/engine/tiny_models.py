"""Tiny random models of many architectures, made from transformers' own configs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

VOCABULARY = 40
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
GROUPED = {**SIZES, "num_key_value_heads": 2, "head_dim": 8}
AFTER_PADDING = {**SIZES, "pad_token_id": 1, "max_position_embeddings": 300}
HALVES = {
    **{f"{half}_{name}": value for half in ("encoder", "decoder") for name, value in (("layers", 2), ("ffn_dim", 48))},
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "vocab_size": VOCABULARY,
    "d_model": 32,
}
ESM = {**AFTER_PADDING, "mask_token_id": 4, "token_dropout": True}
LOCAL = {"vocab_size": VOCABULARY, "hidden_size": 32, "attention_head_size": 8, "num_attention_heads": 4}
REFORMER = {**LOCAL, "feed_forward_size": 48, "axial_pos_embds": False, "local_attn_chunk_length": 8}

PACKED: dict[str, tuple[str, dict[str, Any]]] = {
    "albert": ("Albert", {**SIZES, "embedding_size": 16}),
    "bart": ("Bart", HALVES),
    "bert": ("Bert", SIZES),
    "biogpt": ("BioGpt", AFTER_PADDING),
    "camembert": ("Camembert", AFTER_PADDING),
    "distilbert": ("DistilBert", {"vocab_size": VOCABULARY, "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48}),
    "electra": ("Electra", {**SIZES, "embedding_size": 16}),
    "ernie": ("Ernie", SIZES),
    "esm, absolute": ("Esm", {**ESM, "position_embedding_type": "absolute"}),
    "esm, rotary": ("Esm", {**ESM, "position_embedding_type": "rotary"}),
    "esmc": ("Esmc", SIZES),
    "eurobert": ("EuroBert", GROUPED),
    "gemma": ("Gemma", GROUPED),
    "gemma 3": ("Gemma3Text", {**GROUPED, "sliding_window": 512}),
    "gpt2": ("GPT2", {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 300}),
    "llama": ("Llama", GROUPED),
    "mistral": ("Mistral", {**GROUPED, "sliding_window": 8}),
    "mistral, wide": ("Mistral", {**GROUPED, "sliding_window": 4096}),
    "modernbert": ("ModernBert", {**SIZES, "local_attention": 8}),
    "neox": ("GPTNeoX", SIZES),
    "nomic": ("NomicBert", SIZES),
    "opt": ("OPT", {**AFTER_PADDING, "ffn_dim": 48}),
    "phi": ("Phi", SIZES),
    "qwen 2": ("Qwen2", GROUPED),
    "qwen 3": ("Qwen3", GROUPED),
    "roberta": ("Roberta", AFTER_PADDING),
}
"""Those that give packed what they give one at a time: the prefix of their classes, and their config."""

PADDED: dict[str, tuple[str, dict[str, Any]]] = {
    "bigbird": ("BigBird", {**SIZES, "block_size": 4, "num_random_blocks": 1}),
    "deberta 2": ("DebertaV2", {**SIZES, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}),
    "gemma 2": ("Gemma2", GROUPED),
    "led": ("LED", {**HALVES, "attention_window": 8, "max_encoder_position_embeddings": 304}),
    "longformer": ("Longformer", {**AFTER_PADDING, "attention_window": [8, 8, 8]}),
    "mpnet": ("MPNet", AFTER_PADDING),
    "roformer": ("RoFormer", {**SIZES, "embedding_size": 32}),
    "t5": ("T5", {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_heads": 4}),
    "xlm": ("XLM", {"vocab_size": VOCABULARY, "emb_dim": 32, "n_layers": 3, "n_heads": 4, "pad_index": 0}),
}
"""Those that bear padding and no packing."""

OF_ONE_LENGTH: dict[str, tuple[str, dict[str, Any]]] = {
    "convbert": ("ConvBert", {**SIZES, "embedding_size": 16, "head_ratio": 2}),
    "fnet": ("FNet", {name: SIZES[name] for name in SIZES if name != "num_attention_heads"}),
    "nystroemformer": ("Nystromformer", {**SIZES, "num_landmarks": 8, "segment_means_seq_len": 8}),
    "yoso": ("Yoso", SIZES),
}
"""Those whose vectors depend on padding."""

OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "reformer": ("Reformer", {**REFORMER, "attn_layers": ["local", "local"], "max_position_embeddings": 320}),
    "funnel": ("Funnel", {"vocab_size": VOCABULARY, "d_model": 32, "n_head": 4, "d_head": 8, "block_sizes": [1, 1]}),
    "opt, projected": (
        "OPT",
        {**AFTER_PADDING, "ffn_dim": 48, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
    ),
}


def save(kind: str, folder: Path) -> Path:
    """The model with weights large enough that attention is no plain mean."""
    import transformers

    prefix, config = {**PACKED, **PADDED, **OF_ONE_LENGTH, **OTHERS}[kind]
    torch.manual_seed(0)
    config_class = getattr(transformers, f"{prefix}Config")
    known = {*config_class().to_dict(), *config_class.attribute_map}
    sizes = {name: value for name, value in config.items() if name in known}  # others would be saved, and are refused
    model = getattr(transformers, f"{prefix}Model")(config_class(**sizes))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(3)
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    return folder


def one_at_a_time(folder: Path, ids: list[list[int]], layer: int) -> list[torch.Tensor]:
    """Hidden states [N, D] of each window as transformers' documentation has it; its encoder where it has a decoder.

    The last one runs first, once more: a short window switches BigBird for good."""
    import transformers

    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    model = model.get_encoder() if model.config.is_encoder_decoder else model
    with torch.no_grad():
        made = [
            model(input_ids=torch.tensor([row]), output_hidden_states=True).hidden_states for row in [ids[-1], *ids]
        ]
    return [states[layer][0] for states in made[1:]]
