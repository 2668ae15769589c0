"""Runs on a real Slurm, and everything that a cluster does to a job."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors.torch import save_file

from hpc_embed.engine.weights import random_weights
from hpc_embed.families.esm2 import ESM2 as ESM2_FAMILY
from hpc_embed.families.esm2 import esm2_shape
from tests.checkpoints.faces import ESM2_CONFIG, write_vocabulary
from tests.conftest import REPOSITORY, Run
from tests.slurm.conftest import ANNA, PYTHONPATH, Cluster, as_user, own, wait_for
from tests.slurm.runs import (
    ESM2,
    OFTEN,
    ON_CPU,
    Expected,
    begin,
    check_time_limit,
    check_whole,
    logs,
    vectors,
    wait_for_dataset,
    write_proteins,
)

pytestmark = pytest.mark.slurm


@pytest.fixture
def proteins(tmp_path: Path) -> Path:
    """80 real proteins: enough work for a core that something can happen to it."""
    return write_proteins(tmp_path / "proteins.fasta", 80)


def test_the_two_used_by_lines_as_they_stand(
    run: Run, cluster: Cluster, globins: Path, tmp_path: Path, python_for_users: str, expected: Expected
) -> None:
    settings = f"fasta: [{globins}]\nmodel: esm2_t6_8M:untrained\nnum_shards: 6\ndevices: cpu\nworkers: 1\n"
    (tmp_path / "hpc-embed.yaml").write_text(settings)
    program = tmp_path / "bin" / "hpc-embed"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {python_for_users} -m hpc_embed "$@"\n')
    program.chmod(0o755)
    own(tmp_path)
    path = f"{program.parent}:/usr/local/bin:/usr/bin:/bin"
    environment = {**cluster.env, "PATH": path, "PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1"}
    line = "hpc-embed plan && hpc-embed submit --partition gpu"
    command = as_user(ANNA, ["bash", "-c", line], environment)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "6 shards submitted" in done.stdout

    most = 0

    def gathered() -> bool:
        nonlocal most
        most = max(most, len(cluster.running()))
        return (tmp_path / "embed-run/dataset.json").exists()

    wait_for(gathered, 120)
    assert most == 6, "six tasks ran at once on three nodes"
    seen = r"^(node\d):\d+: task \d+_\d+, start 1, CUDA_VISIBLE_DEVICES=(\S*), 1 shards"
    devices = re.findall(seen, logs(tmp_path / "embed-run"), flags=re.M)
    assert sorted(devices) == [(f"node{node}", device) for node in (1, 2, 3) for device in "01"]

    assert vectors(tmp_path / "embed-run").tobytes() == expected(globins).tobytes()
    status = run("status").stdout
    assert "6 shards: 6 done" in status
    assert "dataset: gathered" in status
    assert "every shard is done" in run("submit", "--partition", "gpu").stdout


def test_a_second_submit_submits_nothing_and_says_so(run: Run, cluster: Cluster, globins: Path, tmp_path: Path) -> None:
    run("plan", globins, "--run-dir", "run", "--num-shards", 4)
    first = run("submit", "--run-dir", "run", "--partition", "gpu", "--sbatch", '{"begin": "now+1hour"}').stdout
    before = cluster.queue()
    second = run("submit", "--run-dir", "run", "--partition", "gpu").stdout
    assert "4 shards submitted" in first
    assert "0 shards submitted; 4 queued or running already" in second
    assert cluster.queue() == before
    assert "4 queued" in run("status", "--run-dir", "run").stdout


@pytest.mark.matrix  # long
def test_a_time_limit_shorter_than_the_shard(
    run: Run, cluster: Cluster, proteins: Path, tmp_path: Path, expected: Expected
) -> None:
    check_time_limit(run, cluster, proteins, tmp_path, expected)


@pytest.mark.matrix  # long
def test_a_node_loses_its_power(run: Run, cluster: Cluster, proteins: Path, tmp_path: Path, expected: Expected) -> None:
    run_dir = begin(run, proteins, tmp_path)
    node = cluster.running()[0][-1]
    cluster.do("poweroff", node)
    wait_for_dataset(cluster, run_dir, what="power failure")
    check_whole(proteins, run_dir, expected)


def test_cancelled_then_submitted_again(
    run: Run, cluster: Cluster, proteins: Path, tmp_path: Path, expected: Expected
) -> None:
    run_dir = begin(run, proteins, tmp_path)
    cluster.ask("scancel", f"--user={ANNA}")
    wait_for(lambda: not cluster.queue(), 60)
    assert not (run_dir / "dataset.json").exists()
    # the accounting lags behind the queue by a second or two
    wait_for(lambda: "was cancelled" in run("status", "--run-dir", run_dir).stdout, 30)
    run("submit", "--run-dir", run_dir, *ON_CPU, *OFTEN)
    wait_for_dataset(cluster, run_dir, what="scancel and submit")
    check_whole(proteins, run_dir, expected)


def test_1200_shards_are_two_arrays_where_the_largest_is_1001(run: Run, cluster: Cluster, tmp_path: Path) -> None:
    amino = "ACDEFGHIKLMNPQRSTVWY"
    words = [a + b + c for a in amino for b in amino for c in amino][:1200]
    (tmp_path / "in.fa").write_text("".join(f">{word}\n{word}\n" for word in words))
    run("plan", "in.fa", "--num-shards", 1200)
    out = run("submit", "--partition", "gpu", "--sbatch", '{"begin": "now+1hour"}').stdout
    assert "1200 shards submitted" in out
    arrays = re.findall(r"arrays (\d+), (\d+), gather job", out)[0]
    counts = [
        sum(line.startswith(f"{job}_") for line in cluster.ask("squeue", "-hr", "-o", "%i").split()) for job in arrays
    ]
    assert counts == [1001, 199]
    assert "0 shards submitted; 1200 queued" in run("submit", "--partition", "gpu").stdout


def test_2000_shards_bundled_into_six_tasks(run: Run, cluster: Cluster, tmp_path: Path) -> None:
    amino = "ACDEFGHIKLMNPQRSTVWY"
    words = [a + b + c + d for a in amino for b in amino for c in amino for d in amino][:2000]
    (tmp_path / "in.fa").write_text("".join(f">{word}\n{word}\n" for word in words))
    run("plan", "in.fa", "--num-shards", 2000)
    out = run("submit", *ON_CPU, "--shards-per-task", 334).stdout
    assert "2000 shards submitted" in out
    assert len([line for line in cluster.queue() if "gather" not in line]) == 6
    wait_for_dataset(cluster, tmp_path / "embed-run", 400)
    assert pq.read_table(tmp_path / "embed-run/dataset")["id"].to_pylist() == words


def test_a_shard_that_always_fails_stops_nobody_else(run: Run, cluster: Cluster, globins: Path, tmp_path: Path) -> None:
    run("plan", globins, "--num-shards", 3)
    (tmp_path / "embed-run/shards/shard-00001.parquet").write_bytes(b"not Parquet")
    for tries in (1, 2, 3):
        run("submit", *ON_CPU)
        wait_for(lambda: not cluster.queue(), 60)
        assert f'"tries": {tries}' in (tmp_path / "embed-run/outputs/shard-00001.failed.json").read_text()
    assert len(list((tmp_path / "embed-run/outputs").glob("*.done.json"))) == 2
    status = run("status").stdout
    assert "1 failed" in status
    assert "3 tries: " in status
    assert "damaged" in status
    assert "shard-00001 (failed 3 times" in run("gather", code=6).stderr
    assert "1 left aside after failing" in run("submit", *ON_CPU).stdout
    gather_log = "".join(path.read_text() for path in (tmp_path / "embed-run/logs").glob("*/*_0_log.out"))
    assert "shards are missing: shard-00001" in gather_log, "the gather job ran, and said what is missing"


def stage(run: Run, tmp_path: Path) -> Path:
    """A checkpoint of ESM-2 8M's true names in a hub cache, staged for the nodes."""
    commit = "c731040fcd8d73dceaa04b0a8e6329b345b0f5df"
    repository = tmp_path / "hub/hub/models--facebook--esm2_t6_8M_UR50D"
    folder = repository / "snapshots" / commit
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    shape = esm2_shape(6, 320)
    save_file(random_weights(ESM2_FAMILY, shape, 1), folder / "model.safetensors")
    dimensions = {"num_hidden_layers": 6, "hidden_size": 320, "num_attention_heads": 20, "intermediate_size": 1280}
    (folder / "config.json").write_text(json.dumps(ESM2_CONFIG | dimensions | {"max_position_embeddings": 1026}))
    write_vocabulary(folder)
    staging = ("stage-model", "--model", "esm2_t6_8M", "--models-dir", "models", "--json")
    facts = json.loads(run(*staging, env={"HF_HOME": str(tmp_path / "hub")}).stdout)
    assert (facts["revision"], facts["licence"], facts["source"]) == (commit, "MIT", "facebook/esm2_t6_8M_UR50D")
    assert facts["bytes"] > 29_000_000
    return Path(facts["folder"])


def test_a_staged_model_loads_on_nodes_without_network(
    run: Run, cluster: Cluster, globins: Path, tmp_path: Path
) -> None:
    folder = stage(run, tmp_path)
    run("plan", globins, "--model", folder, "--num-shards", 2)
    plan = json.loads((tmp_path / "embed-run/plan.json").read_text())
    assert plan["model"]["revision"] == "c731040fcd8d73dceaa04b0a8e6329b345b0f5df"
    run("submit", *ON_CPU, "--weights-copy", tmp_path / "node-disk")  # a node has no route to anywhere but the others
    wait_for_dataset(cluster, tmp_path / "embed-run")
    assert vectors(tmp_path / "embed-run").shape == (45, 320)
    assert len(list((tmp_path / "node-disk").iterdir())) == 1


def test_a_missing_model_is_refused_at_submit_in_one_line(
    run: Run, cluster: Cluster, globins: Path, tmp_path: Path
) -> None:
    folder = stage(run, tmp_path)
    run("plan", globins, "--model", folder)
    (folder / "model.safetensors").unlink()
    error = run("submit", *ON_CPU, code=5).stderr
    assert error.count("\n") == 1
    assert "the weights of esm2_t6_8M are not there, so no node could load them" in error
    assert cluster.queue() == []


@pytest.mark.parametrize("option", ["--dry-run", "--print-script"])
def test_printed_scripts_pass_sbatch_test_only(
    option: str, run: Run, cluster: Cluster, globins: Path, tmp_path: Path
) -> None:
    run("plan", globins, *ESM2, "--run-dir", "it's a run", "--num-shards", 4)
    options = ("--partition", "gpu", "--memory-gibibytes", 2, "--array-parallelism", 2, "--setup", '["echo ready"]')
    script = run("submit", "--run-dir", "it's a run", *options, option).stdout
    (tmp_path / "job.sh").write_text(script)
    cluster.ask("sbatch", "--test-only", str(tmp_path / "job.sh"))
    assert cluster.queue() == []
    for line in ("--array=0-3%2", "--partition=gpu", "--gres=gpu:1", "--requeue", "echo ready"):
        assert line in script


def sbatch(cluster: Cluster, *words: str) -> str:
    """Anna's own sbatch."""
    command = as_user(ANNA, ["sbatch", *words], {**cluster.env, "PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1"})
    return subprocess.run(command, cwd="/", capture_output=True, text=True, check=True).stdout


def test_the_printed_script_does_the_work(run: Run, cluster: Cluster, globins: Path, tmp_path: Path) -> None:
    run("plan", globins, "--run-dir", "it's a run", "--num-shards", 3)
    script = run("submit", "--run-dir", "it's a run", "--partition", "gpu", "--print-script").stdout
    (tmp_path / "job.sh").write_text(script)
    sbatch(cluster, str(tmp_path / "job.sh"))
    wait_for(lambda: not cluster.queue(), 60)
    assert "45 embedded" in run("gather", "--run-dir", "it's a run").stdout


def test_the_scripts_in_the_repository_do_the_work(
    run: Run, cluster: Cluster, globins: Path, tmp_path: Path, python_for_users: str
) -> None:
    run("plan", globins, "--num-shards", 5)
    program = f"{python_for_users} -m hpc_embed"
    script = str(REPOSITORY / "slurm/array.sbatch")
    options = ("--parsable", f"--chdir={tmp_path}", f"--export=ALL,HPC_EMBED={program}")
    job = sbatch(cluster, *options, "--array=0-2", script, str(tmp_path / "embed-run"), "2").strip()
    after = f"--dependency=afterany:{job}"
    sbatch(cluster, *options, after, str(REPOSITORY / "slurm/gather.sbatch"), str(tmp_path / "embed-run"))
    wait_for_dataset(cluster, tmp_path / "embed-run")
    assert vectors(tmp_path / "embed-run").shape == (45, 420)


@pytest.mark.parametrize("profile", sorted((REPOSITORY / "slurm/profiles").glob("*.yaml")), ids=lambda path: path.stem)
def test_site_profiles_are_settings_that_submit_takes(
    profile: Path, run: Run, cluster: Cluster, globins: Path, tmp_path: Path
) -> None:
    (tmp_path / "hpc-embed.yaml").write_text(profile.read_text())
    run("plan", globins)
    assert "#SBATCH --partition=" in run("submit", "--dry-run").stdout


def test_a_partition_that_is_not_there_is_one_line(run: Run, cluster: Cluster, globins: Path) -> None:
    run("plan", globins)
    error = run("submit", "--partition", "nowhere", code=5).stderr
    assert error.count("\n") == 1
    assert error.startswith("hpc-embed: sbatch refused: ")
    assert "invalid partition specified: nowhere" in error


def test_status_is_right_without_slurm(run: Run, cluster: Cluster, globins: Path, tmp_path: Path) -> None:
    run("plan", globins)
    run("submit", *ON_CPU)
    wait_for_dataset(cluster, tmp_path / "embed-run")
    out = run("status", env={"SLURM_CONF": "/nowhere"}).stdout
    assert "1 done" in out
    assert "Slurm was not asked" in out
