"""Every path of a run folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

SHARDS_PER_FOLDER = 1000
"""The first thousand shards lie in `outputs`, `work` and `shards` themselves, each further thousand in a sub-folder:
many files in one folder are slow to find and to make.
"""


@dataclass(frozen=True)
class RunLayout:
    """The files of one run, as docs/run-folder.md describes them."""

    root: Path

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def shard_table(self) -> Path:
        """Beside plan.json, which people read."""
        return shard_table_path(self.plan)

    @property
    def records(self) -> Path:
        return self.root / "records.parquet"

    @property
    def shards(self) -> Path:
        return self.root / "shards"

    @property
    def outputs(self) -> Path:
        return self.root / "outputs"

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def submissions(self) -> Path:
        return self.root / "submissions"

    @property
    def dataset(self) -> Path:
        return self.root / "dataset"

    @property
    def dataset_facts(self) -> Path:
        """Beside the dataset, not in it: some readers refuse a folder that holds anything but Parquet."""
        return self.root / "dataset.json"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def dataset_index(self) -> Path:
        """Where in the dataset each id is."""
        return self.root / "dataset-index.npz"

    @property
    def withdrawn(self) -> Path:
        return withdrawn_folder(self.outputs)

    def shard(self, index: int) -> Path:
        return folder_of(self.shards, shard_name(index)) / f"{shard_name(index)}.parquet"

    def output(self, index: int) -> Path:
        return output_path(self.outputs, shard_name(index))

    def marker(self, index: int) -> Path:
        return marker_path(self.outputs, shard_name(index))

    def failure(self, index: int) -> Path:
        return failure_path(self.outputs, shard_name(index))

    def pieces(self, index: int) -> Path:
        return pieces_folder(self.work, shard_name(index))


def shard_name(index: int) -> str:
    """`shard-00007`."""
    return f"shard-{index:05d}"


def folder_of(root: Path, name: str) -> Path:
    """The folder in which `root` has a shard: itself, or `root/012` for shard-12345."""
    match = re.fullmatch(r"shard-(\d+)", name)
    thousand = int(match[1]) // SHARDS_PER_FOLDER if match else 0
    return root / f"{thousand:03d}" if thousand else root


def shard_folders(root: Path, num_shards: int) -> list[Path]:
    """Every folder in which `root` has some of so many shards."""
    return [folder_of(root, shard_name(index)) for index in range(0, max(num_shards, 1), SHARDS_PER_FOLDER)]


def shard_table_path(plan: Path) -> Path:
    """The shard table of a plan.json."""
    return plan.with_name("shards.parquet")


def withdrawn_folder(folder: Path) -> Path:
    """Where outputs, or pieces, go that proved false."""
    return folder / "withdrawn"


def output_path(outputs: Path, name: str) -> Path:
    """A shard's vectors."""
    return folder_of(outputs, name) / f"{name}.parquet"


def marker_path(outputs: Path, name: str) -> Path:
    """The proof that a shard's vectors are whole."""
    return folder_of(outputs, name) / f"{name}.done.json"


def failure_path(outputs: Path, name: str) -> Path:
    """What went wrong with a shard, and how often."""
    return folder_of(outputs, name) / f"{name}.failed.json"


def pieces_folder(work: Path, name: str) -> Path:
    """What a shard has finished so far."""
    return folder_of(work, name) / name
