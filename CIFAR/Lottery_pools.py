"""Turn tickets into stronger ones of the same density: Lottery Pools and other methods; or look at lines between them.

    python Lottery_pools.py --checkpoint DIR --dataset cifar100 --arch resnet18 --interpolate_method Lottery_pools
    python Lottery_pools.py --checkpoint DIR --dataset digits --arch resnet20s --interpolation_value_list 0.5

DIR holds tickets of main_imp.py, of the published scripts or of OpenLTH. Pools, pools.json, pools.csv and accuracy.png
go to DIR/pools/ or to --save_dir. The same command, given again, goes on where the last one stopped.

The method itself is `search` in utils/pools.py; utils/pool_runs.py applies it to the tickets of a run.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from CIFAR.flags import add_data_flags, data_from_flags
from utils import cli
from utils.methods import heeded, most_at_once, run_method
from utils.parser import Parser, run_script
from utils.pool_flags import add_pool_flags


def build_parser() -> Parser:
    parser = Parser(__doc__)
    add_pool_flags(parser)
    add_data_flags(parser)
    cli.add_network_flags(parser)
    cli.add_run_flags(parser)
    cli.add_jobs_flag(parser)
    cli.add_unused_flags(parser)
    return parser


def main(argv: list[str] | None = None) -> None:
    args = heeded(build_parser().parse_args(argv))
    device = cli.select_device(args)
    data = data_from_flags(args, device)
    nets = cli.make_networks(args, data, device, most_at_once(args))
    run_method(args, nets, data, cli.announcer(args))


if __name__ == "__main__":
    run_script(main)
