"""Stands in for tools/train.py: leaves what a training leaves, in no time.

Fails with exit code 3 for reflect padding. The first time, waits to be ended for replicate padding,
and fails after the last checkpoint for distribution padding.
"""

import json
import os
import sys
import time
import zipfile
from pathlib import Path

arguments = sys.argv[2:]
options = dict(zip(arguments[::2], arguments[1::2], strict=False))
folder = Path(options["--work-dir"])
calls = folder / "calls.json"
earlier = json.loads(calls.read_text()) if calls.exists() else []
call = {"arguments": sys.argv[1:], "threads": os.environ["OMP_NUM_THREADS"]}
calls.write_text(json.dumps([*earlier, call]))

if options["--padding"] == "reflect":
    os.write(1, b"about to fail \xff\n")  # no text
    sys.exit("no such thing") if "seed1" in folder.name else sys.exit(3)


def save(iteration: int) -> None:
    zipfile.ZipFile(folder / f"iter_{iteration}.pth", "w").close()  # a whole one, without weights
    pointer = folder / "last_checkpoint.tmp"
    pointer.write_text(str(folder / f"iter_{iteration}.pth"))
    pointer.rename(folder / "last_checkpoint")


(folder / "config.py").write_text("train_cfg = dict(max_iters=2)")
save(1)
if options["--padding"] == "replicate" and not earlier:
    time.sleep(60)
save(2)
if options["--padding"] == "distribution" and not earlier:
    sys.exit("validation failed")
