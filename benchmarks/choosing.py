"""By what to choose a coefficient: measures of the same trials on validation images, judged by other images.

    python benchmarks/choosing.py --tickets DIR [DIR ...] --data FILE.npz --val_images 2000 --search_num 2

The paper's search chooses by accuracy. Here its trials are scored by other measures too, and each measure chooses once
for every candidate: a coefficient, or the pool as it stood where no trial is as good. Test images of FILE judge the
choices: who means to go by the outcome gives a FILE whose test images are not those that the pools will be judged by.
Writes choosing.json and choosing.md.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from scipy.stats import spearmanr

from benchmarks import measure, trials
from utils.evaluation import Evaluator
from utils.predictions import Predictions
from utils.pruning import State

PAPER = "accuracy"
JUDGE = "judged"
# Of the answers of one network; higher is better.
MEASURES: dict[str, Callable[[trials.PerImage], float]] = {
    PAPER: lambda answers: answers[trials.RIGHT].mean(),
    "accuracy, a quarter of the images": lambda answers: answers[trials.RIGHT][::4].mean(),
    "accuracy, mirrored images too": lambda answers: answers[trials.RIGHT].mean() + answers["mirrored right"].mean(),
    "loss": lambda answers: -answers["nll"].mean(),
    "loss, a quarter of the images": lambda answers: -answers["nll"][::4].mean(),
    "loss, mirrored images too": lambda answers: -answers["nll"].mean() - answers["mirrored nll"].mean(),
    "the judging images themselves": lambda answers: answers[JUDGE].mean(),
}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    trials.add_flags(parser)
    return parser


def ask(evaluator: Evaluator, state: State) -> trials.PerImage:
    def predict(split: str, mirrored: bool = False) -> Predictions:
        batches = evaluator.data.eval_batches(split)
        return evaluator.predict(state, ((x.flip(3), y) for x, y in batches) if mirrored else batches)

    validation, mirrored, judged = predict("val"), predict("val", mirrored=True), predict("test")
    answers = {
        trials.RIGHT: validation.correct,
        "nll": validation.nll,
        "mirrored right": mirrored.correct,
        "mirrored nll": mirrored.nll,
        JUDGE: judged.correct,
    }
    return {name: values.numpy() for name, values in answers.items()}


def choose(step: trials.RecordedStep, worth: Callable[[trials.PerImage], float]) -> trials.PerImage:
    """The best trial, the first of equals, if it is no worse than the pool as it stood; else that."""
    best = max(step.trials, key=worth)
    return best if worth(best) >= worth(step.before) else step.before


def play(steps: Sequence[trials.RecordedStep], worth: Callable[[trials.PerImage], float]) -> dict:
    """What the choices by `worth` gain (points, one a candidate), how many were taken, and the ranks' correlation."""
    chosen = [choose(step, worth) for step in steps]
    ranks = []
    for step in steps:
        networks = [step.before, *step.trials]
        ranks.append(spearmanr([worth(one) for one in networks], [one[JUDGE].mean() for one in networks]).statistic)
    return {
        "gains": [
            100 * float(answers[JUDGE].mean() - step.before[JUDGE].mean())
            for answers, step in zip(chosen, steps, strict=True)
        ],
        "taken": sum(answers is not step.before for answers, step in zip(chosen, steps, strict=True)),
        "rank_correlation": float(np.nanmean(ranks)),  # not defined for a candidate whose networks are all alike
    }


def points(values: Sequence[float]) -> str:
    return "{:+.3f} ± {:.3f}".format(*measure.mean_and_error(values))


def main() -> None:
    args = build_parser().parse_args()
    steps = trials.record(args, ask)
    results = {name: play(steps, worth) for name, worth in MEASURES.items()}
    rows = []
    for name, result in results.items():
        differences = [a - b for a, b in zip(result["gains"], results[PAPER]["gains"], strict=True)]
        rows.append(
            [
                name,
                points(result["gains"]),
                points(differences),
                f"{result['taken']} of {len(steps)}",
                f"{result['rank_correlation']:.2f}",
            ]
        )
    header = ["chosen by", "gain of a candidate, points", "against accuracy", "taken", "rank correlation"]
    title = f"Choosing: {len(steps)} candidates of {args.arch}, {len(args.coefficients)} coefficients"
    measure.save(args, "choosing", title, header, rows, results=results)


if __name__ == "__main__":
    main()
