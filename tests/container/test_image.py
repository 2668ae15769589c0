"""The image, built and run for real."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from tests.conftest import REPOSITORY, Run
from tests.container.conftest import BUILD, Apptainer
from tests.slurm.conftest import Cluster, wait_for

pytestmark = pytest.mark.container

ESM2 = ("--model", "esm2_t6_8M:untrained")


def vectors(run_dir: Path) -> NDArray[np.float32]:
    table = pq.read_table(run_dir / "dataset")
    return np.stack(table["embedding"].to_numpy(zero_copy_only=False))


def test_the_build_ran_the_images_own_test(image: Path) -> None:
    log = (image.parent / "built").read_text()
    assert "Running testscript" in log
    assert "2 records: 2 embedded" in log


def test_inspect_shows_labels_runscript_and_help(apptainer: Apptainer, image: Path) -> None:
    labels = apptainer("inspect", "--labels", image).stdout
    assert "org.opencontainers.image.title: hpc-embed" in labels
    assert "org.opencontainers.image.version: 0.1.0" in labels
    assert 'exec hpc-embed "$@"' in apptainer("inspect", "--runscript", image).stdout
    assert "--nv hpc_embed.sif local" in apptainer("run-help", image).stdout


@pytest.mark.parametrize("options", [(), ("--nv",)], ids=["plain", "with --nv and no GPU"])
def test_local_in_the_image_gives_the_hosts_vectors_bit_for_bit(
    options: tuple[str, ...], apptainer: Apptainer, image: Path, run: Run, globins: Path, tmp_path: Path
) -> None:
    bind = f"{globins.parent}:/input"
    out = apptainer(
        *("run", *options, "--bind", bind, image, "local", "/input/globins45.fasta"),
        *("--run-dir", tmp_path / "inside", "--workers", 1, *ESM2),
    ).stdout
    assert "45 embedded" in out
    run("local", globins, "--run-dir", tmp_path / "outside", "--workers", 1, *ESM2)
    assert vectors(tmp_path / "inside").tobytes() == vectors(tmp_path / "outside").tobytes()


def test_the_callers_packages_and_paths_do_not_get_in(apptainer: Apptainer, image: Path, tmp_path: Path) -> None:
    poison = "raise SystemExit('poisoned')\n"
    user_site = tmp_path / ".local/lib/python3.11/site-packages"
    for folder in (user_site, tmp_path / "path"):
        folder.mkdir(parents=True)
        for module in ("numpy", "jsonargparse", "yaml"):
            (folder / f"{module}.py").write_text(poison)
    environment = {"HOME": str(tmp_path), "PYTHONPATH": str(tmp_path / "path"), "PYTHONHOME": str(tmp_path)}
    assert apptainer("run", image, "--version", env=environment).stdout == "hpc-embed 0.1.0\n"
    assert "esm2_t6_8M" in apptainer("run", "--home", tmp_path, image, "models", env=environment).stdout


def test_the_root_of_the_image_is_read_only_and_that_does_no_harm(apptainer: Apptainer, image: Path) -> None:
    refused = apptainer("exec", image, "touch", "/opt/hpc-embed/x", code=1)
    assert "Read-only file system" in refused.stderr
    assert "ok" in apptainer("run", image, "doctor").stdout


def test_kernels_can_be_compiled_in_it_and_the_log_says_by_what_it_computes(
    apptainer: Apptainer, image: Path, globins: Path, tmp_path: Path
) -> None:
    assert apptainer("exec", image, "cc", "--version").stdout.startswith("cc ")
    assert re.search(r"compiler +/usr/bin/cc", apptainer("run", image, "doctor").stdout)
    (tmp_path / "chain.py").write_text(
        "import torch\n"
        "from hpc_embed.engine.chains import add_norm\n"
        "given = torch.ones(3, 8), torch.arange(24.0).view(3, 8), torch.ones(8), torch.zeros(8), 1e-5\n"
        "compiled = torch.compile(add_norm)(*given)\n"
        "assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(compiled, add_norm(*given)))\n"
        "print('compiled')\n"
    )
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    bind = ("--bind", f"{tmp_path}:{tmp_path}")
    assert "compiled" in apptainer("exec", *bind, image, "python3", tmp_path / "chain.py", env=cache).stdout
    told = apptainer(
        *("run", *bind, "--bind", f"{globins.parent}:/input", image, "local", "/input/globins45.fasta"),
        *("--run-dir", tmp_path / "run", "--workers", 1, *ESM2),
    ).stderr
    assert "fp32, attention by kernel, batches of" in told


def test_hf_home_is_taken_from_outside(apptainer: Apptainer, image: Path, tmp_path: Path) -> None:
    out = apptainer("run", image, "doctor", env={"HF_HOME": str(tmp_path / "hub")}).stdout
    assert str(tmp_path / "hub" / "hub") in out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("local", "/nowhere.fasta"), 3, "/nowhere.fasta: no such file."),
        (("local", "/input/globins45.fasta", "--model", "esm2_t6_8M"), 5, "are not in the hub cache"),
        (("local", "/input/globins45.fasta", "--model", "/models/mine"), 2, "/models/mine: there is no such model"),
    ],
)
def test_errors_are_the_same_one_line(
    arguments: tuple[str, ...], code: int, words: str, apptainer: Apptainer, image: Path, tmp_path: Path
) -> None:
    options = ("--bind", f"{REPOSITORY / 'examples'}:/input", "--env", "HF_HUB_OFFLINE=1")
    error = apptainer("run", *options, image, *arguments, code=code, cwd=tmp_path).stderr
    assert words in error
    assert len([line for line in error.splitlines() if line.startswith("hpc-embed: ")]) == 1


def test_a_bind_that_is_not_there_is_apptainers_own_clear_error(apptainer: Apptainer, image: Path) -> None:
    assert (
        "mount source /nowhere doesn't exist"
        in apptainer("run", "--bind", "/nowhere", image, "--version", code=255).stderr
    )


def test_a_sif_of_it_runs_too(apptainer: Apptainer, image: Path, globins: Path, tmp_path: Path) -> None:
    sif = tmp_path / "hpc_embed.sif"
    started = time.monotonic()
    fast = ("--mksquashfs-args", "-comp gzip -Xcompression-level 1")
    subprocess.run([*BUILD.split(), *fast, str(sif), str(image)], check=True, capture_output=True)
    print(f"\nSIF: {sif.stat().st_size / 1e6:.0f} MB, made from the sandbox in {time.monotonic() - started:.0f} s")
    out = apptainer("run", "--bind", f"{globins.parent}:/input", sif, "local", "/input/globins45.fasta", cwd=tmp_path)
    assert "45 embedded" in out.stdout


@pytest.mark.slurm
def test_submit_with_an_image_runs_every_task_inside_it(
    apptainer: Apptainer,
    image: Path,
    run: Run,
    cluster: Cluster,
    globins: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLURM_CONF", cluster.env["SLURM_CONF"])
    run("plan", globins, "--num-shards", 3, *ESM2)
    run("submit", "--partition", "gpu", "--devices", "cpu", "--workers", 1, "--image", image, "--gpus", 1)
    wait_for(lambda: (tmp_path / "embed-run/dataset.json").exists() or not cluster.queue(), 180)
    logs = "\n".join(path.read_text() for path in (tmp_path / "embed-run/logs").glob("*/*.out"))
    assert (tmp_path / "embed-run/dataset.json").exists(), logs
    markers = [path.read_text() for path in (tmp_path / "embed-run/outputs").glob("*.done.json")]
    pythons = {re.search(r'"python": "(.*?)"', marker).group(1) for marker in markers}  # type: ignore[union-attr]
    inside = apptainer("exec", image, "python3", "-c", "import platform; print(platform.python_version())").stdout
    assert (len(markers), pythons) == (3, {inside.strip()})
    run("local", globins, "--run-dir", "outside", "--workers", 1, *ESM2)
    assert vectors(tmp_path / "embed-run").tobytes() == vectors(tmp_path / "outside").tobytes()


@pytest.mark.slurm
def test_a_script_printed_by_the_image_runs_in_the_image(
    apptainer: Apptainer, image: Path, cluster: Cluster, globins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", cluster.env["SLURM_CONF"])
    (tmp_path / "in.fasta").write_bytes(globins.read_bytes())
    inside = ("run", "--bind", tmp_path, image)
    apptainer(*inside, "plan", tmp_path / "in.fasta", "--run-dir", tmp_path / "run", "--num-shards", 2, cwd=tmp_path)
    script = apptainer(*inside, "submit", "--run-dir", tmp_path / "run", "--partition", "gpu", "--print-script").stdout
    assert f"apptainer run --nv --bind {tmp_path / 'run'} {image}" in script
    environment = {**os.environ, **cluster.env}
    subprocess.run(["sbatch"], input=script, text=True, check=True, env=environment, cwd=tmp_path, capture_output=True)
    wait_for(lambda: not cluster.queue(), 120)
    out = apptainer(*inside, "gather", "--run-dir", tmp_path / "run")
    assert "45 embedded" in out.stdout
