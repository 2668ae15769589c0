"""What a run takes in: its settings checked, its files told, and each block made into the records to embed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from hpc_embed.config import PlanSettings
from hpc_embed.errors import UsageError
from hpc_embed.progress import note
from hpc_embed.run.intake import Intake
from hpc_embed.sequences.blocks import Block
from hpc_embed.sequences.folders import SEQUENCE_ENDINGS, TABLE_ENDINGS
from hpc_embed.sequences.gaps import without_gaps
from hpc_embed.sequences.tables import Columns
from hpc_embed.sequences.translation import GENETIC_CODES, Proteins, name_of_code, translated


def intake_of(settings: PlanSettings) -> Intake:
    """The settings that belong together; UsageError for one without the other, and for no genetic code."""
    if settings.id_column and not settings.sequence_column:
        raise UsageError(
            f"--id-column {settings.id_column}: no table is read.", remedy="Give --sequence-column too, for a table."
        )
    intake = Intake(
        sequence_column=settings.sequence_column,
        id_column=settings.id_column,
        translate=settings.translate,
        genetic_code=settings.genetic_code,
        min_orf_residues=settings.min_orf_residues,
        gaps=settings.gaps,
    )
    _refuse_odd_translation(intake)
    return intake


def _refuse_odd_translation(intake: Intake) -> None:
    if intake.translate is None:
        for name in sorted({"genetic_code", "min_orf_residues"} & set(intake.settings)):
            flag = "--" + name.replace("_", "-")
            raise UsageError(
                f"{flag} {getattr(intake, name)}: nothing is translated.", remedy="Give --translate, or leave it out."
            )
        return
    if intake.genetic_code not in GENETIC_CODES:
        raise UsageError(
            f"--genetic-code {intake.genetic_code}: NCBI has no such table.",
            remedy=f"Choose one of {', '.join(map(str, GENETIC_CODES))}.",
        )


def columns_of(intake: Intake) -> Columns | None:
    """The columns of tables; None where the input is none."""
    return Columns(intake.sequence_column, intake.id_column) if intake.sequence_column else None


def endings_of(intake: Intake) -> Sequence[str]:
    """The files that are taken from a folder."""
    return TABLE_ENDINGS if intake.sequence_column else SEQUENCE_ENDINGS


def preparation(intake: Intake) -> Callable[[Block], Block]:
    """What makes of each block, as parsed, the records that are judged."""

    def prepare(block: Block) -> Block:
        if intake.gaps == "drop":
            block = without_gaps(block)
        if intake.translate is not None:
            proteins = cast(Proteins, intake.translate)
            block = translated(block, proteins, intake.genetic_code, intake.min_orf_residues)
        return block

    return prepare


def tell_intake(intake: Intake, fastq: Sequence[str], alignments: Sequence[str]) -> None:
    """A line for each thing that becomes of the input and that a user may not expect."""
    if fastq:
        note(f"{_named(fastq)}: FASTQ; qualities are dropped.")
    if alignments and intake.gaps == "keep":
        note(f"{_named(alignments)}: an alignment; its gaps are embedded as letters. --gaps drop takes them out.")
    if intake.translate is not None:
        note(
            f"nucleotides are translated: {intake.translate} of at least {intake.min_orf_residues} residues, "
            f"genetic code {intake.genetic_code} ({name_of_code(intake.genetic_code)})."
        )


def _named(sources: Sequence[str]) -> str:
    return sources[0] if len(sources) == 1 else f"{sources[0]} and {len(sources) - 1} more"
