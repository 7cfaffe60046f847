"""What the search's shortcuts change: decisions and test accuracy against the search as published, on real tickets.

    python benchmarks/shortcuts.py --tickets DIR [DIR ...] --data FILE.npz --val_images 1000 --work FOLDER

The reference scores every coefficient in float32 after recalibrating on all training images. Each shortcut searches
from the same tickets; all runs go to FOLDER and can be stopped and gone on with. Writes shortcuts.json, shortcuts.md
and shortcuts.png. A start's first candidate meets the same pool whatever the shortcut, so its scores can be compared
one by one; later ones need not, and are compared by the accuracy of the pools.
"""

import argparse
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from matplotlib.figure import Figure
from scipy.stats import spearmanr

from benchmarks import measure, variants
from utils.figures import STYLES

REFERENCE = "reference"
BN_IMAGES = (64, 128, 256, 512, 1024, 2048)
SHORTCUTS = {
    REFERENCE: [],
    "amp": ["--amp"],
    **{f"amp, {count} images": ["--amp", "--bn_images", str(count)] for count in BN_IMAGES},
    "fast": ["--fast"],
    "fast, 512 images": ["--fast", "--bn_images", "512"],
    **{
        f"amp, {count} images, hump": ["--amp", "--bn_images", str(count), "--coefficient_search", "hump"]
        for count in (128, 256, 512, 1024)
    },
}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    variants.add_flags(parser)
    parser.add_argument("--shortcuts", nargs="+", choices=SHORTCUTS, default=list(SHORTCUTS), metavar="NAME")
    return parser


def compare(found: list[dict], reference: list[dict]) -> dict:
    """How the pools of a shortcut stand against those of the reference, start by start."""
    firsts = [(mine["steps"][0], theirs["steps"][0]) for mine, theirs in zip(found, reference, strict=True)]
    whole = [pair for pair in firsts if None not in pair[0]["scores"]]
    return {
        "starts": len(found),
        "rank_correlation": statistics.mean(spearmanr(a["scores"], b["scores"]).statistic for a, b in whole)
        if whole
        else None,
        "same_verdict": statistics.mean(a["accepted"] == b["accepted"] for a, b in firsts),
        "coefficient_distance": statistics.mean(abs(a["coefficient"] - b["coefficient"]) for a, b in firsts),
        "scored": statistics.mean(variants.scored(step) for entry in found for step in entry["steps"]),
        "gain": variants.mean_gain(found),
        **variants.paired(variants.differences(found, reference)),
    }


def plot(results: dict[str, dict], path: Path) -> None:
    """The pools' test accuracy against the images of a recalibration, as a difference to the reference."""
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    series = {
        "every coefficient": {count: f"amp, {count} images" for count in BN_IMAGES},
        "hump": {count: f"amp, {count} images, hump" for count in BN_IMAGES},
        "hump, pool recalibrated on 2,048": {256: "fast", 512: "fast, 512 images"},
    }
    for place, (label, names) in enumerate(series.items()):
        points = {count: results[name] for count, name in names.items() if name in results}
        if points:
            axes.errorbar(
                [count * 1.04**place for count in points],  # beside each other
                [point["difference"] for point in points.values()],
                [point["difference_error"] for point in points.values()],
                label=label,
                capsize=3,
                **STYLES[place],
            )
    axes.axhline(0, color="black", linewidth=0.8)
    axes.axhspan(-0.1, 0.1, color="black", alpha=0.08, label="±0.1 points")
    axes.set(xscale="log", xlabel="training images a recalibration sees (--bn_images)")
    axes.set_ylabel("test accuracy of the pools\nagainst the reference (points)")
    shown = [count for count in BN_IMAGES if any(f" {count} images" in name for name in results)]
    axes.set_xticks(shown, [str(count) for count in shown])
    axes.minorticks_off()
    axes.legend()
    figure.savefig(path, dpi=200)


def main() -> None:
    args = build_parser().parse_args()
    names = dict.fromkeys([REFERENCE, *args.shortcuts])
    pools = {name: variants.flat(variants.pools(args, name, SHORTCUTS[name])) for name in names}
    results = {name: compare(found, pools[REFERENCE]) for name, found in pools.items()}
    rows = [
        [
            name,
            f"{result['scored']:.1f}",
            "" if result["rank_correlation"] is None else f"{result['rank_correlation']:.2f}",
            f"{100 * result['same_verdict']:.0f} %",
            f"{result['coefficient_distance']:.3f}",
            f"{result['gain']:+.2f}",
            f"{result['difference']:+.3f} ± {result['difference_error']:.3f}",
        ]
        for name, result in results.items()
    ]
    header = ["search", "coefficients scored", "rank correlation", "same verdict", "distance of coefficients"]
    header += ["gain over the ticket", "test accuracy against the reference"]
    title = f"Shortcuts of the search: {args.arch}, {results[REFERENCE]['starts']} starts"
    measure.save(args, "shortcuts", title, header, rows, results=results)
    plot(results, args.out / "shortcuts.png")


if __name__ == "__main__":
    main()
