"""The main command from FASTA to dataset, and what happens when it is killed, stopped or its workers die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from Bio import SeqIO, bgzf
from Bio.Seq import Seq
from Bio.SeqRecord import SeqRecord
from numpy.typing import NDArray
from safetensors.torch import save_file

from hpc_embed.cluster.task import own_outlook
from hpc_embed.config import WorkSettings
from hpc_embed.engine.bytepairs import untrained_bpe_json
from hpc_embed.engine.weights import random_weights
from hpc_embed.families.dnabert import DNABERT, dnabert_shape
from hpc_embed.families.esm2 import ESM2 as ESM2_FAMILY
from hpc_embed.families.esm2 import esm2_shape
from hpc_embed.run.layout import RunLayout, shard_name
from hpc_embed.run.markers import read_marker
from hpc_embed.run.plan import read_plan
from tests.checkpoints.faces import ESM2_CONFIG, write_vocabulary
from tests.conftest import REPOSITORY, Run

ESM2 = ("--model", "esm2_t6_8M:untrained")
DATABASE = Path("/usr/share/doc/mmseqs2/example-data/DB.fasta.gz")


def vectors(run_dir: Path) -> NDArray[np.float32]:
    table = pq.read_table(run_dir / "dataset")
    return np.stack(table["embedding"].to_numpy(zero_copy_only=False))


def start(tmp_path: Path, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "hpc_embed", "local", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        command, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def wait_for(condition: object, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def pieces(run_dir: Path) -> list[Path]:
    return sorted(run_dir.glob("work/*/piece-*.parquet"))


def test_globins_and_lambda_by_every_kind_of_model(run: Run, globins: Path, lambda_phage: Path, tmp_path: Path) -> None:
    for fasta, model, dimension, rows in [
        (globins, "composition", 420, 45),
        (globins, "esm2_t6_8M:untrained", 320, 45),
        (lambda_phage, "composition", 136, 1),
    ]:
        out = run("local", fasta, "--model", model, "--run-dir", tmp_path / model / fasta.stem).stdout
        assert f"{rows} records" in out
        assert vectors(tmp_path / model / fasta.stem).shape == (rows, dimension)


def test_what_users_have_at_hand_gives_the_vectors_of_the_fasta_that_biopython_makes_of_it(
    run: Run, lambda_phage: Path, tmp_path: Path
) -> None:
    genome = str(SeqIO.read(lambda_phage, "fasta").seq)
    reads = [SeqRecord(Seq(genome[at : at + 600]), f"r{at}", description="") for at in range(0, 30_000, 600)]
    for read in reads:
        read.letter_annotations["phred_quality"] = [30] * 600
    SeqIO.write(reads, tmp_path / "reads.fa", "fasta")
    SeqIO.write(reads, tmp_path / "reads.fq", "fastq")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "reads.fq.zst").write_bytes(pa.Codec("zstd").compress((tmp_path / "reads.fq").read_bytes(), asbytes=True))
    with bgzf.open(folder / "rna.fa.gz", "wb") as file:
        file.write((tmp_path / "reads.fa").read_bytes().replace(b"T", b"U"))
    run("local", "reads.fa", "--run-dir", "expected")
    error = run("local", "folder", "--run-dir", "found").stderr
    assert "folder/reads.fq.zst: FASTQ; qualities are dropped." in error
    assert f"RNA: {''.join(str(read.seq) for read in reads).count('T'):,} U are read as T" in error
    expected, found = (vectors(tmp_path / name) for name in ("expected", "found"))
    assert np.array_equal(found, np.concatenate([expected, expected]))
    assert pq.read_table(tmp_path / "found/dataset")["id"].to_pylist() == [read.id for read in reads] * 2


def test_untrained_is_said_by_name_log_and_metadata(run: Run, globins: Path, tmp_path: Path) -> None:
    done = run("local", globins, *ESM2, "--max-residues", "30", "--on-long", "truncate")
    assert "random weights" in done.stderr
    assert "UNTRAINED, RANDOM WEIGHTS" in done.stdout
    metadata = json.loads(pq.read_schema(tmp_path / "embed-run/dataset/part-00000.parquet").metadata[b"hpc_embed"])
    assert (metadata["model"], metadata["untrained"]) == ("esm2_t6_8M:untrained", True)


def test_numbers_of_workers_and_shards_and_budgets_do_not_change_a_bit(run: Run, globins: Path, tmp_path: Path) -> None:
    run("local", globins, *ESM2, "--run-dir", "a", "--workers", 1, "--num-shards", 1)
    run("local", globins, *ESM2, "--run-dir", "b", "--workers", 2, "--num-shards", 7, "--token-budget", 300)
    assert vectors(tmp_path / "a").tobytes() == vectors(tmp_path / "b").tobytes()


@pytest.mark.skipif(not DATABASE.exists(), reason="needs Debian's mmseqs2-examples")
def test_a_killed_run_goes_on_and_gives_the_same_bytes(run: Run, tmp_path: Path) -> None:
    import gzip

    with gzip.open(DATABASE, "rt") as text:
        records = text.read().split("\n>")[:120]
    (tmp_path / "in.fa").write_text("\n>".join(records) + "\n")
    run("local", "in.fa", *ESM2, "--run-dir", "whole", "--workers", 2)
    small = ("--token-budget", 1500, "--piece-seconds", "0.2")
    options = ("in.fa", *ESM2, "--run-dir", "killed", "--workers", 2, *small)
    process = start(tmp_path, *options)
    wait_for(lambda: len(pieces(tmp_path / "killed")) >= 3)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        member.kill()
    process.communicate()
    layout = RunLayout(tmp_path / "killed")
    plan = read_plan(layout.plan)
    unfinished = own_outlook(range(len(plan.shards)), plan, layout, WorkSettings()).to_do
    num_in_pieces = sum(pq.read_metadata(path).num_rows for path in pieces(tmp_path / "killed"))
    assert num_in_pieces > 0

    run("local", *options)
    markers = [read_marker(layout.outputs, shard_name(index)) for index in unfinished]
    num_computed = sum(marker.facts.num_windows_computed for marker in markers if marker)
    assert num_computed == sum(plan.shards[index].num_windows for index in unfinished) - num_in_pieces
    assert vectors(tmp_path / "killed").tobytes() == vectors(tmp_path / "whole").tobytes()
    assert pq.read_table(tmp_path / "killed/dataset")["id"].to_pylist() == [
        record.lstrip(">").split()[0] for record in records
    ]
    assert list((tmp_path / "killed/work").iterdir()) == []


@pytest.mark.skipif(not DATABASE.exists(), reason="needs Debian's mmseqs2-examples")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_publishes_its_pieces_and_exits_with_130(number: int, run: Run, tmp_path: Path) -> None:
    process = start(tmp_path, DATABASE, *ESM2, "--run-dir", "r", "--workers", 2, "--piece-seconds", "0.5")
    wait_for(lambda: pieces(tmp_path / "r"))
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "finished work is kept" in error
    assert "Traceback" not in error
    _, alive = psutil.wait_procs(children, timeout=10)  # multiprocessing's own tracker ends a moment later
    assert not alive
    assert "begun" in run("status", "--run-dir", "r").stdout


def test_a_killed_worker_is_replaced_and_nothing_is_lost(run: Run, globins: Path, tmp_path: Path) -> None:
    process = start(
        tmp_path, globins, *ESM2, "--run-dir", "r", "--workers", 1, "--piece-seconds", "0.1", "--token-budget", 200
    )
    wait_for(lambda: pieces(tmp_path / "r"))
    workers = [child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())]
    workers[0].kill()
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert "ended: killed by SIGKILL, perhaps for want of memory" in error
    assert "45 embedded" in out


def test_a_shard_that_always_fails_is_named_and_the_others_finish(run: Run, globins: Path, tmp_path: Path) -> None:
    run("plan", globins, "--num-shards", 3)
    (tmp_path / "embed-run/shards/shard-00001.parquet").write_bytes(b"not Parquet")
    error = run("run-task", code=6).stderr
    assert "1 shards failed: shard-00001" in error
    assert "1 failed" in run("status").stdout
    assert "shard-00001 (failed 1 times" in run("gather", code=6).stderr
    assert len(list((tmp_path / "embed-run/outputs").glob("*.done.json"))) == 2


def test_a_checkpoint_in_a_folder_is_pinned_loaded_and_watched(run: Run, globins: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tuned"
    folder.mkdir()
    shape = esm2_shape(2, 40, 4)
    save_file(random_weights(ESM2_FAMILY, shape, 1), folder / "model.safetensors")
    dimensions = {"num_hidden_layers": 2, "hidden_size": 40, "num_attention_heads": 4, "intermediate_size": 160}
    (folder / "config.json").write_text(json.dumps(ESM2_CONFIG | dimensions | {"max_position_embeddings": 1026}))
    write_vocabulary(folder)
    run("local", globins, "--model", folder)
    assert vectors(tmp_path / "embed-run").shape == (45, 40)
    plan = json.loads((tmp_path / "embed-run/plan.json").read_text())
    assert plan["model"]["name"] == "tuned"
    assert len(plan["model"]["digest"]) == 64

    save_file(random_weights(ESM2_FAMILY, shape, 2), folder / "model.safetensors")
    assert "(model)" in run("local", globins, "--model", folder, code=4).stderr
    (tmp_path / "embed-run/outputs/shard-00000.done.json").unlink()
    assert "the weights are not those that were planned" in run("run-task", code=5).stderr


def test_dnabert_checkpoint_loads_from_the_hub_cache_without_network_or_remote_code(
    run: Run, lambda_phage: Path, tmp_path: Path
) -> None:
    commit = "00ce29e0adcd2b4e2d7f0f6e3e8f00b4bde3f3f1"
    repository = tmp_path / "hub/hub/models--zhihan1996--DNABERT-S"
    folder = repository / "snapshots" / commit
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    shape = dnabert_shape(1, 48, intermediate=96)
    torch.save(random_weights(DNABERT, shape, 1), folder / "pytorch_model.bin")
    (folder / "tokenizer.json").write_text(untrained_bpe_json())
    config = {
        "model_type": "bert",
        "alibi_starting_size": 512,
        "auto_map": {"AutoModel": "bert_layers.BertModel"},
        "num_hidden_layers": 1,
        "hidden_size": 48,
        "num_attention_heads": 12,
        "intermediate_size": 96,
        "vocab_size": 4096,
        "pad_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "bert_layers.py").write_text("raise SystemExit('remote code ran')")
    run("local", lambda_phage, "--model", "dnabert_s", env={"HF_HOME": str(tmp_path / "hub")})
    plan = json.loads((tmp_path / "embed-run/plan.json").read_text())
    assert (plan["model"]["revision"], plan["model"]["source"]) == (commit, "zhihan1996/DNABERT-S")
    assert vectors(tmp_path / "embed-run").shape == (1, 48)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small disk")
def test_a_full_disk_is_one_line_and_the_run_goes_on_once_there_is_room(
    run: Run, globins: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)], check=True)
    try:
        records = [f">{letter}{i}\n{letter * i}\n" for i in range(1, 60) for letter in "ACDE"]
        (tmp_path / "in.fa").write_text("".join(records))
        options = ("in.fa", "--run-dir", disk / "run", "--workers", 1, "--num-shards", 2, "--force-kind")
        error = run("local", *options, "--model", "aa_composition", code=5).stderr
        assert error.count("no space left.") == 1
        assert "Traceback" not in error
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        assert "236 embedded" in run("local", *options, "--model", "aa_composition").stdout
    finally:
        subprocess.run(["umount", str(disk)], check=True)
