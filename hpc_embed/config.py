"""The settings of every command: declared once, with the text of their help."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

Precision = Literal["auto", "fp32", "bf16", "fp8"]
Device = Literal["b200", "h200", "h100", "a100", "l40s", "a40", "a10", "l4", "rtx4090", "v100", "t4", "cpu"]
LongPolicy = Literal["window", "truncate", "skip", "error"]
InvalidPolicy = Literal["error", "skip", "unknown"]
Translation = Literal["six-frames", "longest-orf"]


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Where the run is"""

    run_dir: str = "embed-run"
    """The run folder; on a cluster it must lie on storage that every node sees."""


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """What is embedded, and how"""

    fasta: tuple[str, ...] = ()
    """FASTA or FASTQ, plain or compressed: files, globs, folders, pipes, - for standard input. May be named without the
    flag."""
    model: str = "composition"
    """A name from `hpc-embed models`, NAME:untrained, ORG/REPOSITORY on the hub, a folder; or hf: and one of the
    last two, for transformers to run it."""
    revision: str | None = None
    """Branch, tag or commit of a hub model; the plan pins the commit."""
    pooling: str = "default"
    """mean, mean_with_special, cls, max, per_token for a vector of each residue, per_base for one of each base of
    DNA; several with commas between give a column each; per_window leaves a record's windows apart, a row with its
    start and stop for each; default is the authors' own."""
    layer: int | str = -1
    """Layer whose hidden states are taken: 0 the embeddings, -1 the last; several, as -1,18,0, give a column each."""
    precision: Precision = "auto"
    """auto: BF16 autocast on GPUs that have it, FP32 elsewhere. fp8, for large models on GPUs of capability 8.9 and
    later: BF16 with the products in FP8, faster and less exact; see docs/vectors.md first."""
    on_long: LongPolicy = "window"
    """A record longer than the model's limit: split into windows, cut, left out, or refused."""
    max_residues: PositiveInt | None = None
    """Longest window in residues or bases; default is the model's limit."""
    stride: PositiveInt | None = None
    """Windows overlap: each is of the longest length and begins at most so many residues behind the one before."""
    on_invalid: InvalidPolicy = "unknown"
    """A letter that the model does not know: refuse, leave the record out, or embed it as unknown."""
    case: Literal["upper", "keep"] = "upper"
    """Lower-case letters: upper-cased, or kept (models then see unknown letters)."""
    gaps: Literal["keep", "drop"] = "keep"
    """The gaps of alignments, - and .: letters like others, or taken out."""
    translate: Translation | None = None
    """DNA for a protein model: the stretches between stop codons in all six frames, or of each record the longest
    that begins with methionine. Each is a record, ID|frame=+1|START..STOP."""
    genetic_code: PositiveInt = 1
    """NCBI's number of the table that --translate reads codons by."""
    min_orf_residues: PositiveInt = 30
    """Shortest protein that --translate makes."""
    sequence_column: str | None = None
    """Input is tables, with a header and tabs, commas or semicolons; the sequences are in this column."""
    id_column: str | None = None
    """Column of the ids [default: id, or else the first other one]."""
    force_kind: bool = False
    """Embed DNA with a protein model, or the reverse."""
    num_shards: PositiveInt | None = None
    """Shards to deal the windows into; default follows from --shard-minutes."""
    shard_minutes: PositiveFloat | None = None
    """Aim for shards of so many minutes on the device named by --device [default: so many that there are 256 shards, at
    least 5 and at most 30]."""
    device: Device = "a100"
    """The GPU type that the forecast is made for; cpu is one core of a processor with AVX-512."""
    plan_threads: PositiveInt | None = None
    """Threads that read and write while planning [default: one per core, at most 8]."""
    plan_memory_mebibytes: PositiveInt = 1024
    """Memory that planning aims for; beyond it, what waits is put in files."""


@dataclass(frozen=True, kw_only=True)
class WorkSettings:
    """How the work is done; nothing here changes a vector"""

    devices: str = "auto"
    """auto (every visible GPU, else the CPU), cpu, or a list of GPUs such as 0,1."""
    workers: PositiveInt | None = None
    """Worker processes on the CPU [default: one per core, as memory allows]."""
    token_budget: PositiveInt | None = None
    """Most tokens in one batch [default: measured on the device]."""
    piece_seconds: PositiveFloat = 15.0
    """Finished vectors are published this often; a killed task loses no more."""
    max_tries: PositiveInt = 3
    """A shard that failed so often is left aside."""
    weights_copy: str | None = None
    """Folder on the node's own disk that the weights are copied to once, to spare the shared storage."""
    retry_failed: bool = False
    """Try the shards again that were left aside."""
    force_precision: bool = False
    """Run --precision bf16 or fp8 also on a device without instructions for it, where FP32 is faster and more exact."""
    proof: bool = True
    """Before a checkpoint's first vector here, compare its tokens and vectors with the reference implementation's.
    --no-proof leaves that out, and the dataset says so."""


@dataclass(frozen=True, kw_only=True)
class GatherSettings:
    """The dataset"""

    dtype: Literal["float32", "float16"] = "float32"
    """Numbers of the dataset."""
    layout: Literal["parts", "shards"] = "parts"
    """Copy the vectors into the dataset's parts, in the order of the input; or leave them in outputs/ and write only
    which are whose, for sets whose second copy nobody can pay for."""
    part_mebibytes: PositiveInt = 512
    """Size of one part file."""
    memory_mebibytes: PositiveInt = 512
    """Vectors held in memory at a time; the more, the longer the stretches in which outputs are read."""
    gather_threads: PositiveInt | None = None
    """Outputs read and parts written at once [default: one per core, at most 8]."""
    wait_seconds: NonNegativeFloat | None = None
    """How long to look for what another node may just have published [default: 90 in a Slurm job or on storage that
    several nodes share, else 0]."""
    mixed_precision: bool = False
    """Take shards that were embedded in different precisions into one dataset."""
    report: bool = True
    """Make report.html in the run folder, too; --no-report leaves it out."""


@dataclass(frozen=True, kw_only=True)
class CheckSettings:
    """Whether to look only"""

    check: bool = False
    """Prove that the dataset is still what was gathered, part by part, and write nothing."""


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """What is exported, and how"""

    dataset: str = "embed-run"
    """A run folder, or the dataset in it; --dataset may be left out before it."""
    to: Literal["npy", "h5", "safetensors", "tsv", "faiss"] = "npy"
    """NumPy, HDF5 (one data set a record), safetensors, a table of text, or a faiss index."""
    output: str | None = None
    """The folder to write [default: embeddings-FORMAT]."""
    numbers: Literal["dataset", "float32", "float16"] = "dataset"
    """Numbers of the export; for float16 the largest rounding is told."""
    column: str = "embedding"
    """Which column, where the dataset has several."""


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """Which shards"""

    shards: str = "all"
    """Shards of this task: all, or numbers and ranges such as 0-9,12."""
    submission: str | None = None
    """Take the shards from this submission instead, for the element that Slurm has started."""


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """Which model, and where to"""

    model: str = "esm2_t33_650M"
    """A name from `hpc-embed models`, ORG/REPOSITORY on the hub, or a folder."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    models_dir: str = "models"
    """Folder that the nodes share; the model gets a folder of its own in it."""


@dataclass(frozen=True, kw_only=True)
class VerifySettings:
    """Which model, and where"""

    model: str = "esm2_t33_650M"
    """A name from `hpc-embed models`, ORG/REPOSITORY on the hub, or a folder; --model may be left out before it."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    device: str = "auto"
    """A GPU's number or cpu; auto is the first GPU, or the CPU where there is none."""


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """One of them"""

    explain: str | None = None
    """Say what a checkpoint is taken for, and by which facts: a folder, a name, or ORG/REPOSITORY on the hub."""


@dataclass(frozen=True, kw_only=True)
class StatusSettings:
    """How long to look"""

    watch: bool = False
    """Show it again and again until the run is over: gathered, or nothing of it waits or runs any more."""
    watch_seconds: PositiveFloat = 5.0
    """The first pause between two looks; pauses grow to a minute, to spare Slurm."""


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """What the report's map shows"""

    colour_by: str | None = None
    """FILE:COLUMN of a table by tabs or commas, such as metadata.tsv:family; its column id, or its first, names the
    records."""
    map: Literal["auto", "pca", "umap"] = "auto"
    """auto: UMAP where umap-learn is installed, which takes longer, else PCA. What gather makes is PCA."""


@dataclass(frozen=True, kw_only=True)
class DoctorSettings:
    """What is looked at"""

    cluster: bool = False
    """This Slurm site: version, limits, preemption, privacy, partitions, the run folder's storage."""
    rehearse: bool = False
    """Try this site with a tiny run in which one task is killed and one requeued; takes the options of submit."""
    rehearse_minutes: PositiveFloat = 15.0
    """How long the queue may take for the rehearsal."""


@dataclass(frozen=True, kw_only=True)
class OutputSettings:
    """What is printed"""

    json: bool = False
    """Print the result as JSON, and nothing else on standard output."""
    quiet: bool = False
    """Tell errors and the result only: no progress, notes or warnings."""


@dataclass(frozen=True, kw_only=True)
class CompletionSettings:
    """For which shell"""

    shell: Literal["bash", "zsh", "fish"] = "bash"
    """In bash and zsh, have ~/.bashrc or ~/.zshrc run `eval "$(hpc-embed completion SHELL)"`; in fish, write what this
    prints to ~/.config/fish/completions/hpc-embed.fish."""


@dataclass(frozen=True, kw_only=True)
class SubmitSettings:
    """What Slurm is asked for"""

    partition: str | None = None
    """Partition of the tasks [default: the site's]."""
    account: str | None = None
    """Account that pays."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Features that nodes must have."""
    gres: str | None = None
    """Generic resources instead of --gpus, such as gpu:a100:1."""
    gpus: NonNegativeInt | None = None
    """GPUs of one task [default: 1 for a transformer, none for composition]."""
    cpus_per_task: PositiveInt = 4
    """Cores of one task."""
    memory_gibibytes: PositiveInt | None = None
    """Memory of one task [default: the site's]."""
    time_minutes: PositiveInt = 240
    """Time limit of one start of a task; a shard may take longer, pieces carry on."""
    array_parallelism: NonNegativeInt = 0
    """Most tasks of a run at once, 0 for no limit. Where it takes several arrays, each waits for those before it."""
    shards_per_task: PositiveInt = 1
    """Shards that one task embeds one after the other with one model load."""
    signal_seconds: PositiveInt = 90
    """How long before the time limit a task publishes its pieces and is requeued; less than the limit."""
    job_name: str = "hpc-embed"
    """Name in the queue."""
    sbatch: dict[str, str] = field(default_factory=dict)
    """More options of sbatch, as {name: value}."""
    setup: tuple[str, ...] = ()
    """Shell lines to run on the node first, such as `module load cuda`."""
    image: str | None = None
    """Apptainer image in which each task runs."""
    bind: tuple[str, ...] = ()
    """More folders for the image to see."""
    gather: bool = True
    """Submit a gather job that waits for the tasks; --no-gather leaves it out."""
    gather_partition: str | None = None
    """Partition of the gather job [default: that of the tasks]."""
    gather_memory_gibibytes: PositiveInt | None = None
    """Memory of the gather job [default: --memory-mebibytes and 1 GiB]."""
    take_over: bool = False
    """Submit shards that another user has submitted too, where the site hides whether they are at work."""
    dry_run: bool = False
    """Print the script and submit nothing."""
    print_script: bool = False
    """Print a plain sbatch script that needs no submitit, and submit nothing."""
