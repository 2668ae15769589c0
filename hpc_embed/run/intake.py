"""What is taken from the input, where that is not its records as they stand."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields


@dataclass(frozen=True, kw_only=True)
class Intake:
    """Settings of a plan by which the same files give other records."""

    sequence_column: str | None = None
    id_column: str | None = None
    translate: str | None = None
    genetic_code: int = 1
    min_orf_residues: int = 30
    gaps: str = "keep"
    reads_u_as_t: bool = False
    """True where there was a U in sequences for a model of DNA; no setting."""

    @property
    def settings(self) -> dict[str, object]:
        """Those that are not the default, which is all that a plan says of them."""
        defaults = {field.name: field.default for field in fields(self)}
        return {name: value for name, value in asdict(self).items() if value != defaults[name]}
