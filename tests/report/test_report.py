"""The report: made beside every dataset, never in its way, and safe to open whatever a header holds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hpc_embed.config import GatherSettings
from hpc_embed.errors import EnvironmentFault
from hpc_embed.report.facts import run_facts
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.markers import record_failure
from hpc_embed.run.plan import Plan, read_plan
from tests.conftest import REPOSITORY, Run

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img/src=x/onerror=alert(2)>",
    "\"'><svg/onload=alert(3)>",
    "<!--<script>",
    "$$\\frac{1}{2}$$",
    "{{7*7}}",
    "é漢\u202e字",
    "a" * 5000,
)
MOST_BYTES = 3_000_000
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page(HTMLParser):
    """The elements, attributes and text that a browser finds in a file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.data: dict[str, str] = {}
        self._script: str | None = None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self._script = (dict(attrs).get("id") or "") if tag == "script" else None

    def handle_endtag(self, tag: str) -> None:
        self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is None:
            self.text += data
        elif self._script:
            self.data[self._script] = data

    @property
    def charts(self) -> set[str]:
        return {name.removeprefix("data-") for name in self.data if name.startswith("data-")}


def write_fasta(path: Path, names: tuple[str, ...]) -> Path:
    letters = "ACDEFGHIKLMNPQRSTVWY"
    records = (f">{name} about {name}\n{letters[at % 20] * (at + 3)}{letters}\n" for at, name in enumerate(names))
    path.write_text("".join(records) + ">nothing\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def done_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("done")
    write_fasta(folder / "one.fasta", ("a", "b", "c", "d"))
    write_fasta(folder / "two.fasta", ("e", "f", "g"))
    command = [sys.executable, "-m", "hpc_embed", "local", "one.fasta", "two.fasta", "--num-shards", "3"]
    subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=True)
    return folder


@pytest.fixture
def done(done_once: Path, tmp_path: Path) -> RunLayout:
    """A gathered run of nine records from two files in three shards, two of them without letters."""
    shutil.copytree(done_once, tmp_path, dirs_exist_ok=True)
    return RunLayout(tmp_path / "embed-run")


def test_local_makes_a_report_of_everything_that_it_did(done: RunLayout) -> None:
    page = Page(done.report)
    assert page.charts == {"lengths", "timeline", "balance", "map"}
    assert "9 records as gathered" in page.text
    assert "empty" in page.text
    assert "device-hours, by the plan's cost model" in page.text
    assert "Untrained" not in page.text
    assert done.report.stat().st_size < MOST_BYTES


def test_facts_are_those_of_plan_markers_and_dataset(done: RunLayout) -> None:
    facts = run_facts(read_plan(done.plan), done)
    assert facts.statuses == {"embedded": 7, "skipped": 2}
    assert (facts.num_done, facts.num_failed, facts.num_begun) == (3, 0, 0)
    assert [work.shard for work in facts.works] == [0, 1, 2]
    assert sum(work.facts.num_tokens for work in facts.works) == facts.plan.totals.num_tokens
    assert all(work.started <= work.ended for work in facts.works)


def test_the_command_in_the_report_makes_the_same_run_again(done: RunLayout, run: Run, tmp_path: Path) -> None:
    command = next(line for line in Page(done.report).text.splitlines() if line.startswith("hpc-embed local"))
    arguments = [*command.split()[2:], "--no-report"]
    run("local", *arguments)
    again = RunLayout(tmp_path / "embed-run-again")
    assert read_plan(again.plan).fingerprint == read_plan(done.plan).fingerprint
    assert not again.report.exists()


def test_headers_stay_text_and_nothing_is_fetched(run: Run, tmp_path: Path) -> None:
    harmless = write_fasta(tmp_path / "harmless.fasta", tuple("abcdefgh"))
    hostile = write_fasta(tmp_path / "<img src=x onerror=alert(4)>.fasta", HOSTILE)
    run("local", hostile, harmless, "--run-dir", "<b>run")
    page = Page(tmp_path / "<b>run/report.html")
    assert not {"img", "svg", "iframe", "link", "object", "b"} & set(page.tags)
    assert not [pair for pair in page.attributes if pair[0] in ("src", "href") or pair[0].startswith("on")]
    policy = next(value for name, value in page.attributes if value.startswith("default-src"))
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-inline" not in policy.split(";")[1]
    clicks = json.loads(page.data["clicks"])
    assert clicks["names"][: len(HOSTILE)] == [name[:60] for name in HOSTILE]
    assert "$$" not in page.data["data-map"]


def test_a_map_of_untrained_vectors_says_so_and_takes_the_first_pooled_column(
    run: Run, globins: Path, tmp_path: Path
) -> None:
    run("local", globins, "--model", "esm2_t6_8M:untrained", "--pooling", "per_token,max,mean")
    page = Page(tmp_path / "embed-run/report.html")
    assert "PCA of 45 vectors, column embedding_max_6." in page.text
    assert "Untrained weights: these vectors mean nothing." in page.text


def test_windows_that_stay_apart_are_points_of_their_own(run: Run, globins: Path, tmp_path: Path) -> None:
    run("local", globins, "--pooling", "per_window", "--max-residues", 100)
    page = Page(tmp_path / "embed-run/report.html")
    assert "PCA of 90 vectors, column embedding." in page.text
    assert "HBA4_SALIR [0, 71)" in page.text
    assert "45 records as gathered" in page.text


def test_a_run_that_has_only_begun_says_what_is_not_there_yet(run: Run, tmp_path: Path) -> None:
    run("plan", write_fasta(tmp_path / "in.fasta", tuple("abcd")), "--num-shards", 2)
    layout = RunLayout(tmp_path / "embed-run")
    record_failure(layout.outputs, "shard-00001", "the <disk> is full")
    assert run("report").stdout == "report embed-run/report.html\n"
    page = Page(layout.report)
    assert page.charts == {"lengths"}
    assert "as planned; nothing is gathered yet" in page.text
    assert "0 of 2 shards are done, 1 failed" in page.text
    assert "the <disk> is full" in page.text
    run("run-task", "--shards", 0)
    run("report")
    page = Page(layout.report)
    assert page.charts == {"lengths", "timeline", "balance"}
    assert "1 of 2 shards are done" in page.text


def test_without_bokeh_gather_says_so_and_goes_on(run: Run, tmp_path: Path) -> None:
    stub = tmp_path / "stub"
    stub.mkdir()
    (stub / "bokeh.py").write_text("raise ImportError('not here')")
    environment = {"PYTHONPATH": f"{stub}{os.pathsep}{REPOSITORY}"}
    done = run("local", write_fasta(tmp_path / "in.fasta", ("a",)), env=environment)
    assert "no report: bokeh is not installed. pip install 'bokeh>=3.4'\n" in done.stderr
    assert pq.read_table(tmp_path / "embed-run/dataset").num_rows == 2
    missing = run("report", code=EnvironmentFault.exit_code, env=environment)
    assert missing.stderr == "hpc-embed: bokeh is not installed. pip install 'bokeh>=3.4'\n"


def test_a_folder_in_the_place_of_the_report_goes_aside(done: RunLayout, run: Run) -> None:
    done.report.unlink()
    done.report.mkdir()
    gathered = run("gather")
    assert done.report.is_file()
    assert "9 records" in gathered.stdout


def test_a_plan_of_another_dataset_is_not_gathered(done: RunLayout) -> None:
    content = json.loads(done.dataset_facts.read_text())
    done.dataset_facts.write_text(json.dumps({**content, "fingerprint": "0" * 64}))
    assert not run_facts(read_plan(done.plan), done).is_gathered


def test_a_damaged_dataset_is_a_conflict_that_names_the_file(done: RunLayout, run: Run) -> None:
    part = done.dataset / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-8] + b"nonsense")
    assert "part-00000.parquet is not what was gathered. Gather again." in run("report", code=4).stderr
    done.dataset_facts.write_text("[]")
    assert "dataset.json: damaged. Gather again." in run("report", code=4).stderr


def test_markers_whose_numbers_are_none_are_left_out(done: RunLayout, run: Run) -> None:
    marker = json.loads(done.marker(1).read_text())
    marker["facts"]["seconds"] = "<b>"
    done.marker(1).write_text(json.dumps(marker))
    run("report")
    assert [work.shard for work in run_facts(read_plan(done.plan), done).works] == [0, 2]


def test_colours_come_from_a_column_of_the_users(done: RunLayout, run: Run, tmp_path: Path) -> None:
    (tmp_path / "meta.csv").write_text("name,id,family\nx,a,<i>kinase\ny,b,globin\nz,unknown,none\n")
    run("report", "--colour-by", "meta.csv:family", "--map", "pca")
    page = Page(done.report)
    assert "<i>kinase (1)" in page.text
    assert "none (5)" in page.text


@pytest.mark.parametrize(
    ("content", "setting", "code", "message"),
    [
        (b"id\tfamily\na\tx\n", "meta.tsv", 2, "--colour-by meta.tsv: not FILE:COLUMN."),
        (b"id\tfamily\na\tx\n", "meta.tsv:clan", 2, "no column clan. It has id, family."),
        (b"id\tfamily\nzz\tx\n", "meta.tsv:family", 3, "none of the records that the report shows"),
        (b"id\tfamily\na\t\xff\n", "meta.tsv:family", 3, "cannot be read as a table"),
        (b"", "missing.tsv:family", 3, "missing.tsv: cannot be read as a table"),
    ],
)
def test_a_bad_table_is_one_line(
    content: bytes, setting: str, code: int, message: str, done: RunLayout, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "meta.tsv").write_bytes(content)
    error = run("report", "--colour-by", setting, code=code).stderr
    assert message in error
    assert error.count("\n") == 1


def test_umap_where_it_is_missing_is_named(done: RunLayout, run: Run, tmp_path: Path) -> None:
    write_fasta(tmp_path / "ten.fasta", tuple("abcdefghijkl"))
    run("local", tmp_path / "ten.fasta", "--run-dir", "ten")
    (tmp_path / "umap.py").write_text("raise ImportError('not here')")
    environment = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}"}
    error = run("report", "--run-dir", "ten", "--map", "umap", code=5, env=environment).stderr
    assert error == "hpc-embed: umap is not installed. pip install umap-learn\n"
    run("report", "--run-dir", "ten", env=environment)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_draws_every_figure_without_an_error_or_a_script_of_a_header(run: Run, tmp_path: Path) -> None:
    run("local", write_fasta(tmp_path / "in.fasta", HOSTILE))
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    flags += " --disable-component-update --enable-logging=stderr --virtual-time-budget=10000 --dump-dom"
    report = tmp_path / "embed-run/report.html"
    browser = [str(CHROMIUM), *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", report.as_uri()]
    shown = subprocess.run(browser, capture_output=True, text=True, timeout=120, check=True)
    assert 'data-drawn="4"' in shown.stdout
    messages = [line for line in shown.stderr.splitlines() if "CONSOLE" in line]
    assert [line for line in messages if "[bokeh" not in line] == []


def test_gather_without_a_report_makes_none(done: RunLayout, run: Run) -> None:
    done.report.unlink()
    run("gather", "--no-report")
    assert not done.report.exists()
    assert GatherSettings().report


def test_shards_beyond_what_is_opened_are_sampled_evenly(done: RunLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpc_embed.report.facts.MOST_MARKERS", 2)
    plan: Plan = read_plan(done.plan)
    facts = run_facts(plan, done)
    assert ([work.shard for work in facts.works], facts.num_done) == ([0, 2], 3)
