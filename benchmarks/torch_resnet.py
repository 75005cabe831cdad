"""The ResNet of this project in PyTorch, its training and its inference, for pytorch.py."""

import statistics
import time

import torch
from torch import nn

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Block(nn.Module):
    def __init__(self, inputs, filters, stride):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(inputs, filters, 3, stride, padding=1),
            nn.BatchNorm2d(filters),
            nn.ReLU(inplace=True),
            nn.Conv2d(filters, filters, 3, padding=1),
            nn.BatchNorm2d(filters),
        )
        self.shortcut = nn.Sequential(
            nn.Conv2d(inputs, filters, 1, stride), nn.BatchNorm2d(filters)
        )

    def forward(self, x):
        return torch.relu(self.main(x) + self.shortcut(x))


def torch_resnet(width):
    layers = [nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    filters = width
    for stage in range(4):
        for block in range(2):
            stride = 2 if stage and not block else 1
            layers.append(Block(filters, width * 2**stage, stride))
            filters = width * 2**stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(filters, 100))


class Theirs:
    def __init__(self, width, batch_size, precision, layout, compiled):
        torch.manual_seed(0)
        self.batch_size = batch_size
        self.format = getattr(torch, layout)
        self.bfloat16 = precision == "bfloat16"
        self.model = torch_resnet(width).to(DEVICE, memory_format=self.format)
        self.forward = torch.compile(self.model) if compiled else self.model
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=0.05, momentum=0.9, nesterov=True
        )

    def train(self, x, y):
        self.model.train()
        for start in range(0, len(x), self.batch_size):
            logits = self._logits(x[start : start + self.batch_size])
            labels = torch.from_numpy(y[start : start + self.batch_size]).to(DEVICE)
            self.optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(logits.float(), labels).backward()
            self.optimizer.step()
        self._wait()

    def infer(self, x):
        self.model.eval()
        with torch.inference_mode():
            for start in range(0, len(x), self.batch_size):
                self._logits(x[start : start + self.batch_size])
        self._wait()

    def parameters(self):
        return sum(parameter.numel() for parameter in self.model.parameters())

    def multiply_seconds(self, side):
        """How long the product of two square matrices takes in the network's precision."""
        matrix = torch.rand(side, side, device=DEVICE)
        matrix = matrix.bfloat16() if self.bfloat16 else matrix
        seconds = []
        for _ in range(11):
            start = time.perf_counter()
            matrix @ matrix
            self._wait()
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds)

    def _logits(self, images):
        channels_first = torch.from_numpy(images).to(DEVICE).permute(0, 3, 1, 2)
        scaled = (channels_first.float() / 255).contiguous(memory_format=self.format)
        with torch.autocast(DEVICE, torch.bfloat16, enabled=self.bfloat16):
            return self.forward(scaled)

    def _wait(self):
        if DEVICE == "cuda":
            torch.cuda.synchronize()
