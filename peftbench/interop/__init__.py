"""Trained adapters in the forms of other libraries: merged weights, Hugging Face PEFT folders."""

from .hf_peft import PeftExport, check_peft, write_peft
from .merge import Merged, merge
from .merged_files import write_merged

__all__ = ["Merged", "PeftExport", "check_peft", "merge", "write_merged", "write_peft"]
