"""How few coefficients, or images for each, lead to the same choice: ways to search, tried on recorded answers.

    python benchmarks/coefficients.py --tickets DIR --data FILE.npz --val_images 1000

A search scores every coefficient of every candidate and records which validation images each got right; then each way
is played on the records of one candidate after another. `grid` is the reference; `hump` is `--coefficient_search hump`.
Writes coefficients.json and coefficients.md.
"""

import argparse
import functools
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks import measure, trials
from utils.coefficients import hump
from utils.evaluation import Evaluator
from utils.pruning import State

Choice = tuple[int, float]  # the place of the chosen coefficient, and the share of the grid's validation images seen


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    trials.add_flags(parser)
    return parser


def right_answers(evaluator: Evaluator, state: State) -> trials.PerImage:
    validation = evaluator.predict(state, evaluator.data.eval_batches("val"))
    return {trials.RIGHT: validation.correct.bool().numpy()}


def record(args: argparse.Namespace) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each candidate of each start: coefficients × images, True where right, and the same of the pool to beat."""
    return [
        (np.stack([answers[trials.RIGHT] for answers in step.trials]), step.before[trials.RIGHT])
        for step in trials.record(args, right_answers)
    ]


def play_grid(right: np.ndarray, pool: np.ndarray) -> Choice:
    return int(right.sum(1).argmax()), 1.0


def play_hump(right: np.ndarray, pool: np.ndarray) -> Choice:
    totals = right.sum(1)
    scores = hump(range(len(right)), lambda places: [int(totals[place]) for place in places])
    return max(sorted(scores), key=scores.get), len(scores) / len(right)


def play_exact(right: np.ndarray, pool: np.ndarray) -> Choice:
    """Stop scoring a coefficient once even all remaining images could not make it the best."""
    best, seen = -1, 0
    for answers in right:
        bound = np.cumsum(answers) + np.arange(len(answers))[::-1]
        stops = np.flatnonzero(bound <= best)
        seen += stops[0] + 1 if len(stops) else len(answers)
        best = max(best, answers.sum())
    return play_grid(right, pool)[0], seen / right.size


def play_race(right: np.ndarray, pool: np.ndarray, errors: float) -> Choice:
    """Score an eighth, a quarter, a half, all of the images; drop what is `errors` standard errors behind the leader.

    The error is that of the paired difference: the images that one of the two gets right and the other does not.
    """
    shuffled = right[:, np.random.default_rng(0).permutation(right.shape[1])].astype(int)
    alive, seen, done = list(range(len(right))), 0, 0
    for share in (8, 4, 2, 1):
        images = right.shape[1] // share
        seen, done = seen + len(alive) * (images - done), images
        part = shuffled[:, :images]
        leader = max(alive, key=lambda place: part[place].sum())
        behind = {place: part[leader] - part[place] for place in alive}
        alive = [place for place in alive if behind[place].sum() <= errors * max(abs(behind[place]).sum(), 1) ** 0.5]
    totals = right.sum(1)
    return max(alive, key=lambda place: totals[place]), seen / right.size


def play_behind(right: np.ndarray, pool: np.ndarray, errors: float) -> Choice:
    """As `hump`, but stop scoring what after a tenth, two tenths, … is `errors` standard errors behind the pool.

    What is stopped counts for the images that it was scored on, and less than anything scored on all.
    """
    order = np.random.default_rng(0).permutation(len(pool))
    behind = np.cumsum(pool[order].astype(int) - right[:, order], axis=1)
    apart = np.cumsum(pool[order] != right[:, order], axis=1)
    tenths = [len(pool) * tenth // 10 for tenth in range(1, 11)]
    stops = [
        next((end for end in tenths if behind[place, end - 1] > errors * apart[place, end - 1] ** 0.5), len(pool))
        for place in range(len(right))
    ]
    scores = hump(
        range(len(right)), lambda places: [_ended(stops[place], behind[place], len(pool)) for place in places]
    )
    return max(sorted(scores), key=scores.get), sum(stops[place] for place in scores) / right.size


def _ended(stop: int, behind: np.ndarray, images: int) -> tuple[bool, float]:
    """How good a network is that was stopped after so many images, or seen to the end; the larger the better."""
    return stop == images, -behind[stop - 1] / stop


WAYS: dict[str, Callable[[np.ndarray, np.ndarray], Choice]] = {
    "grid": play_grid,
    "hump": play_hump,
    "stop what cannot win any more": play_exact,
    "race, 1 standard error": functools.partial(play_race, errors=1.0),
    "race, 2 standard errors": functools.partial(play_race, errors=2.0),
    "hump, stopped 1 standard error behind the pool": functools.partial(play_behind, errors=1.0),
    "hump, stopped 2 standard errors behind the pool": functools.partial(play_behind, errors=2.0),
}


def main() -> None:
    args = build_parser().parse_args()
    steps = record(args)
    rows, results = [], {}
    for name, play in WAYS.items():
        choices = [play(right, pool) for right, pool in steps]
        percent = [100 * right.mean(1) for right, _ in steps]
        lost = [scores.max() - scores[place] for scores, (place, _) in zip(percent, choices, strict=True)]
        verdicts = [
            (scores[place] >= 100 * pool.mean()) == (scores.max() >= 100 * pool.mean())
            for scores, (place, _), (_, pool) in zip(percent, choices, steps, strict=True)
        ]
        same = sum(place == play_grid(*step)[0] for (place, _), step in zip(choices, steps, strict=True))
        results[name] = {
            "candidates": len(steps),
            "same_coefficient": int(same),
            "same_verdict": int(sum(verdicts)),
            "validation_lost": float(np.mean(lost)),
            "images_seen": float(np.mean([share for _, share in choices])),
        }
        counts = (f"{results[name][key]} of {len(steps)}" for key in ("same_coefficient", "same_verdict"))
        rows.append([name, *counts, f"{np.mean(lost):.3f}", f"{100 * results[name]['images_seen']:.1f} %"])
    header = ["way", "same coefficient", "same verdict", "validation points lost", "validation images seen"]
    title = f"Coefficients: ways to search {len(steps)} candidates of {args.arch}"
    measure.save(args, "coefficients", title, header, rows, results=results)


if __name__ == "__main__":
    main()
