"""Compare methods on the same tickets: one table, comparison.csv, and one picture, accuracy.png.

python evaluate.py DIR/pools/Lottery_pools DIR/pools/interpolate_swa [--save_dir DIR]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.comparison import main
from utils.parser import run_script

if __name__ == "__main__":
    run_script(main)
