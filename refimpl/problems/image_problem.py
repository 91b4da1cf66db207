"""Classifying pictures that stay bytes: scaled, cropped and mirrored on the device, one minibatch at a time.

This file needs Torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from refimpl.arrays import Backend, check_count
from refimpl.problems.sampling import Minibatch, check_sample, draw_minibatch
from refimpl.problems.torch_net import Initialization, LossFunction, Route, TorchProblem

Augment = Literal["crop-flip", "crop"]
Scaling = tuple[Sequence[float], Sequence[float]]

_LARGEST_PIECE = 2**25  # numbers that a piece of evaluate may have as input: 2048 pictures of CIFAR-10, 222 of ImageNet


class Crops(NamedTuple):
    """A minibatch of pictures and how each is changed; everything on the host, shape (batch_size,).

    The window of picture b begins at row ``tops[b]`` and column ``lefts[b]`` of the padded picture, and is mirrored
    left to right where ``flips[b]`` is 1.
    """

    indices: np.ndarray
    tops: np.ndarray
    lefts: np.ndarray
    flips: np.ndarray


class ImageProblem(TorchProblem):
    """A classifier's loss on pictures of bytes. The whole set lies on the device, one byte for each pixel and color.

    When a minibatch is asked for, its pictures are gathered, cropped and mirrored there by one indexing operation, then
    divided: each color has the mean and deviation of the training pixels subtracted and divided out. What is drawn
    belongs to the sample, so the gradient, every product and every trial at one Point see the same pictures. Nothing at
    a Point waits for the device.

    Parameters
    ----------
    module, loss, backend, route, initialization : as for :class:`TorchProblem`.
    pixels, labels : training pictures (rows, channels, height, width) uint8, and labels (rows,); see
        :class:`refimpl.problems.images.Pictures`.
    batch_size : pictures of a minibatch; None for all of them.
    test : pixels and labels for :meth:`evaluate`, scaled as the training pictures.
    augment : ``"crop-flip"``: a window of the picture's own size at a random place of the picture with ``padding``
        black pixels (byte 0, before scaling) around it, mirrored left to right half of the time; ``"crop"``: the window
        alone (digits must not be mirrored); None: pictures as they are. Without a sample, and in :meth:`evaluate`,
        pictures are as they are.
    padding : black pixels on each side.
    channels_last : inputs of the module are laid out with the color innermost, which a GPU's convolutions prefer. In
        float32 on a CPU nothing changes: there it is slower, and Torch 2.13 crashes in a thin network's backward pass.
    scaling : means and deviations to use instead of those of the training pixels, one each for every color, in bytes.

    Attributes
    ----------
    inputs : the training pictures as they are stored, (rows, channels, height, width) uint8 on the device.
    means, deviations : what bytes are scaled with, (channels,). A color that is the same everywhere has deviation 1.

    Raises
    ------
    ValueError
        Pictures that are not (rows, channels, height, width) of bytes, an unknown ``augment``, or what
        :class:`TorchProblem` refuses.

    Source: the random windows and mirrored pictures are those of He et al. (2016), section 4.2.
    """

    name = "images"

    def __init__(
        self,
        module: nn.Module,
        loss: LossFunction,
        pixels: Any,
        labels: Any,
        *,
        batch_size: int | None = None,
        test: tuple[Any, Any] | None = None,
        augment: Augment | None = None,
        padding: int = 4,
        channels_last: bool = False,
        scaling: Scaling | None = None,
        backend: Backend | None = None,
        route: Route = "kept-graph",
        initialization: Initialization = "reset",
    ) -> None:
        if augment not in (None, "crop-flip", "crop"):
            raise ValueError(f"unknown augment {augment!r}; choose 'crop-flip', 'crop' or None")
        self.augment = augment
        self.padding = check_count("padding", padding)
        self.channels_last = channels_last
        self._scaling = scaling
        self._shape: tuple[int, ...] = ()
        super().__init__(
            module, loss, pixels, labels, batch_size=batch_size, test=test, backend=backend, route=route,
            initialization=initialization,
        )  # fmt: skip

    def draw(self, rng: np.random.Generator) -> Any:
        """A :class:`Minibatch`, or :class:`Crops` where pictures are augmented: rows first, then places and mirrors."""
        rows = draw_minibatch(rng, self.samples, self.batch_size)
        if self.augment is None:
            return rows
        indices = np.arange(self.samples) if rows is None else rows.indices
        tops, lefts = rng.integers(0, 2 * self.padding + 1, (2, len(indices)))
        flips = rng.integers(0, 2, len(indices)) if self.augment == "crop-flip" else np.zeros(len(indices), np.int64)
        return Crops(indices, tops, lefts, flips)

    @property
    def _piece(self) -> int:
        return max(1, min(super()._piece, _LARGEST_PIECE // int(np.prod(self._shape))))

    def _rows(self, sample: Any) -> tuple[Tensor, Tensor]:
        if not isinstance(sample, Crops):
            if check_sample(sample, self.samples) is None:
                return self._entering(self.inputs), self.targets
            (rows,) = self._on_device(sample.indices)
            return self._entering(self.inputs.index_select(0, rows)), self.targets.index_select(0, rows)
        check_sample(Minibatch(sample.indices), self.samples)
        places = np.stack([sample.tops, sample.lefts]) if len(set(map(len, sample))) == 1 else np.asarray([-1])
        if places.min() < 0 or places.max() > 2 * self.padding:
            raise ValueError(f"windows need a top and a left in 0 … {2 * self.padding} for each row, got {sample}")
        rows, tops, lefts, flips = self._on_device(*sample)
        return self._entering(self._cropped(rows, tops, lefts, flips)), self.targets.index_select(0, rows)

    def _cropped(self, rows: Tensor, tops: Tensor, lefts: Tensor, flips: Tensor) -> Tensor:
        """The windows (pictures, channels, height, width) uint8; what lies outside of a picture is black."""
        _, channels, height, width = self.inputs.shape
        steps = torch.arange(max(channels, height, width), device=rows.device)
        y = tops[:, None] - self.padding + steps[:height]
        across = torch.where(flips[:, None] == 1, width - 1 - steps[:width], steps[:width])
        x = lefts[:, None] - self.padding + across
        inside = ((y >= 0) & (y < height))[:, None, :, None] & ((x >= 0) & (x < width))[:, None, None, :]
        y, x = y.clamp(0, height - 1)[:, None, :, None], x.clamp(0, width - 1)[:, None, None, :]
        return self.inputs[rows[:, None, None, None], steps[:channels, None, None], y, x] * inside

    def _on_device(self, *columns: np.ndarray) -> Sequence[Tensor]:
        sent: Tensor = self.backend.send(np.stack(columns), torch.int64)  # one transfer for everything
        return sent.unbind(0)

    def _entering(self, rows: Tensor) -> Tensor:
        found = rows.to(self.backend.dtype).sub_(self.means[:, None, None]).div_(self.deviations[:, None, None])
        # A convolution 1 x 1 with stride 2 and four channels corrupts memory in oneDNN, which takes only float32.
        plain = self.backend.device.type == "cpu" and self.backend.dtype == torch.float32
        return found.contiguous(memory_format=torch.channels_last) if self.channels_last and not plain else found

    def _inputs(self, inputs: Any) -> Tensor:
        pixels = inputs.detach() if isinstance(inputs, Tensor) else torch.from_numpy(np.array(inputs))
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or 0 in pixels.shape:
            raise ValueError(
                "pictures must be bytes (rows, channels, height, width) uint8 with at least one row, got "
                f"{pixels.dtype} {tuple(pixels.shape)}"
            )
        stored = pixels.to(self.backend.device, copy=isinstance(inputs, Tensor)).contiguous()
        if not self._shape:
            self._shape = tuple(stored.shape[1:])
            means, deviations = self._scaling or color_scaling(stored)
            if not len(means) == len(deviations) == stored.shape[1] or min(deviations) <= 0:
                raise ValueError(f"scaling needs {stored.shape[1]} means and positive deviations, got {self._scaling}")
            self.means, self.deviations = self.backend.asarray(list(means)), self.backend.asarray(list(deviations))
        elif tuple(stored.shape[1:]) != self._shape:
            raise ValueError(f"test pictures must be {self._shape} like the others, got {tuple(stored.shape[1:])}")
        return stored


def color_scaling(pixels: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each color of ``pixels`` (rows, channels, height, width) uint8, in bytes.

    Summed in whole numbers, so that they depend neither on the device nor on the order. 1 for a deviation of 0.
    """
    count = pixels.numel() // pixels.shape[1]
    total = torch.zeros(2, pixels.shape[1], dtype=torch.int64, device=pixels.device)
    for part in pixels.split(max(1, _LARGEST_PIECE // pixels[0].numel())):
        total[0] += part.sum((0, 2, 3), dtype=torch.int64)
        total[1] += (part.to(torch.int32) ** 2).sum((0, 2, 3), dtype=torch.int64)
    sums, squares = total.tolist()
    spread = [(count * q - s * s) ** 0.5 / count for s, q in zip(sums, squares, strict=True)]
    return [s / count for s in sums], [d or 1.0 for d in spread]
