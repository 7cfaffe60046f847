"""The flags of the two main_imp.py: schedule, pruning, files."""

from pathlib import Path

from utils.parser import Parser, count, epochs_list, nonnegative, positive, share
from utils.tickets import PAPER_PRUNE_TYPE, PAPER_REWIND_EPOCH, PRUNE_TYPES


def add_imp_flags(parser: Parser) -> None:
    _add_training_flags(parser)
    _add_pruning_flags(parser)
    _add_file_flags(parser)


def _add_training_flags(parser: Parser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", type=positive, default=182, metavar="N", help="epochs that each level trains to")
    group.add_argument("--lr", type=nonnegative, default=0.1, metavar="R", help="learning rate of SGD")
    group.add_argument("--momentum", type=share, default=0.9, metavar="M", help="momentum of SGD")
    group.add_argument("--weight_decay", type=nonnegative, default=1e-4, metavar="W", help="weight decay of SGD")
    group.add_argument("--warmup", type=count, default=0, metavar="N", help="epochs over which the learning rate rises")
    group.add_argument(
        "--decreasing_lr", type=epochs_list, default="91,136", metavar="N,N", help="epochs at which it falls tenfold"
    )
    group.add_argument(
        "--eval_freq",
        type=positive,
        default=1,
        metavar="N",
        help="score validation and test every N epochs and in a level's first and last; tickets are of scored epochs",
    )
    group.add_argument(
        "--replicas",
        type=positive,
        default=1,
        metavar="M",
        help="train each level M times, on other orders of images, and take the mean, at up to M times the cost",
    )


def _add_pruning_flags(parser: Parser) -> None:
    group = parser.add_argument_group("pruning")
    group.add_argument("--pruning_times", type=positive, default=19, metavar="N", help="levels, the dense one included")
    group.add_argument(
        "--rate", type=share, default=0.2, metavar="R", help="share of the remaining weights pruned at each level"
    )
    group.add_argument(
        "--prune_type",
        choices=PRUNE_TYPES,
        default=PAPER_PRUNE_TYPE,
        help="where weights go back to: initialisation (lt), --rewind_epoch (rewind_lt), best dense weights (pt)",
    )
    group.add_argument(
        "--rewind_epoch",
        type=count,
        default=PAPER_REWIND_EPOCH,
        metavar="N",
        help="epoch of level 0 that rewind_lt goes back to",
    )
    group.add_argument("--random_prune", action="store_true", help="prune a random share, not the smallest weights")


def _add_file_flags(parser: Parser) -> None:
    group = parser.add_argument_group("files")
    group.add_argument(
        "--save_dir", type=Path, metavar="DIR", help="folder of the tickets; default: checkpoints/… by the flags"
    )
    group.add_argument(
        "--slim", action="store_true", help="smaller files: masks in a byte a weight, tickets without initial weights"
    )
    group.add_argument(
        "--tensorboard", action="store_true", help="write curves for TensorBoard, if it is installed, into tensorboard/"
    )
    group.add_argument("--resume", action="store_true", help="accepted: a run always goes on where it stopped")
    group.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR|FILE",
        help="go on with the run in this folder, or of this checkpoint file",
    )
