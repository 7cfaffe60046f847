"""The published protocol, plainly: what the benchmarks set this project against.

It does the work of the paper's scripts in their way: PIL transforms in a DataLoader with worker processes, a network
for each coefficient, `torch.optim.swa_utils.update_bn` over the whole augmented training set, the current and the new
ticket scored again before each candidate, float32, default memory format, `.item()` after every batch. Its choices are
those of the paper's algorithm: test images choose nothing here either.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

import models
from CIFAR.dataset import CIFAR_STATISTICS
from utils.pools import neighbours
from utils.tickets import find_tickets, read_ticket

WORKERS = 4  # the published scripts' default


class PilImages(Dataset):
    """N×H×W×3 uint8 images, each through PIL and `transform`."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform):
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def class_count(path: Path) -> int:
    with np.load(path) as file:
        return len(file["classes"]) if "classes" in file else int(file["y_train"].max()) + 1


def loaders(path: Path, train_images: int, val_images: int, batch_size: int) -> dict[str, DataLoader]:
    """Loaders of "train" (augmented, shuffled), "val" (the training images after `train_images`) and "test"."""
    plain = transforms.ToTensor()
    augmented = transforms.Compose([transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), plain])
    with np.load(path) as file:
        x, y, x_test, y_test = (file[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    part, rest = slice(train_images), slice(train_images, train_images + val_images)
    sets = {
        "train": PilImages(x[part], y[part], augmented),
        "val": PilImages(x[rest], y[rest], plain),
        "test": PilImages(x_test[: train_images + val_images], y_test[: train_images + val_images], plain),
    }
    options = {"batch_size": batch_size, "num_workers": WORKERS, "pin_memory": torch.cuda.is_available()}
    return {name: DataLoader(images, shuffle=name == "train", **options) for name, images in sets.items()}


@torch.no_grad()
def accuracy(net: nn.Module, loader: DataLoader, device: torch.device) -> float:
    """Percent of the loader's images that `net` gets right."""
    net.eval()
    correct = 0
    for images, labels in loader:
        outputs = net(images.to(device))
        correct += (outputs.argmax(1) == labels.to(device)).sum().item()
    return 100 * correct / len(loader.dataset)


class Search:
    """Lottery Pools from each of the tickets in a folder."""

    def __init__(self, folder: Path, arch: str, classes: int, data: dict[str, DataLoader], device: torch.device):
        self.folder, self.arch, self.classes, self.data, self.device = folder, arch, classes, data, device
        self.files = find_tickets(folder)

    def network(self, state: dict[str, torch.Tensor]) -> nn.Module:
        net = models.build(self.arch, self.classes, state["normalize.mean"], state["normalize.std"])
        net.load_state_dict(state)
        return net.to(self.device)

    def pool(self, level: int, search_num: int, coefficients: list[float]) -> tuple[float, float]:
        """Search from one ticket; returns the test accuracy of the ticket and of its pool."""
        start = next(file for file in self.files if file.level == level)
        ticket = read_ticket(start)
        state = {name: value.to(self.device) for name, value in ticket.state.items()}
        best = accuracy(self.network(state), self.data["val"], self.device)
        pool = state
        for file in neighbours(self.files, start, search_num):
            new = {name: value.to(self.device) for name, value in read_ticket(file).state.items()}
            accuracy(self.network(pool), self.data["val"], self.device)  # the published script prints these two
            accuracy(self.network(new), self.data["val"], self.device)
            base = pool
            for coefficient in coefficients:
                net = self.trial(base, new, coefficient, ticket)
                score = accuracy(net, self.data["val"], self.device)
                if score >= best:
                    best, pool = score, net.state_dict()
        return tuple(accuracy(self.network(s), self.data["test"], self.device) for s in (state, pool))

    def trial(self, pool: dict, new: dict, coefficient: float, ticket) -> nn.Module:
        state = {}
        for name, value in pool.items():
            state[name] = coefficient * value + (1 - coefficient) * new[name] if value.is_floating_point() else value
        if not ticket.is_dense:
            weights = torch.cat([state[name].abs().flatten() for name in ticket.mask])
            threshold = torch.topk(weights, ticket.kept, sorted=True).values[-1]
            for name in ticket.mask:
                state[name] = state[name] * (state[name].abs() >= threshold)
        net = self.network(state)
        update_bn(self.data["train"], net, device=self.device)
        return net


def milestones(epochs: int) -> list[int]:
    """When the learning rate falls tenfold: at half and three quarters, as in the paper's 182 epochs."""
    return [epochs // 2, epochs * 3 // 4]


def train(arch: str, classes: int, data: dict[str, DataLoader], device: torch.device, epochs: int) -> list[float]:
    """`epochs` epochs of the classic loop, validation and test after each; returns (validation, test) of the last."""
    net = models.build(arch, classes, *CIFAR_STATISTICS["cifar100"]).to(device)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones(epochs))
    for _ in range(epochs):
        net.train()
        losses, correct = 0.0, 0.0
        for images, labels in data["train"]:
            images, labels = images.to(device), labels.to(device)
            outputs = net(images)
            loss = cross_entropy(outputs, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses += loss.item()
            correct += (outputs.argmax(1) == labels).float().mean().item()
        scheduler.step()
        scores = [accuracy(net, data[split], device) for split in ("val", "test")]
        print(f"loss {losses / len(data['train']):.3f} accuracy {correct / len(data['train']):.3f} {scores}")
    return scores
