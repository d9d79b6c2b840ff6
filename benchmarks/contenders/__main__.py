"""Runs one contender and prints its result as one line of JSON."""

import importlib
import logging
import os
import sys

from benchmarks.contenders.harness import Harness, Job

if __name__ == "__main__":
    name, text = sys.argv[1:]
    harness = Harness(Job.from_json(text))
    if name != "streamconsumer":  # a pod configures its own logs
        logging.disable(logging.CRITICAL)
    importlib.import_module(f"benchmarks.contenders.{name}").run(harness)
    os._exit(0)  # do not wait for threads that a library left running
