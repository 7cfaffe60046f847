"""A stand-in for drawing pictures, which takes longer than all else that a small run does."""

from pathlib import Path

from utils.checkpoint import write_atomically


def write_stand_in(figure: object, path: Path, pdf: bool = True) -> None:
    """In the place of `utils.figures.write`: files of the same names, nothing drawn in them."""
    for name in (path, path.with_suffix(".pdf"))[: 1 + pdf]:
        write_atomically(name, lambda file: file.write(b"a stand-in"))
