"""The training loop: phases, processes, precision, resume.

Iteration i of a phase draws its batch and its random numbers from (seed, phase, i, rank) alone, so a run that was
killed and resumed computes the same losses as one that was not.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from l2g.checkpoint import load_checkpoint, save_checkpoint
from l2g.errors import CheckpointError, ConfigError, DataError, L2GError
from l2g.files import refuse_overwriting, write_atomically
from l2g.modeling.backbones.resnet import set_batch_norm
from l2g.modeling.family.weight_sums import check_archive
from l2g.modeling.local2global import Local2Global
from l2g.training.config import PhaseConfig, TrainConfig
from l2g.training.dataset import open_dataset, parted
from l2g.training.examine import Examined
from l2g.training.journal import Journal
from l2g.training.loss.criterion import Criterion
from l2g.training.loss.objectives import ClipObjective, ImageObjective, StandIns, phase_one_parameters
from l2g.training.loss.targets import Batch
from l2g.training.optimiser import build_optimiser, rate_factor, set_rate
from l2g.training.source import Batches, iterate, seed_of
from l2g.training.start import build_start

RESUME_FILE, BEST_FILE = "resume.pt", "best.safetensors"
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TrainingError(L2GError):
    """The run cannot go on: the loss is not finite, or a resume file belongs to another run."""


@dataclass
class Progress:
    """Where a run is: the phase, and the next iteration in it.

    best: the best AP so far, in percent. waited: evaluations of this phase since a better one.
    """

    phase: int = 0
    iteration: int = 0
    best: float = -1.0
    waited: int = 0


@dataclass(frozen=True)
class Process:
    """This process among its peers (torchrun), and the device that it works on."""

    rank: int
    world: int
    device: torch.device

    @classmethod
    def join(cls) -> Process:
        """Join the others that torchrun started, or stand alone. TrainingError where a process would have no GPU."""
        world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
        local, cuda = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.is_available()
        if cuda and local >= (gpus := torch.cuda.device_count()):
            raise TrainingError(
                f"process {local + 1} of this machine found {gpus} GPUs, one for each process expected; start "
                f"torchrun with --nproc-per-node {gpus}, or keep to the CPU with CUDA_VISIBLE_DEVICES= in front"
            )
        device = torch.device("cuda", local) if cuda else torch.device("cpu")
        if cuda:
            torch.cuda.set_device(device)
        if world > 1 and not distributed.is_initialized():
            store, _, _ = next(distributed.rendezvous("env://"))
            distributed.init_process_group(
                "nccl" if cuda else "gloo", store=_of_this_start(store), rank=rank, world_size=world
            )
        return cls(rank, world, device)


class Trainer:
    """Runs all phases of a config into an output folder; a second call with the same folder goes on where it stopped.

    Args:
        config: the run. output: folder for `resume.pt`, `phase<k>.safetensors`, `model.safetensors` and TensorBoard
            events.
        evaluate: called with the model, in evaluation mode, every `config.evaluation.every` iterations and at the end
            of a phase.
    """

    def __init__(self, config: TrainConfig, output: Path, evaluate: Callable[[Local2Global], Examined] | None = None):
        self.config, self.output, self.evaluate = config, Path(output), evaluate
        phases = (f"phase{number}.safetensors" for number in range(len(config.phases) + 1))
        written = [self.output / name for name in (RESUME_FILE, BEST_FILE, "model.safetensors", *phases)]
        refuse_overwriting(written, [config.init], ConfigError)
        self.process = Process.join()
        self.output.mkdir(parents=True, exist_ok=True)
        self.dataset, _ = parted(open_dataset(config.data), config.data.held_out)
        start = build_start(config, self.dataset.class_names, self.dataset.stuff_classes)
        self.model, self.fresh, self.note = start.model, start.fresh, start.note
        self.model.to(self.process.device)
        self.progress = Progress()
        self.history: list[dict[str, float]] = []
        self._stop = self._examining = False
        self._left_out: set[str] = set()
        self._resume = self._read_resume()

    @property
    def chief(self) -> bool:
        return self.process.rank == 0

    def run(self) -> Path | None:
        """Train to the end; None when it was interrupted (the resume file is then up to date)."""
        writer = Journal(self.output, self._step()) if self.chief else None
        with _on_signal(self._request_stop):
            try:
                while self.progress.phase < len(self.config.phases):
                    if not self._run_phase(self.config.phases[self.progress.phase], writer):
                        return None
            finally:
                if writer:
                    writer.close()
        return self.output / "model.safetensors"

    def _run_phase(self, phase: PhaseConfig, writer: Journal | None) -> bool:
        config, progress, device = self.config, self.progress, self.process.device
        set_batch_norm(self.model, phase.train_batch_norm)
        self.model.marked = phase.slot_marks
        self.model.train()
        objective = self._objective(phase).to(device)
        optimiser = build_optimiser(objective, config, phase)
        averaged = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(config.ema)) if config.ema else None
        scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16" and device.type == "cuda")
        self._restore(objective, optimiser, averaged, scaler)
        runner: nn.Module = objective
        if self.process.world > 1:
            runner = DistributedDataParallel(objective, find_unused_parameters=True)
        key = (config.seed, progress.phase)
        batches = Batches(self.dataset, config.data, phase, key, self.process.rank, self.process.world)
        stream = iterate(batches, progress.iteration, phase.iterations, config.data.workers)
        saved, enough, stop, state = 0, False, False, (objective, optimiser, averaged, scaler)
        with self._saved_if_unreadable(*state), tqdm(
            total=phase.iterations, initial=progress.iteration, desc=f"phase {progress.phase} ({phase.kind})",
            disable=not self.chief, mininterval=5, dynamic_ncols=True,
        ) as bar:  # fmt: skip
            for batch in stream:
                if due := self._due():
                    self._evaluate(averaged, writer)
                    enough = self._agreed(self._waited_enough())
                    if enough:
                        break
                if not (due and self._agreed(self._stop)):
                    self._learn(runner, batch, optimiser, averaged, scaler, writer, bar)
                    saved += 1
                stop = self._agreed(self._stop)
                if stop or saved >= config.save_every:
                    saved = 0
                    self._save_resume(*state)
                if stop:
                    break
        self._record(writer)
        if stop:
            return False
        if not enough and self._due():
            with self._saved_if_unreadable(*state):
                self._evaluate(averaged, writer)
            if self._agreed(self._stop):
                self._save_resume(*state)
                return False
        self._finish_phase(averaged)
        return True

    def _learn(self, runner, batch: Batch, optimiser, averaged, scaler, writer, bar) -> None:
        """One iteration."""
        config, progress = self.config, self.progress
        self._name_left_out(batch)
        factor = rate_factor(config.phases[progress.phase], progress.iteration)
        set_rate(optimiser, factor)
        torch.manual_seed(seed_of(config.seed, progress.phase, progress.iteration, self.process.rank))
        losses, norm = self._iteration(runner, batch.to(self.process.device), optimiser, scaler)
        if averaged is not None:
            averaged.update_parameters(self.model)
        progress.iteration += 1
        self._log(writer, bar, losses, norm, factor)

    @contextlib.contextmanager
    def _saved_if_unreadable(self, objective: nn.Module, optimiser, averaged, scaler) -> Iterator[None]:
        """Where a frame that is learned from, or scored, cannot be read, the run is saved so that it can go on."""
        try:
            yield
        except DataError as error:
            self._save_resume(objective, optimiser, averaged, scaler, together=self.process.world == 1)
            mend = "when the frame is mended, or left out with data.skip_broken=true"
            raise DataError(f"{error}; the run goes on from {self.output / RESUME_FILE} {mend}") from None

    def _iteration(self, runner: nn.Module, batch, optimiser, scaler) -> tuple[dict[str, float], float]:
        config, device = self.config, self.process.device
        dtype = AUTOCAST.get(config.precision)
        with torch.autocast(device.type, dtype) if dtype else contextlib.nullcontext():
            terms: dict[str, Tensor] = runner(batch)
            loss = functools.reduce(torch.add, terms.values())
        optimiser.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.unscale_(optimiser)
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        norm = float(nn.utils.clip_grad_norm_(parameters, config.clip_norm))
        values = {name: float(value.detach()) for name, value in terms.items()} | {"total": float(loss.detach())}
        if not torch.isfinite(loss) or (not scaler.is_enabled() and norm != norm):
            raise TrainingError(
                f"phase {self.progress.phase}, iteration {self.progress.iteration}: the loss is {values}; "
                f"lower the learning rate and start again from {self.output / RESUME_FILE}"
            )
        scaler.step(optimiser)
        scaler.update()
        return values, norm

    def _objective(self, phase: PhaseConfig) -> nn.Module:
        criterion = Criterion(self.config.loss)
        self.model.requires_grad_(phase.kind != "align")
        if phase.kind == "clip":
            noise, consistency = phase.state_noise, phase.consistency
            return ClipObjective(self.model, criterion, phase.supervised, phase.two_stage, noise, consistency)
        stand_ins = None
        if phase.kind == "align":
            # What starts fresh is learned in every phase: frozen, it would stay at its random values.
            fresh = (value for name, value in self.model.named_parameters() if name in self.fresh)
            for parameter in (*phase_one_parameters(self.model), *fresh):
                parameter.requires_grad_(True)
            torch.manual_seed(self.config.seed)
            stand_ins = StandIns(self.model.config.num_queries, self.model.config.hidden_dim)
        return ImageObjective(self.model, criterion, phase.denoising, phase.noise, stand_ins)

    def _log(self, writer: Journal | None, bar, losses: dict[str, float], norm: float, factor: float) -> None:
        self.history.append({**losses, "gradient norm": norm, "rate": factor})
        mean = self._mean()
        bar.set_postfix({name: f"{mean[name]:.3g}" for name in ("total", *(n for n in losses if n != "total"))}, False)
        bar.update()
        if not bar.disable and bar.n == bar.initial + 1:
            bar.refresh()  # it is drawn every few seconds; the first loss is waited for
        if self.progress.iteration % self.config.log_every == 0:
            self._record(writer)

    def _mean(self) -> dict[str, float]:
        """Of the iterations since the last row of the journal."""
        return {name: sum(row[name] for row in self.history) / len(self.history) for name in self.history[0]}

    def _record(self, writer: Journal | None) -> None:
        if writer and self.history:
            writer.losses(self._step(), {**self._place(), **self._mean()})
        self.history.clear()

    def _step(self) -> int:
        """Iterations of the run that are done, those that a phase left out counted."""
        return sum(phase.iterations for phase in self.config.phases[: self.progress.phase]) + self.progress.iteration

    def _place(self) -> dict[str, float]:
        return {"phase": self.progress.phase, "iteration": self.progress.iteration}

    def _due(self) -> bool:
        """Whether the weights are to be evaluated now, before the next iteration; the same in all processes."""
        every, iteration = self.config.evaluation.every, self.progress.iteration
        at_end = iteration == self.config.phases[self.progress.phase].iterations
        return bool(every and iteration and self.evaluate and (at_end or iteration % every == 0))

    def _evaluate(self, averaged: AveragedModel | None, writer: Journal | None) -> None:
        """The scores of the weights as they are now (of their average where there is one); the best are kept."""
        if not self.chief or self.evaluate is None or self._stop:
            return
        progress = self.progress
        assert writer is not None
        model = self.model if averaged is None else cast(Local2Global, averaged.module)
        model.eval()
        try:
            self._examining = True
            found = self.evaluate(model)
        except KeyboardInterrupt:  # asked to stop: the run goes on with this evaluation
            return
        finally:
            self._examining = False
            model.train()
        tqdm.write(f"phase {progress.phase}, iteration {progress.iteration}: {found.scores}")
        writer.scores(self._step(), {**self._place(), **found.scores}, found.pictures)
        progress.waited += 1
        if found.score > progress.best:
            progress.best, progress.waited = found.score, 0
            kept = copy.deepcopy(model)
            set_batch_norm(kept, False)
            save_checkpoint(kept, self.output / BEST_FILE)

    def _waited_enough(self) -> bool:
        """Whether this phase brings nothing more, as far as its evaluations tell."""
        patience = self.config.evaluation.patience
        return bool(patience) and self.progress.waited >= patience

    def _finish_phase(self, averaged: AveragedModel | None) -> None:
        set_batch_norm(self.model, False)
        if averaged is not None:
            set_batch_norm(averaged.module, False)
            self.model.load_state_dict(averaged.module.state_dict())
        if self.chief:
            save_checkpoint(self.model, self.output / f"phase{self.progress.phase}.safetensors")
            if self.progress.phase + 1 == len(self.config.phases):
                best = self.output / BEST_FILE
                if self.config.evaluation.best and best.is_file():
                    self.model.load_state_dict(load_checkpoint(best).state_dict())
                save_checkpoint(self.model, self.output / "model.safetensors")
        self.progress = Progress(self.progress.phase + 1, 0, self.progress.best)
        if self.chief:
            self._write({**self._run_facts(), "model": self._weights()})

    def _save_resume(self, objective: nn.Module, optimiser, averaged, scaler, together: bool = True) -> None:
        """together: whether all processes come here now, so that the state that each of them carries is saved."""
        carried = self._gathered(objective) if together else []
        if not self.chief:
            return
        if not all(bool(torch.isfinite(value).all()) for value in self.model.state_dict().values()):
            raise TrainingError(
                f"phase {self.progress.phase}, iteration {self.progress.iteration}: the weights hold NaN or infinity; "
                f"lower the learning rate and start again from {self.output / RESUME_FILE}"
            )
        self._write(
            {
                **self._run_facts(),
                "objective": objective.state_dict(),
                "optimiser": optimiser.state_dict(),
                "averaged": averaged.state_dict() if averaged is not None else None,
                "scaler": scaler.state_dict(),
                "carried": carried,
            }
        )

    def _gathered(self, objective: nn.Module) -> list[tuple[Tensor, ...] | None]:
        """What each process carries from one window of a clip to the next."""
        own = objective.carried() if isinstance(objective, ClipObjective) else None
        if self.process.world == 1:
            return [own]
        found: list[tuple[Tensor, ...] | None] = [None] * self.process.world
        distributed.all_gather_object(found, own)
        return found

    def _run_facts(self) -> dict[str, Any]:
        classes = list(self.dataset.class_names)
        return {"config": self.config.to_dict(), "progress": vars(self.progress), "classes": classes}

    def _name_left_out(self, batch: Batch) -> None:
        """Say once what could not be read while batches were drawn."""
        for text in batch.left_out:
            if text not in self._left_out:
                self._left_out.add(text)
                tqdm.write(f"left out: {text}", file=sys.stderr)

    def _weights(self) -> dict[str, Tensor]:
        return self.model.state_dict()

    def _write(self, data: dict) -> None:
        with write_atomically(self.output / RESUME_FILE, CheckpointError) as temporary:
            try:
                torch.save(data, temporary)
            except RuntimeError as error:  # of its archive writer, where the system refuses
                raise CheckpointError(
                    f"{self.output / RESUME_FILE}: cannot be written ({str(error).splitlines()[0]}); make room on the "
                    "disk; the same command goes on from what was saved before"
                ) from None

    def _read_resume(self) -> dict | None:
        path = self.output / RESUME_FILE
        if not path.exists():
            return None
        try:
            data = torch.load(path, map_location=self.process.device, weights_only=True)
            check_archive(path)
            found, progress = data["config"], Progress(**data["progress"])
        except Exception as error:
            raise CheckpointError(f"{path}: not a resume file ({error}); remove it to start again") from None
        ours = self.config.to_dict()
        changed = sorted(key for key in ours if _decisive(found, key) != _decisive(ours, key) and key != "phases")
        begun = progress.phase + ("objective" in data)  # what is still to come may be planned anew
        if found["phases"][:begun] != ours["phases"][:begun]:
            changed.append("phases")
        if data.get("classes", list(self.dataset.class_names)) != list(self.dataset.class_names):
            changed.append("list of classes in its data set")
        if changed:
            raise TrainingError(
                f"{path} belongs to a run with another {', '.join(changed)}; use another output folder or that config"
            )
        self.progress = progress
        if "model" in data:
            self.model.load_state_dict(data["model"])
            return None
        return data

    def _restore(self, objective: nn.Module, optimiser, averaged, scaler) -> None:
        data, self._resume = self._resume, None
        if data is None:
            return
        try:
            objective.load_state_dict(data["objective"])
            optimiser.load_state_dict(data["optimiser"])
        except (RuntimeError, ValueError):
            path = self.output / RESUME_FILE
            raise CheckpointError(f"{path}: of another version of l2g; go on with that, or remove it") from None
        scaler.load_state_dict(data["scaler"])
        if averaged is not None:
            averaged.load_state_dict(data["averaged"])
        carried = data.get("carried", [])
        # Among another number of processes a clip that was begun goes on with a fresh state.
        if isinstance(objective, ClipObjective) and len(carried) == self.process.world:
            objective.carry(carried[self.process.rank], self.process.device)

    def _request_stop(self) -> None:
        self._stop = True
        if self._examining:  # nothing of an evaluation is lost, and it may take minutes
            raise KeyboardInterrupt

    def _agreed(self, flag: bool) -> bool:
        """Whether any process wants to stop; all leave after the same iteration."""
        if self.process.world == 1:
            return flag
        value = torch.tensor(float(flag), device=self.process.device)
        distributed.all_reduce(value, distributed.ReduceOp.MAX)
        return bool(value.item())


# Settings that change nothing about the losses of a run, but for what could not be read.
_MAY_CHANGE = {"evaluation", "save_every", "log_every"}
_MAY_CHANGE_IN_DATA = {"skip_broken", "allow_outside", "workers"}


def _decisive(config: dict[str, Any], key: str) -> Any:
    """A setting, or what of it decides about the losses."""
    if key in _MAY_CHANGE:
        return None
    if key == "data" and isinstance(config.get(key), dict):
        return {name: value for name, value in config[key].items() if name not in _MAY_CHANGE_IN_DATA}
    return config.get(key)


def _of_this_start(store: distributed.Store) -> distributed.Store:
    """`store` for this start of the processes alone.

    torchrun hands every restart the store of the one before, in which the addresses of processes that died stand: who
    reads one waits for it in vain. How often it started tells them apart on one machine; nodes count by themselves.
    """
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    if int(os.environ.get("GROUP_WORLD_SIZE", 1)) == 1:
        return distributed.PrefixStore(f"start_{restarts}", store)
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if shared and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) and os.environ["RANK"] == "0":
        print(
            "note: restarts on several nodes may wait for processes that died; TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 "
            "in front of torchrun, on every node, cures it",
            file=sys.stderr,
        )
    return store


@contextlib.contextmanager
def _on_signal(request: Callable[[], None]):
    """Ctrl-C and SIGTERM ask for an orderly stop after the current iteration; a second one stops at once."""
    previous: dict[int, Any] = {}
    asked = False

    def handler(number, frame):
        nonlocal asked
        if asked:
            restore()
            signal.raise_signal(number)
            return
        asked = True
        request()

    def restore() -> None:
        for number, action in previous.items():
            signal.signal(number, action)

    try:
        for name in (signal.SIGINT, signal.SIGTERM):
            previous[name] = signal.signal(name, handler)
    except ValueError:  # not the main thread: whoever runs us handles signals
        previous.clear()
    try:
        yield
    finally:
        restore()
