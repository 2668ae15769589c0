"""Every path of a run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunLayout:
    """The files of one run, as docs/run-folder.md describes them."""

    root: Path

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

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
    def withdrawn(self) -> Path:
        return withdrawn_folder(self.outputs)

    def shard(self, index: int) -> Path:
        return self.shards / f"{shard_name(index)}.parquet"

    def output(self, index: int) -> Path:
        return output_path(self.outputs, shard_name(index))

    def marker(self, index: int) -> Path:
        return marker_path(self.outputs, shard_name(index))

    def failure(self, index: int) -> Path:
        return failure_path(self.outputs, shard_name(index))

    def pieces(self, index: int) -> Path:
        return self.work / shard_name(index)


def shard_name(index: int) -> str:
    """`shard-00007`."""
    return f"shard-{index:05d}"


def withdrawn_folder(folder: Path) -> Path:
    """Where outputs, or pieces, go that proved false."""
    return folder / "withdrawn"


def output_path(outputs: Path, name: str) -> Path:
    """A shard's vectors."""
    return outputs / f"{name}.parquet"


def marker_path(outputs: Path, name: str) -> Path:
    """The proof that a shard's vectors are whole."""
    return outputs / f"{name}.done.json"


def failure_path(outputs: Path, name: str) -> Path:
    """What went wrong with a shard, and how often."""
    return outputs / f"{name}.failed.json"
