"""Prints the best mean IoU of threshold curves, and the largest mean precision at a recall of at least 40 and 45 %.

usage: precision_at_recall.py METRICS.json...   (files that `orandflow export FILE STAGE` writes of a `threshold.search`)
"""
import json
import sys

for path in sys.argv[1:]:
    with open(path) as file:
        curve = [row for row in json.load(file)["curve"] if row["miou"] is not None and row["recall"] is not None]
    best = max(curve, key=lambda row: row["miou"])
    print(f"{path}: mIoU {100 * best['miou']:.1f} at threshold {best['threshold']:.2f}", end="")
    for least in (0.40, 0.45):
        found = [row["precision"] for row in curve if row["recall"] >= least and row["precision"] is not None]
        print(f", precision at recall {least:.2f}: " + (f"{100 * max(found):.1f}" if found else "not reached"), end="")
    print()
