"""What departures from the paper's search do to its pools: paired differences over tickets of several runs.

    python benchmarks/recipes.py --tickets DIR [DIR ...] --data FILE.npz --val_images 2000 --search_num 7 --work FOLDER

Each recipe searches from every ticket of each DIR, one run of IMP each, with the flags of --common beside its own. All
runs go to FOLDER and can be stopped and gone on with. Writes recipes.json, recipes.md and recipes.png. A recipe that is
chosen by this must be confirmed on other images: give a FILE whose test images are not those that it will be judged by.
"""

import argparse
import shlex
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from matplotlib.figure import Figure

from benchmarks import measure, variants
from utils.figures import COLORS, COLUMN, in_print, write

PAPER = "as in the paper"
LOSS = ["--select_by", "loss"]
SOUP = ["--interpolate_method", "uniform_soup"]
EITHER = ["--interpolate_method", "average_or_soup"]
AVERAGE = ["--interpolation_value_list", "0.5"]
LEARNED = ["--interpolate_method", "learned", "--learned_steps", "20"]
ONE_DENSER = ["--denser_num", "1"]
RECIPES = {
    PAPER: [],
    "loss": LOSS,
    "margin 0.1": ["--accept_margin", "0.1"],
    "margin 0.5": ["--accept_margin", "0.5"],
    "best first": ["--order", "best"],
    "two passes": ["--passes", "2"],
    "even out": ["--even_out"],
    "recalibrated at the end": ["--no_update_bn"],  # by the --final_bn_images of --fast
    "loss, best first": [*LOSS, "--order", "best"],
    "loss, two passes": [*LOSS, "--passes", "2"],
    "loss, even out": [*LOSS, "--even_out"],
    "average": AVERAGE,
    "average, loss": [*AVERAGE, *LOSS],
    "average, loss, best first": [*AVERAGE, *LOSS, "--order", "best"],
    "average, loss, even out": [*AVERAGE, *LOSS, "--even_out"],
    "uniform soup": SOUP,
    "one denser": ONE_DENSER,
    "average, one denser": [*AVERAGE, *ONE_DENSER],
    "uniform soup, one denser": [*SOUP, *ONE_DENSER],
    "uniform soup, none denser": [*SOUP, "--denser_num", "0"],
    "average or soup": EITHER,
    "average or soup, one denser": [*EITHER, *ONE_DENSER],
    "greedy soup": ["--interpolate_method", "greedy_soup"],
    "greedy soup, loss": ["--interpolate_method", "greedy_soup", *LOSS],
    "learned": LEARNED,
    "learned per block": [*LEARNED, "--learned_per", "block"],
    "learned per layer": [*LEARNED, "--learned_per", "layer"],
}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    variants.add_flags(parser)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES), metavar="NAME")
    parser.add_argument("--common", default="--fast", metavar="FLAGS", help="of every search, as one text")
    return parser


def compare(found: list[list[dict]], reference: list[list[dict]]) -> dict:
    """How the pools of a recipe stand against the paper's, over all starts and run by run."""
    entries = variants.flat(found)
    runs = [variants.differences(mine, theirs) for mine, theirs in zip(found, reference, strict=True)]
    scored = [sum(map(variants.scored, entry["steps"])) for entry in entries]
    return {
        "starts": len(entries),
        "scored": statistics.mean(scored),
        "gain": variants.mean_gain(entries),
        **variants.paired(variants.flat(runs)),
        "runs": [statistics.mean(run) for run in runs],
    }


@in_print
def plot(results: dict[str, dict], path: Path) -> None:
    """The mean difference of each recipe with its standard error, and those of the single runs as small points."""
    figure = Figure(figsize=(COLUMN, 0.8 + 0.17 * len(results)), layout="constrained")
    axes = figure.add_subplot()
    for place, result in enumerate(results.values()):
        axes.plot(result["runs"], [place] * len(result["runs"]), "o", ms=2.5, color="#999999")
        axes.errorbar(result["difference"], place, xerr=result["difference_error"], fmt="o", ms=4, color=COLORS[2])
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(results)), list(results))
    axes.set_ylim(len(results) - 0.5, -0.5)
    axes.set_xlabel("points above the paper's search")
    write(figure, path)


def main() -> None:
    args = build_parser().parse_args()
    common = shlex.split(args.common)
    names = dict.fromkeys([PAPER, *args.recipes])
    pools = {name: variants.pools(args, name, [*common, *RECIPES[name]]) for name in names}
    results = {name: compare(found, pools[PAPER]) for name, found in pools.items()}
    rows = [
        [
            name,
            " ".join(RECIPES[name]),
            f"{result['scored']:.1f}",
            f"{result['gain']:+.2f}",
            f"{result['difference']:+.2f} ± {result['difference_error']:.2f}",
            " ".join(f"{run:+.2f}" for run in result["runs"]),
        ]
        for name, result in results.items()
    ]
    header = ["recipe", "flags", "networks scored", "gain over the ticket", "against the paper's", "run by run"]
    title = f"Recipes: {args.arch}, {results[PAPER]['starts']} starts of {len(pools[PAPER])} runs"
    measure.save(args, "recipes", title, header, rows, results=results)
    plot({name: result for name, result in results.items() if name != PAPER}, args.out / "recipes.png")


if __name__ == "__main__":
    main()
