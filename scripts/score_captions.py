"""Score captions in COCO's result form against people's captions.

python scripts/score_captions.py results=FILE annotations=FILE
  [part=test] [partial=false] [meteor=true] [json=FILE]

results      [{"image_id": ..., "caption": ...}, ...], one caption per image
annotations  captions_val2017.json or the like, or dataset_coco.json and its kin (then part says
             which of train, val and test; empty: all)
partial      true: images without a caption are left out. CIDEr-D depends on the set of images
meteor       false: METEOR is left out; its program takes half a minute
json         a file for the scores

Prints BLEU-1 to 4, ROUGE-L, CIDEr-D and METEOR (n/a where Java is not installed), times 100.
Needs pip install 'peftbench[captions]'.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from peftbench import arguments
from peftbench.errors import PeftbenchError
from peftbench.files import write_json
from peftbench.tasks import caption_metrics
from peftbench.tasks.caption_results import score_results


@dataclass(frozen=True)
class Options:
    """Settings; their meaning stands in the file's docstring."""

    results: str
    annotations: str
    part: Literal["", "train", "val", "test"] = ""
    partial: bool = False
    meteor: bool = True
    json: str = ""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 if the files could not be scored."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="+", metavar="KEY=VALUE")
    try:
        options = arguments.read(Options, parser.parse_args(argv).settings)
        results, annotations = (
            Path(name).expanduser() for name in (options.results, options.annotations)
        )
        found = score_results(results, annotations, options.part, options.partial, options.meteor)
        print(f"{len(found.each['CIDEr-D']):,} images")
        print(caption_metrics.table(found.values))
        if options.json:
            write_json(Path(options.json).expanduser(), found.values)
    except PeftbenchError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
