"""Runs one of ImageNet's scripts with several lists of arguments in turn: `in_turn.py Lottery_pools '[[…], […]]'`.

Under multiproc.py, whose processes take longer to start than a small run takes.
"""

import importlib
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

script = importlib.import_module(f"ImageNet.{sys.argv[1]}")
for number, arguments in enumerate(json.loads(sys.argv[2])):
    os.environ["TORCHELASTIC_RESTART_COUNT"] = str(number)  # each run meets in a part of the store of its own
    script.main(arguments)
