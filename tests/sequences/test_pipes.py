"""Sources that can be read once: the plan of a pipe is that of the file, or says what is the matter."""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hpc_embed.config import PlanSettings
from hpc_embed.errors import BadInput, RunConflict, UsageError
from hpc_embed.planning import scan
from hpc_embed.planning.planner import make_plan
from hpc_embed.planning.verdicts import Judge, Judged
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import Plan
from hpc_embed.sequences import pipes, sources
from hpc_embed.sequences.blocks import Block
from hpc_embed.sequences.sources import Seen
from tests.planning.test_intake import FASTA, made, plan

AT_THE_EDGE = b">a\n" + b"M" * 1_048_572 + b"\n>b\nMKVL\n"
"""The second record begins a byte before the first mebibyte ends."""
DRAW = random.Random(8)
RECORDS = "".join(f">r{number} x\n{'ACGTNMKVL'[number % 9] * (number % 90)}\n" for number in range(40_000)).encode()
PACKS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": lambda content: gzip.compress(content, 1),
    "zstd": lambda content: bytes(pa.Codec("zstd").compress(content, asbytes=True)),
    "bzip2": bz2.compress,
    "xz": lambda content: lzma.compress(content, preset=0),
}


@contextmanager
def piped(*contents: bytes) -> Iterator[list[str]]:
    """Names as a shell's `<(…)` gives them, of pipes into which so much is written."""
    ends = [os.pipe() for _ in contents]
    writers = [
        threading.Thread(target=written, args=(end, content), daemon=True)
        for (_, end), content in zip(ends, contents, strict=True)
    ]
    for writer in writers:
        writer.start()
    try:
        yield [f"/dev/fd/{end}" for end, _ in ends]
    finally:
        for end, _ in ends:
            os.close(end)
        for writer in writers:
            writer.join()


def plan_of(run: Path, *sources: str) -> Plan:
    return make_plan(PlanSettings(fasta=sources, plan_threads=1), RunLayout(run)).plan


def written(end: int, content: bytes) -> None:
    with suppress(BrokenPipeError), open(end, "wb", buffering=0) as file:
        left = memoryview(content)
        while left:
            left = left[file.write(left) :]


@pytest.mark.parametrize(
    ("pack", "content"),
    [*((pack, AT_THE_EDGE) for pack in PACKS), ("plain", RECORDS), ("zstd", RECORDS)],
    ids=[*PACKS, "many records", "many records in zstd"],
)
def test_a_pipe_is_planned_as_the_file_is(content: bytes, pack: str, tmp_path: Path) -> None:
    (tmp_path / "x.fa").write_bytes(content)
    whole = plan(tmp_path / "x.fa", tmp_path / "whole", model="aa_composition", force_kind=True)
    with piped(PACKS[pack](content)) as (pipe,):
        found = plan(pipe, tmp_path / "run", model="aa_composition", force_kind=True)
    assert found.fingerprint == whole.fingerprint
    assert found.totals == whole.totals
    assert found.totals.num_records == content.count(b">")
    assert made(tmp_path / "run") == made(tmp_path / "whole")


@pytest.mark.parametrize(
    ("begin", "each", "settings"),
    [
        ("", "@r{0} x\nACGTACGT\n+\nIIIIIIII\n", {}),
        ("id,seq\n", "r{0},ACGTACGT\n", {"sequence_column": "seq"}),
        ("", ">r{0}\nATGGCTGCTGCTTAA\n", {"translate": "longest-orf", "min_orf_residues": 3}),
    ],
)
def test_what_is_no_plain_fasta_comes_whole_out_of_a_fifo(
    begin: str, each: str, settings: dict[str, object], tmp_path: Path
) -> None:
    content = (begin + "".join(map(each.format, range(60_000)))).encode()
    os.mkfifo(tmp_path / "fifo")
    writer = threading.Thread(target=(tmp_path / "fifo").write_bytes, args=(content,))
    writer.start()
    found = plan(tmp_path / "fifo", tmp_path / "run", force_kind=True, **settings)
    writer.join()
    assert found.totals.num_records == 60_000
    assert found.totals.num_skipped == 0


def test_pipes_that_somebody_writes_by_turns_are_read_by_turns(tmp_path: Path) -> None:
    (tmp_path / "x.fa").write_text(FASTA)
    line = b">r\n" + b"ACGT" * 1000 + b"\n"
    names = [tmp_path / "one", tmp_path / "two"]
    for name in names:
        os.mkfifo(name)

    def write_by_turns() -> None:
        with names[0].open("wb") as one, names[1].open("wb") as two:
            for _ in range(1000):
                one.write(line)
                one.flush()
                two.write(line)
                two.flush()

    writer = threading.Thread(target=write_by_turns, daemon=True)
    writer.start()
    sources = (str(names[0]), str(tmp_path / "x.fa"), str(names[1]))
    found = plan_of(tmp_path / "run", *sources)
    writer.join(10)
    assert [file.num_records for file in found.inputs] == [1000, 300, 1000]


def test_a_fifo_into_which_nobody_writes_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipes, "SECONDS_UNTIL_TOLD", 0.1)
    os.mkfifo(tmp_path / "silent")
    told: list[str] = []

    def write_when_told() -> None:
        while not told:
            time.sleep(0.05)
            told.append(capsys.readouterr().err)
            if not told[-1]:
                told.pop()
        (tmp_path / "silent").write_text(FASTA)

    writer = threading.Thread(target=write_when_told, daemon=True)
    writer.start()
    with piped(FASTA.encode()) as (pipe,):
        found = plan_of(tmp_path / "run", pipe, str(tmp_path / "silent"))
    writer.join(10)
    assert told == [f"{tmp_path}/silent: waiting; nobody has written anything into it yet.\n"]
    assert [file.num_records for file in found.inputs] == [300, 300]


def test_a_pipe_that_is_a_little_late_is_no_news(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    receiving, sending = os.pipe()
    writer = threading.Timer(0.3, written, (sending, FASTA.encode()))
    writer.start()
    assert plan_of(tmp_path / "run", f"/dev/fd/{receiving}").totals.num_records == 300
    writer.join()
    os.close(receiving)
    assert "waiting" not in capsys.readouterr().err


def test_silent_standard_input_is_told_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    pipes._tell_silent(["-", "f"])
    assert capsys.readouterr().err == (
        "-: waiting; nobody has written anything into standard input yet.\n"
        "f: waiting; nobody has written anything into it yet.\n"
    )


def test_one_pipe_under_two_names_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with piped(b">a\nMKV\n") as (pipe,):
        other = pipe.replace("/dev/fd", "/proc/self/fd")
        with pytest.raises(UsageError, match=f"{pipe} and {other} are the same pipe. Name each once"):
            plan_of(tmp_path / "run", pipe, other)
        assert os.read(int(pipe.rpartition("/")[2]), 100) == b">a\nMKV\n"


@pytest.mark.parametrize("pack", ["gzip", "zstd", "bzip2", "xz"])
def test_what_a_writer_that_died_has_left_in_a_pipe_is_refused(pack: str, tmp_path: Path) -> None:
    words = f"the {pack} data is damaged or cut short"
    with piped(PACKS[pack](RECORDS)[:-20]) as (pipe,), pytest.raises(BadInput, match=words):
        plan(pipe, tmp_path / "run", model="aa_composition", force_kind=True)
    assert not (tmp_path / "run/plan.json").exists()


def test_a_socket_is_read_where_it_is_open_and_refused_where_it_is_a_name(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(FASTA.encode())
        theirs.shutdown(socket.SHUT_WR)
        assert plan(f"/dev/fd/{ours.fileno()}", tmp_path / "run").totals.num_records == 300
    with socket.socket(socket.AF_UNIX) as named:
        named.bind(str(tmp_path / "s"))
        with pytest.raises(BadInput, match=r"s: cannot be opened \(a socket, which programs connect to\)"):
            plan(tmp_path / "s", tmp_path / "other")


@pytest.mark.parametrize(
    ("number", "name", "reason"),
    [(errno.ENXIO, "/dev/null", "No such device or address"), (errno.EACCES, "s", "Permission denied")],
)
def test_why_a_source_cannot_be_opened_is_told(
    number: int, name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: str) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(pipes, "_open", refuse)
    with socket.socket(socket.AF_UNIX) as named:
        named.bind(str(tmp_path / "s"))
        with pytest.raises(BadInput, match=rf"{name}: cannot be opened \({reason}\)"):
            plan(tmp_path / name, tmp_path / "run")


def test_a_fault_of_a_pipe_is_told_by_its_name() -> None:
    with Path("/proc/self/mem").open("rb") as file, pytest.raises(BadInput, match="in here: cannot be read"):
        pipes.Pipe("in here", file.fileno()).read_some(1)


def test_a_read_that_waits_ends_soon_after_the_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    receiving, sending = os.pipe()
    pipe = pipes.Pipe("x", receiving)
    pipe.head += b">a"
    content = pipe.content
    assert content.read(2) == b">a"
    pipe.stop.set()
    begun = time.monotonic()
    with pytest.raises(InterruptedError):
        content.read(1)
    assert time.monotonic() - begun < 3
    os.write(sending, b"\nM")
    assert content.read(2) == b"\nM"
    for end in (receiving, sending):
        os.close(end)


def test_a_device_is_read_once_too(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"/dev/null: no records. Nothing came out of it"):
        plan("/dev/null", tmp_path / "run")


def test_standard_input_that_is_closed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(BadInput, match="-: standard input is closed"):
        plan("-", tmp_path / "run")


def test_a_plan_out_of_a_pipe_is_found_again_by_the_same_records_and_by_no_others(tmp_path: Path) -> None:
    def again(content: bytes) -> str:
        with piped(content) as (pipe,):
            return plan(pipe, tmp_path / "run", model="aa_composition", force_kind=True).fingerprint

    first = again(RECORDS)
    assert again(RECORDS) == first
    with pytest.raises(RunConflict, match="holds a plan made with other settings"):
        again(RECORDS[: RECORDS.rindex(b">")])
    with pytest.raises(BadInput, match=r"no records. Nothing came out of it. Pipe the records in again"):
        again(b"")
    with pytest.raises(BadInput, match="no such file"):
        plan("/dev/fd/987", tmp_path / "run", model="aa_composition")
    assert pq.read_metadata(tmp_path / "run/records.parquet").num_rows == 40_000


def test_an_interrupted_plan_of_a_pipe_begins_anew_and_does_not_wait_for_its_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpc_embed.sequences.sources.BLOCK_BYTES", 100_000)

    def interrupted(self: Judge, block: Block) -> Judged:
        raise KeyboardInterrupt

    receiving, sending = os.pipe()
    with monkeypatch.context() as patch:
        patch.setattr(Judge, "judge", interrupted)
        writer = threading.Thread(target=os.write, args=(sending, RECORDS[: 3 << 20]), daemon=True)
        writer.start()
        with pytest.raises(KeyboardInterrupt):
            plan(f"/dev/fd/{receiving}", tmp_path / "run", model="aa_composition", force_kind=True)
    os.close(receiving)  # its writer had not ended
    writer.join(10)
    os.close(sending)
    with piped(RECORDS) as (pipe,):
        found = plan(pipe, tmp_path / "run", model="aa_composition", force_kind=True)
    assert found.totals.num_records == 40_000


@pytest.mark.parametrize("pack", ["plain", "gzip"])
@pytest.mark.parametrize("change", ["longer", "shorter", "other"])
def test_a_file_that_changes_while_it_is_read_is_refused(
    change: str, pack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.fa"
    path.write_bytes(PACKS[pack](FASTA.encode()))
    os.utime(path, (1, 1))
    judge = Judge.judge

    def judge_and_change(self: Judge, block: Block) -> Judged:
        if change == "longer":
            with path.open("ab") as file:
                file.write(b">late\nACGT\n")
        elif change == "shorter":
            os.truncate(path, path.stat().st_size - 1)
        else:
            path.write_bytes(path.read_bytes()[::-1])
        return judge(self, block)

    monkeypatch.setattr(Judge, "judge", judge_and_change)
    with pytest.raises(BadInput, match=r"x\.fa: changed while it was read\. Wait until it is written, and plan again"):
        plan(path, tmp_path / "run")
    assert not (tmp_path / "run/plan.json").exists()


def test_a_file_that_goes_on_behind_the_size_that_was_told_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.fa"
    path.write_text(FASTA + ">late\nACGT\n")
    monkeypatch.setattr(scan, "look_at", lambda source: Seen(len(FASTA), 1))
    monkeypatch.setattr(sources, "look_at", lambda source: Seen(len(FASTA), 1))
    with pytest.raises(BadInput, match=r"x\.fa: changed while it was read"):
        plan(path, tmp_path / "run")


def test_the_shells_own_ways_give_every_record(tmp_path: Path) -> None:
    (tmp_path / "x.fa").write_bytes(AT_THE_EDGE)
    command = "plan --model aa_composition --num-shards 1 --run-dir"
    script = f"""set -e -o pipefail; cd {tmp_path}; hpc() {{ {sys.executable} -m hpc_embed "$@"; }}
    hpc {command} one <(cat x.fa); cat x.fa | hpc {command} two /dev/stdin; hpc {command} three - < x.fa
    hpc {command} one <(gzip -c x.fa)"""
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for run in ("one", "two", "three"):
        assert [row["id"] for row in pq.read_table(tmp_path / run / "records.parquet").to_pylist()] == ["a", "b"]
