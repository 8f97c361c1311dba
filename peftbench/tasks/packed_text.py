"""Several texts in one row, without attention from one to another (packing).

Krell et al., "Efficient Sequence Packing without Cross-contamination", arXiv 2107.02027. A row's
loss is the sum over its texts' targets, so the mean over all target tokens is what it is unpacked.
Shapes: B rows of a batch, T tokens, P rows in all, N texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..edits.noise import stream_seed
from ..errors import ConfigError
from .batch import Split
from .encoded import IGNORED, Continued, Encoded, Ragged


@dataclass(frozen=True, eq=False)
class Packed(Encoded):
    """Rows of texts that a decoder goes on with.

    Attributes:
        texts: the N texts.
        rows: which of them stand in each row, in order.

    """

    texts: Continued
    rows: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def lengths(self) -> Tensor:
        """Tokens of each row."""
        own = self.texts.lengths.tolist()
        return torch.tensor([sum(own[i] for i in row) for row in self.rows])

    @cached_property
    def weights(self) -> Tensor:
        """Target tokens of each row."""
        own = self.texts.weights.tolist()
        return torch.tensor([sum(own[i] for i in row) for row in self.rows])

    def take(self, rows: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return ids, positions, a mask (B, 1, T, T) of who sees whom, and targets (B, T)."""
        made = [self._row(int(i)) for i in rows]
        ids_BT, _ = Ragged.of([m[0] for m in made]).padded(torch.arange(len(made)), self.texts.pad)
        at = torch.arange(len(made))
        target_BT, there_BT = Ragged.of([m[1] for m in made]).padded(at, IGNORED)
        position_BT, _ = Ragged.of([m[2] for m in made]).padded(at, 0)
        document_BT, _ = Ragged.of([m[3] for m in made]).padded(at, -1)
        length = ids_BT.shape[1]
        earlier_TT = torch.ones(length, length, dtype=torch.bool).tril()
        same_BTT = document_BT[:, :, None] == document_BT[:, None, :]
        inputs = {
            "input_ids": ids_BT,
            "attention_mask": (same_BTT & earlier_TT)[:, None],
            "position_ids": position_BT,
        }
        return inputs, target_BT.masked_fill(there_BT == 0, IGNORED)

    def _row(self, index: int) -> tuple[list[int], list[int], list[int], list[int]]:
        """Return ids, targets, positions and text numbers of one row."""
        ids: list[int] = []
        targets: list[int] = []
        positions: list[int] = []
        documents: list[int] = []
        for number, text in enumerate(self.rows[index]):
            prompt = self.texts.prompt.row(text).tolist()
            response = self.texts.response.row(text).tolist()
            own = [*prompt, *response][:-1]
            ids += own
            targets += [IGNORED] * (len(own) - len(response)) + response
            positions += range(len(own))
            documents += [number] * len(own)
        return ids, targets, positions, documents

    def joined(self, other: Encoded) -> Packed:
        """Return these rows with another collection's behind them."""
        assert isinstance(other, Packed)
        behind = len(self.texts)
        more = tuple(tuple(i + behind for i in row) for row in other.rows)
        return Packed(self.texts.joined(other.texts), self.rows + more)


def fill(lengths: Sequence[int], room: int, order: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Return rows of at most ``room`` tokens: each text goes to the fullest row that takes it.

    A text longer than a row has one of its own.

    Args:
        lengths: (N,) tokens of each text.
        room: tokens of a row.
        order: in which texts are placed.

    """
    rows: list[list[int]] = []
    by_space: dict[int, list[int]] = {}  # space left -> rows
    for text in order:
        need = lengths[text]
        space = next((s for s in range(need, room + 1) if by_space.get(s)), None)
        if space is None:
            rows.append([])
            row, left = len(rows) - 1, room - need
        else:
            row, left = by_space[space].pop(), space - need
        rows[row].append(text)
        if left > 0:
            by_space.setdefault(left, []).append(row)
    return tuple(tuple(row) for row in rows)


def pack(split: Split, room: int, seed: int) -> Split:
    """Return a split whose samples are rows of several texts; a row has its first text's id.

    Args:
        split: texts that a decoder goes on with.
        room: tokens of a row.
        seed: of the order in which texts are placed.

    Raises:
        ConfigError: the split holds no such texts.

    """
    texts = split.encoded
    if not isinstance(texts, Continued):
        raise ConfigError(
            "trainer.packing: rows are packed for decoders that write (LLaMA); null packs nothing"
        )
    generator = torch.Generator().manual_seed(stream_seed(seed, "packing"))
    order = torch.randperm(len(texts), generator=generator).tolist()
    rows = fill(texts.lengths.tolist(), room, order)
    first = torch.tensor([row[0] for row in rows], device=split.labels.device)
    return Split(split.name, {"text": Packed(texts, rows)}, split.labels[first], split.ids[first])
