"""config.json: which of its fields change a vector. No torch.

Each field is read as a dimension, heeded by the family, without effect on a vector, or refused by its name unless it
has the value that everybody else's has: transformers drops a field that it does not know without a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from hpc_embed.checkpoints.files import read_json
from hpc_embed.errors import EnvironmentFault
from hpc_embed.families.family import Config, Family, SameAs, Shape

READ_BY_ALL = ("model_type", "max_position_embeddings", "quantization_config")
HARMLESS = {
    "where the file comes from, and what it was made for": "_name_or_path name_or_path architectures auto_map "
    "transformers_version tokenizer_class custom_pipelines license finetuning_task task_specific_params problem_type "
    "id2label label2id num_labels _num_labels",
    "how weights are stored; they are computed with as --precision says": "torch_dtype dtype use_bfloat16 torchscript "
    "tie_word_embeddings",
    "training": "initializer_range initializer_factor gradient_checkpointing use_cache output_past encoder_keep_prob "
    "hidden_dropout_prob attention_probs_dropout_prob classifier_dropout dropout_rate attention_dropout dropout "
    "hidden_dropout embd_pdrop attn_pdrop resid_pdrop layerdrop",
    "what is handed out, not what is computed": "output_attentions output_hidden_states return_dict "
    "_attn_implementation attn_implementation _attn_implementation_autoset _attn_implementation_internal",
    "told by the tokenizer's files": "bos_token_id eos_token_id pad_token_id cls_token_id sep_token_id unk_token_id "
    "mask_token_id decoder_start_token_id",
    "decoders and generation": "num_decoder_layers is_encoder_decoder scale_decoder_outputs max_length min_length "
    "do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p typical_p "
    "repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids "
    "num_return_sequences output_scores return_dict_in_generate forced_bos_token_id forced_eos_token_id "
    "remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens prefix",
    "memory and limits": "chunk_size_feed_forward n_positions alibi_starting_size",
}
"""Names of fields without effect on a vector, by what they are for."""
WITHOUT_EFFECT = frozenset(name for names in HARMLESS.values() for name in names.split())
USUAL: Mapping[str, object] = {
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_encoder_decoder": False,
    "pruned_heads": {},
    "type_vocab_size": 2,
    "is_folding_model": False,
    "position_embedding_type": "absolute",
}
"""Fields of any model that change a vector where they are not so."""


class Oddity(NamedTuple):
    """A field that is not as a family wants it."""

    name: str
    value: object
    is_known: bool
    """True for a field that transformers heeds; it drops the others without a word."""

    def __str__(self) -> str:
        return f"{self.name} is {self.value!r}" if self.is_known else f"{self.name} ({self.value!r}) is not known"


def read_config(folder: Path) -> Config:
    """config.json of a checkpoint folder; EnvironmentFault where there is none."""
    if not (folder / "config.json").exists():
        raise EnvironmentFault(
            f"{folder}: no config.json, so this is no checkpoint.", remedy="Give the folder that holds one."
        )
    return read_json(folder / "config.json")


def oddities(family: Family, shape: Shape, config: Config) -> Iterator[Oddity]:
    """The fields for which the family's table would compute something else than the authors' code."""
    dimensions = {key for keys in family.config_keys.values() for key in keys}
    for name, allowed in family.heeds.items():
        if not _is_among(config.get(name), allowed, shape):
            yield Oddity(name, config.get(name), True)
    for name, value in config.items():
        if value is None or name in family.heeds or name in dimensions or name in READ_BY_ALL:
            continue
        if name in USUAL:
            if value != USUAL[name]:
                yield Oddity(name, value, True)
        elif name not in WITHOUT_EFFECT:
            yield Oddity(name, value, False)


def contradictions(family: Family, config: Config) -> Iterator[str]:
    """Dimensions that two fields tell in different ways."""
    for keys in family.config_keys.values():
        told = {key: config[key] for key in keys if config.get(key) is not None}
        if len(set(map(repr, told.values()))) > 1:
            yield " and ".join(f"{key} is {value!r}" for key, value in told.items())


def _is_among(value: object, allowed: tuple[object, ...], shape: Shape) -> bool:
    wanted = [getattr(shape, one.dimension) if isinstance(one, SameAs) else one for one in allowed]
    # True == 1 in Python, and is another thing in a config
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in wanted)


def refuse_quantised(folder: Path, config: Config) -> None:
    """EnvironmentFault for weights that stand for others."""
    if config.get("quantization_config"):
        raise quantised(f"{folder}: quantised weights (quantization_config in config.json)")


def quantised(problem: str) -> EnvironmentFault:
    return EnvironmentFault(
        f"{problem}, which are not read here.",
        remedy="Take the checkpoint that it was quantised from, or save it dequantised with the library that made it.",
    )
