"""What published checkpoints are taken for, by which facts, and why not for what they resemble."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path

import pytest

from hpc_embed.checkpoints.face import Face, Taken, known_letters, take, taken_by_transformers
from hpc_embed.engine.bytepairs import untrained_bpe_json
from hpc_embed.errors import EnvironmentFault
from hpc_embed.families import FAMILIES
from hpc_embed.families.dnabert import DNABERT, dnabert_shape
from hpc_embed.families.esm2 import VOCABULARY, esm2_shape
from hpc_embed.families.esmc import ESMC, esmc_shape
from hpc_embed.families.family import Kmers, Pieces
from hpc_embed.families.nucleotide import NUCLEOTIDE_TRANSFORMER, nucleotide_shape
from hpc_embed.families.t5 import ANKH, T5, t5_shape
from tests.checkpoints.faces import (
    ESM2_CONFIG,
    esm2_face,
    esm2_sizes,
    sizes_of,
    write_face,
    write_head,
    write_vocabulary,
)

THREE_DI = ("<cls>", "<pad>", "<eos>", "<unk>", "<mask>")
SAPROT_VOCABULARY = (*THREE_DI, *map("".join, product("ACDEFGHIKLMNPQRSTVWY#", "pynwrqhgdlvtmfsaeikc#")))
RNA_VOCABULARY = ("<cls>", "<pad>", "<eos>", "<unk>", "A", "C", "G", "U", "R", "Y", "K", "M", "S", "W", "B", "D", "H")
ESM_1B = {"position_embedding_type": "absolute", "emb_layer_norm_before": True}
PROT_BERT = {
    "architectures": ["BertForMaskedLM"],
    "attention_probs_dropout_prob": 0.0,
    "hidden_act": "gelu",
    "hidden_size": 16,
    "intermediate_size": 32,
    "max_position_embeddings": 40000,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "type_vocab_size": 2,
    "vocab_size": 30,
}
"""As it is published: without a model_type."""
PROT_BERT_VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"LAGVESIKRDTPNQFYMHCWXUBZO")
DNABERT_2 = {
    "alibi_starting_size": 512,
    "auto_map": {"AutoModel": "bert_layers.BertModel"},
    "hidden_act": "gelu",
    "hidden_size": 48,
    "intermediate_size": 96,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "num_attention_heads": 12,
    "num_hidden_layers": 1,
    "position_embedding_type": "absolute",
    "type_vocab_size": 2,
    "vocab_size": 4096,
}
"""As it is published: neither a model_type nor architectures."""
DNABERT_1 = {
    **PROT_BERT,
    "model_type": "bert",
    "auto_map": {"AutoModel": "dnabert_layer.DNABertModel"},
    "vocab_size": 69,
}
K_MERS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map("".join, product("ATCG", repeat=3)))
NT_V2 = {
    "add_bias_fnn": False,
    "auto_map": {"AutoModelForMaskedLM": "modeling_esm.EsmForMaskedLM"},
    "emb_layer_norm_before": False,
    "hidden_size": 16,
    "intermediate_size": 64,
    "layer_norm_eps": 1e-12,
    "mask_token_id": 2,
    "max_position_embeddings": 2050,
    "model_type": "esm",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "pad_token_id": 1,
    "position_embedding_type": "rotary",
    "token_dropout": False,
    "vocab_size": 4107,
}
GENA = {**PROT_BERT, "model_type": "bert", "pre_layer_norm": True, "last_layer_norm": False}
ESMC_AUTHORS = {
    "d_model": 128,
    "n_heads": 2,
    "n_layers": 2,
    "model_type": "esmc",
    "vocab_size": 64,
    "mask_token_id": 32,
}
PROT_T5 = {
    "model_type": "t5",
    "d_ff": 64,
    "d_kv": 16,
    "d_model": 32,
    "num_layers": 2,
    "num_heads": 4,
    "feed_forward_proj": "relu",
    "relative_attention_num_buckets": 32,
    "layer_norm_epsilon": 1e-6,
    "n_positions": 512,
    "vocab_size": 128,
    "is_encoder_decoder": True,
}


def pieces(letters: str, added: Mapping[str, int] | None = None) -> str:
    """A tokenizer.json of T5's kind."""
    names = ["<pad>", "</s>", "<unk>", *(f"▁{letter}" for letter in letters)]
    more = [{"id": token, "content": name} for name, token in (added or {}).items()]
    return json.dumps({"model": {"vocab": [[name, 0.0] for name in names]}, "added_tokens": more})


def esmc(
    folder: Path, config: Mapping[str, object], form: int, shape: tuple[int, int, int, int] = (2, 128, 2, 512)
) -> Path:
    return write_face(folder, config, sizes_of(ESMC, esmc_shape(*shape), form), None)


def dnabert(folder: Path, **changes: object) -> Path:
    config = {**DNABERT_2, **changes}
    write_face(folder, config, sizes_of(DNABERT, dnabert_shape(1, 48, 12, 96)), None)
    (folder / "tokenizer.json").write_text(untrained_bpe_json())
    return folder


def nucleotide(folder: Path, *, without: tuple[str, ...] = (), **changes: object) -> Path:
    config = {name: value for name, value in {**NT_V2, **changes}.items() if name not in without}
    tokens = NUCLEOTIDE_TRANSFORMER.tokens
    assert isinstance(tokens, Kmers)
    write_face(folder, config, sizes_of(NUCLEOTIDE_TRANSFORMER, nucleotide_shape(2, 16, 4)), tokens.vocabulary)
    (folder / "tokenizer_config.json").write_text('{"eos_token": null, "tokenizer_class": "EsmTokenizer"}')
    return folder


def t5(folder: Path, tokenizer: str, *, rows: int = 128, is_gated: bool = False, **changes: object) -> Path:
    family = ANKH if is_gated else T5
    kind = {"feed_forward_proj": "gated-gelu"} if is_gated else {}
    write_face(
        folder,
        {**PROT_T5, **kind, "vocab_size": rows, **changes},
        sizes_of(family, t5_shape(2, 32, 4, 64, 16, vocabulary=rows)),
        None,
    )
    (folder / "tokenizer.json").write_text(tokenizer)
    return folder


def saprot(folder: Path) -> Path:
    config = {**ESM2_CONFIG, "vocab_size": 446, "mask_token_id": 4}
    return write_face(folder, config, esm2_sizes(config), SAPROT_VOCABULARY)


def bert(folder: Path, config: Mapping[str, object], names: tuple[str, ...]) -> Path:
    return write_face(folder, config, {"bert.embeddings.word_embeddings.weight": (len(names), 16)}, names)


ANKHS_LETTERS = "ALGVSREDTIPKFQNYMHWCXBOUZ"
ANKH_3 = "LAGSVERTIDPKNFQYHMCWXUBZO"
"""The order of its letters."""
FACES: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "ESM-2": (esm2_face, "esm2", ""),
    "DPLM": (lambda f: esm2_face(f, dplm_type="dplm_esm", hidden_dropout_prob=0.1), "esm2", ""),
    "ESM-2 saved by transformers 5": (lambda f: esm2_face(f, rope_theta=10000.0, is_decoder=False), "esm2", ""),
    "ESM-2 with other positions": (lambda f: esm2_face(f, **ESM_1B), "hf", "position_embedding_type is 'absolute'"),
    "ESM-2 without token dropout": (lambda f: esm2_face(f, token_dropout=None), "hf", "token_dropout is None"),
    "ESM-2 with other frequencies": (lambda f: esm2_face(f, rope_theta=500000.0), "hf", "rope_theta is 500000.0"),
    "ESM-2 with another activation": (lambda f: esm2_face(f, hidden_act="gelu_new"), "hf", "hidden_act is 'gelu_new'"),
    "ESM-1b": (lambda f: esm2_face(f, **ESM_1B), "hf", "emb_layer_norm_before is True"),
    "ESM-2's tokens in another order": (
        lambda f: write_face(f, ESM2_CONFIG, esm2_sizes(ESM2_CONFIG), (*VOCABULARY[:4], "A", "L", *VOCABULARY[6:])),
        "hf",
        "token 4 of vocab.txt is 'A', not 'L'",
    ),
    "SaProt": (saprot, "hf", "mask_token_id is 4; token 4 of vocab.txt is '<mask>', not 'L'"),
    "an RNA model": (
        lambda f: write_face(f, ESM2_CONFIG, esm2_sizes(ESM2_CONFIG), RNA_VOCABULARY),
        "hf",
        "token 4 of vocab.txt is 'A', not 'L'",
    ),
    "ESM C, transformers' form": (
        lambda f: esmc(
            f,
            {"model_type": "esmc", "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2}
            | {"num_attention_heads": 2, "head_dim": 64, "num_key_value_heads": 2, "vocab_size": 64}
            | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
            0,
        ),
        "esmc",
        "",
    ),
    "ESM C, its authors' first form": (lambda f: esmc(f, {}, 1), "esmc", ""),
    "ESM C, TransformerEngine's form": (lambda f: esmc(f, ESMC_AUTHORS, 2), "esmc", ""),
    "DNABERT-2": (dnabert, "dnabert", ""),
    "DNABERT-S": (lambda f: dnabert(f, model_type="bert", pad_token_id=0), "dnabert", ""),
    "DNABERT-1": (lambda f: bert(f, DNABERT_1, K_MERS), "hf", ""),
    "Nucleotide Transformer v2": (nucleotide, "nucleotide_transformer", ""),
    "the same before it had a type": (
        lambda f: nucleotide(f, without=("model_type",)),
        "nucleotide_transformer",
        "",
    ),
    "ProtBERT": (lambda f: bert(f, PROT_BERT, PROT_BERT_VOCABULARY), "hf", ""),
    "ProtT5": (lambda f: t5(f, pieces(ANKHS_LETTERS)), "t5", ""),
    "ProstT5": (lambda f: t5(f, pieces(ANKHS_LETTERS, {"<AA2fold>": 149}), rows=150), "t5", ""),
    "Ankh": (lambda f: t5(f, pieces(ANKHS_LETTERS), rows=144, is_gated=True), "ankh", ""),
    "Ankh 3": (lambda f: t5(f, pieces(ANKH_3), rows=256, is_gated=True), "hf", "token 3 of tokenizer.json is '▁L'"),
}


@pytest.mark.parametrize("name", FACES)
def test_a_published_face_is_taken_for_what_it_is(name: str, tmp_path: Path) -> None:
    make, expected, reason = FACES[name]
    taken = take(Face(make(tmp_path / "model")))
    assert (taken.family.name if taken.family else "hf") == expected
    assert reason in "; ".join(taken.why_not.values())
    assert bool(taken.why_not) == bool(reason)


def test_dimensions_are_those_of_the_tensors_where_the_config_is_empty(tmp_path: Path) -> None:
    taken = take(Face(esmc(tmp_path, {}, 1, (3, 192, 3, 512))))
    assert taken.shape == esmc_shape(3, 192, 3, 512)


def test_the_authors_config_has_no_width_of_the_feed_forward(tmp_path: Path) -> None:
    taken = take(Face(esmc(tmp_path, ESMC_AUTHORS, 2, (2, 128, 2, 768))))
    assert taken.shape is not None
    assert taken.shape.intermediate == 768


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "SegmentNT": (
        lambda f: nucleotide(f, rescaling_factor=2.0),
        "rescaling_factor (2.0) is not known, so this is a relative of nucleotide_transformer",
    ),
    "GENA-LM with its code": (
        lambda f: bert(f, {**GENA, "auto_map": {"AutoModel": "modeling_bert.BertModel"}}, PROT_BERT_VOCABULARY),
        "runs code of its own, which is never run here",
    ),
    "another repository's code": (
        lambda f: bert(f, {**PROT_BERT, "auto_map": {"AutoModel": "a/b--modeling.X"}}, PROT_BERT_VOCABULARY),
        "runs code of its own",
    ),
    "a config that says nothing": (
        lambda f: bert(f, {"hidden_size": 16}, PROT_BERT_VOCABULARY),
        "neither a model_type",
    ),
    "ESM-2 without a tokenizer": (
        lambda f: write_face(f, ESM2_CONFIG, esm2_sizes(ESM2_CONFIG), None),
        "no tokenizer (tokenizer.json, vocab.txt or spiece.model)",
    ),
    "a BERT without a tokenizer": (
        lambda f: write_face(f, {**PROT_BERT, "model_type": "bert"}, {"x": (1,)}, None),
        "no tokenizer",
    ),
    "quantised by a library": (
        lambda f: esm2_face(f, quantization_config={"quant_method": "bitsandbytes"}),
        "quantised weights (quantization_config in config.json)",
    ),
    "two spellings that differ": (
        lambda f: esmc(f, {**ESMC_AUTHORS, "hidden_size": 960}, 2),
        "hidden_size is 960 and d_model is 128",
    ),
    "a field that nobody knows": (lambda f: esm2_face(f, use_glu=True), "use_glu (True) is not known"),
    "a dimension that nothing tells": (lambda f: esm2_face(f, num_attention_heads=None), "no num_attention_heads"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_nothing_here_embeds_rightly_is_refused(name: str, tmp_path: Path) -> None:
    make, problem = REFUSED[name]
    with pytest.raises(EnvironmentFault) as caught:
        take(Face(make(tmp_path / "model")))
    assert problem in str(caught.value)
    assert caught.value.remedy


def taken_with(folder: Path, change: Callable[[dict[str, tuple[int, ...]]], object], numbers: str = "F32") -> Taken:
    """A small ESM-2 with other tensors."""
    esm2_face(folder)
    sizes = esm2_sizes(ESM2_CONFIG)
    change(sizes)
    write_head(folder / "model.safetensors", sizes, numbers)
    return take(Face(folder))


LAYER = "esm.encoder.layer.1."


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda sizes: sizes.pop(LAYER + "LayerNorm.weight"), "encoder.layer.1.LayerNorm.weight is missing"),
        (lambda sizes: sizes.update({LAYER + "LayerNorm.bias": (9,)}), "has shape (9,), not (8,)"),
        (
            lambda sizes: sizes.update({LAYER + "lora_A.weight": (8, 4)}),
            "holds esm.encoder.layer.1.lora_A.weight, a part of the encoder that esm2 has not",
        ),
        (
            lambda sizes: sizes.update({"esm.encoder.emb_layer_norm_before.weight": (8,)}),
            "emb_layer_norm_before.weight, a part of the encoder",
        ),
        (
            lambda sizes: sizes.update({LAYER.removeprefix("esm.") + "LayerNorm.bias": (8,)}),
            "holds both esm.encoder.layer.1.LayerNorm.bias and encoder.layer.1.LayerNorm.bias",
        ),
    ],
)
def test_every_tensor_is_looked_at(
    change: Callable[[dict[str, tuple[int, ...]]], object], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        taken_with(tmp_path, change)
    assert problem in str(caught.value)


def test_heads_and_what_older_files_carry_are_no_fault(tmp_path: Path) -> None:
    more = {
        "lm_head.dense.weight": (8, 8),
        "my_own_head.weight": (2, 8),
        "esm.contact_head.regression.weight": (1, 6),
        "esm.embeddings.position_ids": (1, 514),
        "esm.embeddings.position_embeddings.weight": (514, 8),
        LAYER + "attention.self.rotary_embeddings.inv_freq": (2,),
    }
    assert taken_with(tmp_path, lambda sizes: sizes.update(more)).family is FAMILIES["esm2"]


@pytest.mark.parametrize("numbers", ["I8", "U8", "F8_E4M3", "I32"])
def test_numbers_that_are_no_floats_are_quantised_weights(numbers: str, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match=f"quantised weights .* holds {numbers}"):
        taken_with(tmp_path, lambda sizes: None, numbers)


def test_half_precision_is_read(tmp_path: Path) -> None:
    assert taken_with(tmp_path, lambda sizes: None, "F16").family is FAMILIES["esm2"]


def test_an_adapter_beside_a_base_model_is_never_ignored(tmp_path: Path) -> None:
    folder = esm2_face(tmp_path / "tuned")
    (folder / "adapter_config.json").write_text("{}")
    for takes in (take, taken_by_transformers):
        with pytest.raises(EnvironmentFault, match=r"holds an adapter .*merge_and_unload"):
            takes(Face(folder))


def test_an_eos_that_the_tokenizer_rules_out_makes_other_tokens(tmp_path: Path) -> None:
    folder = esm2_face(tmp_path)
    (folder / "tokenizer_config.json").write_text('{"eos_token": null}')
    assert take(Face(folder)).why_not == {"esm2": "its eos_token is None, not '<eos>'"}


def test_two_files_of_a_vocabulary_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    folder = esm2_face(tmp_path)
    other = {name: token for token, name in enumerate(reversed(VOCABULARY))}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": other}}))
    with pytest.raises(EnvironmentFault, match=r"is token \d+ in tokenizer.json and \d+ in vocab.txt"):
        take(Face(folder))


@pytest.mark.parametrize(
    ("names", "letters"),
    [
        (VOCABULARY, "ABCDEFGHIKLMNOPQRSTUVWXYZ"),
        (PROT_BERT_VOCABULARY, "ABCDEFGHIKLMNOPQRSTUVWXYZ"),
        (SAPROT_VOCABULARY, "ACDEFGHIKLMNPQRSTVWY"),
        (K_MERS, "ACGT"),
        (RNA_VOCABULARY, "ABCDGHKMRSUWY"),
    ],
)
def test_letters_that_a_vocabulary_tells_apart(names: tuple[str, ...], letters: str, tmp_path: Path) -> None:
    write_vocabulary(tmp_path, names)
    assert known_letters(Face(tmp_path).vocabulary) == letters


def test_tokens_beyond_the_table_are_seen(tmp_path: Path) -> None:
    config = {**ESM2_CONFIG, "vocab_size": 30}
    folder = write_face(tmp_path, config, esm2_sizes(config))
    assert take(Face(folder)).why_not == {"esm2": "vocab.txt has token 32 of 30 rows"}


def test_a_shape_is_the_one_that_the_config_tells(tmp_path: Path) -> None:
    assert take(Face(esm2_face(tmp_path))).shape == esm2_shape(3, 8, 2)


def test_pieces_stand_in_the_order_of_the_table() -> None:
    assert isinstance(T5.tokens, Pieces)
    assert T5.tokens.letters == ANKHS_LETTERS
