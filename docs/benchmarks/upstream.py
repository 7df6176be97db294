#!/usr/bin/env python3
"""Holds orandflow against the programs whose networks it has; each network is built by the code of its own program.

    python3 docs/benchmarks/upstream.py PROGRAM [--irn DIR] [--amn DIR] [--mctformer DIR] [--mctformer-plus DIR] [--orandnet DIR]
        [--outputs PHOTOGRAPH ...] [--only NETWORK] [--seed N]

Without `--outputs` it takes weights through orandflow and back: random ones are saved by PyTorch, imported (`weights.import`),
exported (`export --format pth`), and loaded by the same code with `load_state_dict(strict=True)` from what
`torch.load(weights_only=True)` reads. Every tensor must be what it was. PROGRAM is any build then; `--no-default-features` will do.

With `--outputs` the same weights and photographs go to `op forward` and to the program's own code, and a table of relative
distances (L2) is printed. 1e-4 is allowed, for attributions in f32 1e-2; what is larger is bold.

Each DIR is a checkout: jiwoon-ahn/irn, gaviotas/AMN (branch voc12), xulianuwa/MCTformer at c5db727 (V1 and V2) and at its newest
commit (Plus, and ResNet-38 in `seg`), engineerJPark/ORANDNet. Those that are not named are left out. PyTorch, torchvision and timm must be
there, for outputs einops, numpy, Pillow and safetensors, too; what the checkouts import besides, and what they lack themselves
(`network.adl`), is replaced by an empty stand-in, as the networks need none of it. The exit code is 1 where something differs.
"""
import argparse
import contextlib
import gc
import io
import pathlib
import subprocess
import sys
import tempfile
import types
import unittest.mock

# name: (checkout, folder in it that modules are found in, architecture of `weights.import`)
NETWORKS = {
    "irn-resnet50-cam": ("irn", ".", "resnet_cam"),
    "irn-edge-displacement": ("irn", ".", "irn"),
    "amn-resnet50-amn": ("amn", ".", "resnet50_amn"),
    "mctformer-v1": ("mctformer", ".", "mctformer_v1"),
    "mctformer-v2": ("mctformer", ".", "mctformer_v2"),
    "mctformer-plus": ("mctformer_plus", ".", "mctformer_plus"),
    "mctformer-seg-resnet38": ("mctformer_plus", "seg", "resnet38_seg"),
    "orandnet-resnet50-cam": ("orandnet", ".", "resnet_cam"),
    "orandnet-vit": ("orandnet", ".", "vit_cam"),
    "orandnet-encdec": ("orandnet", ".", "orandnet"),
}


def stand_ins():
    """Lets imports of what is not there succeed."""
    import torch.utils.model_zoo

    def resnet50(*_, **__):
        import torchvision
        return torchvision.models.resnet50(weights=None).state_dict()

    # Backbones are downloaded as the networks are built; their weights do not matter here.
    torch.utils.model_zoo.load_url = resnet50
    for name in ["cv2", "einops", "imageio", "pydensecrf", "pydensecrf.densecrf", "pydensecrf.utils", "network.adl"]:
        try:
            __import__(name)
        except ImportError:
            module = types.ModuleType(name)
            module.__getattr__ = lambda _: unittest.mock.MagicMock()
            sys.modules[name] = module


def build(name, folder, size=None):
    """Builds a network by its own program's code; with a size, the class that infers, and the ViT for that height and width."""
    sys.path.insert(0, str(folder))
    stand_ins()
    arguments = argparse.Namespace(num_classes=20)
    if name == "irn-resnet50-cam":
        from net.resnet50_cam import CAM
        return CAM()
    if name == "irn-edge-displacement":
        from net.resnet50_irn import EdgeDisplacement, Net
        return EdgeDisplacement() if size else Net()
    if name == "amn-resnet50-amn":
        from net.resnet50_amn import CAM
        return CAM()
    if name.startswith("mctformer-v") or name == "mctformer-plus":
        import models
        if name == "mctformer-plus":
            return models.deit_small_MCTformerPlus(num_classes=20, input_size=448)
        kind = {"mctformer-v1": "V1", "mctformer-v2": "V2"}[name]
        return getattr(models, f"deit_small_MCTformer{kind}_patch16_224")(num_classes=20)
    if name == "mctformer-seg-resnet38":
        from network.resnet38_seg import Net
        return Net(num_classes=21)
    if name == "orandnet-resnet50-cam":
        from network.resnet50_cam import CAM
        return CAM(arguments)
    if name == "orandnet-vit":
        from lrp.baselines.ViT.ViT_LRP import VisionTransformer, deit_base_patch16_512
        if size:
            return VisionTransformer(img_size=size, num_classes=20, qkv_bias=True)
        return deit_base_patch16_512(pretrained=False, num_classes=20)
    from network.encdec import EncDec
    return EncDec()


# Widths and heights that the first photograph is resized to; the others have 321 x 321. The ViT takes these alone, the others each
# photograph as it is, too.
SIZES = {
    "mctformer-v1": [(224, 224)],
    "mctformer-v2": [(224, 224)],
    "mctformer-plus": [(224, 224), (448, 448)],
    "orandnet-vit": [(384, 384), (512, 512), (496, 336)],
    "orandnet-encdec": [(321, 321), (338, 500)],
}
LABELS = [4, 14]


def draw(network, seed):
    """Fills a network with noise that keeps values in range through many layers; residual branches are damped, heads small."""
    import torch
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, values in network.state_dict().items():
            if not values.is_floating_point():
                continue
            noise = torch.rand(values.shape, generator=source)
            leaf = name.rsplit(".", 1)[-1]
            if leaf == "running_var":
                noise = 0.5 + noise
            elif leaf in ("running_mean", "bias") or "token" in leaf or "pos_embed" in leaf:
                noise = 0.2 * (noise - 0.5)
            elif values.ndim == 1:
                noise = 0.8 + 0.4 * noise
            else:
                noise = (noise - 0.5) * 2 * (3 * 1.4 / values[0].numel()) ** 0.5
            if name.endswith(("conv3.weight", "conv_branch2b1.weight", "conv_branch2b2.weight")):
                noise = 0.25 * noise
            if name.startswith(("classifier", "label_enc", "head", "fc8")):
                noise = 0.1 * noise
            values.copy_(noise)


def expected(name, network, x):
    """Returns what a network makes of an image: flags of `op forward`, and outputs by their names there."""
    import torch
    pair = torch.cat([x, x.flip(-1)])
    if name.endswith("resnet50-cam"):
        yield [], {"logits": super(type(network), network).forward(x), "cam": network(pair)}
    elif name == "irn-edge-displacement":
        edge, displacement = network(pair)
        yield [], {"edge": edge, "displacement": displacement}
    elif name == "amn-resnet50-amn":
        # Its `eval()` leaves the dropout on.
        network.classifier[0].p = 0.0
        labels = torch.zeros(1, 20)
        labels[0, LABELS] = 1
        flags = ["--labels", ",".join(map(str, LABELS))]
        yield flags, {"logits": super(type(network), network).forward(x, labels)}
    elif name.startswith("mctformer-v") or name == "mctformer-plus":
        usual = 12 if name == "mctformer-plus" else 3
        settings = [(usual, "fused")] if name == "mctformer-v1" else [
            (usual, "fused"), (usual, "patchcam"), (usual, "mct"), (7, "fused")]
        plain = network(x)
        for layers, fuse in settings:
            options = {} if name == "mctformer-v1" else {"attention_type": fuse}
            _, cam, attention = network(x, return_att=True, n_layers=layers, **options)
            cam = cam.reshape(20, x.shape[2] // 16, x.shape[3] // 16)
            # As in `generate_attention_maps_ms` of its engine.py.
            refined = torch.matmul(attention.sum(0)[0], cam.reshape(20, -1, 1)).reshape(cam.shape)
            found = {"cam": cam, "cam_refined": refined}
            if fuse == "fused":
                found["class_logits"] = plain if name == "mctformer-v1" else plain[0]
                if name != "mctformer-v1":
                    found["patch_logits"] = plain[-1]
            yield ["--layers", str(layers), "--fuse", fuse], found
    elif name == "orandnet-vit":
        from lrp.baselines.ViT.ViT_explanation_generator import LRP
        flags = ["--class", str(LABELS[1])]
        # Relevances are ill-conditioned: only f64 says whether the formulas are the same. At 512 pixels that takes about 20 GB.
        for exact in [False, True] if x.shape[2] < 512 else [False]:
            if exact:
                flags, x, network = [*flags, "--set", "precision=f64"], x.double(), network.double()
            logits = network(x).detach()
            attribution = LRP(network).generate_LRP(x, index=LABELS[1], method="transformer_attribution")
            yield flags, {"logits": logits, "attribution": attribution.detach()}
    else:
        yield [], {{"mctformer-seg-resnet38": "logits", "orandnet-encdec": "out"}[name]: network(x)}


def outputs(name, folder, path, program, seed, photographs):
    """Prints rows of the table; returns whether a distance is larger than allowed."""
    import numpy
    import torch
    from PIL import Image
    from safetensors.torch import load_file

    def distance(found, wanted):
        found, wanted = found.double().flatten(), wanted.detach().double().flatten()
        return float((found - wanted).norm() / wanted.norm())

    # The programs ask for a GPU here and there.
    torch.Tensor.cuda = lambda tensor, *_, **__: tensor
    arch = {"vit_cam": "vit_base", "resnet_cam": "resnet50_cam"}.get(NETWORKS[name][2], NETWORKS[name][2])
    failed = False
    network = None
    photographs = [Image.open(photograph).convert("RGB") for photograph in photographs]
    inputs = [photographs[0].resize(size, Image.BICUBIC) for size in SIZES.get(name, [(321, 321)])]
    for photograph in inputs + (photographs if name != "orandnet-vit" else []):
        width, height = photograph.size
        values = numpy.asarray(photograph)
        x = ((values / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).astype(numpy.float32).transpose(2, 0, 1)[None]
        file = path.with_name("input.png")
        photograph.save(file)
        if name == "orandnet-encdec":
            file = path.with_name("input.npy")
            x = (values.mean(2) / 255).astype(numpy.float32)[None, None]
            numpy.save(file, x[0])
        x = torch.from_numpy(x.copy())
        if network is None or name == "orandnet-vit":
            # Layers keep what they propagate, in circles.
            network = wanted = first = None
            gc.collect()
            with contextlib.redirect_stdout(io.StringIO()):
                network = build(name, folder, (height, width))
                network.eval()
            draw(network, seed)
            torch.save(network.state_dict(), path)
        with torch.set_grad_enabled(name == "orandnet-vit"):
            for flags, wanted in expected(name, network, x):
                out = path.with_suffix(".safetensors")
                command = [program, "op", "forward", "--arch", arch, "--weights", path, "--image", file, "--out", out, *flags]
                subprocess.run([str(part) for part in command], check=True)
                found = load_file(out)
                distances = {key: distance(found[key], tensor) for key, tensor in wanted.items()}
                cells = []
                for key, value in distances.items():
                    missed = not value <= (1e-2 if key == "attribution" and "precision=f64" not in flags else 1e-4)
                    failed |= missed
                    cells.append(f"`{key}` **{value:.1e}**" if missed else f"`{key}` {value:.1e}")
                if "precision=f64" in flags:
                    cells.append(f"PyTorch's own `attribution` in f32 {distance(first['attribution'], wanted['attribution']):.1e}")
                first = wanted
                options = f" `{' '.join(flags)}`" if flags else ""
                print(f"| {name} | {width} x {height}{options} | {', '.join(cells)} |", flush=True)
    return failed


def worker(task, name, folder, path, *more):
    import torch
    if task == "outputs":
        program, seed, *photographs = more
        sys.exit(outputs(name, folder, path, program, int(seed), photographs))
    torch.manual_seed(0)
    network = build(name, folder)
    if task == "save":
        with torch.no_grad():
            for values in network.state_dict().values():
                if values.is_floating_point():
                    values.copy_(torch.rand_like(values))
        torch.save(network.state_dict(), path)
        return
    given = torch.load(path.with_suffix(".given.pth"), weights_only=True)
    returned = torch.load(path, weights_only=True)
    network.load_state_dict(returned, strict=True)
    differing = [key for key, values in network.state_dict().items() if not torch.equal(values, given[key])]
    assert not differing, f"{len(differing)} tensors differ: {differing[:3]}"
    print(f"{name}: {len(given)} tensors, strict, all equal; PyTorch {torch.__version__}")


def main():
    if sys.argv[1:2] == ["--worker"]:
        task, name, folder, path, *more = sys.argv[2:]
        return worker(task, name, pathlib.Path(folder), pathlib.Path(path), *more)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    for checkout in sorted({checkout for checkout, _, _ in NETWORKS.values()}):
        parser.add_argument(f"--{checkout.replace('_', '-')}", type=pathlib.Path)
    parser.add_argument("--outputs", nargs="+", type=pathlib.Path, metavar="PHOTOGRAPH", help="compare outputs instead of weights")
    parser.add_argument("--only", choices=NETWORKS, help="one network alone")
    parser.add_argument("--seed", type=int, default=1, help="of the weights for outputs")
    arguments = parser.parse_args()
    failed = False
    if arguments.outputs:
        print("| network | input | relative distances |\n|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for name, (checkout, inside, arch) in NETWORKS.items():
            root = getattr(arguments, checkout)
            if root is None or arguments.only not in (None, name):
                continue
            root = (root / inside).resolve()
            path = folder / f"{name}.pth"
            given = path.with_suffix(".given.pth")

            def run(*command):
                subprocess.run([str(part) for part in command], check=True, cwd=folder, stdout=subprocess.DEVNULL)

            own = [sys.executable, "-W", "ignore", pathlib.Path(__file__).resolve(), "--worker"]
            try:
                program = arguments.program.resolve()
                if arguments.outputs:
                    photographs = [photograph.resolve() for photograph in arguments.outputs]
                    command = [*own, "outputs", name, root, path, program, arguments.seed, *photographs]
                    subprocess.run([str(part) for part in command], check=True, cwd=folder)
                    continue
                run(*own, "save", name, root, given)
                (folder / "pipeline.toml").write_text(
                    f'[stages.weights]\nkind = "weights.import"\narch = "{arch}"\npath = "{given.name}"\n')
                run(program, "run", "pipeline.toml")
                run(program, "export", "pipeline.toml", "weights", "--to", "out", "--format", "pth")
                (folder / "out/weights.pth").replace(path)
                subprocess.run([str(part) for part in [*own, "load", name, root, path]], check=True, cwd=folder)
            except subprocess.CalledProcessError as error:
                print(f"{name}: failed: {error}")
                failed = True
            finally:
                for file in folder.glob("*.pth"):
                    file.unlink()
    sys.exit(failed)


if __name__ == "__main__":
    main()
