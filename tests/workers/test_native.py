"""Encoders that transformers runs by itself, against a loop of one sequence at a time."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray

from hpc_embed.engine.any_tokeniser import NativeTokeniser, unmarked
from hpc_embed.engine.padded import ALONE, EQUAL, SIMILAR, num_computed_tokens
from hpc_embed.errors import EnvironmentFault
from hpc_embed.run.identity import pin_model
from hpc_embed.run.outputs import outputs_of
from hpc_embed.run.plan import Embedding
from hpc_embed.workers.base import EmbeddedBatch, LoadedModel
from hpc_embed.workers.native import check_poolings
from hpc_embed.workers.registry import make_worker
from tests.conftest import Run
from tests.engine.tiny_models import save
from tests.workers.checkpoints import _with_tokeniser, native, spaced

PROTEINS = [b"MKTAYIAKQRQISFVKSHFSRQ", b"M", b"GGAVLIMFWP" * 9, b"MJXK", b"MKTAYIAKQRQISFVKSHFSR", b"GGA" * 40]
KINDS = ["bert", "roberta", "modernbert", "t5", "llama", "esm"]
POOLINGS = ["mean", "mean_with_special", "max", "cls", "per_token"]


def loaded_from(folder: Path, pooling: str = "mean", layer: int = -1) -> LoadedModel:
    """The worker's model on the CPU."""
    model, identity = pin_model(str(folder), None, "protein")
    embedding = Embedding(
        pooling=pooling,
        layer=layer % (model.num_layers + 1),
        precision="fp32",
        on_long="window",
        max_residues=None,
        on_invalid="unknown",
        case="upper",
    )
    return make_worker(identity, embedding, num_threads=1).load("cpu")


def embed(folder: Path, pooling: str = "mean", layer: int = -1) -> EmbeddedBatch:
    """Ours, all proteins in one batch, longest first as the loop hands them over; rows in the order of PROTEINS."""
    loaded = loaded_from(folder, pooling, layer)
    return loaded.start(loaded.tokenise(ORDERED))()


ORDERED = sorted(PROTEINS, key=len, reverse=True)


def one_at_a_time(folder: Path, pooling: str, layer: int = -1, *, is_spaced: bool = False) -> NDArray[np.float32]:
    """transformers as its documentation uses it."""
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    vectors = []
    for protein in ORDERED:
        text = " ".join(protein.decode()) if is_spaced else protein.decode()
        made = tokenizer(text, return_tensors="pt", return_special_tokens_mask=True)
        with torch.no_grad():
            hidden = model(input_ids=made["input_ids"], output_hidden_states=True).hidden_states[layer][0]
        residues = hidden[made["special_tokens_mask"][0] == 0]
        vectors += {
            "mean": lambda h, r: [r.mean(0)],
            "mean_with_special": lambda h, r: [h.mean(0)],
            "max": lambda h, r: [r.amax(0)],
            "cls": lambda h, r: [h[0]],
            "per_token": lambda h, r: list(r),
        }[pooling](hidden, residues)
    stacked: NDArray[np.float32] = torch.stack(vectors).numpy()
    return stacked


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_equal_those_of_one_sequence_at_a_time(kind: str, tmp_path: Path) -> None:
    folder = native(tmp_path / kind, kind)
    for pooling in POOLINGS if kind == "bert" else ["mean"]:
        ours = embed(folder, pooling).vectors_BD
        assert np.abs(ours - one_at_a_time(folder, pooling)).max() <= 1e-5, pooling


def test_a_layer_in_between_is_that_of_transformers(tmp_path: Path) -> None:
    folder = native(tmp_path / "bert", "bert")
    assert np.abs(embed(folder, "mean", 1).vectors_BD - one_at_a_time(folder, "mean", 1)).max() <= 1e-5


def test_letters_are_put_apart_where_the_tokeniser_knows_them_only_so(tmp_path: Path) -> None:
    folder = spaced(tmp_path / "prot_bert")
    assert NativeTokeniser(folder).notes == ("tokens: letters put apart by spaces.",)
    assert NativeTokeniser(native(tmp_path / "bert", "bert")).notes == ()
    expected = one_at_a_time(folder, "mean", is_spaced=True)
    assert np.abs(embed(folder).vectors_BD - expected).max() <= 1e-5


def test_special_tokens_are_marked_and_unknown_letters_are_none(tmp_path: Path) -> None:
    (tokens,) = NativeTokeniser(native(tmp_path / "bert", "bert"))([b"MJA"])
    assert (tokens < 0).tolist() == [True, False, False, False, True]
    assert unmarked(tokens).tolist() == [1, 20, 3, 5, 2]


def test_a_batch_is_cut_where_padding_would_cost_or_is_not_borne() -> None:
    windows = [np.zeros(length, dtype=np.int64) for length in (100, 90, 80, 79, 70, 10, 10, 3)]
    cut = {
        each: [[len(window) for window in chunk] for chunk in each.chunks(windows)] for each in (SIMILAR, EQUAL, ALONE)
    }
    assert cut[SIMILAR] == [[100, 90, 80], [79, 70], [10, 10], [3]]
    assert cut[EQUAL] == [[100], [90], [80], [79], [70], [10, 10], [3]]
    assert cut[ALONE] == [[100], [90], [80], [79], [70], [10], [10], [3]]
    assert num_computed_tokens(windows, SIMILAR) == 300 + 158 + 20 + 3


def test_padding_is_told_and_packed_rows_have_none(tmp_path: Path) -> None:
    packed, padded = (embed(native(tmp_path / kind, kind)) for kind in ("bert", "t5"))
    assert padded.num_real_tokens < padded.num_computed_tokens <= 1.25 * padded.num_real_tokens
    assert packed.num_real_tokens == packed.num_computed_tokens


def test_hf_runs_the_whole_way_also_with_few_tokens(run: Run, globins: Path, tmp_path: Path) -> None:
    folder = native(tmp_path / "bert", "bert", vocab_size=29)
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# A model\n")
    said = run("plan", globins, "--model", f"hf:{folder}")
    assert "model_type 'bert' runs through transformers itself." in said.stderr
    assert re.search(r"^licence +cc-by-nc-4.0$", said.stdout, re.M)
    assert "warning: bert is under cc-by-nc-4.0: not for commercial use." in said.stderr
    run("local", globins, "--model", folder, "--workers", 1)
    facts = json.loads((tmp_path / "embed-run/dataset.json").read_text())
    assert (facts["model"], facts["dimension"], facts["licence"]) == ("bert", 32, "cc-by-nc-4.0")
    assert facts["statuses"] == {"embedded": 45}
    assert [told.partition(";")[2] for told in facts["proofs"]] == [" tried on this start beside one window at a time"]


def test_letters_that_its_vocabulary_does_not_have_are_counted_and_heeded(run: Run, tmp_path: Path) -> None:
    folder = native(tmp_path / "bert", "bert")
    (tmp_path / "odd.fa").write_text(">known\nMKV\n>odd\nMJJX\n")
    said = run("local", "odd.fa", "--model", folder, "--workers", 1)
    assert "warning: 2 letters that bert does not know are embedded as unknown" in said.stderr
    assert pq.read_table(tmp_path / "embed-run/dataset")["num_unknown"].to_pylist() == [0, 2]
    assert "J" in run("plan", "odd.fa", "--model", folder, "--on-invalid", "error", "--run-dir", "b", code=3).stderr


def test_a_tokeniser_of_another_kind_makes_another_run(tmp_path: Path) -> None:
    before = pin_model(str(native(tmp_path / "bert", "bert")), None, None)[1].digest
    path = tmp_path / "bert" / "tokenizer_config.json"
    path.write_text(path.read_text() + "\n")
    assert pin_model(str(tmp_path / "bert"), None, None)[1].digest != before


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"auto_map": {"AutoModel": "x.Y"}}, "runs code of its own, which is never run here"),
        ({"num_hidden_layers": None}, "no num_hidden_layers"),
    ],
)
def test_what_cannot_run_is_refused_when_planning(tmp_path: Path, change: dict[str, object], problem: str) -> None:
    path = native(tmp_path / "bert", "bert") / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(EnvironmentFault, match=problem):
        pin_model(str(tmp_path / "bert"), None, None)


def test_a_model_that_transformers_does_not_know_is_one_line_when_loading(tmp_path: Path) -> None:
    path = native(tmp_path / "bert", "bert") / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "hyena9"}))
    with pytest.raises(EnvironmentFault, match="cannot load it"):
        embed(tmp_path / "bert")


def test_a_window_beyond_the_models_positions_is_told_in_one_line(tmp_path: Path) -> None:
    folder = native(tmp_path / "bert", "bert")
    assert pin_model(str(folder), None, "protein")[0].max_residues == 510
    loaded = loaded_from(folder)
    with pytest.raises(EnvironmentFault, match="a window has 602 tokens, the model positions for 512"):
        loaded.start(loaded.tokenise([b"M" * 600]))()


def test_a_first_token_that_says_nothing_of_a_record_is_refused_as_a_pooling(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault) as told:
        loaded_from(native(tmp_path / "llama", "llama"), "cls")
    assert str(told.value) == (
        "--pooling cls: llama: the first token's vector is the same for every record, since no token sees those behind "
        "it. Plan with --pooling mean, mean_with_special, max, per_token, into another --run-dir."
    )


def test_cls_is_refused_where_the_tokenizer_puts_nothing_in_front(tmp_path: Path) -> None:
    folder = native(tmp_path / "bert", "bert")
    path = folder / "tokenizer.json"
    told = json.loads(path.read_text())
    told["post_processor"]["single"] = told["post_processor"]["single"][1:]
    path.write_text(json.dumps(told))
    with pytest.raises(EnvironmentFault, match="--pooling cls: bert: its tokenizer puts no token in front"):
        loaded_from(folder, "cls")
    assert embed(folder, "mean").vectors_BD.shape == (len(PROTEINS), 32)


@pytest.mark.parametrize("pooling", ["mean", "max", "per_token"])
def test_poolings_of_letters_are_refused_where_every_token_is_special(pooling: str) -> None:
    probes = [np.array([-2, -5, -3]), np.array([-2, -3])]
    with pytest.raises(EnvironmentFault) as told:
        check_poolings("odd", outputs_of(pooling, 1), probes, sees_only_backwards=False)
    assert str(told.value) == (
        f"--pooling {pooling}: odd: its tokenizer calls every token special. Plan with --pooling mean_with_special, "
        "cls, into another --run-dir."
    )
    check_poolings("odd", outputs_of("mean_with_special,cls", 1), probes, sees_only_backwards=False)


def test_a_model_of_few_positions_starts_and_its_token_budget_is_measured(tmp_path: Path) -> None:
    folder = native(tmp_path / "bert", "bert", max_position_embeddings=40)
    loaded = loaded_from(folder)
    assert loaded.measure_token_budget() >= 256
    assert loaded.start(loaded.tokenise([b"MKV"]))().vectors_BD.shape == (1, 32)


def test_a_vector_is_as_wide_as_the_projection_behind_the_last_layer(tmp_path: Path) -> None:
    folder = _with_tokeniser(save("opt, projected", tmp_path / "opt"))
    assert pin_model(str(folder), None, None)[0].dimension == 16
    loaded = loaded_from(folder)
    assert loaded.start(loaded.tokenise([b"MKV"]))().vectors_BD.shape == (1, 16)


def test_a_config_that_tells_other_dimensions_than_the_model_has_is_refused(tmp_path: Path) -> None:
    folder = _with_tokeniser(save("opt, projected", tmp_path / "opt"))
    path = folder / "config.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in said.items() if name != "num_hidden_layers"}))
    with pytest.raises(EnvironmentFault, match="no num_hidden_layers"):
        loaded_from(folder)


def test_a_model_of_nan_is_one_line_that_suspects_the_checkpoint(run: Run, globins: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = native(tmp_path / "bert", "bert")
    tensors = load_file(folder / "model.safetensors")
    tensors["encoder.layer.1.output.dense.weight"][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    said = run("local", globins, "--model", f"hf:{folder}", "--workers", 1, code=5)
    assert "its weights are suspect. Compare their digest with the published one" in said.stderr
