"""Trial of a model before a run: build, train, evaluate, save, load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from p2pfl.algorithms import local_training_of
from p2pfl.config import RunConfig, replace_options
from p2pfl.errors import ConfigError, P2PFLError, TrainingError, one_line
from p2pfl.model.global_state import preserved_global_state, settings_now, silenced
from p2pfl.model.structure import named_tensors, places
from p2pfl.model.vector import Layout, aligned_vector, is_finite
from p2pfl.preflight.outputs import (
    CLOSE,
    IMAGES,
    batch_and_single,
    evaluation_problem,
    large_batch_problem,
    noise_dataset,
    output_problem,
    probability_note,
    training_problem,
)
from p2pfl.preflight.plain_state import changed, plain_state
from p2pfl.run.tensor_file import separated
from p2pfl.training import Trainer, initial_model, statistics_of_run

MAX_IMAGES = 32  # in the trial's batch, so that it takes a second or two; larger batches are tried by shape only
_TRIAL_LR = 1e-3  # with it no weight overflows in a step, whatever --lr is
_DISTURBANCE = 0.1
_NAMED = 3  # parameters that a note names


@dataclass(frozen=True)
class TriedModel:
    """Initial, untrained model that has passed its trial, and notes, a line each."""

    model: nn.Module
    notes: tuple[str, ...]


def check_model(config: RunConfig, classes: int) -> TriedModel:
    """Try everything that a run will do with its model.

    Global random generators and settings are restored, and output of the user's code is discarded. Raises ConfigError
    naming the model, its problem, and a remedy where one is known.
    """
    with silenced(), preserved_global_state():
        torch.set_num_threads(config.compute.threads or 1)  # as the run's processes: other cores may be busy
        first = initial_model(config, classes)
        trainer = _trainer(config, classes)
        trial = _Trial(config, classes)
        trial.compare(first, trainer)
        before = plain_state(trainer.model)
        notes = trial.train(trainer)
        _disturb(trainer)
        outputs = trial.evaluate(trainer)
        trial.save_and_load(trainer, outputs)
        notes += trial.judge_training(trainer, outputs)
        notes += trial.find_plain_state(trainer.model, before)
        trial.try_large_batches(trainer.model)
        statistics_of_run(config, first, trainer.layout)
    return TriedModel(first, notes)


def _trainer(config: RunConfig, classes: int) -> Trainer:
    """Trainer of a peer with one batch of noise as its data, and one step per round."""
    batch = min(config.training.batch_size, MAX_IMAGES)
    changes = {"batch_size": batch, "local_steps": 1, "local_epochs": None, "round_length": "steps", "rounds": 1}
    config = replace_options(config, **changes, lr=min(config.training.lr, _TRIAL_LR))
    return Trainer(config, noise_dataset(batch, classes, IMAGES), np.arange(batch), torch.device("cpu"), 0)


def _disturb(trainer: Trainer) -> None:
    """Change all parameters in the vector by a tenth, as an exchange does."""
    generator = torch.Generator().manual_seed(0)
    for slot in trainer.layout.slots:
        if slot.is_parameter:
            noise = torch.randn(slot.size, generator=generator)
            trainer.vector[slot.offset : slot.offset + slot.size].mul_(noise.mul_(_DISTURBANCE).add_(1.0))


class _Trial:
    """Steps of a trial; each raises ConfigError for a problem."""

    def __init__(self, config: RunConfig, classes: int) -> None:
        self._config = config
        self._classes = classes
        self._settings = settings_now()

    def _refusal(self, problem: str) -> ConfigError:
        return ConfigError(f"--model {self._config.model.model}: {problem}")

    @contextmanager
    def _named(self, doing: str) -> Iterator[None]:
        """Turn any exception of the user's code into a refusal that names the step."""
        try:
            yield
            self._check_settings()
        except TrainingError as error:  # a loss, not because of --lr here; or lack of memory
            said = "the loss of its first step, on noise images, is not finite" if error.remedy else str(error)
            raise self._refusal(said) from error
        except P2PFLError:
            raise
        except (Exception, SystemExit) as error:
            self._check_settings()  # which may be the cause
            raise self._refusal(f"{doing}: {one_line(error)}") from error

    def _check_settings(self) -> None:
        changed = [name for name, value in settings_now().items() if value != self._settings[name]]
        if changed:
            raise self._refusal(f"changes torch's {changed[0]} in its forward pass; put it back there")

    def compare(self, first: nn.Module, trainer: Trainer) -> None:
        """Check that two models of one seed are equal and share nothing."""
        second = trainer.model
        if len(
            {id(tensor) for _, tensor in named_tensors(first)} & {id(tensor) for _, tensor in named_tensors(second)}
        ):
            raise self._refusal(
                "two calls of the function return the same tensors; build all of it inside the function"
            )
        if Layout.of(first) != trainer.layout or places(first) != places(second):
            raise self._refusal(
                "two calls with the same seed return different layers, shapes or ties; peers would differ"
            )
        theirs = dict(named_tensors(second))
        for name, tensor in named_tensors(first):
            if not torch.equal(tensor, theirs[name]):
                raise self._refusal(
                    f"the initial {name} does not follow the seed, and peers would differ; draw it from torch's, "
                    "numpy's or Python's global generator, without seeding that"
                )

    def train(self, trainer: Trainer) -> tuple[str, ...]:
        """Take one training step as in a run, and return notes on the gradients."""
        count = trainer.config.training.batch_size
        before = dict(named_tensors(trainer.model))
        with self._named(f"fails on a training batch of {count} image{'s' * (count > 1)}"), self._judged(trainer.model):
            trainer.train(1, lambda steps: None, lambda: False, local_training_of(trainer.config))
        notes = self._check_gradients(trainer.model)
        self._check_places(trainer, before)
        if not is_finite(trainer.vector):
            raise self._refusal("its weights or statistics are not finite after one step on noise images")
        return notes

    def _check_gradients(self, model: nn.Module) -> tuple[str, ...]:
        """Check that the loss depends on the parameters; note those on which it does not."""
        trained = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
        gradients = {name: gradient for name, gradient in trained.items() if gradient is not None}
        for name, gradient in gradients.items():
            if not is_finite(gradient):
                raise self._refusal(f"the gradient of {name} is not finite after one step on noise images")
        if not gradients:
            raise self._refusal(
                "no gradient of the loss reaches any parameter, so that nothing is trained; compute the outputs from "
                "the parameters without detach(), no_grad() or new tensors of their values"
            )
        # With a single class the loss is always zero, which is a note on the data.
        if self._classes > 1 and not any(gradient.any() for gradient in gradients.values()):
            raise self._refusal(
                "the gradients of all its parameters are zero after one step on noise images, so that nothing is "
                "trained; take rounding, comparisons and products with zero out of its forward pass"
            )
        missing = [name for name in trained if name not in gradients]
        if not missing:
            return ()
        return (
            f"--model {self._config.model.model}: no gradient reached {len(missing)} of {len(trained)} trainable "
            f"parameters ({_some(missing)}) in the trial's training step; freeze them "
            "(requires_grad_(False)) if that is meant",
        )

    def _check_places(self, trainer: Trainer, before: dict[str, Tensor]) -> None:
        """Check that parameters and buffers are still the tensors that are averaged."""
        now = dict(named_tensors(trainer.model))
        views = {slot.name: slot.view(trainer.vector) for slot in trainer.layout.slots if slot.size}
        for name in {**before, **now}:
            moved = name in views and name in now and now[name].data_ptr() != views[name].data_ptr()
            if now.get(name) is not before.get(name) or moved:
                done = "replaces" if name in before else "creates"
                raise self._refusal(
                    f"{done} the tensor {name} in its forward pass; create it in __init__, and write to it (copy_)"
                )

    def evaluate(self, trainer: Trainer) -> Tensor:
        """Evaluate a batch and a single image, and return the outputs.

        They must depend on weights and image alone.
        """
        model, before = trainer.model, _values(trainer.model)
        tensors = dict(named_tensors(model))
        with self._named(f"fails in an evaluation of {IMAGES} images, or of one"), self._judged(model):
            trainer.evaluate(0)
            outputs = self._outputs(model)
        if not is_finite(outputs):
            raise self._refusal("its outputs in evaluation mode are not finite after one step on noise images")
        self._check_places(trainer, tensors)
        for name, value in _values(model).items():
            if not torch.equal(value, before[name]):
                raise self._refusal(f"an evaluation changes {name}; change it in training mode only (if self.training)")
        with self._named(f"fails in another evaluation of {IMAGES} images, or of one"):
            problem = evaluation_problem(model, outputs, self._config.compute.precision == "bf16")
        if problem:
            raise self._refusal(problem)
        return outputs

    def judge_training(self, trainer: Trainer, outputs: Tensor) -> tuple[str, ...]:
        """Check that outputs depend on the image in training mode; note a bounded range."""
        problem, odd = training_problem(trainer.model, min(IMAGES, trainer.config.training.batch_size))
        if problem:
            raise self._refusal(problem)
        odd = odd or probability_note(outputs)
        return (self._note(f"{odd}; return the logits before it"),) if odd else ()

    def find_plain_state(self, model: nn.Module, before: Mapping[str, object]) -> tuple[str, ...]:
        """Note on plain attributes that changed, which checkpoints do not hold."""
        model.train()
        names = changed(before, plain_state(model))
        said = (
            f"it changes {_some(names)} outside of its state dict, which a resumed run and its saved model do not have"
        )
        return (self._note(f"{said}; make that a buffer if outputs depend on it"),) if names else ()

    def _note(self, said: str) -> str:
        return f"--model {self._config.model.model}: {said}"

    def save_and_load(self, trainer: Trainer, outputs: Tensor) -> None:
        """Check that the state dict restores the trained model in one of another seed."""
        with self._named("its state dict cannot be saved"):
            saved = safetensors.torch.save(separated(trainer.model.state_dict()), {"p2pfl": ""})
        other = initial_model(replace_options(self._config, seed=int(self._config.record.seed == 0)), self._classes)
        with self._named("its state dict cannot be loaded again"):
            other.load_state_dict(safetensors.torch.load(saved))
        loaded = _values(other)
        for name, value in _values(trainer.model).items():
            if name not in loaded or not torch.equal(value, loaded[name]):
                raise self._refusal(f"its state dict does not restore {name}; register it as persistent")
        layout = Layout.of(other)
        layout.bind(other, aligned_vector(layout.size))  # memory formats decide on the order of sums
        with self._named("fails after its state dict is loaded"):
            again = self._outputs(other)
        if not torch.allclose(outputs, again, rtol=CLOSE, atol=CLOSE * float(outputs.abs().max())):
            raise self._refusal(
                "returns different outputs after its state dict is saved and loaded; all that training changes or the "
                "seed draws must be parameters or buffers, and no other tensor may be a view of one"
            )

    def try_large_batches(self, model: nn.Module) -> None:
        """Try batches as large as the run's by shape; p2pfl's own models take any."""
        if ":" not in self._config.model.model:
            return
        batch = self._config.training.batch_size
        if problem := large_batch_problem(model, self._classes, (MAX_IMAGES, batch), IMAGES):
            raise self._refusal(problem)

    def _outputs(self, model: nn.Module) -> Tensor:
        return batch_and_single(model, self._config.compute.precision == "bf16")

    @contextmanager
    def _judged(self, model: nn.Module) -> Iterator[None]:
        """Check that every output of the model is one float tensor (images, classes)."""

        def judge(module: nn.Module, images: Sequence[Tensor], output: object) -> None:
            if problem := output_problem(output, len(images[0]), self._classes, model.training):
                raise self._refusal(problem)

        handle = model.register_forward_hook(judge)
        try:
            yield
        finally:
            handle.remove()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")


def _values(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers by name."""
    return {name: tensor.detach().clone() for name, tensor in named_tensors(model)}
