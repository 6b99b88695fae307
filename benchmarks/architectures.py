"""Small networks of the usual families in plain torch, with random weights: what the coverage benchmark compiles.

Each entry of `FAMILIES` maps a name to a function that gives a module in evaluation mode and a dict of
example inputs with one row.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as f

Made = tuple[nn.Module, dict[str, Tensor]]
IMAGE = (1, 3, 32, 32)


class Residual(nn.Module):
    """ResNet's basic blocks with batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)
            )
            for _ in range(2)
        )
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = f.relu(self.stem(x))
        for block in self.blocks:
            x = f.relu(x + block(x))
        return self.head(x.mean(dim=(2, 3)))


class InvertedResidual(nn.Module):
    """MobileNetV2: expand, depthwise, project, add; ReLU6."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.body = nn.Sequential(
            nn.Conv2d(8, 32, 1), nn.ReLU6(), nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.ReLU6(), nn.Conv2d(32, 8, 1)
        )
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((x + self.body(x)).mean(dim=(2, 3)))


class SqueezeExcite(nn.Module):
    """MobileNetV3: hard-swish and a squeeze-and-excite gate."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.down, self.up = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = f.hardswish(self.conv(x))
        gate = f.hardsigmoid(self.up(f.relu(self.down(f.adaptive_avg_pool2d(x, 1)))))
        return self.head((x * gate).mean(dim=(2, 3)))


class Dense(nn.Module):
    """DenseNet: every layer reads all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 + 8 * k, 8, 3, padding=1) for k in range(3))
        self.head = nn.Linear(27, 10)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, f.relu(layer(x))], dim=1)
        return self.head(f.avg_pool2d(x, 32).flatten(1))


class Inception(nn.Module):
    """Branches of several sizes, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.three = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 3, padding=1)
        self.five, self.pool = nn.Conv2d(3, 8, 5, padding=2), nn.Conv2d(3, 8, 1)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        branches = [self.one(x), self.three(x), self.five(x), self.pool(f.max_pool2d(x, 3, stride=1, padding=1))]
        return self.head(f.relu(torch.cat(branches, dim=1)).mean(dim=(2, 3)))


class Shuffle(nn.Module):
    """ShuffleNet: grouped convolutions and a channel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grouped = nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.Conv2d(16, 16, 1, groups=4)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = f.relu(self.grouped(f.relu(self.stem(x))))
        rows, _, height, width = x.shape
        x = x.view(rows, 4, 4, height, width).transpose(1, 2).reshape(rows, 16, height, width)
        return self.head(x.mean(dim=(2, 3)))


class ConvNext(nn.Module):
    """ConvNeXt: large depthwise kernel, layer norm over channels, GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 4, stride=4)
        self.wide, self.norm = nn.Conv2d(16, 16, 7, padding=3, groups=16), nn.LayerNorm(16)
        self.up, self.down = nn.Linear(16, 64), nn.Linear(64, 16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.wide(x).permute(0, 2, 3, 1))
        x = x + self.down(f.gelu(self.up(y))).permute(0, 3, 1, 2)
        return self.head(x.mean(dim=(2, 3)))


class UNet(nn.Module):
    """Down, up by a transposed convolution, with a skip; one mask out."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.down = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.up, self.leave = nn.ConvTranspose2d(16, 8, 2, stride=2), nn.Conv2d(16, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = f.relu(self.enter(x))
        x = self.up(f.relu(self.down(skip)))
        return torch.sigmoid(self.leave(torch.cat([skip, x], dim=1)))


class Upsampler(nn.Module):
    """Super-resolution by pixel shuffle and interpolation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return f.pixel_shuffle(self.conv(x), 2) + f.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class VariationalEncoder(nn.Module):
    """The inference half of a variational autoencoder: mean and log-variance, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.mean, self.spread = nn.Linear(64, 32), nn.Linear(32, 8), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = torch.tanh(self.body(x))
        return {"mean": self.mean(x), "log_variance": self.spread(x)}


class Heads(nn.Module):
    """One trunk, a class and a box: a detector's head."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 16, 3, stride=4, padding=1), nn.LeakyReLU(0.1))
        self.label, self.box = nn.Linear(16, 5), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.trunk(x).mean(dim=(2, 3))
        return self.label(x), torch.sigmoid(self.box(x))


class TwoInputs(nn.Module):
    """An image and a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.dense, self.head = nn.Conv2d(3, 8, 3, stride=4), nn.Linear(6, 8), nn.Linear(16, 4)

    def forward(self, image: Tensor, vector: Tensor) -> Tensor:
        seen = f.relu(self.conv(image)).mean(dim=(2, 3))
        return self.head(torch.cat([seen, f.relu(self.dense(vector))], dim=1))


class Attention(nn.Module):
    """A transformer encoder's layer, written out."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down, self.head = nn.Linear(width, 64), nn.Linear(64, width), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        rows, steps, width = x.shape
        q, k, v = self.qkv(self.norm_1(x)).view(rows, steps, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        weights = torch.softmax(q @ k.transpose(-1, -2) / (width // self.heads) ** 0.5, dim=-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(rows, steps, width))
        x = x + self.down(f.gelu(self.up(self.norm_2(x))))
        return self.head(x.mean(dim=1))


class VisionTransformer(nn.Module):
    """Patches, a position embedding, one encoder layer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.place = nn.Conv2d(3, 32, 8, stride=8), nn.Parameter(torch.randn(1, 16, 32) * 0.1)
        self.encoder = Attention()

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(self.patches(x).flatten(2).transpose(1, 2) + self.place)


class TextTransformer(nn.Module):
    """Token ids through torch's own encoder layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Linear(32, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(ids)).mean(dim=1))


class Recurrent(nn.Module):
    """LSTM or GRU over a sequence, the last step's state."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.cell, self.head = kind(6, 16, batch_first=True), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


class TemporalConvolution(nn.Module):
    """Dilated causal one-dimensional convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(6 if k == 0 else 16, 16, 3, dilation=2**k) for k in range(3))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        for k, layer in enumerate(self.layers):
            x = f.relu(layer(f.pad(x, (2 * 2**k, 0))))
        return self.head(x[:, :, -1])


class WaveNet(nn.Module):
    """Gated activations with residual and skip connections."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.gate = nn.Conv1d(6, 16, 1), nn.Conv1d(16, 32, 3, padding=1)
        self.mix, self.head = nn.Conv1d(16, 16, 1), nn.Conv1d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        left, right = self.gate(x).chunk(2, dim=1)
        x = x + self.mix(torch.tanh(left) * torch.sigmoid(right))
        return self.head(f.elu(x)).mean(dim=2)


class Mixer(nn.Module):
    """MLP-Mixer: dense layers over tokens and over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.tokens = nn.Conv2d(3, 24, 8, stride=8), nn.Linear(16, 16)
        self.channels, self.head = nn.Linear(24, 24), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2)
        x = x + f.gelu(self.tokens(x))
        x = x.transpose(1, 2)
        return self.head((x + f.gelu(self.channels(x))).mean(dim=1))


class Graph(nn.Module):
    """A graph convolution with a dense adjacency as second input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        x = f.relu(adjacency @ self.first(nodes))
        return (adjacency @ self.second(x)).mean(dim=1)


class Siamese(nn.Module):
    """Cosine similarity of two embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 8))

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return (f.normalize(self.embed(one), dim=1) * f.normalize(self.embed(other), dim=1)).sum(dim=1, keepdim=True)


def _ids() -> Tensor:
    return torch.arange(12)[None] % 100


def _plain(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers)


FAMILIES: dict[str, Callable[[], Made]] = {
    "multilayer perceptron": lambda: (
        _plain(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 4)),
        {"x": torch.randn(1, 20)},
    ),
    "VGG": lambda: (
        _plain(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(512, 10)),
        {"x": torch.randn(IMAGE)},
    ),
    "residual": lambda: (Residual(), {"x": torch.randn(IMAGE)}),
    "inverted residual, depthwise": lambda: (InvertedResidual(), {"x": torch.randn(IMAGE)}),
    "squeeze-and-excite, hard-swish": lambda: (SqueezeExcite(), {"x": torch.randn(IMAGE)}),
    "dense connections": lambda: (Dense(), {"x": torch.randn(IMAGE)}),
    "inception": lambda: (Inception(), {"x": torch.randn(IMAGE)}),
    "grouped, channel shuffle": lambda: (Shuffle(), {"x": torch.randn(IMAGE)}),
    "ConvNeXt": lambda: (ConvNext(), {"x": torch.randn(IMAGE)}),
    "U-Net": lambda: (UNet(), {"x": torch.randn(IMAGE)}),
    "pixel shuffle, interpolation": lambda: (Upsampler(), {"x": torch.randn(IMAGE)}),
    "convolutional autoencoder": lambda: (
        _plain(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 3, 2, stride=2), nn.Sigmoid()),
        {"x": torch.randn(IMAGE)},
    ),
    "dense autoencoder": lambda: (
        _plain(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 64)),
        {"x": torch.randn(1, 64)},
    ),
    "variational encoder": lambda: (VariationalEncoder(), {"x": torch.randn(1, 64)}),
    "multi-head, class and box": lambda: (Heads(), {"x": torch.randn(IMAGE)}),
    "image and vector": lambda: (TwoInputs(), {"image": torch.randn(IMAGE), "vector": torch.randn(1, 6)}),
    "transformer encoder": lambda: (Attention(), {"x": torch.randn(1, 10, 32)}),
    "vision transformer": lambda: (VisionTransformer(), {"x": torch.randn(IMAGE)}),
    "text transformer": lambda: (TextTransformer(), {"ids": _ids()}),
    "MLP-Mixer": lambda: (Mixer(), {"x": torch.randn(IMAGE)}),
    "LSTM": lambda: (Recurrent(nn.LSTM), {"x": torch.randn(1, 12, 6)}),
    "GRU": lambda: (Recurrent(nn.GRU), {"x": torch.randn(1, 12, 6)}),
    "1-D convolution": lambda: (
        _plain(nn.Conv1d(6, 16, 5, padding=2), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 4)),
        {"x": torch.randn(1, 6, 50)},
    ),
    "temporal convolution, dilated": lambda: (TemporalConvolution(), {"x": torch.randn(1, 6, 50)}),
    "WaveNet": lambda: (WaveNet(), {"x": torch.randn(1, 6, 50)}),
    "graph convolution": lambda: (Graph(), {"nodes": torch.randn(1, 12, 8), "adjacency": torch.rand(1, 12, 12)}),
    "siamese, cosine": lambda: (Siamese(), {"one": torch.randn(1, 20), "other": torch.randn(1, 20)}),
    "bag of embeddings": lambda: (_plain(nn.Embedding(100, 16), nn.Flatten(), nn.Linear(192, 4)), {"ids": _ids()}),
    "matrix inverse (no edge runtime has it)": lambda: (Inverse(), {"x": torch.randn(1, 4, 4)}),
}


class Inverse(nn.Module):
    """A network that cannot be compiled, and must be refused by name."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.inv(x + 4 * torch.eye(4)).flatten(1)
