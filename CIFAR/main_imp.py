"""Find tickets by iterative magnitude pruning on CIFAR-10, CIFAR-100, digits or images of your own.

    python main_imp.py --dataset cifar100 --arch resnet18 --prune_type rewind_lt --rewind_epoch 9 --pruning_times 19
    python main_imp.py --dataset digits --arch resnet20s --epochs 8 --rewind_epoch 1 --pruning_times 6

One ticket a level goes to checkpoints/{prune_type}/{dataset}/{arch}/rewind_epoch_{N}/seed{S}/ or to --save_dir. The
same command, given again, goes on where the last run stopped.

The loop over levels is `ImpRun` in utils/imp.py; what is pruned is decided in utils/pruning.py.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from CIFAR.flags import add_data_flags, data_from_flags
from utils import cli
from utils.imp_flags import add_imp_flags
from utils.imp_runs import run_imp
from utils.parser import Parser, run_script
from utils.tickets import RunFiles


def build_parser() -> Parser:
    parser = Parser(__doc__)
    add_data_flags(parser)
    cli.add_network_flags(parser)
    add_imp_flags(parser)
    cli.add_run_flags(parser)
    cli.add_unused_flags(parser)
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    device = cli.select_device(args)
    data = data_from_flags(args, device)
    net = cli.make_network(args, data, device)
    run_imp(args, net, data, RunFiles, cli.announcer(args))


if __name__ == "__main__":
    run_script(main)
