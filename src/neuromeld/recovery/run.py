"""The order of steps: data, model, training, then save, load again and compare."""

import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from neuromeld.checkpoint import check_free, new_folder
from neuromeld.checkpoint.folder import check_space
from neuromeld.checkpoint.save import SHARD_BYTES
from neuromeld.checkpoint.source import ModelSource, locate
from neuromeld.checkpoint.stated import read_json
from neuromeld.data.mixture import check_not_own
from neuromeld.errors import UserInputError
from neuromeld.evaluation import unique_parameters
from neuromeld.modalities import MODALITIES, Modality, TrainingSet, inputs_of, with_own_text
from neuromeld.modalities.tokens import Tokens
from neuromeld.model.passes import PassFormat, multiplies_bfloat16
from neuromeld.planning.memory import INTERPRETER_BYTES
from neuromeld.planning.plan import check_plain, meta_model
from neuromeld.recovery.four_bit import FourBit, check_bitsandbytes
from neuromeld.recovery.held_out import Measure, by_passes, held_out_loss, perplexity_on
from neuromeld.recovery.lora import check_peft
from neuromeld.recovery.memory import footprint_of_layers
from neuromeld.recovery.ranks import told_by_first
from neuromeld.recovery.resume import holds_work
from neuromeld.recovery.settings import LENGTHS, Job, Recovery
from neuromeld.recovery.state import BYTES_PER_PARAMETER
from neuromeld.recovery.stored import StoredTeacher
from neuromeld.recovery.tune import Tuning, tune
from neuromeld.recovery.write import describe_recovered, write_recovered
from neuromeld.report import checked_record
from neuromeld.runtime.distributed import is_first_rank, num_ranks, own_device, process_group
from neuromeld.runtime.journal import Journal
from neuromeld.runtime.memory import keep_no_freed_memory, peak_rss_bytes
from neuromeld.runtime.workspace import Workspace, open_workspace, work_folder
from neuromeld.version import __version__


@dataclass(frozen=True)
class RecoverResult:
    """The result of `recover`: the folder it wrote, and the content of its `record.json`."""

    out: Path
    record: dict[str, Any]


def recover(
    source: str | Path,
    settings: Recovery,
    out: str | Path,
    *,
    force: bool = False,
    device: str = "cpu",
    max_memory: int | None = None,
    allow_pickle: bool = False,
    progress: bool = False,
) -> RecoverResult:
    """Train the checkpoint at `source` by `settings` and write it to the folder `out`, in the same shapes and ties.

    source   what `compress` wrote, or any other model that `locate` finds
    device   cpu or cuda; of several cards the first that CUDA_VISIBLE_DEVICES names
    max_memory  bytes; a training of layers, one at a time, that would take more leaves all weights on the disk, with
             the same result.  Others are refused

    An interrupted call, made again, goes on from its last checkpoint, in a hidden folder beside `out`; with other
    settings, data or model it is refused, unless `force` discards what was done.  Raises a `NeuromeldError` for
    everything that can be wrong with the arguments, the model, the loss or the disk.
    """
    job = RecoveryJob(settings, Path(out), force, device, max_memory, allow_pickle, progress)
    job.check(str(source))
    folder = work_folder(job.out)
    with (
        process_group(),
        open_workspace(folder, lambda: holds_work(folder)) if is_first_rank() else nullcontext() as workspace,
    ):
        return job.run(str(source), workspace)


@dataclass(frozen=True)
class RecoveryJob:
    """One call of `recover`, which says what its arguments mean.

    exports  writes what was trained in other forms, too, from the first folder, and says how: they lie in the second
             until all of them are there
    """

    settings: Recovery
    out: Path
    force: bool = False
    device: str = "cpu"
    max_memory: int | None = None
    allow_pickle: bool = False
    progress: bool = False
    exports: Callable[[Path, Path], dict[str, str]] | None = None
    started: float = field(default_factory=time.monotonic)

    def check(self, source: str) -> None:
        """Raise for an output that cannot be written, and for packages and devices that are missing."""
        for read in (source, self.settings.original):
            check_free(self.out, force=self.force, source=read)
        _device(self.device)
        if self.settings.lora_rank is not None:
            check_peft()
        if self.settings.base_bits:
            check_bitsandbytes()

    def run(self, source: str, workspace: Workspace | None) -> RecoverResult:
        """Train the checkpoint at `source` and write it; what is done until then is kept in the work folder.

        workspace  None in all processes but the first, which alone keeps and writes
        """
        settings, located = self.settings, _located(source, allow_pickle=self.allow_pickle)
        config, device = located.config(), _device(self.device)
        inputs = inputs_of(config)
        kind, reader = "text" if inputs == "tokens" else inputs, MODALITIES[inputs]
        processor = reader.processor(located.folder)
        original = _original(settings, located, reader)
        at_once, journal = self._at_once(located, original), Journal(workspace)
        journal.memory_mapped = at_once is not None
        reader = with_own_text(reader, original or located, str(device), progress=self.progress)
        pool, measure, known = _data(settings, reader, processor, config)
        settings.batch_examples(pool)  # whether they fit
        passes = _passes(settings, device)
        facts = {"source_sha256": located.fingerprint(), f"{kind}_sha256": pool.sha256, "bf16": passes == "bfloat16"}
        facts |= {"original_sha256": original.fingerprint()} if original else {}
        if workspace is not None:
            workspace.begin({"job": "recover"} | settings.stated() | facts, force=self.force)
        measure = by_passes(measure, passes)
        model = located.load(None, str(device), scratch=journal.scratch)
        if workspace is not None and settings.lora_rank is None:
            check_space(workspace.folder, BYTES_PER_PARAMETER * unique_parameters(model))
        losses = {"loss_before": told_by_first(lambda: measure(model).nll)} | known
        teacher = original.load(None, str(device), scratch=journal.scratch) if original else None
        if teacher is not None:
            losses |= {"loss_original": measure(teacher).nll}
        job = Job(settings, passes, device, measure, losses["loss_before"], journal)
        if settings.base_bits:
            job = replace(job, base=FourBit(located, located.fingerprint(), _computed(passes)))
        if settings.shard and num_ranks() == 1:
            raise UserInputError("shard is for several processes: start it with torchrun, or leave --shard out")
        if settings.layerwise_tokens and num_ranks() > 1:
            raise UserInputError("layers one at a time are trained in one process; start it without torchrun")
        if settings.layerwise_tokens:
            amount = settings.layerwise_data
            batches = reader.calibration(amount, processor, config, amount.tokens).batches
            job = replace(job, by_layer=batches, dropped=_dropped(located))
        tuning = tune(model, teacher, pool, job, progress=self.progress)
        del teacher
        after = measure(model)
        recovery = facts | {
            "device": device.type,
            **({"processes": num_ranks()} if num_ranks() > 1 else {}),
            "data": {"kind": kind, "source": pool.source, "split": "calibration", "tokens": pool.num_tokens},
            "held_out": losses | {"loss_after": after.nll, "protocol": after.protocol},
            "seconds": time.monotonic() - self.started,
            "memory_mapped": journal.memory_mapped,
            **_trained(tuning, pool),
        }

        largest = SHARD_BYTES if at_once is None else min(SHARD_BYTES, at_once // 2)  # as it lies, and as bytes

        def write(folder: Path) -> dict[str, Any]:
            written = model, processor, located.folder, recovery, pool.check_batch
            return write_recovered(folder, *written, scratch=journal.scratch, max_shard_size=largest)

        return RecoverResult(self.out, told_by_first(lambda: self._written(write, workspace, located.folder)))

    def _written(
        self, write: Callable[[Path], dict[str, Any]], workspace: Workspace | None, source: Path
    ) -> dict[str, Any]:
        """Write the output beside, with other forms of it, and rename it; return its record."""
        assert workspace is not None
        with new_folder(self.out, force=self.force, beside=workspace.folder) as folder:
            record = write(folder)
            record["recovery"] |= {"peak_rss_bytes": peak_rss_bytes()}
            record |= {"exports": self.exports(folder, workspace.folder)} if self.exports else {}
            return describe_recovered(folder, record, source)

    def _at_once(self, located: ModelSource, original: ModelSource | None) -> int | None:
        """Return the bytes that are worked on at once where all weights stay in their files; None where they do not."""
        if self.max_memory is None:
            return None
        settings = self.settings
        lengths = [name for name in LENGTHS if getattr(settings, name) is not None]
        if settings.layerwise_tokens is None or original is None or lengths or self.device != "cpu":
            raise UserInputError(
                "--max-memory is for layers that are trained one at a time, on a processor, and nothing after it: "
                "--recipe layerwise --from ORIGINAL. Other training has all weights, gradients and moments in memory"
            )
        check_not_own(settings.train)
        weights = located.bytes_on_disk() + original.bytes_on_disk()
        footprint = footprint_of_layers(meta_model(original.config()), weights, settings.layerwise_data)
        peak, memory_mapped = footprint.within(self.max_memory)
        if not memory_mapped:
            return None
        for source in (located, original):
            source.check_stays_in_files()
        keep_no_freed_memory()
        return peak - INTERPRETER_BYTES


def _data(
    settings: Recovery, reader: Modality, processor: Any, config: PretrainedConfig
) -> tuple[TrainingSet, Measure, dict[str, float]]:
    """Return what is trained on, what measures on held-out data, and what the original's loss on that is, if known."""
    if settings.teacher is None:
        pool = reader.training(settings.data, processor, config)
        return pool, held_out_loss(reader, settings.data, processor, config), {}
    if not isinstance(reader, Tokens):
        raise UserInputError("a stored teacher tells of text, and this model reads something else: leave it out")
    stored = StoredTeacher.open(Path(settings.teacher), processor)
    return stored.training(), perplexity_on(stored.held_out), {"loss_original": stored.facts["loss_original"]}


def _passes(settings: Recovery, device: torch.device) -> PassFormat:
    bfloat16 = multiplies_bfloat16(device) if settings.bf16 is None else settings.bf16
    return "bfloat16" if bfloat16 else "own"


def _computed(passes: PassFormat) -> torch.dtype:
    return torch.bfloat16 if passes == "bfloat16" else torch.float32


def _located(source: str, *, allow_pickle: bool) -> ModelSource:
    """Locate the model; its record, which the result's is made of after the training, is checked now."""
    located = locate(source, allow_pickle=allow_pickle)
    if (located.folder / "record.json").is_file():
        checked_record(located.folder)
    return located


def _dropped(located: ModelSource) -> list[int]:
    """Return the layers that the record of a compressed checkpoint says are gone, counted from 0 in every stack."""
    path = located.folder / "record.json"
    return list(read_json(path).get("dropped") or []) if path.is_file() else []


def _trained(tuning: Tuning, pool: TrainingSet) -> dict[str, Any]:
    """Return what a record says of the training itself."""
    settings, trained = tuning.settings, tuning.trained
    told: dict[str, Any] = {"settings": settings.stated(), "versions": _versions(settings)}
    told |= {"tokens_seen": settings.layerwise_tokens or 0, "loss_curve": [], "parameters_trained": 0}
    if trained is not None:
        told |= {
            "tokens_seen": told["tokens_seen"]
            + trained.steps * settings.batch_examples(pool) * pool.num_tokens // pool.num_examples,
            "parameters_trained": tuning.parameters_trained,
            "loss_curve": trained.curve,
            "looks": [asdict(look) for look in trained.looks],
            "best_step": trained.best.step,
            "resumed_from": trained.resumed_from,
            "tokens_per_second": trained.tokens_per_second,
        }
    return told | {
        **({"rates": [asdict(rate) for rate in tuning.rates]} if tuning.rates else {}),
        **({"layers": [asdict(layer) for layer in tuning.layers]} if tuning.layers else {}),
        **({"matrix_bytes": tuning.matrix_bytes} if tuning.matrix_bytes else {}),
    }


def _versions(settings: Recovery) -> dict[str, str]:
    packages = ["torch", "transformers"]
    packages += ["peft"] * (settings.lora_rank is not None) + ["bitsandbytes"] * bool(settings.base_bits)
    return {"neuromeld": __version__} | {name: version(name) for name in packages}


def recover_model(
    model: PreTrainedModel, settings: Recovery, processor: Any, *, progress: bool = False
) -> dict[str, Any]:
    """Train a live `model` in place, as `recover` trains a checkpoint, and tell of it as its record does.

    processor   the tokenizer, image processor or feature extractor that the data is read with

    Nothing is written and no checkpoints are kept, so it cannot go on where it was interrupted, and a base in 4 bits,
    which is read again at the end, is a `UserInputError`.
    """
    check_plain(model)
    if settings.base_bits:
        raise UserInputError("a base held in 4 bits is read again from its checkpoint: use recover on a folder")
    if settings.lora_rank is not None:
        check_peft()
    if settings.layerwise_tokens:
        raise UserInputError("layers follow those that a checkpoint's record names: use recover on a folder")
    started = time.monotonic()
    reader, passes = MODALITIES[inputs_of(model.config)], _passes(settings, model.device)
    pool, measure, _ = _data(settings, reader, processor, model.config)
    measure = by_passes(measure, passes)
    teacher = None if settings.original is None else locate(settings.original).load(None, str(model.device))
    job = Job(settings, passes, model.device, measure, measure(model).nll)
    tuning = tune(model, teacher, pool, job, progress=progress)
    return {"bf16": passes == "bfloat16", "seconds": time.monotonic() - started, **_trained(tuning, pool)}


def _device(device: str) -> torch.device:
    """Return the device that is trained on; of several processes on one machine each has a card of its own."""
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        return torch.device(own_device(device))
    found = torch.device(device)
    if found.type not in ("cpu", "cuda") or found.index:
        raise UserInputError(
            f"device={device}: recovery tuning runs on cpu or cuda; to choose a card set CUDA_VISIBLE_DEVICES"
        )
    return found


def _original(settings: Recovery, located: ModelSource, reader: Modality) -> ModelSource | None:
    """Return the model to distil from; `UserInputError` if it does not predict the same."""
    if settings.original is None:
        return None
    original = locate(settings.original, allow_pickle=located.allow_pickle)
    (num_original, names_original), (num, names) = (_predicted(source, reader) for source in (original, located))
    if num != num_original or names != names_original:
        raise UserInputError(
            f"{original.name} has another vocabulary, or other classes, than {located.name} ({num_original} and {num} "
            "outputs), so its predictions cannot be followed; distil from the model that was compressed"
        )
    return original


def _predicted(source: ModelSource, reader: Modality) -> tuple[int, Any]:
    """Return how many outputs a model has, and what they stand for: tokens, or classes."""
    config, processor = source.config(), reader.processor(source.folder)
    tokenizer = getattr(processor, "tokenizer", processor)
    if hasattr(tokenizer, "get_vocab"):
        return int(config.get_text_config().vocab_size), tokenizer.get_vocab()
    return len(config.label2id or {}), config.label2id
