"""Runs scripts of ImageNet/ in turn as their files do: `in_turn.py '[["main_imp", ["DIR", …]], ["evaluate", […]]]'`.

Under multiproc.py, whose processes take longer to start than a small run takes. Between the scripts files may be copied
or removed (`FILES`). The first script that fails is the last one, and its exit status is that of all.
"""

import importlib
import json
import os
import shutil
import sys

from pictures import write_stand_in

from utils import figures
from utils.parser import run_script

FILES = {"copy": shutil.copytree, "remove": shutil.rmtree, "unlink": os.unlink}

figures.write = write_stand_in
for number, (name, arguments) in enumerate(json.loads(sys.argv[1])):
    if name in FILES:  # the others wait for rank 0 where the next script joins
        if os.environ["RANK"] == "0":
            FILES[name](*arguments)
        continue
    os.environ["TORCHELASTIC_RESTART_COUNT"] = str(number)  # each run meets in a part of the store of its own
    sys.argv[:] = [f"{name}.py", *arguments]
    try:
        run_script(importlib.import_module(f"ImageNet.{name}").main)
    except SystemExit as end:
        if end.code:
            raise
