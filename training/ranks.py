"""Training on all GPUs of a machine: a process for each, which averages its gradients with the others'."""

from __future__ import annotations

import argparse
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor


def device() -> str:
    """The accelerator if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


class Ranks:
    """The processes that train one model; alone unless they were joined."""

    def __init__(self, number: int = 0, count: int = 1) -> None:
        self.number, self.count = number, count
        # what the host must know goes past the GPU, which it would otherwise have to wait for
        self._hosts = dist.new_group(backend="gloo") if count > 1 else None

    @property
    def first(self) -> bool:
        """Whether this one speaks for all."""
        return self.number == 0

    def average(self, tensor: Tensor) -> None:
        """Put the mean of all ranks' tensors into each, in the device's order of work."""
        if self.count > 1:
            dist.all_reduce(tensor)
            tensor.div_(self.count)

    def share(self, tensor: Tensor) -> None:
        """Put the first rank's tensor into all."""
        if self.count > 1:
            dist.broadcast(tensor, 0)

    def agree(self, number: float) -> float:
        """The first rank's number."""
        if self.count == 1:
            return number
        agreed = torch.tensor([number], dtype=torch.float64)
        dist.broadcast(agreed, 0, group=self._hosts)
        return agreed.item()


@dataclass(frozen=True)
class Meeting:
    """Where a process meets the others; it may not do so before it has forked, as planners are."""

    number: int = 0
    count: int = 1
    place: str = ""

    @contextmanager
    def joined(self) -> Iterator[Ranks]:
        """Meet the other ranks, and part from them at the end."""
        if self.count == 1:
            yield Ranks()
            return
        backend = "nccl" if device() == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=self.place, rank=self.number, world_size=self.count)
        try:
            yield Ranks(self.number, self.count)
        finally:
            dist.destroy_process_group()


Stage = Callable[[Path, argparse.Namespace, Meeting], None]


def on_all_gpus(stage: Stage, work: Path, args: argparse.Namespace, count: int) -> None:
    """Run a stage in so many processes, one for each GPU; one process is this one."""
    if count == 1:
        stage(work, args, Meeting())
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    torch.multiprocessing.spawn(_run_rank, (stage, work, args, count, place), nprocs=count)


def _run_rank(
    number: int, stage: Stage, work: Path, args: argparse.Namespace, count: int, place: str
) -> None:
    stage(work, args, Meeting(number, count, place))
