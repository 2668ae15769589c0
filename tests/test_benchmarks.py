"""The benchmarks run, need no more than they say, and measure what they say."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import accuracy, faces, gpu, gpu_models, measuring
from benchmarks.proteins_cpu import FASTA
from hpc_embed.engine import processor
from hpc_embed.families.esm2 import VOCABULARY
from hpc_embed.registry import find_model
from tests.conftest import REPOSITORY

WITHOUT_PACKAGES = """
import runpy, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"Bio", "submitit", "jsonargparse", "docstring_parser", "esm"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
sys.argv = ["gpu", *sys.argv[1:]]
runpy.run_module("benchmarks.gpu", run_name="__main__", alter_sys=False)
"""


def lines_of(command: list[str]) -> dict[str, tuple[float, str]]:
    """Figures by name."""
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}  # threads that wait for each other crawl beside other tests
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, env=alone)
    assert done.returncode == 0, done.stderr
    figures = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert all(set(figure) == {"name", "value", "unit"} for figure in figures)
    return {figure["name"]: (figure["value"], figure["unit"]) for figure in figures}


def test_the_gpu_script_needs_little_and_goes_through_on_a_cpu() -> None:
    options = ["--device", "cpu", "--models", "esm2_t6_8M", "--windows", "2", "--seconds", "0.1", "--longest", "17"]
    options += ["--batches", "3", "--any", "antiberty"]
    figures = lines_of([sys.executable, "-c", WITHOUT_PACKAGES, *options, "--json"])
    assert {name.split(":")[0] for name in figures} == {"matmul peak, bf16", "memory", "esm2_t6_8M", "antiberty"}
    assert any("antiberty: packed, hpc-embed, " in name for name in figures)
    assert any("antiberty: padded, hpc-embed, transformers" in name for name in figures)
    assert any("transformers BF16, batches of 32" in name for name in figures)
    assert any("hpc-embed, sdpa" in name for name in figures)
    assert all(value > 0 for value, _ in figures.values())


def test_the_kernels_of_a_gpu_spill_nothing_read_wide_and_use_tensor_cores() -> None:
    """Compiled in the form in which encoders launch them; no GPU is needed."""
    pytest.importorskip("triton", reason="on x86-64 alone")
    models = ["esm2_t12_35M", "dnabert_s", "esmc_300m", "ankh_base"]
    figures = lines_of([sys.executable, "-m", "benchmarks.gpu_code", "--models", *models, "--json"])
    kernels = {tuple(name.split(":")[0].split()) for name in figures if " sm_" in name}
    assert {capability for _, _, capability in kernels} == {"sm_80", "sm_90", "sm_100"}
    assert {kernel for _, kernel, _ in kernels} == {
        *("attend", "rotate", "norm_sum", "norm_parts", "activate", "quantise")
    }
    assert {capability for _, kernel, capability in kernels if kernel == "quantise"} == {"sm_90", "sm_100"}
    for place in kernels:
        name = " ".join(place)
        assert figures[f"{name}: spills"] == (0, ""), name
        assert figures[f"{name}: accesses of one or two bytes"] == (0, ""), name
        assert (figures[f"{name}: tensor-core instructions"][0] > 0) == (place[1] == "attend"), name
    assert figures["esmc_300m H100: at most"][0] > figures["esmc_300m A100: at most"][0] > 0


def test_the_protein_benchmark_compares_the_ways_it_names(globins: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.proteins_cpu", "--fasta", str(globins), "--records", "2"]
    command += ["--seconds", "0.1", "--json"]
    figures = lines_of(command)
    assert figures["esm2_t6_8M: hpc-embed, FP32: padding efficiency"] == (1.0, "")
    assert figures["esm2_t6_8M: hpc-embed, BF16 over hpc-embed, FP32"][1] == "times"
    assert figures["esm2_t6_8M: transformers, one at a time: tokens"][1] == "tokens/s"


def test_the_benchmark_of_any_encoder_compares_packed_rows_with_transformers() -> None:
    command = [sys.executable, "-m", "benchmarks.any_encoder_cpu", "--models", "antiberty", "--records", "2"]
    figures = lines_of([*command, "--seconds", "0.1", "--turns", "1", "--json"])
    assert figures["antiberty: hpc-embed, packed over transformers, one at a time"][1] == "times"
    assert figures["antiberty: largest difference"][0] < 1e-5


def test_the_accuracy_benchmark_finds_ours_beside_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = [np.array([0, *[5, 6, 7] * 30, 2]), np.array([0, 5, 2])]
    monkeypatch.setattr(accuracy, "windows_of", lambda model: windows)
    monkeypatch.setattr(measuring, "in_fresh_process", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(accuracy, "held_to", lambda name: nullcontext())  # torch has made its choice in this process
    try:
        found = accuracy.answer(("esm2_t6_8M",))
    finally:
        torch.set_default_dtype(torch.float32)
    from_float64, from_float32 = found.figures[:-2], {figure.name: figure.value for figure in found.figures[-2:]}
    assert len(from_float64) == len({"avx2", "avx512f"} & processor.flags())
    assert all(0.1 < figure.value < 10 for figure in from_float64)
    assert 0 < from_float32["esm2_t6_8M: bf16: 1 - cos from FP32"] < 1e-4
    assert 1e-4 < from_float32["esm2_t6_8M: fp8: 1 - cos from FP32"] < 1e-2


def test_a_process_is_held_to_its_instructions_and_the_next_is_not() -> None:
    before = dict(os.environ)
    with accuracy.held_to("avx2"):
        assert os.environ["ATEN_CPU_CAPABILITY"] == "avx2"
    assert os.environ == before


def test_the_reading_benchmark_reads_what_it_made() -> None:
    figures = lines_of([sys.executable, "-m", "benchmarks.reading", "--records", "500", "--dimension", "8", "--json"])
    assert figures["warm_500_p50"][1] == "us"
    assert figures["resident_500"][0] > 1
    assert all(value > 0 for value, _ in figures.values())


def test_the_scale_benchmark_plans_gathers_and_counts() -> None:
    command = [sys.executable, "-m", "benchmarks.scale", "--records", "200", "--shards", "150", "--gather", "300x4"]
    figures = lines_of([*command, "--json"])
    assert figures["task_150_opened"] == (6, "files")
    assert figures["gather_300x4_over_copy"][0] > 0
    assert figures["plan_200_1_over_parse"][0] > 0


def test_lengths_are_those_of_every_tenth_protein() -> None:
    if not FASTA.exists():
        pytest.skip("needs Debian's mmseqs2-examples")
    lengths: list[int] = []
    with gzip.open(FASTA, "rt") as lines:
        for line in lines:
            if line.startswith(">"):
                lengths.append(0)
            else:
                lengths[-1] += len(line.strip())
    assert [int(line) for line in gpu_models.LENGTHS.read_text().split()] == lengths[::10]


def test_sorted_batches_count_their_padding() -> None:
    windows = [np.zeros(length, dtype=np.uint8) for length in (10, 90, 50, 49)]
    assert measuring.sorted_by_length(100)(windows) == [[1], [2, 3], [0]]
    assert measuring.in_file_order(3)(windows) == [[0, 1, 2], [3]]


def test_padded_and_packed_ways_count_what_they_compute() -> None:
    import torch

    windows = [np.full(length, 5, dtype=np.uint8) for length in (4, 8)]
    way = measuring.padded(lambda tokens, *_: tokens[..., None].float(), 1, 1, measuring.in_file_order(2), cut=1)
    measured = measuring.measure(way, windows, seconds=0.0)
    assert measured.padding_efficiency == 12 / 16
    assert measured.vectors.tolist() == [[5.0], [5.0]]
    assert torch.get_num_threads() >= 1


def test_a_report_names_hardware_versions_and_command(tmp_path: Path) -> None:
    table = measuring.Table("One", ("way", "tokens/s"), [("ours", "1")], "A note.")
    answer = measuring.Answer([table], [measuring.Figure("ours: tokens", 1.0, "tokens/s")])
    measuring.write_report(tmp_path / "r" / "report.md", "Heading", answer)
    text = (tmp_path / "r" / "report.md").read_text()
    for words in ("# Heading", "hardware: ", "torch ", "Python ", "command: ", "| ours | 1 |", "A note."):
        assert words in text
    assert json.loads((tmp_path / "r" / "report.jsonl").read_text())["value"] == 1.0


def test_a_token_of_esm2_8m_moves_what_the_formula_says() -> None:
    assert gpu.bytes_per_token(find_model("esm2_t6_8M")) == 6 * (
        2 * (6 * 320 + 2 * 1600) + 2 * (2 * 1280 + 6 * 320) + 24 * 320
    )


def test_the_faces_of_published_checkpoints_are_built_embedded_and_judged(tmp_path: Path) -> None:
    config = {
        "model_type": "esm",
        "vocab_size": 33,
        "mask_token_id": 32,
        "pad_token_id": 1,
        "token_dropout": True,
        "hidden_size": 2048,
        "num_attention_heads": 32,
        "num_hidden_layers": 6,
        "intermediate_size": 1280,
        "position_embedding_type": "rotary",
        "max_position_embeddings": 1026,
        "layer_norm_eps": 1e-05,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "emb_layer_norm_before": False,
    }
    folder = tmp_path / "published/facebook__esm2_t6_8M_UR50D"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "EsmTokenizer"}')
    (tmp_path / "published/oxpig__AbLang2").mkdir()
    words = tmp_path / "published/zhihan1996__DNA_bert_3"
    words.mkdir()
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 64}
    (words / "authors_config.json").write_text(json.dumps({"vocab_size": 69, "max_position_embeddings": 512, **sizes}))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (words / "vocab.txt").write_text("\n".join([*special, *map("".join, product("ATCG", repeat=3))]))
    table = faces.answer([tmp_path / "published"], [], tmp_path, quick=True).tables[0]
    assert [[row[1], row[3], row[5], row[6]] for row in table.rows] == [
        ["itself", "0", "embeds", ""],
        ["hf:", "0", "embeds", ""],
        ["itself", "", "refused", ""],
        ["hf:", "", "refused", ""],
        ["itself", "0", "embeds", ""],
        ["hf:", "0", "embeds", ""],
    ]
    assert table.rows[1][2].endswith("(the plainest; 6 layers → 2, hidden 2048 → 1024)")
    made = faces.build(folder, tmp_path)
    right = faces.Outcome("esm2", *made.expected())
    assert faces.judge(made, right, "embeds")[1:] == ("0", "0.0e+00", True)
    assert not faces.judge(made, right, "refused")[3]
    assert not faces.judge(made, right._replace(way="hf:, padded"), "embeds", must_pack=True)[3]
    assert not faces.judge(made, right._replace(tokens=[row[::-1] for row in right.tokens]), "embeds")[3]
    assert right.vectors is not None
    assert not faces.judge(made, right._replace(vectors=right.vectors * 1.001), "embeds")[3]
    assert not faces.judge(made, right._replace(crashed="KeyError: 'x'"), "refused")[3]
