"""What a frozen vision encoder sees, computed once for every picture and kept on disk.

Nothing that trains stands in front of the encoder, so without augmentation its output is the same
in every epoch and every run. Files lie in ``$PEFTBENCH_CACHE/seen``, one per collection of
pictures, named by a hash of the encoder's weights, preprocessing, precision and pictures.

Shape legend: M pictures, P places of a picture, E width.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from ..assets import cache_root
from ..backbones.captioner import SEEN
from ..backbones.preprocess import Preprocess
from ..errors import ConfigError
from ..files import replacing
from ..tasks.batch import Split
from ..tasks.images import Images, Joined, PixelImages, Taken
from ..tasks.seen import Seen
from .feed import IMAGE, Pictures, loaded


@dataclass
class Sight:
    """A vision encoder as it is used in one run.

    Attributes:
        weights: hash of its weights.
        encode: normalised images under ``image`` -> features (B, P, E) fp16 under ``seen``.
        preprocess: of the pictures.
        accelerator: device and precision.
        workers: processes that decode.

    """

    weights: str
    encode: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    preprocess: Preprocess
    accelerator: Accelerator
    workers: int

    def over(self, split: Split, batch_size: int) -> Split:
        """Return the split with :class:`Seen` in place of its pictures; without any, as it is.

        Args:
            split: pictures under ``image``.
            batch_size: pictures at a time.

        """
        images = split.inputs.get(IMAGE)
        if isinstance(images, Tensor):
            images = PixelImages(images.cpu())
        if not isinstance(images, Images):
            return split
        inputs = {name: value for name, value in split.inputs.items() if name != IMAGE}
        return replace(split, inputs={SEEN: self._seen(images, batch_size), **inputs})

    def _seen(self, images: Images, batch_size: int) -> Seen:
        if isinstance(images, Joined):
            first, *rest = [self._seen(part, batch_size) for part in images.parts]
            for part in rest:
                first = first.joined(part)
            return first
        if isinstance(images, Taken):
            return self._seen(images.base, batch_size).chosen(torch.tensor(images.index))
        return Seen((self._table(images, batch_size),), torch.arange(len(images)))

    def _table(self, images: Images, batch_size: int) -> Tensor:
        """Return (M, P, E) fp16 of a whole collection, from disk or computed now."""
        key = [self.weights, asdict(self.preprocess), self.accelerator.mixed_precision]
        name = hashlib.sha256(json.dumps([*key, images.stamp()]).encode()).hexdigest()[:24]
        path = cache_root() / SEEN / f"{name}.npy"
        with self.accelerator.main_process_first():
            if not path.is_file():
                self._compute(images, path, batch_size)
        return torch.from_numpy(np.load(path, mmap_mode="c"))

    @torch.no_grad()
    def _compute(self, images: Images, path: Path, batch_size: int) -> None:
        pictures = Pictures(images, torch.arange(len(images)), self.preprocess)
        rows = range(len(images))
        plan = [[(0, row) for row in rows[at : at + batch_size]] for at in rows[::batch_size]]
        table: np.memmap | None = None
        start = 0
        with replacing(path) as temporary:
            for pixels in loaded(pictures, plan, self.workers):
                image = self.preprocess.normalised(pixels.to(self.accelerator.device))
                with self.accelerator.autocast():
                    seen = self.encode({IMAGE: image})[SEEN].cpu().numpy()
                if table is None:
                    shape = (len(images), *seen.shape[1:])
                    _check_room(path.parent, int(np.prod(shape)) * seen.itemsize)
                    table = np.lib.format.open_memmap(temporary, "w+", seen.dtype, shape)
                table[start : start + len(seen)] = seen
                start += len(seen)
            assert table is not None, "a collection without pictures"
            table.flush()


def _check_room(folder: Path, wanted: int) -> None:
    """Refuse a file that would fill the disk."""
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise ConfigError(
            f"trainer.cache_features: what the vision encoder sees takes {wanted / 1e9:.1f} GB in "
            f"{folder}, and {free / 1e9:.1f} GB are free; PEFTBENCH_CACHE=FOLDER puts it elsewhere,"
            " trainer.cache_features=false computes it in every step"
        )
