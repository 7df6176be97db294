#!/usr/bin/env python3
"""Takes weights through orandflow and back into the programs that they are for: each network of the reference programs is built by its
own code with random weights and saved by PyTorch, imported (`weights.import`), exported (`export --format pth`), and loaded by the same
code with `load_state_dict(strict=True)` from what `torch.load(weights_only=True)` reads. Every tensor must be what it was.

    python3 docs/benchmarks/upstream.py PROGRAM [--irn DIR] [--amn DIR] [--mctformer DIR] [--mctformer-plus DIR] [--orandnet DIR]

PROGRAM is any build of orandflow; `--no-default-features` will do. Each DIR is a checkout: jiwoon-ahn/irn, gaviotas/AMN (branch voc12),
xulianuwa/MCTformer at c5db727 (V1 and V2) and at its newest commit (Plus, and ResNet-38 in `seg`), engineerJPark/ORANDNet. Those that
are not named are left out. PyTorch, torchvision and timm must be there; what the checkouts import besides, and what they lack themselves
(`network.adl`), is replaced by an empty stand-in, as building a network needs none of it.
"""
import argparse
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


def build(name, folder):
    """Builds a network by the code of its own program."""
    sys.path.insert(0, str(folder))
    stand_ins()
    arguments = argparse.Namespace(num_classes=20)
    if name == "irn-resnet50-cam":
        from net.resnet50_cam import CAM
        return CAM()
    if name == "irn-edge-displacement":
        from net.resnet50_irn import Net
        return Net()
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
        from lrp.baselines.ViT.ViT_LRP import deit_base_patch16_512
        return deit_base_patch16_512(pretrained=False, num_classes=20)
    from network.encdec import EncDec
    return EncDec()


def worker(task, name, folder, path):
    import torch
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
        task, name, folder, path = sys.argv[2:]
        return worker(task, name, pathlib.Path(folder), pathlib.Path(path))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    for checkout in sorted({checkout for checkout, _, _ in NETWORKS.values()}):
        parser.add_argument(f"--{checkout.replace('_', '-')}", type=pathlib.Path)
    arguments = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for name, (checkout, inside, arch) in NETWORKS.items():
            root = getattr(arguments, checkout)
            if root is None:
                continue
            root = (root / inside).resolve()
            path = folder / f"{name}.pth"
            given = path.with_suffix(".given.pth")

            def run(*command):
                subprocess.run([str(part) for part in command], check=True, cwd=folder, stdout=subprocess.DEVNULL)

            own = [sys.executable, pathlib.Path(__file__).resolve(), "--worker"]
            try:
                run(*own, "save", name, root, given)
                (folder / "pipeline.toml").write_text(
                    f'[stages.weights]\nkind = "weights.import"\narch = "{arch}"\npath = "{given.name}"\n')
                program = arguments.program.resolve()
                run(program, "run", "pipeline.toml")
                run(program, "export", "pipeline.toml", "weights", "--to", "out", "--format", "pth")
                (folder / "out/weights.pth").replace(path)
                subprocess.run([str(part) for part in [*own, "load", name, root, path]], check=True, cwd=folder)
            except subprocess.CalledProcessError as error:
                print(f"{name}: failed: {error}")
                failed = True
            for file in folder.glob("*.pth"):
                file.unlink()
    sys.exit(failed)


if __name__ == "__main__":
    main()
