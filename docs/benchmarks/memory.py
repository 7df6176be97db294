#!/usr/bin/env python3
"""Peak memory of every stage that works image by image, on two photographs of 4000 x 3000 pixels.

    python3 docs/benchmarks/memory.py PROGRAM FOLDER [--classes N] [--limit GIB] [--stages A,B,...]    (needs numpy and Pillow)

Networks have their full width, and weights that one step on one small image has made of the seed: memory does not hang on what they
have learned. Each stage runs in a process of its own, whose peak the kernel counts, as `orandflow show` tells of it too; what it reads
is in the cache by then. No process may take more than `--limit` GiB of addresses, so that one that would take all memory fails instead.
Photographs, maps and the cache, 2 GB, lie in FOLDER. The cache is emptied first; with `--stages` it is kept, for one row after another
to be measured, and what is in it already takes no memory.
"""
import argparse
import os
import pathlib
import resource
import shutil
import time

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 3000, 4000
NAMES = "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person".split()
NAMES += "pottedplant sheep sofa train tvmonitor".split()

PREPARED = """
[pipeline]
name = "memory"
seed = 0

[stages.small]
kind = "dataset.folder"
images = "small"
labels = "small.csv"
classes = "classes.txt"

[stages.photographs]
kind = "dataset.folder"
images = "large"
labels = "large.csv"
classes = "classes.txt"
masks = "masks"

[stages.resnet]
kind = "classifier.train"
family = "resnet"
preset = "resnet50"
crop = 64
epochs = 1
batch = 1
inputs = { images = "small" }

[stages.vit]
kind = "classifier.train"
family = "vit"
preset = "vit_base"
epochs = 1
batch = 1
inputs = { images = "small" }

[stages.mctformer]
kind = "mctformer.train"
epochs = 1
batch = 1
inputs = { images = "small" }

[stages.small_maps]
kind = "cam.export"
scales = [1.0]
inputs = { images = "small", weights = "resnet" }

[stages.small_seeds]
kind = "mask.threshold"
inputs = { scores = "small_maps" }

[stages.amn]
kind = "amn.train"
crop = 64
epochs = 1
batch = 1
inputs = { images = "small", seeds = "small_seeds" }

[stages.orandnet]
kind = "orandnet.train"
steps = 1
inputs = { input = "small_maps", target = "small_maps" }

[stages.irn]
kind = "irn.train"
radius = 5
crop = 64
epochs = 1
batch = 1
mean_shift = false
inputs = { images = "small", labels = "small_seeds", init = "resnet" }

[stages.segmenter]
kind = "segment.train"
crop = 64
epochs = 1
batch = 1
scale_schedule = []
inputs = { images = "small", masks = "small_seeds" }
"""

# In order: what a stage reads comes before it. Maps come from files, so that none hangs on another's success.
MEASURED = {
    "dataset.folder": '[stages.again]\nkind = "dataset.folder"\nimages = "large"\nlabels = "large.csv"\nclasses = "classes.txt"',
    "images.resize": 'max_side = 500\ninputs = { images = "photographs" }',
    "cam.import": 'format = "npy"\npath = "maps"\ninputs = { images = "photographs" }',
    "cam.or": 'inputs = { a = "cam.import", b = "cam.import" }',
    "cam.and": 'inputs = { a = "cam.import", b = "cam.import" }',
    "cam.average": 'inputs = { a = "cam.import", b = "cam.import" }',
    "mask.threshold": 'inputs = { scores = "cam.import" }',
    "mask.resize": 'inputs = { masks = "mask.threshold", images = "photographs" }',
    "evaluate": 'inputs = { prediction = "mask.threshold", truth = "photographs" }',
    "threshold.search": 'inputs = { scores = "cam.import", truth = "photographs" }',
    "irn.labels": 'inputs = { images = "photographs", cams = "cam.import" }',
    "cam.export (ResNet-50)": 'inputs = { images = "photographs", weights = "resnet" }',
    "cam.export (ViT-B/16)": 'inputs = { images = "photographs", weights = "vit" }',
    "amn.cams": 'inputs = { images = "photographs", seeds = "mask.threshold", weights = "amn" }',
    "mctformer.cams": 'inputs = { images = "photographs", weights = "mctformer" }',
    "orandnet.refine": 'inputs = { input = "cam.or", weights = "orandnet" }',
    "irn.propagate": 'inputs = { images = "photographs", cams = "cam.import", weights = "irn" }',
    "segment.predict": 'inputs = { images = "photographs", weights = "segmenter" }',
    "segment.predict (CRF)": 'crf = true\ninputs = { images = "photographs", weights = "segmenter" }',
}


def name(stage):
    """Returns the name in the pipeline of a row of the table."""
    return "".join(letter if letter.isalnum() else "_" for letter in stage).strip("_")


def pipeline():
    """Returns the text of the pipeline file."""
    text = PREPARED
    for stage, body in MEASURED.items():
        for other in MEASURED:
            body = body.replace(f'"{other}"', f'"{name(other)}"') if "inputs" in body else body
        head = "" if body.startswith("[") else f'[stages.{name(stage)}]\nkind = "{stage.split(" ")[0]}"\n'
        text += f"\n{head}{body}\n"
    return text.replace("[stages.again]", f"[stages.{name('dataset.folder')}]")


def draw(folder, classes):
    """Writes photographs, their labels, masks and maps."""
    random = np.random.default_rng(0)
    for part in ("small", "large", "masks", "maps"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("\n".join(NAMES) + "\n")
    shown = [1 + 5 * index % (len(NAMES) - 1) for index in range(classes)]
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    for number in range(2):
        # Colours that change slowly, discs of other colours, and noise as a camera has it.
        coarse = Image.fromarray(random.integers(0, 255, (30, 40, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.BICUBIC)).astype(np.int16)
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        maps = []
        for index in sorted(shown):
            centre, radius = random.uniform(0.2, 0.8, 2) * (HEIGHT, WIDTH), random.uniform(300, 900)
            distance = np.hypot(rows - centre[0], columns - centre[1])
            mask[distance < radius] = index
            pixels[distance < radius] = (pixels[distance < radius] + random.integers(0, 255, 3)) // 2
            maps.append(np.exp(-((distance / radius) ** 2)).astype(np.float32))
        pixels += random.integers(-12, 13, pixels.shape, dtype=np.int16)
        photograph = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        photograph.save(folder / f"large/photograph_{number}.jpg", quality=90)
        Image.fromarray(mask).save(folder / f"masks/photograph_{number}.png")
        np.save(folder / f"maps/photograph_{number}.npy", np.stack(maps))
        if number == 0:
            photograph.resize((160, 120)).save(folder / "small/small.jpg")
    labels = "".join(f"{{id}},{NAMES[index]}\n" for index in sorted(shown))
    (folder / "small.csv").write_text("id,label\n" + labels.replace("{id}", "small"))
    of_both = [labels.replace("{id}", f"photograph_{number}") for number in range(2)]
    (folder / "large.csv").write_text("id,label\n" + "".join(of_both))


def run(program, folder, stage, limit):
    """Runs one stage; returns its exit code, seconds, and peak memory in GiB."""
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        os.nice(10)
        resource.setrlimit(resource.RLIMIT_AS, (limit << 30, limit << 30))
        log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.execv(program, [program, "run", "pipeline.toml", "--cache", "cache", "--only", stage])
    _, status, usage = os.wait4(child, 0)
    return os.waitstatus_to_exitcode(status), time.monotonic() - start, usage.ru_maxrss / 2**20


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--classes", type=int, default=3, help="classes of each photograph, at most 20")
    parser.add_argument("--limit", type=int, default=12, help="most addresses of a process, in GiB")
    parser.add_argument("--stages", help="rows of the table, separated by commas; without it all")
    arguments = parser.parse_args()
    program = arguments.program.resolve()
    if not (arguments.folder / "large.csv").exists():
        draw(arguments.folder, arguments.classes)
    (arguments.folder / "pipeline.toml").write_text(pipeline())
    if not arguments.stages:
        shutil.rmtree(arguments.folder / "cache", ignore_errors=True)
    for stage in [line[8:-1] for line in PREPARED.splitlines() if line.startswith("[stages.")]:
        code, _, _ = run(program, arguments.folder, stage, arguments.limit)
        if code != 0:
            print(f"`{stage}`, which others need, ended with {code}: see {arguments.folder / 'log.txt'}")
    chosen = arguments.stages.split(",") if arguments.stages else list(MEASURED)
    print("| stage | peak memory, GiB | wall, s |\n|---|---|---|")
    for stage in chosen:
        code, seconds, peak = run(program, arguments.folder, name(stage), arguments.limit)
        ended = f"{peak:.2f}" if code == 0 else f"ended with {code} at {peak:.2f}"
        print(f"| `{stage.split(' ')[0]}`{stage[len(stage.split(' ')[0]):]} | {ended} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
