"""The job of `compress`: read, plan, compress, write, load again and compare."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from neuromeld.checkpoint import (
    new_folder,
    render_card,
    save_checkpoint,
    save_record,
    verify_checkpoint,
)
from neuromeld.checkpoint.companions import card_facts, copy_companions
from neuromeld.checkpoint.export.engines import verdicts
from neuromeld.checkpoint.folder import written_files
from neuromeld.checkpoint.loading import auto_classes
from neuromeld.checkpoint.save import SHARD_BYTES
from neuromeld.checkpoint.source import ModelSource
from neuromeld.checkpoint.stated import read_json
from neuromeld.data.text.usage import renumbered, tokenizer_in
from neuromeld.errors import UserInputError
from neuromeld.evaluation import Outcome, bytes_on_disk
from neuromeld.evaluation.plain_pass import plain_pass_seconds
from neuromeld.jobs.export import Exports
from neuromeld.jobs.opening import check_alone, device_limit, identity_of, outcome_for, plan_of, search_examples
from neuromeld.modalities import Examples, reader_for, with_own_text
from neuromeld.model.capture import Batch
from neuromeld.model.outputs import outputs
from neuromeld.model.passes import chosen_passes, passes_in
from neuromeld.planning import Choice
from neuromeld.planning.memory import INTERPRETER_BYTES
from neuromeld.planning.pipeline import Compressed, compress_model
from neuromeld.planning.plan import Plan
from neuromeld.planning.recipe import Recipe
from neuromeld.planning.served import planned_shape
from neuromeld.report import save_report
from neuromeld.report.record import compression_record
from neuromeld.runtime.distributed import is_first_rank, num_ranks, wait_for_all
from neuromeld.runtime.journal import NO_JOURNAL, Journal
from neuromeld.runtime.memory import keep_no_freed_memory, peak_rss_bytes, release_memory
from neuromeld.runtime.phases import Phases
from neuromeld.runtime.streaming import DeviceWindow, device_peak, forget_copies, streaming

READING, LOOKING = "reading model and data", "looking at both models"


@dataclass
class CompressionJob:
    """One call of `neuromeld.compress`, which says what its arguments mean.

    source   the model, located
    journal  of `out`, open
    chosen_in  the journal that keeps what the choice is made of, where that is another
    plain_pass_seconds  processor time of a forward pass over the calibration data; None where weights stay on the disk
    """

    source: ModelSource
    recipe: Recipe
    out: Path
    journal: Journal
    dtype: torch.dtype | None = None
    device: str = "cpu"
    max_memory: int | None = None
    device_memory: int | None = None
    choice: Choice | None = None
    evaluate: bool = True
    exports: Exports | None = None
    force: bool = False
    progress: bool = False
    started: float = field(default_factory=time.monotonic)
    phases: Phases = field(default_factory=Phases)
    plain_pass_seconds: float | None = None
    chosen_in: Journal | None = None
    warnings: list[str] = field(default_factory=list)

    def run(self) -> tuple[Plan, dict[str, Any]]:
        """Do the job; return the plan and the record that was written."""
        with self.phases.measure(READING):
            plan = self._plan()
        with streaming(self._window(plan)):
            return plan, self._run(plan)

    def _run(self, plan: Plan) -> dict[str, Any]:
        with self.phases.measure(READING):
            config: PretrainedConfig = self.source.config()
            self._check_exports(plan, config)
            reader = with_own_text(reader_for(config), self.source, self.device, progress=self._told)
            processor = self._processor
            data = reader.calibration(self.recipe.calibration, processor, config, self.recipe.calibration.tokens)
            validation = search_examples(self.recipe, self.source, reader)
            model = self.source.load(self.dtype, self.device, scratch=self.journal.scratch)
            passes = chosen_passes(self.recipe.calibration.passes, model)
            identity = identity_of(self.source, data, validation, self.dtype, self.device, passes)
            self.journal.begin({"job": "compress", "recipe": self.recipe.model_dump()} | identity, force=self.force)
            if self._is_trained_next and self.out.exists():
                return read_json(self.out / "record.json")
            outcome = self._outcome(data, processor, config)
        with passes_in(passes, model):
            if not plan.memory_mapped and plan.on_device is None:
                self.plain_pass_seconds = plain_pass_seconds(model, data.batches)
        if outcome is not None:
            with self.phases.measure(LOOKING), passes_in(passes, model):
                outcome.before(model)
        compressed = self._compress(model, plan, data, validation)
        self.phases.add(compressed.phases)
        processor, writers = compressed.processor, compressed.writers()
        record = self._record(compressed, plan, data, processor)
        del compressed
        if outcome is not None:
            with self.phases.measure(LOOKING), passes_in(passes, model):
                record |= outcome.after(model, processor)
        if self.choice is not None and self.choice.max_loss is not None:
            record |= {"max_loss": self.choice.record_of_loss(record.get("evaluation", []))}
        if is_first_rank():
            batch = data.check_batch
            if processor is not self._processor:
                batch = renumbered(batch, tokenizer_in(self._processor), tokenizer_in(processor))
            written = _Writing(plan, batch, processor, writers, [model])
            del model
            self._write(written, record)
        wait_for_all()
        return record

    def _check_exports(self, plan: Plan, config: PretrainedConfig) -> None:
        """Raise where a form cannot hold the result that is planned, or the memory not the model that is exported."""
        if self.exports is None:
            return
        if plan.memory_mapped:
            raise UserInputError("--format loads the result in memory, and --max-memory does not: export it afterwards")
        native = plan.format == "native"
        shape = planned_shape(plan.model_type, config, plan.before, plan.served, native=native)
        self.exports.refuse(shape, config)

    @property
    def _is_trained_next(self) -> bool:
        """Whether the result stays in the work folder, where it is trained before it is the output."""
        return self.journal.folder in self.out.parents

    @property
    def _told(self) -> bool:
        return self.progress and is_first_rank()

    @cached_property
    def _processor(self) -> Any:
        """The processor of the original."""
        return reader_for(self.source.config()).processor(self.source.folder)

    def _plan(self) -> Plan:
        processor = self._processor if self.recipe.reads_processor else None
        limit = device_limit(self.device, self.max_memory, self.device_memory)
        plan = plan_of(self.source, self.recipe, self.dtype, self.max_memory, processor, limit)
        if plan.memory_mapped or plan.on_device:
            check_alone(num_ranks())
        if plan.memory_mapped:
            keep_no_freed_memory()
            self.journal.memory_mapped = True
        return plan

    def _window(self, plan: Plan) -> DeviceWindow | None:
        """Return what the weights are seen through, where they come to the device a layer at a time."""
        if plan.on_device is None:
            return None
        device = torch.device(self.device)
        return DeviceWindow(device, plan.on_device.window_bytes, drops_pages=plan.memory_mapped)

    def _outcome(self, data: Examples, processor: Any, config: PretrainedConfig) -> Outcome | None:
        """Return what looks at the model before and after, where that is wanted and can be."""
        if not self.evaluate or not is_first_rank():
            return None
        outcome, warnings = outcome_for(data.source, self.recipe.calibration.seqlen, processor, config)
        self.warnings += warnings
        return outcome

    def _compress(self, model: PreTrainedModel, plan: Plan, data: Examples, validation: Examples | None) -> Compressed:
        cache = {"model": self.source.fingerprint(), "data": data.sha256, "dtype": str(model.dtype)}
        journal = self.journal if self.choice is None else self.choice.steps(self.chosen_in or self.journal)
        alone = num_ranks() == 1
        return compress_model(
            model,
            plan,
            data.batches,
            validation=validation.batches if validation else (),
            cache=cache if alone else None,
            journal=journal if alone else NO_JOURNAL,
            progress=self._told,
            processor=self._processor,
        )

    def _record(self, compressed: Compressed, plan: Plan, data: Examples, processor: Any) -> dict[str, Any]:
        """Return what is known before the files exist."""
        model = compressed.model
        record = compression_record(self.source, plan, data, compressed, model)
        record |= card_facts(self.source.folder) | auto_classes(model, processor) | {"processes": num_ranks()}
        record |= {"engines": [asdict(verdict) for verdict in verdicts(model.config)]}
        record |= {"steps_recalled": self.journal.num_recalled} if self.journal.num_recalled else {}
        if self.choice is not None:
            record["candidates"] = self.choice.record()
            self.phases.add(self.choice.phases)
            self.warnings += self.choice.warnings
        if self.warnings:
            record["warnings"] = [*record.get("warnings", []), *self.warnings]
        return record

    def _write(self, written: "_Writing", record: dict[str, Any]) -> None:
        """Write the folder beside, load it again, compare, add what was measured to `record`, and rename it."""
        plan = written.plan
        with new_folder(self.out, force=self.force, beside=self.journal.folder) as folder:
            with self.phases.measure("writing and verifying"):
                record |= {"logit_difference": self._save_and_compare(written, folder)}
                record |= {"bytes_on_disk": bytes_on_disk(folder)}
            if self.exports is not None and not self._is_trained_next:
                with self.phases.measure("exporting"):
                    record |= {"exports": self.exports.write(folder, self.journal.folder)}
            record |= {"seconds": time.monotonic() - self.started, "seconds_by_phase": self.phases.seconds}
            if self.plain_pass_seconds:
                record |= {"passes_by_phase": self.phases.over(self.plain_pass_seconds)}
            record |= {"peak_rss_bytes": peak_rss_bytes()}
            if self.max_memory is not None:
                predicted = {"peak_rss_bytes": plan.peak_bytes, "disk_bytes": plan.disk_bytes}
                memory = {"max_bytes": self.max_memory, "memory_mapped": plan.memory_mapped, "predicted": predicted}
                record |= {"memory": memory}
            if plan.on_device is not None:
                record |= {"device_memory": asdict(plan.on_device) | {"measured_peak_bytes": device_peak()}}
            record |= {"files": written_files(folder)}
            save_record(folder, record, card=render_card(record))
            save_report(folder)

    def _save_and_compare(self, written: "_Writing", folder: Path) -> float:
        """Write model, processor and companions; return how far the outputs of the loaded checkpoint are off."""
        plan, batch, model = written.plan, written.check_batch, written.model.pop()
        expected, dtype = outputs(model, batch), model.dtype
        forget_copies()
        save_checkpoint(
            model,
            written.processor,
            folder,
            recipe_yaml=self.recipe.to_yaml(),
            max_shard_size=min(SHARD_BYTES, plan.peak_bytes - INTERPRETER_BYTES),
            memory_mapped=plan.memory_mapped,
        )
        for write in written.writers:
            write(self.source.folder, folder)
        copy_companions(self.source.folder, folder, width=plan.after.hidden)
        del model
        release_memory()
        return verify_checkpoint(folder, expected, batch, dtype=dtype, scratch=self.journal.scratch)


@dataclass
class _Writing:
    """Inputs of the writing; `model` holds the one model, and gives it up before the checkpoint is loaded again.

    writers  write what stages change of the source's other files
    """

    plan: Plan
    check_batch: Batch
    processor: Any
    writers: list[Callable[[Path, Path], None]]
    model: list[PreTrainedModel]
