"""Checkpoint folders: written whole, loaded again and compared, described by a card."""

from neuromeld.checkpoint.card import render_card
from neuromeld.checkpoint.folder import check_free, new_folder
from neuromeld.checkpoint.load import load_config, load_model, load_tokenizer, weight_files
from neuromeld.checkpoint.save import save_checkpoint, save_record, verify_checkpoint

__all__ = [
    "check_free",
    "load_config",
    "load_model",
    "load_tokenizer",
    "new_folder",
    "render_card",
    "save_checkpoint",
    "save_record",
    "verify_checkpoint",
    "weight_files",
]
