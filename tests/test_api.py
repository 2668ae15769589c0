"""hpc-embed from Python: the same as from the command line, in scripts, notebooks and threads."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hpc_embed
from hpc_embed.cli import main
from hpc_embed.errors import Incomplete, UsageError
from tests.conftest import REPOSITORY

GLOBINS = REPOSITORY / "examples/globins45.fasta"
UNTRAINED = "esm2_t6_8M:untrained"


def test_embed_gives_what_the_command_gives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    command = ["local", str(GLOBINS), "--run-dir", str(run), "--pooling", "mean,max", "--model", UNTRAINED]
    assert main([*command, "--no-json"]) == 0
    assert ", dimension 320\n" in capsys.readouterr().out
    dataset = hpc_embed.open_dataset(run)
    assert repr(dataset) == f"<Dataset {run}/dataset: 45 rows; embedding_mean_6 320, embedding_max_6 320>"
    made = hpc_embed.embed(GLOBINS, pooling="mean,max", model=UNTRAINED)
    assert made.ids == list(dataset.ids)
    assert made.model == UNTRAINED
    assert set(made.columns) == {"embedding_mean_6", "embedding_max_6"}
    for name in made.columns:
        np.testing.assert_array_equal(made.columns[name], dataset.vectors(name))
    with pytest.raises(UsageError, match=r"several columns .*Take one of \.columns"):
        _ = made.matrix


def test_records_without_a_vector_are_told_with_the_reason() -> None:
    made = hpc_embed.embed({"a": "MKV LAAG\n", "none": "", "long": "M" * 200}, on_long="skip", max_residues=100)
    assert (made.ids, made.statuses) == (["a"], ["embedded"])
    assert made.matrix.shape == (1, 420)
    assert [(one.ordinal, one.id, one.status) for one in made.absent] == [
        (1, "none", "skipped"),
        (2, "long", "skipped"),
    ]
    assert made.absent[0].reason == "empty"
    assert "200" in made.absent[1].reason


def test_a_list_has_places_as_ids_and_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert hpc_embed.embed(["MKV", "MAA"]).ids == ["0", "1"]
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_kept_goes_on_and_has_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = hpc_embed.embed(["MKV"], run_dir=tmp_path / "run")
    assert (tmp_path / "run/report.html").exists()
    capsys.readouterr()
    again = hpc_embed.embed(["MKV"], run_dir=tmp_path / "run", report=False)
    np.testing.assert_array_equal(first.matrix, again.matrix)
    shown = capsys.readouterr()
    assert "nothing to do" in shown.err
    assert shown.out == ""


def test_the_forecast_is_for_the_device_that_is_asked_for(tmp_path: Path) -> None:
    made = {device: hpc_embed.plan(GLOBINS, run_dir=tmp_path / "run", device=device) for device in ("h100", "t4")}
    assert {device: forecast.device for device, forecast in made.items()} == {"h100": "h100", "t4": "t4"}
    assert made["t4"].device_seconds > made["h100"].device_seconds
    assert made["t4"].run_dir == str(tmp_path / "run")
    assert hpc_embed.plan(GLOBINS, run_dir=tmp_path / "run").device == "a100"


def test_submit_hands_over_the_plan_and_every_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    fingerprint = hpc_embed.plan(GLOBINS, run_dir=run).fingerprint
    handed: list[tuple[Any, ...]] = []

    def hand(*given: Any) -> str:
        handed.append(given)
        return "submitted"

    monkeypatch.setattr("hpc_embed.api.submission.submit", hand)
    submitted: object = hpc_embed.submit(run, partition="gpu", token_budget=77, dtype="float16")
    assert submitted == "submitted"
    ((plan, layout, wanted, work, dataset),) = handed
    assert (plan.fingerprint, layout.root) == (fingerprint, run)
    assert (wanted.partition, work.token_budget, dataset.dtype) == ("gpu", 77, "float16")


def test_functions_work_on_embed_run_where_no_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert hpc_embed.plan(GLOBINS).run_dir == "embed-run"
    assert hpc_embed.status().count("missing") == len([*Path("embed-run/shards").iterdir()])
    with pytest.raises(Incomplete):
        hpc_embed.gather(wait_seconds=0)


def test_a_report_stands_beside_a_gathered_dataset_unless_none_is_asked_for(tmp_path: Path) -> None:
    run = tmp_path / "run"
    hpc_embed.plan(GLOBINS, run_dir=run)
    assert main(["run-task", "--run-dir", str(run), "--shards", "all"]) == 0
    assert hpc_embed.gather(str(run), dtype="float16").is_new
    assert (run / "report.html").exists()
    assert hpc_embed.open_dataset(run).vectors().dtype == np.float16


def test_lists_of_poolings_and_layers_and_paths_are_settings_like_on_the_command_line(tmp_path: Path) -> None:
    made = hpc_embed.embed(["MKV"], model=UNTRAINED, pooling=["max", "cls"], layer=(6, 0), run_dir=tmp_path / "run")
    assert [*made.columns] == ["embedding_max_6", "embedding_max_0", "embedding_cls_6", "embedding_cls_0"]
    again = hpc_embed.embed([Path("x").name + "MKV"], weights_copy=tmp_path / "copy", report=False)
    assert again.matrix.shape == (1, 420)


def test_sequences_by_id_come_in_their_order_with_their_ids_and_statuses() -> None:
    made = hpc_embed.embed({"b": "MKVLAAG", "a": "M" * 150, "none": "", "c": "WYV"}, max_residues=100)
    assert (made.ids, made.statuses) == (["b", "a", "c"], ["embedded", "windowed", "embedded"])
    assert made.absent == [hpc_embed.Absent(2, "none", "skipped", "empty")]
    assert made.model == "aa_composition"
    assert made.matrix[2].tolist() == hpc_embed.embed(["WYV"]).matrix[0].tolist()


def test_a_run_step_by_step(tmp_path: Path) -> None:
    run = tmp_path / "run"
    forecast = hpc_embed.plan(GLOBINS, run_dir=run)
    assert forecast.totals.num_records == 45
    with pytest.raises(Incomplete):
        hpc_embed.gather(run, wait_seconds=0)
    assert main(["run-task", "--run-dir", str(run), "--shards", "all"]) == 0
    assert hpc_embed.status(run).count("missing") == 0
    assert hpc_embed.gather(run, report=False).num_records == 45
    assert not (run / "report.html").exists()
    assert hpc_embed.status(run).is_gathered


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: hpc_embed.embed(["MKV"], modell="x"), r"modell: no such setting\. Did you mean model\?"),
        (lambda: hpc_embed.embed(["MKV"], json=True), r"json: no such setting\."),
        (lambda: hpc_embed.submit("run", dry_run=True), r"dry_run: no such setting\."),
        (lambda: hpc_embed.gather("run", check=True), r"check: no such setting\."),
        (lambda: hpc_embed.embed(["MKV"], workers="many"), r"--workers: .*many"),
        (lambda: hpc_embed.embed(["MKV"], model="esm3000"), r"esm3000"),
        (lambda: hpc_embed.embed(["MKV"], pooling="mean,per_token", model=UNTRAINED), r"no vectors of residues"),
        (lambda: hpc_embed.embed("MKVLAAG"), r"MKVLAAG: no such file\. Give sequences as a list"),
        (lambda: hpc_embed.embed({"a b": "MKV"}), r"'a b' is no id\."),
        (lambda: hpc_embed.embed({">": "MKV", "": "M"}), r"'' is no id\."),
        (
            lambda: hpc_embed.embed([b"MKV"]),  # type: ignore[list-item]
            r"the sequence of 0 is a bytes\. Give a str\.",
        ),
    ],
)
def test_what_is_asked_wrongly_is_told_in_one_line(
    call: object, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert callable(call)
    with pytest.raises(UsageError, match=line) as raised:
        call()
    assert "\n" not in str(raised.value)


def test_a_sequence_cannot_pass_for_several_records() -> None:
    with pytest.raises(UsageError, match=r"the sequence of 0 holds '>'"):
        hpc_embed.embed([">MKV\nMAA"])
    with pytest.raises(UsageError, match="begins with ';'"):
        hpc_embed.embed([";MKV"])
    assert hpc_embed.embed(["MKV\nMAA"]).ids == ["0"]


def test_a_script_without_a_guard_runs_once_and_its_workers_import_nothing_of_it(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import hpc_embed\nprint('begins')\n"
        f"made = hpc_embed.embed(['MKVLA', 'MAAGI', 'MWW'], model='{UNTRAINED}', devices='cpu', workers=2)\n"
        "print(made.matrix.shape)\n"
    )
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stdout.splitlines()) == (0, ["begins", "(3, 320)"]), ran.stderr


def test_threads_may_embed() -> None:
    made: list[hpc_embed.Embeddings] = []
    thread = threading.Thread(target=lambda: made.append(hpc_embed.embed(["MKV"])))
    thread.start()
    thread.join()
    assert made[0].matrix.shape == (1, 420)


def test_import_alone_loads_nothing_and_lists_what_there_is() -> None:
    lines = (
        "import sys, hpc_embed; print(len([m for m in sys.modules if m.startswith('hpc_embed')]), *hpc_embed.__all__)"
    )
    ran = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["1", *hpc_embed.__all__]
    assert all(callable(getattr(hpc_embed, name)) for name in hpc_embed.__all__)
    with pytest.raises(AttributeError, match="no attribute 'embedd'"):
        _ = hpc_embed.embedd  # type: ignore[attr-defined]


def test_the_notebook_runs(tmp_path: Path) -> None:
    (tmp_path / GLOBINS.name).write_bytes(GLOBINS.read_bytes())
    notebook = tmp_path / "globins.ipynb"
    notebook.write_bytes((REPOSITORY / "examples/globins.ipynb").read_bytes())
    command = [sys.executable, "-m", "nbclient.cli", "--inplace", "--timeout=120", str(notebook)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    shown = [output for cell in json.loads(notebook.read_text())["cells"] for output in cell.get("outputs", [])]
    assert any("adjusted Rand index 1.00" in "".join(output.get("text", "")) for output in shown)
    assert any("image/png" in output.get("data", {}) for output in shown)
