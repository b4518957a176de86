"""The stage `vocabulary`: fewer tokens."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup
from transformers import PretrainedConfig, PreTrainedModel

from neuromeld.archs.resolve import Architecture
from neuromeld.archs.sizes import Sizes
from neuromeld.archs.spec import VOCABULARIES, ArchSpec, Space
from neuromeld.data.text.usage import vocabularies
from neuromeld.drawing.section import Record, Section, item, join, paragraph, table
from neuromeld.errors import UserInputError
from neuromeld.model.surgery import keep_rows, renumber_padding
from neuromeld.stages.base import Cost, Job, Stage, Target, Workload, table_bytes
from neuromeld.stages.vocabulary.choose import (
    Effect,
    Vocabulary,
    choose_vocabulary,
    effect_of,
    named_in,
    rankings,
    rounded,
)
from neuromeld.stages.vocabulary.files import write_other_files
from neuromeld.stages.vocabulary.ids import named_ids, renumber
from neuromeld.stages.vocabulary.options import VocabularyOptions
from neuromeld.stages.vocabulary.rewrite import tokenizer_of

SIZE_KEYS = ("vocab_size", "decoder_vocab_size")


@dataclass(frozen=True)
class CutVocabulary:
    """The tokens that stay, their tokenizer, and what they mean for held-out text; `rows` there were before."""

    vocabulary: Vocabulary
    effect: Effect
    rows: int


class VocabularyStage(Stage[VocabularyOptions, CutVocabulary]):
    """Keep the most used tokens, rewrite the tokenizer, and cut the rows of embedding and head."""

    name = "vocabulary"
    title = "cutting the vocabulary"
    prefix = "vocab"
    Options = VocabularyOptions
    reads_processor = True

    def unavailable(self, spec: ArchSpec) -> str | None:
        """Say that a model without tokens has no vocabulary, and what else the architecture forbids."""
        if self.name in spec.refusals:
            return f"the vocabulary of {spec.model_type} models cannot be cut: {spec.refusals[self.name]}"
        return None if spec.reads_tokens else f"{spec.model_type} models have no vocabulary"

    def settle(
        self, options: VocabularyOptions, processor: Any, config: PretrainedConfig
    ) -> tuple[VocabularyOptions, list[str]]:
        """Return the options with the number of tokens, and say what goes and what stays."""
        rows = _rows_in(config)
        if not rows:
            return options, []  # it has no vocabulary, which a plan refuses by name
        named = frozenset(named_ids(vars(config)))
        _check_rows(processor, rows)
        settled = options
        if options.coverage is not None:
            found = rankings(tokenizer_of(processor), options.text, named)
            tokens = max(one.smallest_covering(options.coverage) for one in found)
            settled = options.model_copy(update={"size": rounded(tokens, max(rows)), "coverage": None})
        elif len(rows) == 1:
            settled = options.model_copy(update={"size": _size_of(rows[0], options), "ratio": None})
        sizes = [_size_of(number, settled) for number in rows]
        effect = effect_of(processor, choose_vocabulary(processor, options.text, sizes, named), options.text)
        return settled, _told(effect, rows, sizes)

    def resize(self, sizes: Sizes, options: VocabularyOptions, target: Target) -> Sizes:  # noqa: ARG002
        """Return the sizes with fewer tokens."""
        if options.coverage is not None:
            raise UserInputError(
                "how many tokens a coverage takes is known from the tokenizer and the text: compress a checkpoint, or "
                "give a live model's vocabulary a size or a ratio"
            )
        most = max(sizes.vocab, sizes.target_vocab)
        if options.size is not None and options.size > most:
            raise UserInputError(f"vocabulary size={options.size:,} is more than the {most:,} rows of the embedding")
        target_vocab = _size_of(sizes.target_vocab, options) if sizes.target_vocab else 0
        return replace(sizes, vocab=_size_of(sizes.vocab, options), target_vocab=target_vocab)

    def cost(self, options: VocabularyOptions, work: Workload) -> Cost:  # noqa: ARG002
        """Predict the tables before and after, one at a time."""
        table = max(table_bytes(work, work.before.hidden), default=0)
        both = table + table * work.after.vocab // work.before.vocab
        return Cost(working_bytes=both, mapped_bytes=both)

    def run(self, job: Job, options: VocabularyOptions) -> CutVocabulary:
        """Choose the tokens, cut every row and number that is for one, and renumber the ids in the configs."""
        model = job.model
        rows, sizes = ([size for size in (one.vocab, one.target_vocab) if size] for one in (job.before, job.after))
        _check_rows(job.processor, rows)
        generation = getattr(model, "generation_config", None)
        vocabulary = choose_vocabulary(job.processor, options.text, sizes, named_in(model))
        effect = effect_of(job.processor, vocabulary, options.text)
        for space, kept in zip(VOCABULARIES, vocabulary.each, strict=False):
            _cut(model, job.arch, space, torch.tensor(kept))
        new_id = {old: new for kept in vocabulary.each for new, old in enumerate(kept)}  # of both, those of the target
        renumber_padding(model, new_id)
        stated = zip(SIZE_KEYS, (sizes[0], sizes[-1]), strict=True)
        _set(model.config, renumber(vars(model.config), new_id.get))
        _set(model.config, {key: size for key, size in stated if hasattr(model.config, key)})
        if generation is not None:
            model.generation_config = deepcopy(generation)
            _set(model.generation_config, renumber(vars(generation), new_id.get))
        job.processor = vocabulary.processor
        return CutVocabulary(vocabulary, effect, sum(rows))

    def write_files(self, result: CutVocabulary, source: Path, out: Path) -> None:
        """Write the other files that list tokens."""
        write_other_files(result.vocabulary, source, out)

    def record(self, result: CutVocabulary) -> dict[str, Any]:
        """Return the numbers of tokens, and what they mean for held-out text."""
        tokens = {"before": result.rows, "after": sum(map(len, result.vocabulary.each))}
        return {"vocabulary": tokens | asdict(result.effect)}

    def sentences(self, record: Record) -> list[Markup]:
        """Say which tokens stayed."""
        found = record.get("vocabulary")
        if not found:
            return []
        text = "Of {} tokens, the {} stayed that {} uses most, with all that they are made from."
        return [item(text, f"{found['before']:,}", f"{found['after']:,}", found["source"])]

    def sections(self, record: Record) -> list[Section | None]:
        """Show the vocabulary before and after."""
        found = record.get("vocabulary")
        if not found:
            return [None]
        before, after = found["tokens_per_word"]
        rows = [
            ("tokens", found["before"], found["after"]),
            ("tokens of a word, held-out text", before, after),
            ("share of the held-out tokens that stayed", 1.0, found["coverage"]),
        ]
        said = paragraph(
            "A text is split as before where it used tokens that stayed, and into more tokens elsewhere, so "
            "perplexities before and after are not comparable, and bits per byte are."
        )
        return [Section("The vocabulary", join([said, table("Before and after", ("", "before", "after"), rows)]))]


def _cut(model: PreTrainedModel, arch: Architecture, space: Space, kept: torch.Tensor) -> None:
    """Cut every parameter and buffer with an entry for each token of a vocabulary."""
    rows = arch.widths[space]
    head = [arch.spec.head] if arch.spec.head else []
    paths = [w.path for w in (*arch.spec.embeddings, *head) if space in (w.in_, w.out)]
    names = [
        f"{path}.{name}"
        for path in paths
        for name, parameter in model.get_submodule(path).named_parameters(recurse=False)
        if parameter.shape[0] == rows
    ]
    keep_rows(model, [*names, *(arch.spec.token_vectors if space == arch.spec.written else ())], kept)
    modules: list[Any] = list(model.modules())
    for module in modules:
        if getattr(module, "vocab_size", None) == rows:
            module.vocab_size = len(kept)


def _set(config: Any, values: dict[str, Any]) -> None:
    for key, value in values.items():
        setattr(config, key, value)


def _rows_in(config: PretrainedConfig) -> list[int]:
    """Return the rows of the embedding, or of the encoder's and the decoder's; none where there is no vocabulary."""
    apart = getattr(config, "share_encoder_decoder_embeddings", True) is False
    rows = (getattr(config, key, None) for key in (SIZE_KEYS if apart else SIZE_KEYS[:1]))
    return [size for size in rows if size is not None]


def _check_rows(processor: Any, rows: Sequence[int]) -> None:
    """Raise `UserInputError` for a tokenizer with tokens beyond the rows of the embedding, or other vocabularies."""
    tables = vocabularies(tokenizer_of(processor))
    if len(tables) != len(rows):
        raise UserInputError(
            f"the tokenizer has {len(tables)} vocabularies and the model {len(rows)}: set separate_vocabs of the one "
            "as share_encoder_decoder_embeddings of the other says"
        )
    for ids, size in zip(tables, rows, strict=True):
        if (largest := max(ids.values())) >= size:
            raise UserInputError(
                f"the tokenizer numbers its tokens up to {largest:,}, and the embedding has {size:,} rows: it is not "
                "the model's own; pass the one that was saved with it"
            )


def _size_of(rows: int, options: VocabularyOptions) -> int:
    """Return the tokens to keep of a vocabulary of so many rows."""
    if options.size is not None:
        return min(options.size, rows)
    assert options.ratio is not None
    return rounded(max(1, round(options.ratio * rows)), rows)


def _told(effect: Effect, rows: Sequence[int], sizes: Sequence[int]) -> list[str]:
    before, after = effect.tokens_per_word
    kept = " and ".join(f"{size:,} of {number:,}" for size, number in zip(sizes, rows, strict=True))
    return [
        f"vocabulary: {kept} tokens stay, chosen on {effect.source}",
        f"they are {effect.coverage_chosen:.3%} of its tokens, and {effect.coverage:.3%} of {effect.held_out_tokens:,} "
        "held-out ones",
        f"tokens per word of held-out text: {before:.4f} -> {after:.4f}",
    ]
