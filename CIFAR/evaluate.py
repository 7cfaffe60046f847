"""Compare methods on the same tickets: one table, comparison.csv, and one picture, accuracy.png.

    python evaluate.py DIR/pools/Lottery_pools DIR/pools/interpolate_swa [--save_dir DIR]

Each folder holds a pools.json of Lottery_pools.py; the numbers are those that were measured then.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.comparison import compare, read_results
from utils.parser import Parser, run_script


def build_parser() -> Parser:
    parser = Parser(__doc__, usage="%(prog)s DIR [DIR …] [flags]")
    parser.add_argument("pools", type=Path, nargs="+", metavar="DIR", help="folders of pools, one a method")
    parser.add_argument(
        "--save_dir", type=Path, metavar="DIR", help="folder of table and picture; default: the first folder's parent"
    )
    parser.add_argument("--debug", action="store_true", help="print the traceback of an error")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    folder = args.save_dir or args.pools[0].parent
    print(compare([read_results(path) for path in args.pools], folder))
    print(f"table and picture are in {folder}")


if __name__ == "__main__":
    run_script(main)
