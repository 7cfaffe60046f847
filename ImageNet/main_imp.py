"""Find tickets by iterative magnitude pruning on ImageNet, or any folder of photographs, over one or many processes.

    python ../multiproc.py --nproc_per_node 8 main_imp.py DIR --arch imagenet_resnet_50 --rewind_epoch 5 --amp
    python main_imp.py DIR --arch imagenet_resnet_18_16 --image_size 64 --epochs 8 --pruning_times 4 --batch_size 128

DIR holds train, val and, if there is one, test. Tickets go to checkpoints/… or to --save_dir, in OpenLTH's layout. The
same command, given again, goes on where the last run stopped, with any number of processes.

The loop over levels is `ImpRun` in utils/imp.py; what is pruned is decided in utils/pruning.py.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ImageNet.flags import PAPER, add_data_flags, data_from_flags
from utils import cli
from utils.imp_flags import add_imp_flags
from utils.imp_runs import run_imp
from utils.parser import Parser, run_script
from utils.tickets import OpenlthRunFiles


def build_parser() -> Parser:
    parser = Parser(__doc__, usage="%(prog)s DIR [flags]")
    add_data_flags(parser)
    cli.add_network_flags(parser)
    add_imp_flags(parser)
    cli.add_run_flags(parser)
    cli.add_process_flags(parser)
    cli.add_unused_flags(parser, workers=False)
    # The paper's ImageNet schedule.
    parser.set_defaults(**PAPER, batch_size=1024, epochs=90, lr=0.4, warmup=5, decreasing_lr="30,60,80")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    with cli.join_processes(args) as processes:
        data = data_from_flags(args, processes)
        net = cli.make_network(args, data, processes.device)
        run_imp(args, net, data, OpenlthRunFiles, cli.announcer(args, processes), processes)


if __name__ == "__main__":
    run_script(main)
