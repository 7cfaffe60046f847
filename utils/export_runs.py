"""One command of `export.py`: its flags, and the table that it prints."""

from pathlib import Path

from utils.export import export
from utils.parser import Parser
from utils.report import format_table


def run_export(argv: list[str] | None, doc: str) -> None:
    """Write what the command line `argv` (None: this process's) asks for; `doc` is the first part of its help."""
    parser = Parser(doc, usage="%(prog)s FILE OUT [flags]")
    parser.add_argument("file", type=Path, metavar="FILE", help="a ticket or a pool")
    parser.add_argument("out", type=Path, metavar="OUT", help="what to write: dense .pt or .safetensors, sparse .npz")
    parser.add_argument("--debug", action="store_true", help="print the traceback of an error")
    args = parser.parse_args(argv)
    print(format_table(*export(args.file, args.out)))
