"""Write a trained adapter for other libraries.

python scripts/export.py run=<run dir> to=merged out=<new folder>
python scripts/export.py run=<run dir> to=peft out=<new folder>

run    a run folder or an adapter folder
to     merged: every edit goes into a copy of the base's weights, the classifier head included;
       timm or transformers loads the folder by itself;
       peft: a Hugging Face PEFT adapter: LoRA, DoRA or IA3
context
       (method=context) whose numbers; afterwards they stand at every token: text is what is written
out    a folder that is not there yet; it appears only when everything succeeded
bound  (to=merged) largest difference of logits in parts of their scale; by default 1e-5, and 1e-2
       for a base in a 16-bit format
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from peftbench import arguments
from peftbench.errors import ConfigError


@dataclass(frozen=True)
class Export:
    """Settings of the command; see the top of this file."""

    run: str
    to: Literal["merged", "peft"]
    out: str
    bound: float | None = None
    context: str | None = None

    def __post_init__(self) -> None:
        if self.bound is not None and (self.to == "peft" or not self.bound > 0):
            raise ConfigError("bound: a number above 0, with to=merged")


def main(given: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 2 after a mistake that the message says how to mend."""
    return arguments.command(Export, export, __doc__, given)


def export(settings: Export) -> None:
    """Load the adapter, write it in the wanted form and say how far the two differ."""
    from peftbench.interop import merge, write_merged, write_peft
    from peftbench.interop.contexts import one_context
    from peftbench.interop.folder import require_new
    from peftbench.train.artefact import describe, load_adapter

    out = Path(settings.out)
    require_new(out)
    folder, description = describe(settings.run)
    model = one_context(load_adapter(folder), settings.context)
    if settings.to == "merged":
        merged = merge(model, bound=settings.bound)
        write_merged(merged, model.backbone, description, out)
        print(f"merged {len(merged.edits)} edits into {out}")
        print(f"{merged.difference} (bound {merged.bound:.0e})")
        return
    adapter, difference = write_peft(model, description, out)
    print(f"wrote {len(adapter.tensors)} tensors for peft to {out}")
    for note in adapter.notes:
        print(f"note: {note}")
    if adapter.head is not None:
        print(
            "note: the classifier head lies beside the adapter, in head.safetensors (see README.md)"
        )
    print(difference or "not compared: peft is not installed (pip install 'peftbench[peft]')")


if __name__ == "__main__":
    sys.exit(main())
