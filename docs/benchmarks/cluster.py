#!/usr/bin/env python3
"""Simulates pipelines on a Slurm cluster as `--executor slurm` runs them: the tables of docs/cluster.md, "Sizes".

    python3 docs/benchmarks/cluster.py             # the tables
    python3 docs/benchmarks/cluster.py --inputs    # every number that goes in, and where it comes from
    python3 docs/benchmarks/cluster.py --stages    # what each stage costs by itself
    python3 docs/benchmarks/cluster.py --check     # what must hold of any such simulation

Stages, what they read, epochs and batches come from the files in pipelines/. What a stage costs follows from the inputs below and
from the multiplications of its network, which are counted here layer by layer. The scheduler serves jobs in the order in which they
were submitted; one begins when all that its stage reads has ended and a slot is free. Jobs share a file system that does so many
bytes and so many operations on names a second. Standard library only; the same output every time, in seconds.

What is left out: jobs that are killed or reach their time limit, other users, and what a node knows already of files that another
job on it has looked at, so that operations are rather too many.
"""

import argparse
import dataclasses
import heapq
import math
import pathlib
import tomllib
from typing import NamedTuple

PIPELINES = pathlib.Path(__file__).resolve().parents[2] / "pipelines"
SIZES = (1, 8, 64, 512)
MEASURED, COUNTED, SCALED, ASSUMED = "measured", "counted", "scaled", "assumed"
GIB = 1 << 30


class Input(NamedTuple):
    value: float
    unit: str
    how: str
    source: str


# What goes in. `measured`: by the program, as the source says; `counted`: follows from code or files; `scaled`: from a measured value
# by the ratio that the source names; `assumed`: nothing of the kind was at hand.
OPS = "docs/benchmarks/cluster_measure.py"
HOST = "CPU time of a run of this stage over 48 photographs of 500 x 375 with maps of 2.3 classes, two busy cores"
PERFORMANCE = "docs/performance.md"
INPUTS = {
    # The site
    "gpu": Input(10e12, "FLOP/s", ASSUMED, "of a card in f32 (TF32 off, the default): half of an A100's peak of 19.5e12"),
    "gpu_cores": Input(8, "cores", ASSUMED, "of a job with a card"),
    "cpu_cores": Input(16, "cores", ASSUMED, "of a job without one; as many of these can run as there are cards"),
    "start": Input(30, "s", ASSUMED, "from when a job may start until the program runs: Slurm's cycle, prolog, libraries"),
    "shows": Input(3, "s", ASSUMED, "until a result shows on another node; the program waits for at most `settle`, 90 s"),
    "poll": Input(10, "s", COUNTED, "`poll` of the profile: until the coordinator sees the end"),
    "bandwidth": Input(10e9, "B/s", ASSUMED, "of the shared file system, all nodes together"),
    "node_bandwidth": Input(2e9, "B/s", ASSUMED, "of the shared file system to one job"),
    "operations": Input(20e3, "1/s", ASSUMED, "on names (open, stat, rename, ...) that the file system does, all nodes together"),
    "latency": Input(0.5e-3, "s", ASSUMED, "of one such operation"),
    "page_cache": Input(64e9, "B", ASSUMED, "of what a job has read stays in its node's memory and is not fetched again"),
    # The profile
    "shards": Input(8, "shards", COUNTED, "`shards` of the profile: least number that is worth a job"),
    "array": Input(0, "jobs", COUNTED, "`array` of the profile; 0: as many as there are cards, at most 64"),
    # Operations on names and bytes of a job
    "ops_shard": Input(21, "ops", MEASURED, OPS + ": of each shard that a job makes, without reading its inputs"),
    "ops_whole": Input(60, "ops", MEASURED, OPS + ": of a job, without what the other rows say"),
    "ops_last": Input(3, "ops", MEASURED, OPS + ": of each shard, in the job that puts an array's result together"),
    "list_entries": Input(320, "entries", COUNTED, "that one getdents64 of 32 KiB returns of names of about 80 bytes"),
    "record": Input(141, "B", MEASURED, OPS + ": of a stage's record per shard"),
    "shard_record": Input(1170, "B", MEASURED, OPS + ": of a shard's record, 46 images"),
    "manifest_shard": Input(120, "B", MEASURED, OPS + ": of a manifest per shard, without ids"),
    "manifest_image": Input(15, "B", MEASURED, OPS + ": of a manifest per image"),
    "file_memory": Input(130, "B", COUNTED, "of files.bin per data file with a path of 60 bytes; every job reads all of it"),
    "look_cpu": Input(2.5e-6, "s", MEASURED, OPS + ": core time before a job works, per image; 0.4 to 0.5 s at 190,000"),
    "shard_files": Input(3, "files", MEASURED, OPS + ": kept per shard: blob, action, record; one more where data come in"),
    # Bytes per image; a class-pixel is one pixel of one class's map
    "cam_bytes": Input(0.69, "B", MEASURED, "of a CamSet per class-pixel: 3 photographs, random networks; 0.56 to 0.86"),
    "score_bytes": Input(0.58, "B", MEASURED, "of a ScoreSet per class-pixel, the same"),
    "mask_bytes": Input(0.044, "B", MEASURED, "of a MaskSet or SeedSet per pixel, the same: 0.041 and 0.047"),
    "entry_bytes": Input(215, "B", MEASURED, "of an ImageSet per image"),
    # Host work
    "decode": Input(5.7e-9, "s", MEASURED, PERFORMANCE + ": JPEG decoding per pixel, 1.07 ms for 500 x 375"),
    "view": Input(25e-9, "s", ASSUMED, "core time per pixel of a resized, normalised view of an image"),
    "augment": Input(5e-3, "s", ASSUMED, "core time of RandAugment per image of MCTformer's training"),
    "code": Input(3.6e-9, "s", SCALED, "core time per class-pixel to pack or unpack maps: a third of cam.average's 10.7 ns"),
    "fuse": Input(12.8e-9, "s", MEASURED, HOST + ": cam.or, cam.and, cam.average per class-pixel"),
    "threshold": Input(6.8e-9, "s", MEASURED, HOST + ": mask.threshold per class-pixel"),
    "import_amn": Input(29e-9, "s", MEASURED, HOST + ": cam.import of amn per class-pixel"),
    "import_mctformer": Input(9.4e-9, "s", MEASURED, HOST + ": cam.import of mctformer per class-pixel"),
    "labels": Input(0.2955, "s", MEASURED, PERFORMANCE + ": the two CRFs of irn.labels, 500 x 338, 3 labels"),
    "walk": Input(73e-9, "s", SCALED, PERFORMANCE + ": random walk per class-pixel, 27.3 ms for 2 classes at 500 x 375"),
    "evaluate": Input(0.8e-3, "s", MEASURED, HOST + ": evaluate per image"),
    "dataset": Input(0.6e-3, "s", MEASURED, HOST + ": dataset.voc per image"),
    "weights": Input(1.0e9, "B/s", ASSUMED, "at which a job reads, verifies and loads its network, once"),
    "parse": Input(200e6, "B/s", ASSUMED, "at which a job parses COCO's files of instances"),
}


class Site:
    """The inputs, some of them replaced."""

    def __init__(self, **other):
        unknown = other.keys() - INPUTS.keys()
        assert not unknown, unknown
        for name, known in INPUTS.items():
            setattr(self, name, other.get(name, known.value))


# Networks: multiply-adds of one image forward


def ceil_div(number, by):
    return -(-number // by)


def conv(height, width, into, out, kernel=1):
    """Multiply-adds of a convolution with this output size."""
    return height * width * into * out * kernel * kernel


def resnet50(height, width):
    """Returns (all, layers 3 and 4 alone) of the backbone of stride 16 (SPEC 1.2)."""
    height, width = ceil_div(height, 2), ceil_div(width, 2)
    total, late, into = conv(height, width, 3, 64, 7), 0, 64
    height, width = ceil_div(height, 2), ceil_div(width, 2)
    for layer, (blocks, channels, stride) in enumerate([(3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 1)]):
        for block in range(blocks):
            step = stride if block == 0 else 1
            before = conv(height, width, into, channels)
            height, width = ceil_div(height, step), ceil_div(width, step)
            after = conv(height, width, channels, channels, 3) + conv(height, width, channels, 4 * channels)
            if block == 0:
                after += conv(height, width, into, 4 * channels)
            total += before + after
            late += (before + after) * (layer >= 2)
            into = 4 * channels
    return total, late


def irn_heads(height, width):
    """The edge and displacement layers of IRN, which learn (SPEC 8.1)."""
    cells = [(ceil_div(height, by), ceil_div(width, by)) for by in (4, 4, 8, 16, 16)]
    depths = (64, 256, 512, 1024, 2048)
    edge = sum(conv(*cell, depth, 32) for cell, depth in zip(cells, depths))
    shift = sum(conv(*cell, depth, out) for cell, depth, out in zip(cells, depths, (64, 128, 256, 256, 256)))
    return edge + shift + conv(*cells[2], 768, 256) + conv(*cells[0], 448, 256)


def deit_small(tokens):
    """12 blocks of width 384 (SPEC 4.1)."""
    return 12 * (12 * tokens * 384 * 384 + 2 * tokens * tokens * 384)


def orandnet(height, width, padding):
    """FCN-8s over VGG16 on one map (SPEC 6.1). `padding` is 100 in training; refining computes a window, about 30
    (src/nn/refiner.rs)."""
    total, into = 0, 1
    framed = [height + 198, width + 198]
    height, width = height + 2 * padding - 2, width + 2 * padding - 2
    for group, (layers, channels) in enumerate([(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)]):
        if group == 4:
            height, width = (ceil_div(side, 16) for side in framed)
        for _ in range(layers):
            total += conv(height, width, into, channels, 3)
            into = channels
        height, width = ceil_div(height, 2), ceil_div(width, 2)
    return total + conv(height - 6, width - 6, 512, 4096, 7) + conv(height - 6, width - 6, 4096, 4096)


def resnet38(height, width, classes):
    """SPEC 9.1."""
    total = conv(height, width, 3, 64, 3)
    into = 64
    for blocks, middle, out, stride in [(3, 128, 128, 2), (3, 256, 256, 2), (6, 512, 512, 2), (3, 512, 1024, 1)]:
        height, width = ceil_div(height, stride), ceil_div(width, stride)
        for block in range(blocks):
            total += conv(height, width, into, middle, 3) + conv(height, width, middle, out, 3)
            if block == 0:
                total += conv(height, width, into, out)
            into = out
    for out in (2048, 4096):
        total += conv(height, width, into, out) + conv(height, width, into, out // 4)
        total += conv(height, width, out // 4, out // 2, 3) + conv(height, width, out // 2, out)
        into = out
    return total + conv(height, width, 4096, 512, 3) + conv(height, width, 512, classes, 3)


# Parameters of each network, as SPEC counts them; weights are f32
PARAMETERS = {"resnet": 23.5e6, "amn": 25.1e6, "mctformer": 21.7e6, "orandnet": 134.3e6, "irn": 24.9e6, "segment": 124.0e6}
IMPORTED = {"resnet50": 25.6e6, "deit_small": 22.1e6, "vgg16": 138.4e6, "resnet38": 105e6}


# Data sets


@dataclasses.dataclass(frozen=True)
class DataSet:
    name: str
    pipeline: str
    images: int
    scored: int  # images of `train_scored`
    val: int
    labels: float  # classes per image
    classes: int  # with background
    height: int
    width: int
    photograph: float  # bytes
    files: int  # data files per image that are known by digest
    listed: int  # names in the folders that every job lists
    described: float = 0.0  # bytes of files of instances, which every job parses
    taught: int = 0  # images that trainings see, 0 for all

    @property
    def pixels(self):
        return self.height * self.width


# VOC: splits and classes per image from SPEC 11; 1.9 GB of photographs in 17,125 files. COCO: SPEC 11; 13.5 GB in 82,783 files; 2.9
# classes per image, 640 x 480, and 0.48 GB of instances are assumed. The large set: VOC's pipeline, and ten million such photographs.
VOC = DataSet("VOC", "voc_amn_mct_train.toml", 10_582, 1_464, 1_449, 1.56, 21, 375, 500, 113e3, 2, 6 * 17_125)
COCO = DataSet("COCO", "coco_amn_mct.toml", 82_081, 82_081, 40_137, 2.9, 81, 480, 640, 163e3, 3, 2 * 82_783 + 40_504, 0.48e9)
LARGE = dataclasses.replace(VOC, name="10 million", images=10_000_000, listed=2 * 10_000_000)
TAUGHT = dataclasses.replace(LARGE, name="10 million, trainings on 82,081", taught=82_081)


def shards_of(images):
    """As `buckets_for` in src/store/manifest.rs."""
    return 1 << max(0, (ceil_div(images, 48) - 1).bit_length())


# Stages


@dataclasses.dataclass
class Stage:
    """What a stage costs. Bytes and seconds per image for per-image work, else of the whole."""

    name: str
    kind: str
    above: list
    images: int
    whole: bool
    card: bool
    device: float = 0.0  # seconds of the card
    host: float = 0.0  # core seconds beside the card
    alone: float = 0.0  # seconds of one core while the card waits
    asked: float = 0.0  # bytes read, from the shared file system or the node's memory
    fetched: float = 0.0  # of these, from the shared file system
    written: float = 0.0
    opened: float = 0.0  # operations on names besides those of INPUTS
    weights: float = 0.0  # bytes of the network that each job of its shards loads
    kept: float = 0.0  # bytes of its result

    @property
    def shards(self):
        return 1 if self.whole else shards_of(self.images)


def build(data, site, trainings=1):
    """Returns the stages of a pipeline by name. With `trainings` n, trainings run n times as fast, as n cards would do at best."""
    text = tomllib.loads((PIPELINES / data.pipeline).read_text())
    stages = {}
    for name, table in text["stages"].items():
        stages[name] = stage_of(name, table, data, site, stages, trainings)
    return stages


def stage_of(name, table, data, site, made, trainings):
    kind, inputs = table["kind"], table.get("inputs", {})
    above = list(dict.fromkeys(inputs.values()))
    set_of = {"train_scored": data.scored, "val": data.val, "val_masks": data.val}
    images = set_of.get(name, data.images)
    training = kind.endswith(".train")
    whole = training or kind in ("evaluate", "weights.import")
    card = training or kind in ("cam.export", "amn.cams", "mctformer.cams", "orandnet.refine", "irn.propagate", "segment.predict")
    stage = Stage(name, kind, above, images, whole, card)
    pixels, maps = data.pixels, data.pixels * data.labels
    size = (data.height, data.width)
    flop = lambda macs: 2 * macs / site.gpu
    cams, masks = maps * site.cam_bytes, pixels * site.mask_bytes

    def per_image(device=0.0, host=0.0, alone=0.0, written=0.0, photograph=True, network=None):
        read = sum(made[one].kept / made[one].images for one in above if not made[one].whole)
        stage.device, stage.host, stage.alone = device, host, alone
        stage.asked = stage.fetched = read + data.photograph * photograph
        stage.written, stage.opened = written, float(photograph)
        stage.weights = 4 * PARAMETERS[network] if network else 0.0
        stage.kept = written * images

    def train(macs_forward, macs_backward, samples, host, network, state, maps_read=(), passes=0.0):
        """`state`: copies of the weights in a checkpoint; `maps_read`: sets whose shard each sample reads, unless they are small."""
        stage.device = (flop(macs_forward + 2 * macs_backward) * samples + passes) / trainings
        stage.host = host * samples
        stage.kept = 4 * PARAMETERS[network]
        checkpoints = int(max(stage.device, stage.host / site.gpu_cores) / 600)
        stage.written = stage.kept * (1 + state * checkpoints)
        taught = data.taught or data.images
        share = min(1.0, taught / data.images)
        sets = [(inputs["images"], True)] if "images" in inputs else []
        for one, photographs in sets + [(one, False) for one in maps_read]:
            one = made[one]
            stage.opened += one.shards * share
            if photographs:
                everything, asked = data.photograph * taught, data.photograph * samples
                stage.opened += samples
                stage.asked += one.kept * share
                stage.fetched += one.kept * share
            else:
                everything = one.kept * share
                # Encoded shards stay in memory up to 1 GiB; else each sample reads its whole shard (src/stages/shelf.rs).
                big = everything > GIB
                asked = samples * one.kept / one.shards if big else everything
                stage.opened += samples if big else 0
            stage.asked += asked
            stage.fetched += min(everything, asked) if everything <= site.page_cache else asked

    def view(count):
        return pixels * (site.decode + site.view * count)

    def load(side):
        return pixels * site.decode + side * side * site.view

    taught = data.taught or data.images
    if kind.startswith("dataset."):
        per_image(host=site.dataset, written=site.entry_bytes)
        stage.opened = min(data.files, 2)  # photograph and annotation
    elif kind == "weights.import":
        stage.kept = stage.written = stage.asked = stage.fetched = 4 * IMPORTED[table["arch"]]
    elif kind == "cam.import":
        # numpy files: f32 maps of all classes (AMN: and the background), and AMN's at stride 4
        planes = pixels * 4 * (data.labels + 1) * 17 / 16 if table["format"] == "amn" else maps * 4
        per_image(host=maps * getattr(site, "import_" + table["format"]), written=cams, photograph=False)
        stage.asked = stage.fetched = stage.asked + planes
        stage.opened = 1.0
    elif kind in ("cam.or", "cam.and", "cam.average"):
        per_image(host=maps * site.fuse, written=cams, photograph=False)
    elif kind == "mask.threshold":
        per_image(host=maps * site.threshold, written=masks, photograph=False)
    elif kind == "irn.labels":
        ratio = pixels / (500 * 338) * (data.labels + 1) / 3
        per_image(host=site.labels * ratio + maps * site.code, written=masks)
    elif kind == "evaluate":
        prediction, truth = made[inputs["prediction"]], made[inputs["truth"]]
        stage.images = prediction.images
        stage.host = site.evaluate * prediction.images
        stage.asked = stage.fetched = prediction.kept + truth.images * pixels * site.mask_bytes
        stage.written, stage.kept = 2e4, 2e4
        stage.opened = prediction.shards + truth.shards + truth.images
    elif kind in ("cam.export", "amn.cams"):
        views = [scale * scale for scale in table.get("scales", [1.0, 0.5, 1.5, 2.0])]
        macs = 2 * sum(resnet50(*(round(side * math.sqrt(square)) for side in size))[0] for square in views)
        # The next images are decoded meanwhile; views are resized on the host before the card begins.
        resize = pixels * site.view * sum(views) / site.gpu_cores
        network = "amn" if kind == "amn.cams" else "resnet"
        per_image(flop(macs), pixels * site.decode, resize + maps * site.code, cams, network=network)
    elif kind == "mctformer.cams":
        tokens = (data.height // 16) * (data.width // 16) + data.classes - 1
        per_image(flop(2 * deit_small(tokens)), view(1), maps * site.code, cams, network="mctformer")
    elif kind == "orandnet.refine":
        per_image(flop(data.labels * orandnet(*size, 30)), 0.0, 2 * maps * site.code, cams, photograph=False, network="orandnet")
    elif kind == "irn.propagate":
        pad = table.get("pad_to", 512)
        padded = [ceil_div(side, pad) * pad for side in size]
        per_image(
            flop(2 * (resnet50(*padded)[0] + irn_heads(*padded))),
            view(1) + maps * site.walk,
            2 * maps * site.code,
            maps * site.score_bytes,
            network="irn",
        )
    elif kind == "segment.predict":
        scales = (0.5, 0.75, 1.0, 1.25, 1.5)
        macs = sum(resnet38(*(round(side * scale) for side in size), data.classes) for scale in scales)
        per_image(flop(macs), view(sum(scale * scale for scale in scales)), 0.0, masks, network="segment")
    elif kind == "classifier.train":
        total, late = resnet50(512, 512)
        train(total, late, taught * table["epochs"], load(512), "resnet", 2)
    elif kind == "amn.train":
        total, _ = resnet50(512, 512)
        train(total, total, taught * table.get("epochs", 5), load(512), "amn", 3, [inputs["seeds"]])
    elif kind == "mctformer.train":
        macs = deit_small(14 * 14 + data.classes - 1)
        train(macs, macs, taught * table.get("epochs", 60), load(224) + site.augment, "mctformer", 3)
    elif kind == "orandnet.train":
        macs = data.labels * orandnet(*size, 100)
        samples = table.get("steps", 5000) * table.get("batch", 1)
        train(macs, macs, samples, 2 * maps * site.code, "orandnet", 2, [inputs["input"], inputs["target"]])
    elif kind == "irn.train":
        heads = irn_heads(512, 512)
        # Afterwards the mean displacement is computed over all images once more.
        after = flop(resnet50(512, 512)[0] + heads) * taught
        train(resnet50(512, 512)[0] + heads, heads, taught * table.get("epochs", 3), load(512), "irn", 2, [inputs["labels"]], after)
    elif kind == "segment.train":
        epochs = table.get("epochs", 30)
        schedule = {step["until"]: step["factor"] for step in table["scale_schedule"]}
        factor = lambda epoch: next((schedule[until] for until in sorted(schedule) if epoch < until), 1)
        macs = sum(resnet38(321 // factor(epoch), 321 // factor(epoch), data.classes) for epoch in range(epochs)) / epochs
        train(macs, macs, taught * epochs, load(321), "segment", 2, [inputs["masks"]])
    else:
        raise ValueError(kind)
    return stage


# What a job does


@dataclasses.dataclass(frozen=True)
class Phase:
    """`units` of work one after the other, each so many seconds of computing, operations on names, and bytes of the file system."""

    compute: float
    operations: float
    bytes: float
    side_by_side: float  # operations under way at the same time
    overlaps: bool = False  # whether computing goes on meanwhile


def ancestors(stages, name):
    found, left = set(), list(stages[name].above)
    while left:
        one = left.pop()
        if one not in found:
            found.add(one)
            left += stages[one].above
    return found


def tasks(stage, site, cards):
    """Returns the number of shards of each job of a stage (src/slurm/coordinator.rs, `parts`)."""
    if stage.whole:
        return [1]
    most = int(site.array) or min(64, cards)
    parts = max(1, min(ceil_div(stage.shards, int(site.shards)), most))
    return [stage.shards // parts + (part < stage.shards % parts) for part in range(parts)]


def look(stages, stage, data, site):
    """What every job does before it works: lists data, reads records of what is above and manifests of what it reads
    (src/cli/exec.rs), and loads its network."""
    above = ancestors(stages, stage.name)
    cores = site.gpu_cores if stage.card else site.cpu_cores
    read = sum(stages[name].shards * site.record for name in above if not stages[name].whole)
    sets = [stages[name] for name in above | {stage.name} if stages[name].kind.startswith("dataset.")]
    imports = [stages[name] for name in above | {stage.name} if stages[name].kind == "cam.import"]
    # One after the other: lists of the data's folders, those of files that are imported among them.
    row = (data.listed * bool(sets) + sum(one.images for one in imports)) / site.list_entries
    read += data.files * data.images * site.file_memory
    for one in {name for name in stage.above if not stages[name].whole}:
        read += stages[one].shards * site.manifest_shard + stages[one].images * site.manifest_image
    images = max([one.images for one in sets], default=0)
    read += stage.weights
    everything = site.ops_whole + row
    parsed = data.described / site.parse if sets else 0.0
    read += data.described if sets else 0.0
    compute = site.shows + images * site.look_cpu + parsed + stage.weights / site.weights
    return Phase(compute, everything, read, everything / (site.ops_whole / cores + row))


def work(stage, shards, site):
    """What a job does of each of its shards."""
    cores = site.gpu_cores if stage.card else site.cpu_cores
    if stage.whole:
        compute = max(stage.device, stage.host / cores) if stage.card else stage.host / cores
        return Phase(compute, stage.opened, stage.fetched + stage.written, cores, overlaps=stage.card)
    images = stage.images / stage.shards
    operations = site.ops_shard + len(stage.above) + images * stage.opened
    moved = images * (stage.fetched + stage.written) + site.shard_record
    if stage.card:
        # One shard at a time; two images side by side, so that the host's part of one overlaps with the card's of the other.
        seconds = images * (max(stage.device, stage.host / 2) + stage.alone)
        return Phase(seconds, operations, moved, 1)
    # As many shards at a time as there are cores.
    rounds = ceil_div(shards, cores) / shards
    return Phase(images * stage.host * rounds, operations, moved, 1 / rounds)


def last(stage, site):
    """What the last job of an array does besides: it looks up the others' shards and writes the result."""
    written = stage.shards * (site.record + site.manifest_shard) + stage.images * site.manifest_image
    return Phase(0.0, stage.shards * site.ops_last, stage.shards * site.shard_record + written, 1)


def alone(phase, site, slow_names=1.0, slow_bytes=1.0):
    """Seconds of a unit, where operations and bytes take so many times as long as for a job that has the file system to itself."""
    names = phase.operations * site.latency * slow_names / phase.side_by_side
    moved = phase.bytes * slow_bytes / site.node_bandwidth
    return max(phase.compute, names + moved, 1e-9) if phase.overlaps else max(phase.compute + names + moved, 1e-9)


# The simulation


class Group:
    """Jobs in the same phase of the same stage: they go on at the same speed. Progress is counted in units."""

    def __init__(self, phase):
        self.phase, self.done, self.ends, self.speed = phase, 0.0, [], 0.0

    def add(self, units, job):
        heapq.heappush(self.ends, (self.done + units, job))


@dataclasses.dataclass
class Result:
    seconds: float
    stages: dict
    begun: dict
    ended: dict
    device: float
    held: float
    operations: float
    bytes: float
    path: list
    most: tuple  # jobs without a card and with one at a time, operations and bytes a second
    units: dict


def share(groups, site):
    """Sets the speed of each group: where all together ask for more than the file system does, every operation, or every byte,
    takes as much longer as it must."""
    slow = [1.0, 1.0]
    demand = (lambda phase: phase.operations, lambda phase: phase.bytes)
    limits = (site.operations, site.bandwidth)

    def rate(which):
        return sum(len(g.ends) * demand[which](g.phase) / alone(g.phase, site, *slow) for g in groups)

    for _ in range(6):
        changed = False
        for which in (0, 1):
            slow[which] = 1.0
            if rate(which) <= limits[which]:
                continue
            low, high = 1.0, 2.0
            while True:
                slow[which] = high
                if rate(which) <= limits[which]:
                    break
                low, high = high, 2 * high
            for _ in range(40):
                slow[which] = (low + high) / 2
                low, high = (low, slow[which]) if rate(which) <= limits[which] else (slow[which], high)
            slow[which] = high
            changed = True
        if not changed or all(rate(which) <= limits[which] * 1.001 for which in (0, 1)):
            break
    for group in groups:
        group.speed = 1 / alone(group.phase, site, *slow)


def first_look(data, site):
    """The coordinator hashes all data once, before anything is submitted."""
    files = data.images * data.files
    names = 3 * files
    moved = data.images * data.photograph
    return max(names * site.latency / site.cpu_cores, names / site.operations) + moved / site.node_bandwidth, names, moved


def simulate(data, site, cards, trainings=1):
    stages = build(data, site, trainings)
    order = {name: place for place, name in enumerate(stages)}
    now, operations, moved = first_look(data, site)
    free = {True: cards, False: cards}
    waiting = {True: [], False: []}
    left, below = {}, {name: [] for name in stages}
    for name, stage in stages.items():
        left[name] = len(stage.above)
        for above in stage.above:
            below[above].append(name)
    parts = {name: tasks(stage, site, cards) for name, stage in stages.items()}
    open_tasks = {name: len(shards) for name, shards in parts.items()}
    groups, ready, begun, ended, why = {}, {}, {}, {}, {}
    held, device, units, most = 0.0, 0.0, dict.fromkeys(stages, 0), [0, 0, 0.0, 0.0]
    start = Phase(site.start, 0.0, 0.0, 1)

    def open_stage(name):
        ready[name] = now
        for part in range(len(parts[name])):
            heapq.heappush(waiting[stages[name].card], (order[name], part, name))

    def phase_of(name, step, shards=1):
        stage = stages[name]
        if step == "start":
            return start
        if step == "look":
            return look(stages, stage, data, site)
        if step == "work":
            return work(stage, shards, site)
        return last(stage, site)

    def enter(name, part, step):
        shards = parts[name][part]
        # Jobs of an array that have one shard more than others take a little longer for each round.
        key = (name, step, shards if step == "work" else 0)
        if key not in groups:
            groups[key] = Group(phase_of(name, step, shards))
        groups[key].add(shards if step == "work" else 1, (name, part, step))

    for name in stages:
        if not left[name]:
            open_stage(name)
    while True:
        for card in (True, False):
            while free[card] and waiting[card]:
                _, part, name = heapq.heappop(waiting[card])
                free[card] -= 1
                begun.setdefault(name, now)
                enter(name, part, "start")
        active = [group for group in groups.values() if group.ends]
        if not active:
            break
        share(active, site)
        seen = [sum(len(group.ends) for (name, *_), group in groups.items() if stages[name].card == card) for card in (False, True)]
        for demand in (lambda phase: phase.operations, lambda phase: phase.bytes):
            seen.append(sum(group.speed * len(group.ends) * demand(group.phase) for group in active))
        most = list(map(max, most, seen))
        step = min((group.ends[0][0] - group.done) / group.speed for group in active)
        now += step
        held += step * (cards - free[True])
        finished = []
        for group in active:
            group.done += step * group.speed
            operations += step * group.speed * len(group.ends) * group.phase.operations
            moved += step * group.speed * len(group.ends) * group.phase.bytes
            while group.ends and group.ends[0][0] <= group.done + 1e-9 * max(1.0, group.done):
                finished.append(heapq.heappop(group.ends)[1])
        for name, part, step in sorted(finished):
            stage, following = stages[name], None
            if step == "start":
                following = "look"
            elif step == "look":
                following = "work"
            elif step == "work":
                units[name] += parts[name][part]
                device += stage.device * (1 if stage.whole else stage.images / stage.shards * parts[name][part])
                open_tasks[name] -= 1
                following = "last" if not open_tasks[name] and not stage.whole else None
            if following:
                enter(name, part, following)
                continue
            free[stage.card] += 1
            if open_tasks[name]:
                continue
            ended[name] = now
            for one in below[name]:
                left[one] -= 1
                if not left[one]:
                    why[one] = name
                    open_stage(one)
        groups = {key: group for key, group in groups.items() if group.ends}
    path, name = [], max(ended, key=lambda name: (ended[name], order[name]))
    while name:
        path.append((name, ended[name] - ready[name]))
        name = why.get(name)
    # The coordinator looks for every shard once when the inputs of a stage are there, and sees the end a poll later.
    operations += sum(stage.shards for stage in stages.values())
    return Result(now + site.poll, stages, begun, ended, device, held, operations, moved, path[::-1], tuple(most), units)


def least(data, site, cards, trainings=1):
    """Returns the seconds of the longest path, were every job alone, and (slot seconds of cards, of other jobs)."""
    stages = build(data, site, trainings)
    longest, slots = {}, {True: 0.0, False: 0.0}
    for name, stage in stages.items():
        seconds = []
        for shards in tasks(stage, site, cards):
            before = site.start + alone(look(stages, stage, data, site), site)
            seconds.append(before + shards * alone(work(stage, shards, site), site))
        end = 0.0 if stage.whole else alone(last(stage, site), site)
        slots[stage.card] += sum(seconds) + end
        longest[name] = max(seconds) + end + max((longest[above] for above in stage.above), default=0.0)
    return first_look(data, site)[0] + max(longest.values()) + site.poll, slots


def totals(data, site):
    """Files, bytes read, of these fetched over the network, and written by a run, without what jobs do before they work."""
    stages = build(data, site).values()
    files = asked = fetched = written = 0.0
    for stage in stages:
        number = 1 if stage.whole else stage.images
        files += 3 if stage.whole else 3 + stage.shards * (site.shard_files + stage.kind.startswith("dataset."))
        asked += stage.asked * number
        fetched += stage.fetched * number
        written += stage.written * number
    return files, asked, fetched, written


# What is printed


def number(value):
    """Three digits, with a unit prefix that people say."""
    for limit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {name}"
    return f"{value:.3g} "


def span(seconds):
    hours = seconds / 3600
    if hours < 0.995:
        return f"{60 * hours:.0f} min"
    return f"{hours:.1f} h" if hours < 99.5 else f"{hours / 24:.1f} d"


def table(head, rows):
    print("| " + " | ".join(map(str, head)) + " |")
    print("|" + " --- |" * len(head))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    print()


def size_rows(data, site, **options):
    for cards in SIZES:
        result = simulate(data, site, cards, **options)
        longest = max(result.path, key=lambda step: step[1])
        trainings = sum(seconds for name, seconds in result.path if result.stages[name].kind.endswith(".train"))
        yield (
            cards,
            span(result.seconds),
            f"{result.device / (cards * result.seconds):.1%}",
            number(result.operations),
            number(result.bytes) + "B",
            f"`{longest[0]}`, {span(longest[1])}",
            f"{trainings / result.seconds:.0%}",
        )


SETS = (VOC, COCO, TAUGHT, LARGE)


def tables():
    site = Site()
    print("### What a run keeps and moves\n")
    rows = []
    for data in SETS:
        files, asked, fetched, written = totals(data, site)
        kept = sum(stage.kept for stage in build(data, site).values())
        rows.append(
            (
                data.name,
                f"{data.images:,}",
                f"{shards_of(data.images):,}",
                number(files),
                *(number(moved) + "B" for moved in (kept, written, asked, fetched)),
            )
        )
    table(
        ("set", "images", "shards", "files kept", "kept", "written, checkpoints included", "read", "of that over the network"), rows
    )
    print("### Time\n")
    head = (
        "GPUs",
        "time",
        "GPUs busy",
        "operations on names",
        "over the network",
        "longest stage of the critical path",
        "trainings",
    )
    for data in SETS:
        print(f"{data.name}\n")
        table(head, size_rows(data, site))
    print("### Size of arrays\n")
    arrays = (8, 16, 32, 64, 128, 256, 512)
    rows = []
    for data, cards in ((COCO, 64), (COCO, 512), (TAUGHT, 64), (TAUGHT, 512)):
        rows.append((f"{data.name}, {cards} GPUs", *(span(simulate(data, Site(array=array), cards).seconds) for array in arrays)))
    table(("`array`", *arrays), rows)
    print("### What if\n")
    changes = {
        "as it is": {},
        "trainings on 8 GPUs, at best": dict(trainings=8),
        "and `array = 512` for 512": dict(trainings=8, array=512),
    }
    rows = []
    for name, change in changes.items():
        change = dict(change)
        at = Site(array=change.pop("array", 0))
        rows.append(
            (name, *(span(simulate(data, at, cards, **change).seconds) for data in (VOC, COCO, TAUGHT) for cards in (64, 512)))
        )
    table(("", *(f"{data.name}, {cards}" for data in (VOC, COCO, TAUGHT) for cards in (64, 512))), rows)
    print("### Sensitivity\n")
    cases = ((VOC, 8), (COCO, 64), (TAUGHT, 64), (TAUGHT, 512))
    rows = [("as assumed", *(span(simulate(data, site, cards).seconds) for data, cards in cases))]
    for name, factors in (
        ("gpu", (0.5, 2)),
        ("bandwidth", (0.2, 5)),
        ("operations", (0.25, 4)),
        ("latency", (4, 0.25)),
        ("start", (10, 0.2)),
        ("cpu_cores", (0.5, 4)),
        ("weights", (0.25, 4)),
        ("page_cache", (0, 10)),
    ):
        for factor in factors:
            other = Site(**{name: INPUTS[name].value * factor})
            rows.append((f"`{name}` x {factor:g}", *(span(simulate(data, other, cards).seconds) for data, cards in cases)))
    table(("", *(f"{data.name}, {cards} GPUs" for data, cards in cases)), rows)


def show_inputs():
    table(("input", "value", "how", "source"), ((name, f"{i.value:g} {i.unit}", i.how, i.source) for name, i in INPUTS.items()))


def show_stages():
    site = Site()
    for data in SETS:
        print(f"{data.name}\n")
        rows = []
        for stage in build(data, site).values():
            number_of = 1 if stage.whole else stage.images
            rows.append(
                (
                    f"`{stage.name}`",
                    stage.kind,
                    f"{stage.shards:,}",
                    span(stage.device * number_of),
                    span((stage.host + stage.alone) * number_of),
                    number(stage.asked * number_of) + "B",
                    number(stage.fetched * number_of) + "B",
                    number(stage.written * number_of) + "B",
                )
            )
        table(("stage", "kind", "shards", "GPU time", "core time", "read", "fetched", "written"), rows)


def check():
    """What must hold whatever goes in. Raises at the first that does not."""
    near = lambda one, other: math.isclose(one, other, rel_tol=1e-6)
    assert [shards_of(images) for images in (1, 48, 49, 10_582)] == [1, 1, 2, 256], "as the test of src/store/manifest.rs says"
    assert abs(deit_small(197) / 4.6e9 - 1) < 0.02, "DeiT-S at 224 pixels: 4.6e9 (Touvron et al. 2021)"
    cases = 0
    for data in SETS:
        for cards in (1, 5, 64, 512):
            for site in (Site(), Site(operations=500, bandwidth=2e8), Site(array=512, shards=1)):
                for trainings in (1, 8)[: 1 + (cards == 64)]:
                    result = simulate(data, site, cards, trainings)
                    assert result == simulate(data, site, cards, trainings), "the same every time"
                    longest, slots = least(data, site, cards, trainings)
                    stages = result.stages
                    where = (data.name, cards, trainings)
                    assert result.seconds >= longest * (1 - 1e-9), ("shorter than the critical path", where)
                    assert result.seconds >= slots[True] / cards * (1 - 1e-9), ("more work than the cards can do", where)
                    assert max(result.most[:2]) <= cards, ("more jobs than slots", where)
                    for card in (False, True):
                        jobs = max(len(tasks(stage, site, cards)) for stage in stages.values() if stage.card == card)
                        assert result.most[card] >= min(cards, jobs), ("a slot was never used", where)
                    limits = (site.operations, site.bandwidth)
                    assert all(seen <= 1.001 * limit for seen, limit in zip(result.most[2:], limits)), (
                        "more than the file system does",
                        where,
                    )
                    assert all(result.units[name] == stage.shards for name, stage in stages.items()), (
                        "shards lost or done twice",
                        where,
                    )
                    device = sum(stage.device * (1 if stage.whole else stage.images) for stage in stages.values())
                    assert near(result.device, device) and device <= result.held * (1 + 1e-9) <= cards * result.seconds * (
                        1 + 1e-6
                    ), where
                    for name, stage in stages.items():
                        assert all(result.ended[above] <= result.begun[name] for above in stage.above), (
                            "begun too early",
                            where,
                            name,
                        )
                    # Nothing that jobs move gets lost.
                    operations, moved = first_look(data, site)[1:]
                    for stage in stages.values():
                        parts = tasks(stage, site, cards)
                        assert sum(parts) == stage.shards and max(parts) - min(parts) <= 1
                        operations += stage.shards
                        for shards in parts:
                            for units, phase in ((1, look(stages, stage, data, site)), (shards, work(stage, shards, site))):
                                operations += units * phase.operations
                                moved += units * phase.bytes
                        if not stage.whole:
                            operations += last(stage, site).operations
                            moved += last(stage, site).bytes
                    assert near(result.operations, operations) and near(result.bytes, moved), ("operations or bytes lost", where)
                    cases += 1
            # Graham's bound: with a file system without limits no list scheduler is worse than path and work together.
            free = Site(operations=math.inf, bandwidth=math.inf)
            result = simulate(data, free, cards)
            longest, slots = least(data, free, cards)
            assert result.seconds <= longest + sum(slots.values()) / cards, ("a slot was left idle", data.name, cards)
    print(f"{cases} simulations: none shorter than its critical path or its work, nothing lost, nothing begun too early")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--inputs", action="store_true", help="what goes in, and where it comes from")
    what.add_argument("--stages", action="store_true", help="what each stage costs by itself")
    what.add_argument("--check", action="store_true", help="assert what must hold")
    args = parser.parse_args()
    if args.inputs:
        show_inputs()
    elif args.stages:
        show_stages()
    elif args.check:
        check()
    else:
        tables()


if __name__ == "__main__":
    main()
