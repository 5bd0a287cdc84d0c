"""Stands in for a contestant's process: what it is told to do, it does."""

import json
import os
import sys
import time

print("chatter of some library", file=sys.stderr)
for line in sys.stdin:
  request = json.loads(line)
  if request["do"] == "die":
    print("out of luck", file=sys.stderr, flush=True)
    os._exit(7)
  if request["do"] == "sleep":
    time.sleep(60)
  answer = {"time": {"wall": [0.5, 0.25], "cpu": 0.125, "others": 0.03},
            "fail": {"error": "ValueError: no such tensor"},
            "threads": {"omp": os.environ["OMP_NUM_THREADS"],
                        "path": os.environ["PYTHONPATH"]},
            # More than a pipe holds at once.
            "long": {"text": "x" * 300_000}}[request["do"]]
  text = json.dumps(answer)
  sys.stdout.write(text[:7])
  sys.stdout.flush()
  sys.stdout.write(text[7:] + "\n")
  sys.stdout.flush()
