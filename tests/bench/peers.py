"""The other side of `cargo bench`: reads requests from standard input and answers each with the seconds its work took.

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
    start = time.perf_counter()
    unary = unary_from_labels(guess, labels, gt_prob=0.7, zero_unsure=False)
    model = dcrf.DenseCRF2D(width, height, labels)
    model.setUnaryEnergy(unary)
    model.addPairwiseGaussian(sxy=3, compat=3)
    model.addPairwiseBilateral(sxy=50, srgb=5, rgbim=np.ascontiguousarray(image), compat=10)
    np.array(model.inference(int(iterations)))
    return time.perf_counter() - start


def crf_pair(*arguments):
    # IRN calls its function twice, and each call builds its lattices.
    return crf(*arguments) + crf(*arguments)


def walk(path, height, width, classes, steps_log2):
    """The dense transition of the reference program, with the paths' largest edges left out: the matrix is read."""
    height, width, classes = int(height), int(width), int(classes)
    size = height * width
    matrix = np.fromfile(path + ".transition", np.float32).reshape(size, size)
    maps = np.fromfile(path + ".maps", np.float32).reshape(classes, size)
    start = time.perf_counter()
    for _ in range(int(steps_log2)):
        matrix = matrix @ matrix
    maps @ matrix
    return time.perf_counter() - start


def jpeg(path):
    from PIL import Image

    data = open(path, "rb").read()
    start = time.perf_counter()
    np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    return time.perf_counter() - start


def main():
    for line in sys.stdin:
        name, *arguments = line.split()
        try:
            print(globals()[name](*arguments), flush=True)
        except ImportError:
            print("-", flush=True)


main()
