"""Write a ticket or a pool as a plain state dict: CIFAR/export.py, which reads those of both folders."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from CIFAR.export import main
from utils.parser import run_script

if __name__ == "__main__":
    run_script(main)
