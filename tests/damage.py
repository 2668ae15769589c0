"""`python -m tests.damage`: each file of a run folder, damaged in each way, and what each command says and does.

Commands run in this process, on a small run of amino-acid composition, with the crew's work done here.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import stat
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import numpy as np

from hpc_embed.cli import main
from hpc_embed.cluster import task
from hpc_embed.cluster.crew import CrewResult
from hpc_embed.cluster.worker_process import Assignment
from hpc_embed.errors import HpcEmbedError
from hpc_embed.progress import Counting
from hpc_embed.reading.dataset import open_dataset
from hpc_embed.run import faults
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.markers import record_failure
from tests.torture.small_run import FASTA
from tests.torture.storage import Crash

NOBODY = 65534
SHARD_0, SHARD_1 = "shard-00000", "shard-00001"
BEGUN = (
    "plan.json", "shards.parquet", "records.parquet", f"shards/{SHARD_1}.parquet", f"work/{SHARD_1}/piece",
    f"outputs/{SHARD_0}.parquet", f"outputs/{SHARD_0}.done.json", f"outputs/{SHARD_1}.failed.json", "outputs", "work",
    "shards",
)  # fmt: skip
"""Of a run that ended early: one shard is done, of the other there is a piece and a failure."""
GATHERED = (
    "plan.json", "shards.parquet", "records.parquet", f"shards/{SHARD_0}.parquet", f"outputs/{SHARD_0}.parquet",
    f"outputs/{SHARD_0}.done.json", "dataset/part-00000.parquet", "dataset.json", "dataset-index.npz", "report.html",
    "logs/token/1_0_log.out", "submissions/token.json", "dataset",
)  # fmt: skip
COMMANDS = ("plan", "local", "run-task", "status", "gather", "gather --check", "export", "report", "open_dataset")


class Answer(NamedTuple):
    """What a command did."""

    code: int
    error: str
    """Its last line on standard error, where the code is not 0."""


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


def into_a_folder(path: Path) -> None:
    delete(path)
    path.mkdir()
    (path / "something").write_text("of somebody's")


def delete(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "deleted": delete,
    "emptied": lambda path: path.write_bytes(b""),
    "cut": cut,
    "flipped": flip,
    "another run's": lambda path: None,  # see `damage`
    "no permission": lambda path: path.chmod(0),
    "a folder": into_a_folder,
}
OF_FOLDERS = ("deleted", "no permission")


class HereCrew:
    """Does a crew's work in this process."""

    def __init__(self, assignment: Assignment, *_: object) -> None:
        self.told = assignment

    def run(self, shards: Sequence[Path], _counting: Counting) -> CrewResult:
        outcome = self.told.worker.process_files_worker(
            iter(shards), "cpu", 1, self.told.outputs, fingerprint=self.told.fingerprint, work_dir=self.told.work,
            piece_seconds=0.0, digests=self.told.digests,
        )  # fmt: skip
        for path, reason in outcome.failed:
            record_failure(self.told.outputs, path.stem, reason)
        return CrewResult([path.stem for path in outcome.processed], {p.stem: why for p, why in outcome.failed})


class Scene:
    """A run folder to damage, another run beside it, and the commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.layout = RunLayout(folder / "run")

    def find(self, name: str) -> Path:
        """A piece has a name that is not known before."""
        if name.endswith("/piece"):
            return min((self.layout.root / name).parent.glob("piece-*"))
        return self.layout.root / name

    def damage(self, name: str, how: str) -> None:
        path = self.find(name)
        if how == "another run's":
            other = Scene(self.folder / "other")
            shutil.copy(RunLayout(self.folder / "other" / "run").root / other.find(name).relative_to(other.layout.root)
                        if name.endswith("/piece") else self.folder / "other" / "run" / name, path)  # fmt: skip
        else:
            DAMAGES[how](path)

    def run(self, command: str) -> Answer:
        run_dir = ["--run-dir", str(self.layout.root)]
        planned = [str(self.folder / "in.fa"), "--model", "aa_composition", "--force-kind", "--num-shards", "2"]
        lines: dict[str, list[str]] = {
            "plan": ["plan", *planned, *run_dir],
            "local": ["local", *planned, *run_dir, "--devices", "cpu", "--no-report"],
            "run-task": ["run-task", *run_dir, "--shards", "all", "--devices", "cpu"],
            "status": ["status", *run_dir],
            "gather": ["gather", *run_dir, "--no-report", "--wait-seconds", "0"],
            "gather --check": ["gather", *run_dir, "--check"],
            "export": ["export", str(self.layout.root), "--to", "npy", "--output", str(self.folder / "exported")],
            "report": ["report", *run_dir],
        }
        if command == "open_dataset":
            return self._open()
        with _here() as told:
            code = main(lines[command])
        return Answer(code, (told.getvalue().strip().splitlines() or [""])[-1] if code else "")

    def _open(self) -> Answer:
        try:
            with _here():
                self.vectors()
        except HpcEmbedError as error:
            return Answer(error.exit_code, str(error))
        except PermissionError as error:
            return Answer(5, f"permission denied: {error}")
        return Answer(0, "")

    def vectors(self) -> np.ndarray:
        """As a reader gets them."""
        with warnings.catch_warnings(action="ignore"):  # an index that is lost is made anew, with one
            return np.asarray(open_dataset(self.layout.root).vectors())

    def dataset(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.layout.dataset.iterdir())}

    def follow(self, answer: Answer, name: str) -> None:
        """Do what the answer says; what the remedy answers, too."""
        told = self._follow(answer, name)
        if told.code and told.error != answer.error:
            self.follow(told, name)
            self._follow(answer, name)

    def _follow(self, answer: Answer, name: str) -> Answer:
        path, said = self.find(name), answer.error
        aside = self.folder / f"moved-away-{len(list(self.folder.iterdir()))}"
        if "permission denied" in said:
            for each in (path, *path.parents):
                if each.exists() and each.is_relative_to(self.layout.root):
                    each.chmod(0o755 if each.is_dir() else 0o644)
        elif "move it away and run `hpc-embed plan`" in said:
            with contextlib.suppress(FileNotFoundError):
                path.rename(aside)
            return self.run("plan")
        elif "move the dataset away and gather" in said:
            with contextlib.suppress(FileNotFoundError):
                self.layout.dataset.rename(aside)
            return self.run("gather")
        elif "Remove " in said and "gather again" in said:
            delete(path)
            return self.run("gather")
        elif "hpc-embed plan`" in said or "hpc-embed plan` first" in said:
            return self.run("plan")
        elif "hpc-embed local" in said or "same command tries them again" in said or "Run them again" in said:
            return self.run("local")
        elif "ather again" in said or "hpc-embed gather`" in said:
            return self.run("gather")
        else:
            raise AssertionError(f"no remedy: {said}")
        return Answer(0, "")


@contextlib.contextmanager
def _here() -> Iterator[io.StringIO]:
    told = io.StringIO()
    with (
        warnings.catch_warnings(action="ignore"),
        patch.object(task, "Crew", HereCrew), patch.object(faults, "PAUSES_SECONDS", (0.0,)),
        contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()),
    ):  # fmt: skip
        yield told


def make(folder: Path, state: str, fasta: bytes = FASTA) -> Scene:
    """A run in a state, with another beside it, which has other letters."""
    scene = Scene(folder)
    folder.mkdir(parents=True)
    (folder / "in.fa").write_bytes(fasta)
    if state == "gathered":
        assert scene.run("local").code == 0
        assert scene.run("report").code == 0
        for name in ("logs/token/1_0_log.out", "submissions/token.json"):
            path = scene.layout.root / name
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_text("{}" if name.endswith("json") else "a line\n")
        (scene.layout.root / "submissions/token.json").write_text("{}")
    else:
        _begin(scene)
    if fasta == FASTA:
        make(folder / "other", state, FASTA.replace(b"MKV", b"MKL"))
    return scene


def _begin(scene: Scene) -> None:
    assert scene.run("plan").code == 0
    with _here():
        assert main(["run-task", "--run-dir", str(scene.layout.root), "--shards", "0", "--devices", "cpu"]) == 0
    from hpc_embed.run.plan import read_plan
    from hpc_embed.workers.registry import make_worker

    plan, answers = read_plan(scene.layout.plan), iter([False, True])
    with _here(), contextlib.suppress(HpcEmbedError, Crash):
        make_worker(plan.model, plan.embedding).process_files_worker(
            iter([scene.layout.shard(1)]), "cpu", 1, scene.layout.outputs, fingerprint=plan.fingerprint,
            work_dir=scene.layout.work, piece_seconds=0.0, should_stop=lambda: next(answers, True),
        )  # fmt: skip
    record_failure(scene.layout.outputs, SHARD_1, "a reason")


@contextlib.contextmanager
def as_nobody(folder: Path) -> Iterator[None]:
    """An ordinary user to whom the folder belongs, where we are root."""
    if os.geteuid() != 0:
        yield
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def cases(state: str) -> Iterator[tuple[str, str]]:
    """Every file with every damage."""
    for name in BEGUN if state == "begun" else GATHERED:
        is_folder = name in ("outputs", "work", "shards", "dataset")
        for how in OF_FOLDERS if is_folder else DAMAGES:
            if (name, how) != ("report.html", "another run's"):
                yield name, how


def commands(state: str) -> tuple[str, ...]:
    return COMMANDS if state == "gathered" else COMMANDS[:5]


class Outcome(NamedTuple):
    """Of one command on one damage."""

    answer: Answer
    steps: int
    """How often a remedy was followed until the command ended well."""
    problem: str
    """What no command may do; empty where it did not."""


def try_out(state: str, name: str, how: str, command: str, original: Path, truth: Scene, folder: Path) -> Outcome:
    """Damage a copy, give the command, and follow its remedies."""
    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(original, folder)
    scene = Scene(folder)
    scene.damage(name, how)
    with as_nobody(folder):
        answer = scene.run(command)
        problem = "" if answer.code != 1 and "Traceback" not in answer.error else f"a bug: {answer.error}"
        steps, last = 0, answer
        while last.code not in (0,) and steps < 4 and not problem:
            try:
                scene.follow(last, name)
            except AssertionError as error:
                problem = str(error)
                break
            last = scene.run(command)
            steps += 1
        if not problem and last.code:
            problem = f"the remedies did not help: {last.error}"
        if not problem and command in ("local", "gather", "gather --check", "export", "open_dataset"):
            problem = _compare(scene, truth, command)
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) & 0o600 != 0o600:
            path.chmod(0o755 if path.is_dir() else 0o644)
    return Outcome(answer, steps, problem)


def _compare(scene: Scene, truth: Scene, command: str) -> str:
    if command == "export":
        same = np.array_equal(np.load(scene.folder / "exported/vectors.npy"), truth.vectors())
    elif command == "open_dataset":
        same = np.array_equal(scene.vectors(), truth.vectors())
    else:
        same = scene.dataset() == truth.dataset()
    return "" if same else "other vectors, and exit code 0"


def print_table() -> int:
    """A row for each file and damage; exit code 1 where a command did what none may."""
    num_problems = 0
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        truth = make(Path(place) / "truth", "gathered")
        only = [word for word in sys.argv[1:] if word != "-v"]
        for state in ("begun", "gathered"):
            make(Path(place) / state, state)
            for name, how in cases(state):
                if only and not any(word in f"{state} {name} {how}" for word in only):
                    continue
                cells = []
                for command in commands(state):
                    done = try_out(state, name, how, command, Path(place) / state, truth, Path(place) / "copy")
                    num_problems += bool(done.problem)
                    cells.append(f"{command} {done.answer.code}{'!' if done.problem else ''}")
                    if done.problem or (done.answer.code and "-v" in sys.argv):
                        print(f"    {state} {name} {how}: {command}: {done.problem or done.answer.error}", flush=True)
                print(f"{state:8} {name:34} {how:14} {'  '.join(cells)}", flush=True)
    print(f"{num_problems} problems")
    return int(bool(num_problems))


if __name__ == "__main__":
    sys.exit(print_table())
