"""Headers and paths with control characters: kept where they can be told apart, and never raw on a terminal."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import pyarrow.parquet as pq
import pytest

from hpc_embed import cli
from hpc_embed.errors import BadInput
from hpc_embed.progress import note, say
from hpc_embed.sequences.sources import expand_inputs

HEADERS = {
    b"nul\0b c": r"nul\x00b",
    b"\x1b[31mred\x07 x": r"\x1b[31mred\x07",
    b"tab\tb": "tab",
    b"line\xe2\x80\xa8v \xc2\x9b2J": r"line\u2028v",
    b"latin\xff": r"latin\xff",
    b"del\x7f": r"del\x7f",
    b"<script>\x0b": "<script>",
    "naïve".encode(): "naïve",
}
RAW = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\xa8\xa9]")


def test_a_header_with_control_characters_goes_through_a_run_its_exports_and_its_report(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("\x1b[31min.fa").write_bytes(b"".join(b">%s\nMKV%sJ\n" % (name, b"L" * at) for at, name in enumerate(HEADERS)))
    run = "\x1b[32mrun"
    common = ["--model", "aa_composition", "--run-dir", run, "--force-kind"]
    assert cli.main(["local", "\x1b[31min.fa", *common, "--device", "cpu"]) == 0
    assert cli.main(["status", "--run-dir", run]) == 0
    for format in ("npy", "h5", "safetensors", "tsv", "faiss"):
        assert cli.main(["export", run, "--to", format, "--output", format]) == 0
    assert cli.main(["plan", "\x1b[31min.fa", *common[:2], "--on-invalid", "error", "--run-dir", "other"]) == 3
    printed = "".join(capfd.readouterr())
    assert r"\x1b[31min.fa, line 1, nul\x00b: letter 'J' unknown" in printed
    assert not RAW.search(printed.encode())
    ids = list(HEADERS.values())
    assert pq.read_table(f"{run}/records.parquet")["id"].to_pylist() == ids
    assert pq.read_table(f"{run}/dataset")["id"].to_pylist() == ids
    assert [line.split("\t")[1] for line in Path("tsv/ids.tsv").read_text().splitlines()[1:]] == ids
    with h5py.File("h5/vectors.h5") as file:
        assert len(file) == len(ids)
    page = Path(run, "report.html").read_bytes()
    table = page[page.rindex(b"</script>") :] if b"</script>" in page else page
    assert not RAW.search(table)
    assert json.loads(Path(run, "plan.json").read_text())["inputs"][0]["path"] == "\x1b[31min.fa"


def test_news_and_errors_show_control_characters_by_their_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    note("one \x1b[31m\ntwo \x9b \u2028 tab\t.")
    say("three \x07")
    assert capsys.readouterr().err == "one \\x1b[31m\ntwo \\x9b \\u2028 tab\t.\nthree \\x07\n"


def test_a_path_that_is_not_utf_8_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"\xff.fasta")
    odd.write_text(">a\nMKV\n")
    for arguments in (["plan", str(odd)], ["plan", "x.fa", "--run-dir", str(odd)], ["status", "--run-dir", str(odd)]):
        done = subprocess.run(
            [sys.executable, "-m", "hpc_embed", *arguments], capture_output=True, cwd=tmp_path, check=False
        )
        assert done.returncode == 2
        assert done.stderr.decode() == (
            f"hpc-embed: {tmp_path}/\\xff.fasta: not UTF-8. Rename it, or link to it by another name.\n"
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == [odd.name]
    for source in (str(tmp_path), str(tmp_path / "*.fasta")):
        with pytest.raises(BadInput, match="a name that is not UTF-8"):
            expand_inputs([source])
