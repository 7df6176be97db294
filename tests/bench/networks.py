"""The other side of `cargo bench --bench networks`: the same work in PyTorch, of the same sizes and in f32, as its users write it.

A request is one line, `NAME ARGUMENT..`; the answer is the seconds of the clock that the work took. The first request of a name
builds the network and does the work once unmeasured. Needs torch, torchvision and timm (`-` is answered without). Networks start
from random weights: no time depends on them. `ORANDFLOW_BENCH_DEVICE` and `ORANDFLOW_BENCH_PRECISION` mean what they mean to the
benchmark. Batches of training steps lie in the host's memory and are copied in each step.
"""

import contextlib
import functools
import os
import sys
import time

import numpy as np

DEVICE = os.environ.get("ORANDFLOW_BENCH_DEVICE", "cpu").removeprefix("libtorch").removeprefix(":") or "cpu"
PRECISION = os.environ.get("ORANDFLOW_BENCH_PRECISION", "f32")
MOMENTUM = dict(lr=1e-4, momentum=0.9, weight_decay=1e-4)


def products():
    """The context in which products have the precision that was asked for."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = PRECISION == "tf32"
    kind = DEVICE.split(":")[0]
    return torch.autocast(kind, torch.bfloat16) if PRECISION == "bf16" else contextlib.nullcontext()


def seconds(work):
    """Does the work and returns the seconds that it took, the device's included."""
    import torch

    wait = torch.cuda.synchronize if DEVICE.startswith("cuda") else lambda: None
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start


def frozen(network, prefixes=()):
    """Batch norm with fixed statistics and no gradients for it and for what the recipe freezes (SPEC 1.6, 9.1)."""
    import torch

    for name, module in network.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
            for parameter in module.parameters():
                parameter.requires_grad_(False)
    for name, parameter in network.named_parameters():
        if name.startswith(prefixes):
            parameter.requires_grad_(False)
    return network


def resnet50():
    """Output stride 16."""
    from torchvision.models import resnet50

    network = resnet50(weights=None)
    network.layer4[0].conv2.stride = network.layer4[0].downsample[0].stride = (1, 1)
    return network


def features(network, x, detach):
    x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
    x = network.layer2(network.layer1(x))
    return network.layer4(network.layer3(x.detach() if detach else x))


@functools.cache
def convolution_parts(batch, inputs, outputs, height, width):
    import torch

    x = torch.randn(batch, inputs, height, width, device=DEVICE, requires_grad=True)
    return x, torch.randn(outputs, inputs, 3, 3, device=DEVICE, requires_grad=True)


def convolution(batch, inputs, outputs, height, width, stride, dilation):
    import torch.nn.functional as F

    x, weight = convolution_parts(batch, inputs, outputs, height, width)

    def work():
        x.grad = weight.grad = None
        with products():
            y = F.conv2d(x, weight, stride=stride, padding=dilation, dilation=dilation)
        (y * y).mean().backward()

    return seconds(work)


@functools.cache
def resnet_step_parts(batch, side):
    import torch
    import torch.nn.functional as F

    network, head = frozen(resnet50(), ("conv1",)).to(DEVICE), torch.nn.Conv2d(2048, 20, 1, bias=False, device=DEVICE)
    trained = [p for layer in (network.layer3, network.layer4) for p in layer.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD([*trained, *head.parameters()], **MOMENTUM)
    x, targets = torch.randn(batch, 3, side, side), (torch.rand(batch, 20) < 0.1).float()

    def loss():
        pooled = features(network, x.to(DEVICE), True).mean((2, 3), keepdim=True)
        return F.multilabel_soft_margin_loss(head(pooled).flatten(1), targets.to(DEVICE))

    return loss, optimizer


@functools.cache
def mctformer_step_parts(batch, side):
    """MCTformer-V2 on DeiT-S: one token for each class, a head over patches, the plain softmax attention of its program."""
    import timm
    import torch
    import torch.nn.functional as F

    network = timm.create_model("vit_small_patch16_224", num_classes=0, img_size=side).to(DEVICE)
    for block in network.blocks:
        block.attn.fused_attn = False
    tokens = torch.nn.Parameter(0.02 * torch.randn(1, 20, 384, device=DEVICE))
    places = torch.nn.Parameter(0.02 * torch.randn(1, 20 + (side // 16) ** 2, 384, device=DEVICE))
    head = torch.nn.Conv2d(384, 20, 3, padding=1, device=DEVICE)
    trained = [*network.patch_embed.parameters(), *network.blocks.parameters(), *head.parameters(), tokens, places]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, weight_decay=0.05)
    x, targets = torch.randn(batch, 3, side, side), (torch.rand(batch, 20) < 0.1).float()

    def loss():
        t = torch.cat([tokens.expand(batch, -1, -1), network.patch_embed(x.to(DEVICE))], 1) + places
        t = network.blocks(t)
        grid = side // 16
        patches = head(t[:, 20:].transpose(1, 2).reshape(batch, 384, grid, grid))
        margin, wanted = F.multilabel_soft_margin_loss, targets.to(DEVICE)
        return margin(t[:, :20].mean(-1), wanted) + margin(patches.mean((2, 3)), wanted)

    return loss, optimizer


def resnet38(classes):
    """SPEC 9.1."""
    from torch import nn
    from torch.nn import functional as F

    norm = lambda channels: nn.BatchNorm2d(channels)

    class Block(nn.Module):
        def __init__(self, input, middle, output, stride=1, first=1, dilation=1):
            super().__init__()
            self.short = input == output and stride == 1
            self.bn_a, self.conv_a = norm(input), nn.Conv2d(input, middle, 3, stride, first, first, bias=False)
            self.bn_b, self.conv_b = norm(middle), nn.Conv2d(middle, output, 3, 1, dilation, dilation, bias=False)
            if not self.short:
                self.conv_1 = nn.Conv2d(input, output, 1, stride, bias=False)

        def forward(self, x):
            a = F.relu(self.bn_a(x))
            return (x if self.short else self.conv_1(a)) + self.conv_b(F.relu(self.bn_b(self.conv_a(a))))

    class Bottleneck(nn.Module):
        def __init__(self, input, output, dilation, dropout):
            super().__init__()
            self.bn_a, self.conv_a = norm(input), nn.Conv2d(input, output // 4, 1, bias=False)
            self.bn_b, self.conv_b = norm(output // 4), nn.Conv2d(output // 4, output // 2, 3, 1, dilation, dilation, bias=False)
            self.bn_c, self.conv_c = norm(output // 2), nn.Conv2d(output // 2, output, 1, bias=False)
            self.conv_1, self.drop = nn.Conv2d(input, output, 1, bias=False), nn.Dropout2d(dropout)

        def forward(self, x):
            a = F.relu(self.bn_a(x))
            y = self.drop(F.relu(self.bn_b(self.conv_a(a))))
            y = self.drop(F.relu(self.bn_c(self.conv_b(y))))
            return self.conv_1(a) + self.conv_c(y)

    layers = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), Block(64, 128, 128, 2)]
    layers += [Block(128, 128, 128) for _ in range(2)]
    layers += [Block(128, 256, 256, 2)] + [Block(256, 256, 256) for _ in range(2)]
    layers += [Block(256, 512, 512, 2)] + [Block(512, 512, 512) for _ in range(5)]
    layers += [Block(512, 512, 1024, 1, 1, 2)] + [Block(1024, 512, 1024, 1, 2, 2) for _ in range(2)]
    layers += [Bottleneck(1024, 2048, 4, 0.3), Bottleneck(2048, 4096, 4, 0.5), norm(4096), nn.ReLU()]
    layers += [nn.Conv2d(4096, 512, 3, 1, 12, 12), nn.ReLU(), nn.Conv2d(512, classes, 3, 1, 12, 12)]
    return nn.Sequential(*layers)


@functools.cache
def resnet38_step_parts(batch, side):
    import torch
    import torch.nn.functional as F

    network = frozen(resnet38(21), ("0.",)).to(DEVICE)
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], **MOMENTUM)
    x, labels = torch.randn(batch, 3, side, side), torch.randint(0, 21, (batch, side, side))

    def loss():
        """Class-balanced and label-smoothed (SPEC 3.2), logits at the size of the image."""
        logits, wanted = network(x.to(DEVICE)), labels.to(DEVICE)
        logits = F.interpolate(logits, (side, side), mode="bilinear", align_corners=False)
        terms = F.cross_entropy(logits, wanted, reduction="none", label_smoothing=0.4)
        return 0.5 * (terms[wanted == 0].mean() + terms[wanted > 0].mean())

    return loss, optimizer


def orandnet():
    """SPEC 6.1: FCN-8s over VGG16, padding 100, pools rounded up."""
    import torch
    from torch import nn

    groups, input = [], 1
    for group, (channels, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
        layers = []
        for place in range(count):
            layers += [nn.Conv2d(input, channels, 3, 1, 100 if group == place == 0 else 1), nn.ReLU(inplace=True)]
            input = channels
        groups.append(nn.Sequential(*layers, nn.MaxPool2d(2, ceil_mode=True)))

    class OrandNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.groups = nn.ModuleList(groups)
            self.fc6 = nn.Sequential(nn.Conv2d(512, 4096, 7), nn.ReLU(inplace=True), nn.Dropout2d())
            self.fc7 = nn.Sequential(nn.Conv2d(4096, 4096, 1), nn.ReLU(inplace=True), nn.Dropout2d())
            self.score, self.score4, self.score3 = nn.Conv2d(4096, 1, 1), nn.Conv2d(512, 1, 1), nn.Conv2d(256, 1, 1)
            self.up16, self.up8 = (nn.ConvTranspose2d(1, 1, 4, 2, bias=False) for _ in range(2))
            self.up = nn.ConvTranspose2d(1, 1, 16, 8, bias=False)

        def forward(self, x):
            def crop(a, b):
                c = (a.shape[2] - b.shape[2]) // 2
                return a[:, :, c:c + b.shape[2], c:c + b.shape[3]]

            y, kept = x, []
            for group in self.groups:
                y = group(y)
                kept.append(y)
            y = self.up16(self.score(self.fc7(self.fc6(y))))
            y = self.up8(y + crop(self.score4(kept[3]), y))
            return crop(self.up(y + crop(self.score3(kept[2]), y)), x)

    return OrandNet()


@functools.cache
def orandnet_parts(maps, height, width):
    import torch

    network = orandnet().to(DEVICE)
    return network, torch.rand(maps, 1, height, width), torch.optim.SGD(network.parameters(), **MOMENTUM)


def orandnet_forward(maps, height, width):
    """As `refine` does: one map after the other."""
    import torch

    network, x, _ = orandnet_parts(maps, height, width)
    network.eval()

    def work():
        with torch.inference_mode(), products():
            for one in x.split(1):
                network(one.to(DEVICE)).cpu()

    return seconds(work)


def orandnet_both(maps, height, width, step=False):
    """Forward and backward."""
    network, x, optimizer = orandnet_parts(maps, height, width)
    network.train()

    def work():
        optimizer.zero_grad()
        with products():
            loss = network(x.to(DEVICE)).square().mean()
        loss.backward()
        if step:
            optimizer.step()

    return seconds(work)


def orandnet_step(maps, height, width):
    return orandnet_both(maps, height, width, True)


@functools.cache
def resnet_export_parts():
    import torch

    return resnet50().eval().to(DEVICE), torch.nn.Conv2d(2048, 20, 1, bias=False, device=DEVICE)


def resnet_export(height, width):
    """SPEC 1.5: four scales, each with its mirror image, two present classes; the image is decoded."""
    import torch
    import torch.nn.functional as F
    from PIL import Image

    network, head = resnet_export_parts()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))

    def work():
        maps = []
        for scale in (1.0, 0.5, 1.5, 2.0):
            maps.append(look(scale))
        with torch.inference_mode():
            for size in ((-(-height // 4), -(-width // 4)), (-(-height // 16) * 16, -(-width // 16) * 16)):
                total = sum(F.interpolate(m, size, mode="bilinear", align_corners=False) for m in maps)[[3, 7], 0]
                total = total[:, :height, :width]
                total /= F.adaptive_max_pool2d(total, 1) + 1e-5
                total.cpu()

    def look(scale):
        size = (round(width * scale), round(height * scale))
        pixels = np.asarray(image.resize(size, Image.BICUBIC) if scale != 1.0 else image) / 255.0
        pixels = ((pixels - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)).transpose(2, 0, 1).astype(np.float32)
        x = torch.from_numpy(np.stack([pixels, pixels[:, :, ::-1]])).to(DEVICE)
        with torch.inference_mode(), products():
            y = F.relu(head(features(network, x, False))).float()
            return (y[0] + y[1].flip(-1))[:, None]

    return seconds(work)


def step(parts):
    loss, optimizer = parts

    def work():
        optimizer.zero_grad()
        with products():
            value = loss()
        value.backward()
        optimizer.step()

    return seconds(work)


def resnet_step(batch, side):
    return step(resnet_step_parts(batch, side))


def mctformer_step(batch, side):
    return step(mctformer_step_parts(batch, side))


def resnet38_step(batch, side):
    return step(resnet38_step_parts(batch, side))


def loader(path, items, batch):
    """Decode, resize to a long side of 320 to 640, flip, normalise, crop 512 (SPEC 1.6) with two workers; `items` images."""
    import torch
    from PIL import Image

    paths = [path + name for name in ("0.jpg", "1.jpg", "2.jpg")]

    class Images(torch.utils.data.Dataset):
        def __len__(self):
            return items

        def __getitem__(self, index):
            image = Image.open(paths[index % 3]).convert("RGB")
            scale = np.random.randint(320, 641) / max(image.size)
            image = np.asarray(image.resize([round(s * scale) for s in image.size], Image.BICUBIC))
            if np.random.random() < 0.5:
                image = np.fliplr(image)
            pixels = np.empty(image.shape, np.float32)
            for channel, (mean, deviation) in enumerate(zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))):
                pixels[..., channel] = (image[..., channel] / 255.0 - mean) / deviation
            height, width = pixels.shape[:2]
            canvas = np.zeros((512, 512, 3), np.float32)
            rows, columns = min(512, height), min(512, width)
            top, left = np.random.randint(0, 512 - rows + 1), np.random.randint(0, 512 - columns + 1)
            y, x = np.random.randint(0, height - rows + 1), np.random.randint(0, width - columns + 1)
            canvas[top:top + rows, left:left + columns] = pixels[y:y + rows, x:x + columns]
            return canvas.transpose(2, 0, 1)

    batches = torch.utils.data.DataLoader(Images(), batch, shuffle=True, num_workers=2, drop_last=True, persistent_workers=True)
    for _ in batches:
        pass  # the workers are up
    start = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - start


def main():
    warm = set()
    for line in sys.stdin:
        name, *arguments = line.split()
        arguments = [int(argument) if argument.isdigit() else argument for argument in arguments]
        try:
            if line not in warm:
                globals()[name](*arguments)
                warm.add(line)
            print(globals()[name](*arguments), flush=True)
        except ImportError as error:
            print(error, file=sys.stderr)
            print("-", flush=True)


main()
