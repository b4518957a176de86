"""Tiny tokenizers and processors, for models whose decoder reads what it writes."""

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, WhisperFeatureExtractor, WhisperProcessor, WhisperTokenizer

from contract.families import VOCABULARY


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Words w00 to w96; w01 ends every text, w00 is padding."""
    backend = Tokenizer(models.WordLevel({f"w{i:02}": i for i in range(VOCABULARY)}, unk_token="w04"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="$A w01", special_tokens=[("w01", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="w01", pad_token="w00", unk_token="w04")


def tiny_processor() -> WhisperProcessor:
    """Letters, and one second of sound as 100 frames of 8 bands."""
    vocabulary = {character: 3 + i for i, character in enumerate("abcdefghijklmnopqrstuvwxyz")} | {"\u0120": 29}
    vocabulary |= {"<|startoftranscript|>": 0, "<|endoftext|>": 1, "<|notimestamps|>": 2}
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=[])
    return WhisperProcessor(WhisperFeatureExtractor(feature_size=8, chunk_length=1), tokenizer)
