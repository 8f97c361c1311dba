"""From a split to batches: decoding, augmentation and mixing, ahead of the step that needs them.

Shape legend: N samples of the split, B of a batch, S the side of the network's square.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..backbones.preprocess import Preprocess
from ..edits.noise import stream_seed
from ..errors import ConfigError, PeftbenchError
from ..tasks.batch import Batch, Split
from ..tasks.images import Images, PixelImages
from .augment import Augment, drawing, erase, mix, picture_transform

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE = "image"
CHUNK = 64
KEPT_BYTES = 2 * 1024**3
"""A split whose pixels, at the network's size, fit into this is brought there once and kept."""

Place = tuple[int, int]
"""(epoch, row of the split)."""


def resolve_workers(workers: int | None) -> int:
    """Return how many processes decode images; None: up to 8, and none on up to two cores."""
    cores = os.cpu_count() or 1
    return workers if workers is not None else (0 if cores <= 2 else min(8, cores - 1))


@dataclass(frozen=True)
class Pictures(Dataset):
    """Images of a split at the network's size, as uint8 tensors.

    Attributes:
        images: the pictures.
        ids: (N,) sample ids, by which random changes are drawn.
        preprocess: size, and the resizing where nothing is augmented.
        augment: changes to each picture; None: none.
        seed: of the run.

    """

    images: Images
    ids: Tensor
    preprocess: Preprocess
    augment: Augment | None = None
    seed: int = 0

    def __getitem__(self, place: Place) -> Tensor:
        """Return (3, S, S) uint8 of one row in one epoch."""
        epoch, row = place
        picture = self.images.image(row)
        if self.augment is None:
            pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
            return self.preprocess.resized(pixels[None])[0].contiguous()
        with drawing(stream_seed(self.seed, "augment", epoch, int(self.ids[row]))):
            changed = self._transform(picture)
        return torch.from_numpy(np.array(changed)).permute(2, 0, 1).contiguous()

    @property
    def _transform(self) -> Callable[[Image], Image]:
        assert self.augment is not None
        made = vars(self).get("_made")
        if made is None:
            made = picture_transform(self.augment, self.preprocess)
            object.__setattr__(self, "_made", made)
        return made


class _Guarded(Dataset):
    """Hands an error that names a file to the main process whole, in place of the image."""

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures

    def __getitem__(self, place: Place) -> Tensor | PeftbenchError:
        try:
            return self.pictures[place]
        except PeftbenchError as error:
            return error


def _stack(items: list[Tensor | PeftbenchError]) -> Tensor | PeftbenchError:
    tensors = [item for item in items if isinstance(item, Tensor)]
    errors = [item for item in items if not isinstance(item, Tensor)]
    return errors[0] if errors else torch.stack(tensors)


def _calm(_: int) -> None:
    """Leave signals to the main process, which ends its workers itself."""
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, signal.SIG_IGN)


def loaded(pictures: Pictures, plan: Iterable[Sequence[Place]], workers: int) -> Iterator[Tensor]:
    """Yield (B, 3, S, S) uint8 for every batch of a plan, in order, decoded ahead by workers.

    Raises:
        MissingAssetError: an image is not there; names it.
        CorruptAssetError: an image cannot be decoded; names it.

    """
    loader: DataLoader = DataLoader(
        _Guarded(pictures),
        batch_sampler=plan,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=_stack,
        worker_init_fn=_calm,
        pin_memory=torch.cuda.is_available(),
    )
    for batch in loader:
        if isinstance(batch, PeftbenchError):
            raise batch
        yield batch


def kept(split: Split, preprocess: Preprocess | None, workers: int) -> Split:
    """Return the split with its images at the network's size in memory, where they fit.

    A split without images, or with too many of them, comes back as it is.
    """
    if preprocess is None or IMAGE not in split.inputs:
        return split
    images = split.inputs[IMAGE]
    size = preprocess.size
    if len(split) * 3 * size**2 > KEPT_BYTES:
        return split
    if isinstance(images, Images):
        rows = range(len(split))
        chunks = [[(0, row) for row in rows[at : at + CHUNK]] for at in rows[::CHUNK]]
        pixels = torch.cat(list(loaded(Pictures(images, split.ids, preprocess), chunks, workers)))
    elif not isinstance(images, Tensor) or images.shape[-2:] == (size, size):
        return split
    else:
        pixels = torch.cat([preprocess.resized(part) for part in images.split(CHUNK)])
    return replace(split, inputs={**split.inputs, IMAGE: pixels})


def batches(
    split: Split, chunks: Sequence[Tensor], preprocess: Preprocess | None, workers: int
) -> Iterator[Batch]:
    """Yield the samples of each chunk of rows as a batch, nothing augmented."""
    if split.decoded:
        yield from (split.take(rows) for rows in chunks)
        return
    images = split.inputs[IMAGE]
    assert isinstance(images, Images) and preprocess is not None
    plan = [[(0, int(row)) for row in rows] for rows in chunks]
    pixels = loaded(Pictures(images, split.ids, preprocess), plan, workers)
    for rows, image_BCSS in zip(chunks, pixels, strict=True):
        yield split.take(rows, {IMAGE: image_BCSS})


class Feed:
    """Training batches of one split.

    Args:
        split: what is trained on.
        preprocess: of the network; None for text.
        augment: changes to the images.
        classes: C, for soft labels of mixed images.
        seed: of the run.
        device: where batches go.
        workers: processes that decode ahead.

    """

    def __init__(
        self,
        split: Split,
        preprocess: Preprocess | None,
        augment: Augment,
        classes: int,
        seed: int,
        device: torch.device,
        workers: int,
    ) -> None:
        if augment.mixes and split.encoded is not None:
            raise ConfigError("trainer.augment: mixed pictures have no caption (mixup, cutmix: 0)")
        if augment.active and IMAGE not in split.inputs:
            raise ConfigError("trainer.augment: it changes images, and this task has none")
        self.preprocess, self.augment, self.classes = preprocess, augment, classes
        self.seed, self.device, self.workers = seed, device, workers
        if not augment.per_image:
            split = kept(split, preprocess, workers)
        self.split = split.to(device)
        self._ahead: Iterator[tuple[list[Place], Tensor]] | None = None

    @property
    def random(self) -> bool:
        """Whether a sample changes from epoch to epoch."""
        return self.augment.active

    def plan(self, parts: Iterable[tuple[int, Tensor]]) -> None:
        """Say which (epoch, rows) :meth:`batch` will be asked for, so that loading runs ahead."""
        pictures = self._pictures()
        if pictures is None:
            return
        asked: list[list[Place]] = []

        def places() -> Iterator[list[Place]]:
            for epoch, rows in parts:
                asked.append([(epoch, int(row)) for row in rows])
                yield asked[-1]

        stream = loaded(pictures, _Once(places()), self.workers)
        self._ahead = ((asked.pop(0), pixels) for pixels in stream)

    def batch(self, epoch: int, step: int, rows: Tensor, partners: Tensor | None) -> Batch:
        """Return the samples at ``rows`` as training sees them in this step.

        Args:
            epoch: picks the random changes of each image.
            step: picks the mixing of the whole batch.
            rows: (B,) positions in the split.
            partners: (B,) what each of them is mixed with; None where nothing is mixed.

        """
        wanted = needed(rows, partners)
        batch = self._load(epoch, wanted).to(self.device)
        if not self.augment.erasing and partners is None:
            return batch
        assert self.preprocess is not None
        image = self.preprocess(batch.inputs[IMAGE])
        if self.augment.erasing:
            seeds = [stream_seed(self.seed, "erase", epoch, int(i)) for i in batch.ids.tolist()]
            image = erase(image, seeds, self.augment)
        labels = batch.labels
        if partners is not None:
            seed = stream_seed(self.seed, "mix", step)
            image, labels = mix(image, labels, self.classes, self.augment, seed)
        count = len(rows)
        inputs = {name: tensor[:count] for name, tensor in batch.inputs.items()}
        return Batch({**inputs, IMAGE: image[:count]}, labels[:count], batch.ids[:count])

    def _load(self, epoch: int, rows: Tensor) -> Batch:
        if self._ahead is not None:
            places, pixels = next(self._ahead)
            assert places == [(epoch, int(row)) for row in rows], "batches are asked for in order"
        else:
            pictures = self._pictures()
            if pictures is None:
                return self.split.take(rows)
            pixels = torch.stack([pictures[epoch, int(row)] for row in rows])
        return self.split.take(rows, {IMAGE: pixels})

    def _pictures(self) -> Pictures | None:
        """Return the pictures to decode or change one by one; None where tensors do."""
        if self.split.decoded and not self.augment.per_image:
            return None
        assert self.preprocess is not None
        value = self.split.inputs[IMAGE]
        assert isinstance(value, Images | Tensor)
        images = value if isinstance(value, Images) else PixelImages(value.cpu())
        augment = self.augment if self.augment.per_image else None
        return Pictures(images, self.split.ids.cpu(), self.preprocess, augment, self.seed)


def needed(rows: Tensor, partners: Tensor | None) -> Tensor:
    """Return the rows to load: with partners, row i stands opposite its own, as mixing wants."""
    return rows if partners is None else torch.cat([rows, partners.flip(0)])


class _Once:
    """An iterator in the dress that a loader asks of a sampler of batches."""

    def __init__(self, places: Iterator[list[Place]]) -> None:
        self.places = places

    def __iter__(self) -> Iterator[list[Place]]:
        return self.places
