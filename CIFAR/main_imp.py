"""Find tickets by iterative magnitude pruning on CIFAR-10, CIFAR-100, digits or images of your own.

    python main_imp.py --dataset cifar100 --arch resnet18 --prune_type rewind_lt --rewind_epoch 9 --pruning_times 19
    python main_imp.py --dataset digits --arch resnet20s --epochs 8 --rewind_epoch 1 --pruning_times 6

One ticket a level goes to checkpoints/{prune_type}/{dataset}/{arch}/rewind_epoch_{N}/seed{S}/ or to --save_dir. The
same command, given again, goes on where the last run stopped.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from CIFAR.flags import add_data_flags, data_from_flags
from utils import checkpoint, cli, tickets
from utils.errors import UserError
from utils.imp import ImpRun
from utils.provenance import describe_run, refuse_other_run


def build_parser() -> cli.Parser:
    parser = cli.Parser(__doc__)
    add_data_flags(parser)
    cli.add_network_flags(parser)
    cli.add_imp_flags(parser)
    cli.add_run_flags(parser)
    return parser


def run_folder(args: argparse.Namespace) -> Path:
    """Where the tickets go: --save_dir, the folder of the run that --checkpoint names, or a place by the flags."""
    if args.checkpoint is None:
        by_flags = tickets.run_folder(args.prune_type, args.dataset, args.arch, args.rewind_epoch, args.seed)
        return args.save_dir or by_flags
    if not args.checkpoint.exists():
        raise UserError(f"--checkpoint {args.checkpoint} does not exist")
    folder = args.checkpoint if args.checkpoint.is_dir() else args.checkpoint.parent
    if args.save_dir is not None and args.save_dir.resolve() != folder.resolve():
        raise UserError(f"--checkpoint goes on in its own folder: leave --save_dir {args.save_dir} out")
    newest = tickets.newest_level(folder)
    if newest is None:
        raise UserError(f"--checkpoint {args.checkpoint}: there is nothing to go on from in {folder}")
    if args.checkpoint.is_file() and args.checkpoint.name != tickets.checkpoint_path(folder, newest).name:
        raise UserError(
            f"--checkpoint {args.checkpoint} is not the newest: move level {newest} and what follows away first"
        )
    return folder


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    settings = cli.imp_settings(args)
    folder = run_folder(args)
    device = cli.select_device(args)
    data = data_from_flags(args, device)
    net = cli.make_network(args, data, device)

    description = describe_run(vars(args), device, data.sizes)
    written = folder / tickets.SETTINGS
    if written.exists():
        refuse_other_run(checkpoint.load_json(written)["settings"], description["settings"], written)
    checkpoint.save_json(description, written)

    say = cli.announcer(args)
    say(f"{args.prune_type} tickets of {args.arch} on {args.dataset} {data.sizes}, {device}: {folder}")
    ImpRun(net, data, settings, folder, say).run()
    print(f"tickets of {args.pruning_times} levels are in {folder}", flush=True)


if __name__ == "__main__":
    cli.run_script(main)
