"""transformers' Trainer, with checkpoints that are whole or absent and groups of parameters."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader
from transformers import Trainer, TrainingArguments

from headway.errors import HeadwayError
from headway.files import write_atomically
from headway.training import checkpoint
from headway.training.optimisation import adamw, clip_gradients, schedule
from headway.training.packed import Inputs, PackedWindows
from headway.training.processes import Processes
from headway_train_settings import TrainSettings

PROGRESS = "progress.json"


class HeadwayTrainer(Trainer):
    """Trains as `TrainSettings` say; the loop is transformers'.

    Args:
        model: on the CPU, or sharded already.
        arguments: of `training_arguments`.
        data: windows in the order of the run.
        inputs: makes a model's arguments of windows.
        settings: of the run.
        fingerprint: of all that a checkpoint must agree with.
        sharded: whether the model owns its placement.

    Attributes:
        before_saving: called before a checkpoint is written, by every process that has one.
    """

    def __init__(
        self,
        model: nn.Module,
        arguments: TrainingArguments,
        data: PackedWindows,
        inputs: Inputs,
        settings: TrainSettings,
        fingerprint: str,
        sharded: bool = False,
    ) -> None:
        self.settings, self.fingerprint, self.data = settings, fingerprint, data
        self.sharded = sharded
        self.before_saving: Callable[[], None] | None = None
        super().__init__(model=model, args=arguments, data_collator=inputs, train_dataset=data)
        if sharded:
            # Autocast alone: accelerate must neither wrap it for data parallelism nor shard it.
            self.accelerator.prepare_model(model, device_placement=False, evaluation_mode=True)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Groups of parameters with rates and decays of their own."""
        if self.optimizer is None:
            self.optimizer = adamw(self._own_model, self.settings)
        return self.optimizer

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: transformers would walk all parameters at every step."""
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As Trainer does, but nothing is kept in its state: metrics.jsonl holds the history."""
        super().log(logs, start_time)
        self.state.log_history.clear()

    def get_train_dataloader(self) -> DataLoader[Any]:
        """As Trainer has it; where processes share layers, they read the same windows."""
        if self.settings.tensor_parallel == 1:
            loader: DataLoader[Any] = super().get_train_dataloader()
            return loader
        shares = self.args.world_size // self.settings.tensor_parallel
        share = self.args.process_index // self.settings.tensor_parallel
        batches = list(BatchSampler(range(len(self.data)), self._train_batch_size, drop_last=True))
        return DataLoader(
            self.data, batch_sampler=batches[share::shares], collate_fn=self.data_collator
        )

    def _get_num_items_in_batch(self, *given: Any) -> None:
        """Not counted: all windows have as many labels, so that means of means are right."""

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        if not self.sharded:
            return super()._clip_grad_norm(model)
        return clip_gradients(self._own_model, self.settings.clip)

    def require_finite(self, loss: float, what: str = "loss") -> None:
        """Stop a run that has diverged, before anything of it is kept.

        Raises:
            HeadwayError: the number is not finite, or after the warm-up the loss is a nat above
                that of an even guess among all tokens.
        """
        step = self.state.global_step
        even = math.log(cast(Any, self.model).config.vocab_size)
        warm = step > round(self.settings.warmup * self.settings.steps)
        if math.isfinite(loss) and not (what == "loss" and warm and loss > even + 1):
            return
        saved = checkpoint.checkpoints(Path(cast(str, self.args.output_dir)))
        kept = f"{saved[-1].name} is from before" if saved else "no checkpoint was written before"
        raise HeadwayError(
            f"learning_rate: with {self.settings.learning_rate:g} the run diverged by step {step} "
            f"({what} {loss:g}); {kept}; accepted is a lower rate, a longer --warmup or a smaller "
            "--clip, in another --out"
        )

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        since = self.state.global_step - self._globalstep_last_logged
        total = float(self.accelerator.reduce(self._tr_loss.clone(), "mean"))
        self.require_finite(total / max(1, since))
        if self.before_saving is not None:
            self.before_saving()
        with checkpoint.whole_checkpoint(
            Path(cast(str, self.args.output_dir)),
            self.state.global_step,
            self.settings.keep,
            self.args.should_save,
            self.accelerator.wait_for_everyone,
        ) as folder:
            checkpoint.save_state(folder, self._own_model, self._inner_optimizer)
            self._save_rng_state(str(folder))
            if self.args.should_save:
                self.state.save_to_json(str(folder / "trainer_state.json"))
                told = {
                    "fingerprint": self.fingerprint,
                    "loss_since_logged": total,
                    "last_logged": self._globalstep_last_logged,
                }
                write_atomically(folder / PROGRESS, json.dumps(told, indent=1))

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        folder = Path(resume_from_checkpoint)
        if _progress(folder)["fingerprint"] != self.fingerprint:
            raise HeadwayError(
                f"out: {str(folder)!r} is a checkpoint of another configuration or corpus; "
                "accepted is another --out, or the run as it was"
            )
        checkpoint.load_weights(folder, self._own_model)

    def _load_optimizer_and_scheduler(self, checkpoint_folder: str | None) -> None:
        if checkpoint_folder is None:
            return
        optimiser = self._inner_optimizer
        checkpoint.load_moments(Path(checkpoint_folder), self._own_model, optimiser)
        # The rates follow from the step alone, and there may be another number of groups.
        step, scheduler = self.state.global_step, cast(Any, self.lr_scheduler)
        pairs = zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        rates = [base * rule(step) for base, rule in pairs]
        told = {"last_epoch": step, "_step_count": step + 1, "_last_lr": rates}
        scheduler.load_state_dict(told | {"lr_lambdas": [None] * len(rates)})
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate

    def restore_loss(self, folder: Path) -> None:
        """Go on with the sum that the next line of the loss is the mean of."""
        told = _progress(folder)
        self._tr_loss.fill_(told["loss_since_logged"])
        self._globalstep_last_logged = told["last_logged"]

    @property
    def _own_model(self) -> nn.Module:
        """Not wrapped for data parallelism or compiled."""
        return cast(nn.Module, self.model)

    @property
    def _inner_optimizer(self) -> torch.optim.Optimizer:
        """Without accelerate's wrapper."""
        return cast(torch.optim.Optimizer, getattr(self.optimizer, "optimizer", self.optimizer))


def _progress(folder: Path) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HeadwayError(
            f"out: {str(folder)!r} is no checkpoint of headway train ({error}); accepted is "
            "another --out, or a folder that it wrote"
        ) from error
    return told


def training_arguments(
    settings: TrainSettings, processes: Processes, device: torch.device, sharded: bool
) -> TrainingArguments:
    """transformers' own arguments for a run; starts the process group where there are several."""
    part = settings.batch_size // processes.shares
    options: dict[str, Any] = {
        **schedule(settings),
        "output_dir": str(settings.out),
        "max_steps": settings.steps,
        "per_device_train_batch_size": settings.micro_batch_size or part,
        "gradient_accumulation_steps": processes.accumulation(settings),
        "learning_rate": settings.learning_rate,
        "max_grad_norm": settings.clip,
        "seed": settings.seed,
        "full_determinism": settings.deterministic,
        "bf16": settings.dtype == "bfloat16",
        # A sharded model is compiled layer by layer before it is sharded.
        "torch_compile": settings.compile and not sharded,
        "use_cpu": device.type == "cpu",
        "ddp_find_unused_parameters": False,
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": False,
        "dataloader_pin_memory": device.type == "cuda",
        # A copy that waits would wait for the whole step before it.
        "accelerator_config": {"non_blocking": device.type == "cuda"},
        "logging_steps": settings.log_every,
        # Looking at every loss would wait for the GPU at every step.
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": list(settings.report_to),
        "run_name": settings.out.name,
        "disable_tqdm": True,
    }
    if device.type == "cpu" and processes.world > 1:
        options["ddp_backend"] = "gloo"
    arguments = TrainingArguments(**options)
    # One process uses one GPU: transformers would copy the model to all of them at every step.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments
