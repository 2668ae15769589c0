"""What planning knows of a model that transformers runs, by its config.json."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc_embed.checkpoints.any_encoder import infer_model_type, is_native, native_model
from hpc_embed.errors import EnvironmentFault
from hpc_embed.families.family import Shape
from hpc_embed.registry import ANY_ENCODER

BERT: dict[str, object] = {
    "model_type": "bert",
    "num_hidden_layers": 2,
    "hidden_size": 8,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "vocab_size": 30,
    "max_position_embeddings": 512,
}


def test_all_that_a_config_tells() -> None:
    model = native_model("mine", BERT, Path("mine"), "dna", "MIT")
    assert (model.name, model.kind, model.licence, model.dimension, model.max_residues) == (
        "mine",
        "dna",
        "MIT",
        8,
        510,
    )
    assert model.shape == Shape(num_layers=2, hidden=8, num_heads=4, intermediate=24, vocabulary=30, eps=0.0)
    assert (model.worker, model.family) == (ANY_ENCODER.worker, "transformers")


def test_what_a_config_may_leave_out() -> None:
    model = native_model("mine", {"num_layers": 3, "d_model": 16}, Path("mine"), None, "")
    assert model.shape == Shape(num_layers=3, hidden=16, num_heads=1, intermediate=64, vocabulary=1, eps=0.0)
    assert (model.kind, model.max_residues) == ("protein", None)


@pytest.mark.parametrize("layers", ["num_hidden_layers", "num_layers", "n_layers", "n_layer"])
@pytest.mark.parametrize("hidden", ["hidden_size", "d_model", "dim", "n_embd"])
def test_dimensions_by_the_names_that_models_give_them(layers: str, hidden: str) -> None:
    config = {layers: 3, hidden: 16, "num_hidden_layers_per_group": 9, "n_heads": 4, "n_inner": None, "hidden_dim": 20}
    shape = native_model("mine", config, Path("mine"), None, "").shape
    assert shape == Shape(num_layers=3, hidden=16, num_heads=4, intermediate=20, vocabulary=1, eps=0.0)


@pytest.mark.parametrize(
    ("facts", "max_residues"),
    [
        ({"max_position_embeddings": 512}, 510),
        ({"n_positions": 512}, 510),
        ({}, None),
        ({"max_position_embeddings": "many"}, None),
        ({"model_type": "roberta", "max_position_embeddings": 514}, 510),
        ({"model_type": "esm", "max_position_embeddings": 514}, 510),
        ({"model_type": "esm", "max_position_embeddings": 514, "position_embedding_type": "rotary"}, 510),
        ({"model_type": "t5", "n_positions": 512}, None),
        ({"model_type": "bert", "max_position_embeddings": 2}, 1),
        ({"model_type": "bert", "max_position_embeddings": 4}, 2),
    ],
)
def test_residues_that_surely_fit(facts: dict[str, object], max_residues: int | None) -> None:
    config = {"num_layers": 3, "d_model": 16, **facts}
    assert native_model("mine", config, Path("mine"), None, "").max_residues == max_residues


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"hidden_size": 8}, "no num_hidden_layers"),
        ({"num_hidden_layers": 8}, "no hidden_size"),
        ({}, "no num_hidden_layers"),
    ],
)
def test_models_that_cannot_be_planned_for(config: dict[str, object], words: str) -> None:
    with pytest.raises(EnvironmentFault, match=words):
        native_model("mine", config, Path("mine"), None, "")


@pytest.mark.parametrize(
    ("config", "model_type"),
    [
        ({"model_type": "bert", "architectures": ["AntiBERTy"]}, "bert"),
        ({"architectures": ["BertForMaskedLM"]}, "bert"),
        ({"architectures": ["T5EncoderModel"]}, "t5"),
        ({"architectures": ["EsmModel"]}, "esm"),
        ({"architectures": ["Odd"]}, None),
        ({"architectures": []}, None),
        ({}, None),
    ],
)
def test_an_architecture_is_known_by_the_class_that_wrote_it(config: dict[str, object], model_type: str | None) -> None:
    assert infer_model_type(config) == model_type


@pytest.mark.parametrize(
    ("auto_map", "expected"),
    [
        (None, True),
        ({}, True),
        ({"AutoModel": "dnabert_layer.DNABertModel"}, True),
        ({"AutoModel": "zhihan1996/DNA_bert_6--dnabert_layer.DNABertModel"}, True),
        ({"AutoModel": "bert.Bert"}, False),
        ({"AutoModel": ["a.B", None]}, False),
        ("bert.Bert", False),
    ],
)
def test_remote_code_is_none_of_transformers_but_for_what_is_known_to_be_the_same(
    auto_map: object, expected: bool
) -> None:
    assert is_native({"model_type": "bert", "auto_map": auto_map}) is expected


def test_a_model_of_four_letters_is_one_of_dna(tmp_path: Path) -> None:
    assert native_model("mine", BERT, tmp_path, None, "", "ACGT").kind == "dna"
    assert native_model("mine", BERT, tmp_path, None, "", "ACDEFGHIKLMNPQRSTVWY").kind == "protein"
    assert native_model("mine", BERT, tmp_path, "protein", "", "ACGT").kind == "protein"
