#!/usr/bin/env python3
"""How the random walk grows with the image: processor time of `orandflow op walk` per megapixel, start and files included.

    python3 docs/benchmarks/walk.py PROGRAM [OTHER]        (needs numpy)

Two classes, radius 5, 256 steps, on random maps at stride 4 of images of 0.1 to 12 megapixels. With OTHER, another build, both run in
turns, and their results must be the same bytes.
"""
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile

import numpy as np

ROUNDS = 3


def seconds(program, folder, out):
    """Runs the walk; returns the processor time that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    maps = ["--edge", folder / "edge.npy", "--cam", folder / "cam.npy", "--out", folder / out]
    subprocess.run([program, "op", "walk", *maps], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    programs = sys.argv[1:3]
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        print("| megapixels | map | " + " | ".join(f"{program}, ms per megapixel" for program in programs) + " |")
        print("|---" * (len(programs) + 2) + "|")
        for megapixels in (0.1, 0.2, 0.4, 0.8, 1.6, 3.0, 6.0, 12.0):
            height = int((megapixels * 1e6 / 16 * 0.75) ** 0.5)
            width = int(height / 0.75)
            np.save(folder / "edge.npy", random.random((1, height, width), dtype=np.float32) ** 4)
            np.save(folder / "cam.npy", random.random((2, height, width), dtype=np.float32))
            times = [[] for _ in programs]
            for _ in range(ROUNDS):
                for index, program in enumerate(programs):
                    times[index].append(seconds(program, folder, f"{index}.npy"))
            results = {(folder / f"{index}.npy").read_bytes() for index in range(len(programs))}
            assert len(results) == 1, "the programs do not agree"
            cells = [f"{statistics.median(row) * 1e3 / megapixels:.0f}" for row in times]
            print(f"| {megapixels} | {width} x {height} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
