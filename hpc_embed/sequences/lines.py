"""Lines of FASTA: what of one is sequence, what may be left out of it, and what is no sequence at all."""

from __future__ import annotations

import re
from typing import NamedTuple

COMMENT = ";"
OTHER_COMMENTS = "#!"
"""As BLAST takes them; some programs write such letters for a residue."""
USUAL = re.compile(r"[ \t\v\f]*[A-Za-z*\-.?~]*[ \t\v\f]*\r?\n?")
"""Letters, stops, gaps and what stands for missing letters; the kernel reads such lines, and leaves others to us."""
SYMBOLS = "*-.?~"
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
PIR = re.compile(r">(?:P1|F1|DL|DC|RL|RC|N1|N3|XX);[^=;\s]*\s*")
"""Headers of PIR (NBRF), below which a title stands; `>P1;size=3` is a cluster's name."""
MOST_SHOWN = 40


class NotSequence(ValueError):
    """A line is no sequence; says what it is."""

    def __init__(self, words: str, remedy: str) -> None:
        super().__init__(words)
        self.remedy = remedy


class Letters(NamedTuple):
    """What of a line is sequence."""

    letters: str
    is_cut: bool
    """True where more than white space at its ends was left out."""


def letters_of(line: str) -> Letters:
    """The letters of a line of a sequence.

    A comment is left out, and so are numbers of positions at either end and the blanks between columns. Raises
    NotSequence for control characters, `>`, text, and what is mostly no letters.
    """
    if USUAL.fullmatch(line):
        return Letters(line.strip(), False)
    if line.startswith(COMMENT):
        return Letters("", True)
    if line[0] in OTHER_COMMENTS:
        raise NotSequence(f"{_shown(line)} looks like a comment", "Begin comments with ';', or take the line out.")
    if found := CONTROL.search(line):
        raise NotSequence(
            f"a control character, {found.group()!r}, in a sequence", "Copy or make the file again; it may be damaged."
        )
    if ">" in line:
        _refuse_header(line)
    words = line.split()
    columns = _without_positions(words)
    letters = "".join(columns)
    if 2 * sum(letter.isalpha() or letter in SYMBOLS for letter in letters) < len(letters):
        raise NotSequence(f"{_shown(line)} is no sequence: most of it is no letters", "Take the line out.")
    if len(columns) > 1 and not _is_even(columns):
        raise NotSequence(
            f"{_shown(line)} is text with blanks between its words, no sequence",
            "Take the line out, or the blanks where it is one.",
        )
    return Letters(letters, len(words) > 1)


def refuse_pir(header: str) -> None:
    """Raise NotSequence for a header below which a title stands and not a sequence."""
    if PIR.fullmatch(header):
        raise NotSequence(
            "PIR, not FASTA: the line below would become residues",
            "Convert it: Bio.SeqIO.convert('x.pir', 'pir', 'x.fasta', 'fasta').",
        )


def _refuse_header(line: str) -> None:
    if "<" in line:
        raise NotSequence(
            f"{_shown(line)} holds a tag or a token in brackets, which is no letter",
            "Give letters alone; X stands for any residue, N for any base.",
        )
    raise NotSequence(
        f"'>' in a sequence, {_shown(line[max(0, line.index('>') - 10) :])}, as of files joined without a line end",
        "Begin each record on a line of its own.",
    )


def _without_positions(words: list[str]) -> list[str]:
    """The words of a line, without a number in front or behind."""
    if len(words) > 1 and words[0].isdigit():
        words = words[1:]
    return words[:-1] if len(words) > 1 and words[-1].isdigit() else words


def _is_even(columns: list[str]) -> bool:
    """True for columns of one width, of which the last may be cut short; not for words of a text."""
    width = len(columns[0])
    is_one_width = all(len(column) == width for column in columns[:-1]) and len(columns[-1]) <= width
    return is_one_width and not any(len(column) > 1 and column.istitle() for column in columns)


def _shown(line: str) -> str:
    line = line.strip()
    return repr(line if len(line) <= MOST_SHOWN else line[:MOST_SHOWN] + "…")
