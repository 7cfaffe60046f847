"""What ImageNet tickets and pools are worth on test images, in and out of distribution, over one or many processes.

    python evaluate.py TICKETS/pools/Lottery_pools TICKETS/pools/interpolate_swa
    python evaluate.py TICKETS/pools/Lottery_pools --score --data DIR --arch imagenet_resnet_18
    python ../multiproc.py --nproc_per_node 2 evaluate.py TICKETS POOLS --data DIR --corruptions ImageNet-C

Folders of pools alone are compared by what their pools.json recorded: at once, without images or --arch. With --score
or --corruptions, or where a PATH is a folder of tickets or a checkpoint, every network is run on the test images.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ImageNet.corruptions import CorruptedFolders
from ImageNet.flags import PAPER, add_data_flags, data_from_flags
from utils import cli
from utils.evaluation_runs import compare_recorded, evaluate_networks, only_compares, without_results
from utils.network_files import find_networks
from utils.parser import Parser, run_script


def build_parser() -> Parser:
    parser = Parser(__doc__, usage="%(prog)s PATH [PATH …] [--data DIR] [flags]")
    cli.add_evaluation_flags(parser, "folder of <corruption>/<severity>/<class>/*.JPEG: ImageNet-C")
    add_data_flags(parser, "--data")
    cli.add_network_flags(parser)
    cli.add_device_flags(parser)
    cli.add_process_flags(parser)
    parser.set_defaults(arch=PAPER["arch"], batch_size=250)
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    args.paths = without_results(args.paths)
    with cli.join_processes(args) as processes:
        if only_compares(args):
            if processes.is_main:
                compare_recorded(args)
            return
        networks = find_networks(args.paths)
        data = data_from_flags(args, processes)
        corrupted = CorruptedFolders(args.corruptions, data, args.data_limit) if args.corruptions else None
        net = cli.make_network(args, data, processes.device)
        evaluate_networks(args, networks, net, data, corrupted, cli.announcer(args, processes), processes)


if __name__ == "__main__":
    run_script(main)
