"""What tickets and pools are worth on test images, in and out of distribution, and which gains are more than noise.

    python evaluate.py TICKETS/pools/Lottery_pools TICKETS/pools/interpolate_swa
    python evaluate.py TICKETS/pools/Lottery_pools --score --dataset digits --arch resnet20s
    python evaluate.py TICKETS POOLS FILE --dataset cifar100 --arch resnet18 --corruptions CIFAR-100-C

Folders of pools alone are compared by what their pools.json recorded: at once, without images or --arch. With --score
or --corruptions, or where a PATH is a folder of tickets or a checkpoint, every network is run on the test images.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from CIFAR.corruptions import CorruptedArrays
from CIFAR.flags import add_data_flags, data_from_flags
from utils import cli
from utils.evaluation_runs import compare_recorded, evaluate_networks, only_compares, without_results
from utils.network_files import find_networks
from utils.parser import Parser, run_script


def build_parser() -> Parser:
    parser = Parser(__doc__, usage="%(prog)s PATH [PATH …] [flags]")
    cli.add_evaluation_flags(parser, "folder of <corruption>.npy and labels.npy: CIFAR-10-C, CIFAR-100-C, corrupt.py's")
    add_data_flags(parser)
    cli.add_network_flags(parser)
    cli.add_device_flags(parser)
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    args.paths = without_results(args.paths)
    if only_compares(args):
        return compare_recorded(args)
    networks = find_networks(args.paths)
    device = cli.select_device(args)
    data = data_from_flags(args, device, validates=False)
    corrupted = CorruptedArrays(args.corruptions, data, args.data_limit) if args.corruptions else None
    net = cli.make_network(args, data, device)
    evaluate_networks(args, networks, net, data, corrupted, cli.announcer(args))


if __name__ == "__main__":
    run_script(main)
