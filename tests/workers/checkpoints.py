"""Small random checkpoints as they lie on disk, of every family and of what transformers runs by itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from hpc_embed.engine.tokens import untrained_kmers
from hpc_embed.engine.weights import random_weights
from hpc_embed.families import FAMILIES
from hpc_embed.families.family import Kmers, Shape
from hpc_embed.families.nucleotide import nucleotide_shape
from tests.checkpoints.faces import PROST_T5_ADDED, spiece_model

LETTERS = "LAGVSERTIDPKQNFYMHWCXBUZO"


def esmc(folder: Path) -> Path:
    """ESM C as transformers writes it."""
    from transformers import EsmcConfig, EsmcModel

    config = EsmcConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2)
    return _saved(EsmcModel(config), folder)


def t5(folder: Path, *, vocabulary: int = 128, feed_forward: str = "relu") -> Path:
    """T5's encoder as transformers writes it, with the vocabulary of ProtT5, or of ProstT5 where it is larger."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=vocabulary,
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj=feed_forward,
        relative_attention_num_buckets=32,
    )
    _saved(T5EncoderModel(config), folder)
    (folder / "spiece.model").write_bytes(spiece_model())
    if vocabulary == 150:
        (folder / "added_tokens.json").write_text(json.dumps(PROST_T5_ADDED))
    return folder


def nucleotide(folder: Path) -> Path:
    """Nucleotide Transformer v2 under its published names; transformers has no model of it."""
    family, shape = FAMILIES["nucleotide_transformer"], nucleotide_shape(2, 64, 4)
    folder.mkdir()
    save_file(random_weights(family, shape, 1), folder / "model.safetensors")
    config = {
        "model_type": "esm",
        "position_embedding_type": "rotary",
        "emb_layer_norm_before": False,
        "token_dropout": False,
        "add_bias_fnn": False,
        "mask_token_id": 2,
        "auto_map": {"AutoModelForMaskedLM": "modeling_esm.EsmForMaskedLM"},
        **_dimensions(shape),
    }
    (folder / "config.json").write_text(json.dumps(config))
    assert isinstance(family.tokens, Kmers)
    (folder / "vocab.txt").write_text("\n".join(untrained_kmers(family.tokens)))
    (folder / "tokenizer_config.json").write_text('{"eos_token": null, "tokenizer_class": "EsmTokenizer"}')
    return folder


PACKED: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "esmc": ("protein", esmc),
    "prot_t5": ("protein", t5),
    "prost_t5": ("protein", lambda folder: t5(folder, vocabulary=150)),
    "ankh": ("protein", lambda folder: t5(folder, vocabulary=144, feed_forward="gated-gelu")),
    "nucleotide": ("dna", nucleotide),
}
"""Kind of sequence and maker of a checkpoint of each newer family."""


def native(folder: Path, kind: str, **more: int) -> Path:
    """A BERT, RoBERTa, ModernBERT, T5 of texts, or Llama, with a tokeniser of single letters."""
    import transformers

    common = {"vocab_size": 300, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 64}
    sizes: dict[str, Any] = {"hidden_size": 32, "pad_token_id": 0, **common, **more}
    t5_sizes = {"vocab_size": 300, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    made: dict[str, Callable[[], Any]] = {
        "bert": lambda: transformers.BertModel(transformers.BertConfig(**sizes)),
        "roberta": lambda: transformers.RobertaModel(
            transformers.RobertaConfig(**{**sizes, "pad_token_id": 1}, max_position_embeddings=514)
        ),
        "modernbert": lambda: transformers.ModernBertModel(transformers.ModernBertConfig(**sizes)),
        "t5": lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(**t5_sizes)),
        "llama": lambda: transformers.LlamaModel(transformers.LlamaConfig(**sizes)),
        "esm": lambda: transformers.EsmModel(
            transformers.EsmConfig(
                **{**sizes, "pad_token_id": 1},
                mask_token_id=2,
                position_embedding_type="absolute",
                max_position_embeddings=300,
                token_dropout=True,
            )
        ),
    }
    torch.manual_seed(0)
    return _with_tokeniser(_saved(made[kind](), folder))


def _with_tokeniser(folder: Path, *, is_of_words: bool = False) -> Path:
    """One token a letter, or a word where letters are put apart by spaces, `<cls>` and `<eos>` around."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = ["<pad>", "<cls>", "<eos>", "<unk>", *LETTERS]
    tokenizer = Tokenizer(models.WordLevel({name: at for at, name in enumerate(names)}, unk_token="<unk>"))
    split = pre_tokenizers.Whitespace() if is_of_words else pre_tokenizers.Split("", "isolated")
    tokenizer.pre_tokenizer = split
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<cls> $A <eos>", special_tokens=[("<cls>", 1), ("<eos>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", cls_token="<cls>", eos_token="<eos>"
    ).save_pretrained(folder)
    return folder


def spaced(folder: Path) -> Path:
    """A BERT like ProtBERT, whose tokeniser wants spaces between residues."""
    return _with_tokeniser(native(folder, "bert"), is_of_words=True)


def _saved(model: Any, folder: Path) -> Path:
    from transformers.utils import logging

    logging.disable_progress_bar()
    model.save_pretrained(folder)
    return folder


def _dimensions(shape: Shape) -> dict[str, int | float]:
    return {
        "num_hidden_layers": shape.num_layers,
        "hidden_size": shape.hidden,
        "num_attention_heads": shape.num_heads,
        "intermediate_size": shape.intermediate,
        "vocab_size": shape.vocabulary,
        "layer_norm_eps": shape.eps,
    }
