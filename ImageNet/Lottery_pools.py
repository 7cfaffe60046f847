"""Turn ImageNet tickets into stronger ones of the same density, over one or many processes.

    python ../multiproc.py --nproc_per_node 2 Lottery_pools.py --save_dir TICKETS DIR --arch imagenet_resnet_18
    python Lottery_pools.py --save_dir TICKETS DIR --arch imagenet_resnet_18 --interpolate_method interpolate_swa

TICKETS holds tickets of OpenLTH or of main_imp.py, DIR the photographs: train, val and, if there is one, test. Pools,
pools.json, pools.csv and accuracy.png go to TICKETS/pools/ or to --output_dir.

The method itself is `search` in utils/pools.py; utils/pool_runs.py applies it to the tickets of a run.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ImageNet.flags import PAPER, add_data_flags, data_from_flags
from utils import cli
from utils.methods import heeded, run_method, splits_images
from utils.parser import Parser, run_script
from utils.pool_flags import add_pool_flags


def build_parser() -> Parser:
    parser = Parser(__doc__, usage="%(prog)s --save_dir TICKETS DIR [flags]")
    # The published ImageNet script calls the tickets' folder --save_dir.
    add_pool_flags(parser, tickets_flags=("--save_dir", "--checkpoint"), pools_flag="--output_dir")
    add_data_flags(parser)
    cli.add_network_flags(parser)
    cli.add_run_flags(parser)
    cli.add_unused_flags(parser, workers=False)
    cli.add_process_flags(parser).add_argument(
        "--parallel", choices=("data", "starts"), default="data", help="split the images, or the starting tickets"
    )
    parser.set_defaults(**PAPER, batch_size=256, EMA_value=0.9)
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    with cli.join_processes(args) as processes:
        args = heeded(args, processes.is_main)
        data = data_from_flags(args, processes, splits_images(args))
        if not splits_images(args):
            data.decode_ahead(None if args.no_update_bn else args.bn_images, args.final_bn_images)
        net = cli.make_network(args, data, processes.device)
        run_method(args, [net], data, cli.announcer(args, processes), processes)


if __name__ == "__main__":
    run_script(main)
