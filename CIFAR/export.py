"""Write a ticket or a pool as a plain state dict, for programs that know nothing of this one.

    python export.py TICKETS/pools/Lottery_pools/3pool.pth.tar pool.pt             torch.load gives the state dict
    python export.py TICKETS/pools/Lottery_pools/3pool.pth.tar pool.safetensors    the same in Hugging Face's format
    python export.py TICKETS/3model_SA_best.pth.tar ticket.npz                     compressed, without the zeros

FILE is a checkpoint of this software, of the published scripts or of OpenLTH (model_ep*_it*.pth beside its mask.pth).
docs/using-pools.md shows how to read the .npz file.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.export_runs import run_export
from utils.parser import run_script


def main(argv: list[str] | None = None) -> None:
    run_export(argv, __doc__)


if __name__ == "__main__":
    run_script(main)
