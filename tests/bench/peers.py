"""The other side of `cargo bench`: reads requests from standard input and answers each with the processor seconds its work took.

A request is one line, `NAME ARGUMENT..`; files are raw little-endian arrays that the benchmark wrote. Only the work is timed, not
the reading of its inputs. Needs numpy; pydensecrf2 and Pillow for the comparisons with them (`-` is answered without).
"""

import io
import sys
import time
import zlib

import numpy as np


def crf(path, height, width, labels, iterations):
    import pydensecrf.densecrf as dcrf
    from pydensecrf.utils import unary_from_labels

    height, width, labels = int(height), int(width), int(labels)
    image = np.fromfile(path + ".rgb", np.uint8).reshape(height, width, 3)
    guess = np.fromfile(path + ".labels", np.uint8).reshape(height, width)
    start = time.process_time()
    unary = unary_from_labels(guess, labels, gt_prob=0.7, zero_unsure=False)
    model = dcrf.DenseCRF2D(width, height, labels)
    model.setUnaryEnergy(unary)
    model.addPairwiseGaussian(sxy=3, compat=3)
    model.addPairwiseBilateral(sxy=50, srgb=5, rgbim=np.ascontiguousarray(image), compat=10)
    np.array(model.inference(int(iterations)))
    return time.process_time() - start


def crf_pair(*arguments):
    # IRN calls its function twice, and each call builds its lattices.
    return crf(*arguments) + crf(*arguments)


def walk(height, width, classes, steps_log2):
    """The dense transition squared, as IRN has it; a matrix of random numbers takes as long as that of an image."""
    height, width, classes = int(height), int(width), int(classes)
    size = height * width
    rng = np.random.default_rng(0)
    matrix = rng.random((size, size), dtype=np.float32)
    matrix /= matrix.sum(0)
    maps = rng.random((classes, size), dtype=np.float32)
    start = time.process_time()
    for _ in range(int(steps_log2)):
        matrix = matrix @ matrix
    maps @ matrix
    return time.process_time() - start


def mask_write(path, height, width):
    """A palette PNG's pixels: rows less the row above, deflated at zlib's usual level."""
    mask = np.fromfile(path, np.uint8).reshape(int(height), int(width))
    start = time.process_time()
    mask_bytes(mask)
    return time.process_time() - start


def mask_bytes(mask):
    rows = np.full((mask.shape[0], mask.shape[1] + 1), 2, np.uint8)
    rows[:, 1:] = mask
    rows[1:, 1:] -= mask[:-1]
    return zlib.compress(rows.tobytes())


def mask_read(path, height, width):
    height, width = int(height), int(width)
    data = mask_bytes(np.fromfile(path, np.uint8).reshape(height, width))
    start = time.process_time()
    rows = np.frombuffer(zlib.decompress(data), np.uint8).reshape(height, width + 1)
    np.add.accumulate(rows[:, 1:], 0, dtype=np.uint8)
    return time.process_time() - start


def maps_write(path, *shape):
    """What `np.savez_compressed` does."""
    maps = np.fromfile(path, np.float32)
    start = time.process_time()
    zlib.compress(maps.tobytes())
    return time.process_time() - start


def maps_read(path, *shape):
    data = zlib.compress(np.fromfile(path, np.float32).tobytes())
    start = time.process_time()
    np.frombuffer(zlib.decompress(data), np.float32).reshape([int(side) for side in shape]).copy()
    return time.process_time() - start


def jpeg(path):
    from PIL import Image

    data = open(path, "rb").read()
    start = time.process_time()
    np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    return time.process_time() - start


def main():
    for line in sys.stdin:
        name, *arguments = line.split()
        try:
            print(globals()[name](*arguments), flush=True)
        except ImportError:
            print("-", flush=True)


main()
