"""Times the twelve points of irn_sweep.toml as one sweep against cold runs of single points, each with an empty cache.

usage: sweep.py ORANDFLOW [COLD]     (the program, and how many cold runs; 12 if not given)

Runs from the folder of the repository. The cold runs are spread over the points, and the sweep runs in their midst, so that
whatever else the machine does meets both. Prints wall time and processor time (user and system), and how often each kind ran.
"""
import collections
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

FILE = "docs/benchmarks/irn_sweep.toml"


def run(program, only):
    """Runs one point, or all without a name; returns wall time, processor time and the number of runs of each kind."""
    with tempfile.TemporaryDirectory() as cache:
        command = [program, "sweep", FILE, "--cache", cache, "--json"] + (["--only", only] if only else [])
        before, begun = os.times(), time.time()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        wall, after = time.time() - begun, os.times()
        processor = after.children_user + after.children_system - before.children_user - before.children_system
        stages = json.loads(done.stdout)["stages"]
        kinds = collections.Counter(stage["kind"] for stage in stages if stage["status"] == "ran")
    print(f"{only or 'the sweep':24} {wall:8.0f} s wall {processor:8.0f} s processor", flush=True)
    return wall, processor, kinds


def main():
    program = str(pathlib.Path(sys.argv[1]).resolve())
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 12
    plan = subprocess.run([program, "sweep", FILE, "--cache", tempfile.mkdtemp(), "--dry-run", "--json"],
                          check=True, capture_output=True, text=True)
    points = [point["name"] for point in json.loads(plan.stdout)["points"]]
    chosen = [points[round(at * (len(points) - 1) / max(1, count - 1))] for at in range(count)]
    cold = [run(program, point) for point in chosen[: count // 2]]
    wall, processor, kinds = run(program, None)
    cold += [run(program, point) for point in chosen[count // 2:]]
    for kind, number in sorted(kinds.items()):
        print(f"  {kind:20} ran {number:3} times in the sweep, {cold[0][2][kind]} times in a cold run")
    mean = [sum(one[at] for one in cold) / count for at in (0, 1)]
    print(f"mean of {count} cold runs: {mean[0]:.0f} s wall, {mean[1]:.0f} s processor")
    print(f"{len(points)} times that: {len(points) * mean[0]:.0f} s wall, {len(points) * mean[1]:.0f} s processor; "
          f"the sweep took {wall:.0f} s and {processor:.0f} s")


if __name__ == "__main__":
    main()
