"""The counts that all costs follow from: rows, tasks, labels, layers, subsets, trainings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import NamedTuple

from affinity_service.config import LARGEST_HEAD, MANY_TASKS, Config, GroupModelConfig, TrainConfig
from affinity_service.config_models import ModelConfig, PretrainedConfig, SAGEConfig, SIGNConfig, check_inputs
from affinity_service.evaluation.run import stack_lengths
from affinity_service.tasks.suite import SPLITS, TRAIN, VALIDATION, Suite

# Times what a pass keeps of the rows that it takes.
ROW_COPIES = 3
# As engine/group_models.py decides.
STACKABLE_PARAMETERS = 2_000_000


class SharedLayer(NamedTuple):
    """A layer outside the heads: one matrix and a bias.

    inputs, outputs : of one use. uses : how often an example passes through it. reads_data : whether its inputs come
    from the data, which need no gradient.
    """

    inputs: int
    outputs: int
    uses: int = 1
    reads_data: bool = False

    @property
    def products(self) -> int:
        """Multiplications per example."""
        return self.inputs * self.outputs * self.uses


@dataclass(frozen=True)
class Workload:
    """A suite and a model, by size.

    Attributes
    ----------
    examples, input_shape : examples of all splits, and the shape of one of them.
    rows : examples per split that have a label for at least one task.
    train, validation : labels per task.
    outputs : columns of each task's head.
    model : its config.
    nodes, edges : of the graph that the suite is made from; 0 where it is none.
    """

    examples: int
    input_shape: tuple[int, ...]
    rows: tuple[int, int, int]
    train: tuple[int, ...]
    validation: tuple[int, ...]
    outputs: tuple[int, ...]
    model: ModelConfig
    nodes: int = 0
    edges: int = 0

    @staticmethod
    def of(config: Config, suite: Suite) -> Workload:
        if isinstance(config.model, PretrainedConfig):
            # Networks are counted with the help of this module.
            from affinity_service.planning.language import pretrained_workload

            return pretrained_workload(config, suite)
        return Workload.counted(config, suite)

    @classmethod
    def counted(cls, config: Config, suite: Suite) -> Workload:
        """Without a look at the network."""
        train, validation, test = (suite.count(code, range(len(suite.tasks))) for code in range(len(SPLITS)))
        return cls(
            examples=len(suite),
            input_shape=suite.inputs.shape[1:],
            model=config.model,
            nodes=suite.facts.get("nodes", 0),
            edges=suite.facts.get("edges", 0),
            rows=(train, validation, test),
            train=tuple(suite.label_counts(TRAIN).tolist()),
            validation=tuple(suite.label_counts(VALIDATION).tolist()),
            outputs=tuple(task.outputs for task in suite.tasks),
        )

    @property
    def tasks(self) -> int:
        return len(self.outputs)

    @property
    def labels(self) -> int:
        """Rows of the feature store: labels of training and validation examples."""
        return sum(self.train) + sum(self.validation)

    @property
    def inputs(self) -> int:
        """Numbers that an example has."""
        return math.prod(self.input_shape)

    @cached_property
    def body(self) -> tuple[SharedLayer, ...]:
        return shared_layers(self.model, self.input_shape)

    @property
    def body_products(self) -> int:
        """Multiplications per example in the shared layers."""
        return sum(layer.products for layer in self.body)

    @property
    def factored(self) -> bool:
        """Whether gradients of the shared layers are outer products, as gradients/per_example.py takes them."""
        return not isinstance(self.model, SAGEConfig)

    @property
    def frozen_products(self) -> int:
        """Those of them whose weights do not train."""
        return 0

    @property
    def stackable(self) -> bool:
        """Whether many models can be trained as one stack."""
        return self.parameters <= STACKABLE_PARAMETERS

    @property
    def pretrained_bytes(self) -> float:
        """Of the weights that a process loads."""
        return 0.0

    def examples_in(self, examples: int, tokens: int) -> float:
        """Of a pass that may take so many, or so many tokens of texts."""
        return examples

    def training_bytes(self, batch: int, evaluated: int, tokens: int) -> float:
        """What passes over a batch, forward and backward, and over so many examples forward only hold at most; of texts
        at most so many tokens at a time."""
        return ROW_COPIES * 4.0 * max(batch, evaluated) * self.activations

    def factor_products(self, config: Config) -> float:
        """Multiplications from weights to the coordinates of layers' factors, where a basis has those."""
        return 0.0

    @property
    def width(self) -> int:
        """What the heads read."""
        assert not isinstance(self.model, PretrainedConfig), "counted by a network of its own"
        return self.model.hidden[-1]

    @property
    def body_parameters(self) -> int:
        return sum((layer.inputs + 1) * layer.outputs for layer in self.body)

    @property
    def head_parameters(self) -> float:
        """Of one task, on average."""
        return (self.width + 1) * sum(self.outputs) / self.tasks

    @property
    def parameters(self) -> int:
        return int(self.parameters_with(sum(self.outputs)))

    @property
    def activations(self) -> int:
        """Numbers per example that a forward pass keeps or that its losses make."""
        return int(self.activations_with(sum(self.outputs)))

    def columns_of(self, tasks: float | None) -> float:
        """Columns of the heads of so many tasks, were all tasks alike; of all when None."""
        return sum(self.outputs) * (1 if tasks is None else min(1, tasks / self.tasks))

    def parameters_with(self, columns: float) -> float:
        """Of a model that has no other heads than such that make so many columns."""
        return self.body_parameters + (self.width + 1) * columns

    def activations_with(self, columns: float) -> float:
        return self.inputs + 3 * sum(layer.outputs * layer.uses for layer in self.body) + 8 * columns

    @property
    def suite_bytes(self) -> int:
        return 4 * self.examples * (self.inputs + self.tasks)

    def rows_of(self, tasks: int, split: int) -> float:
        """Examples of a split with a label for at least one of so many tasks, were labels missing at random."""
        labels = self.train if split == TRAIN else self.validation
        present = sum(labels) / max(1, self.tasks * self.rows[split])
        return max(1.0, self.rows[split] * (1 - (1 - min(1.0, present)) ** tasks))

    def heads_apart(self, config: Config) -> bool:
        """As gradients/own_parameters.py decides."""
        subspace = config.gradients.reduction == "subspace" and not config.gradients.layers
        few = (self.width + 1) * max(self.outputs) <= LARGEST_HEAD
        return subspace and self.tasks > MANY_TASKS and few

    def own_coordinates(self, config: Config) -> int:
        """Numbers of a stored gradient that are of the row's own head."""
        return (self.width + 1) * max(self.outputs) if self.heads_apart(config) else 0

    def dimension(self, config: Config) -> int:
        """Numbers per stored gradient by the shared parameters, or by all."""
        if config.gradients.reduction == "exact":
            return self.parameters
        return config.gradients.widest_basis(self.heads_apart(config))

    def products(self, config: Config) -> int:
        """Of a stored gradient with the tasks' means outside the basis, in half precision."""
        return self.tasks if self.heads_apart(config) else 0

    def row_bytes(self, config: Config) -> int:
        """Of a stored gradient."""
        return 4 * self.stored_numbers(config) + 2 * self.products(config)

    def stored_numbers(self, config: Config) -> int:
        """Numbers per stored gradient in single precision."""
        return self.dimension(config) + self.own_coordinates(config)

    def moved_weights(self, config: Config, tasks: float) -> float:
        """Weights that the path of a subset of so many tasks moves."""
        return self.parameters_with(self.columns_of(tasks)) if self.heads_apart(config) else self.parameters

    def basis_rows(self, config: Config) -> int:
        """Weights that the basis is of."""
        return self.body_parameters if self.heads_apart(config) else self.parameters


@dataclass(frozen=True)
class Subsets:
    """How many subsets are fitted, and how many (subset, task in it) they make."""

    count: int
    memberships: int

    @classmethod
    def of(cls, config: Config, tasks: int) -> Subsets:
        """Singles, pairs and the larger ones, of which no more are drawn than exist."""
        larger = cls._larger(config, tasks)
        covered = sum(number * math.comb(size, 2) for number, size in larger)
        # A balanced design hardly holds a pair twice before it holds all.
        pairs = math.comb(tasks, 2) if config.fits.fits_every_pair(tasks) else max(0, math.comb(tasks, 2) - covered)
        count = tasks + pairs + sum(number for number, _ in larger)
        return cls(count, tasks + 2 * pairs + sum(number * size for number, size in larger))

    @classmethod
    def larger_count(cls, config: Config, tasks: int) -> int:
        """Subsets beside singles and pairs."""
        return sum(number for number, _ in cls._larger(config, tasks))

    @classmethod
    def larger_size(cls, config: Config, tasks: int) -> float:
        """Tasks of those, on average; of a pair where there are none."""
        larger = cls._larger(config, tasks)
        count = sum(number for number, _ in larger)
        return sum(number * size for number, size in larger) / count if count else min(2, tasks)

    @staticmethod
    def _larger(config: Config, tasks: int) -> list[tuple[int, int]]:
        """(how many, of which size)."""
        low, high = (min(size, tasks) for size in config.fits.sizes)
        exist = sorted((math.comb(tasks, size), size) for size in range(max(3, low), high + 1))
        found, left = [], config.fits.subsets
        for place, (number, size) in enumerate(exist):
            taken = min(number, left // (len(exist) - place))
            left -= taken
            found.append((taken, size))
        return found


def fewest_epochs(train: TrainConfig) -> int:
    return min(train.epochs, train.patience + 1)


def expected_epochs(train: TrainConfig) -> float:
    """Early stopping ends anywhere between the fewest and the most; their geometric middle is never off by more than
    the root of their ratio."""
    return math.sqrt(fewest_epochs(train) * train.epochs)


def expected_groups(config: Config, tasks: int) -> int:
    """What `k: auto` may come to; known only after the grouping."""
    k, settings = config.groups.k, config.groups
    if k == "auto":
        fewest = -(-tasks // (settings.max_size or tasks))
        return min(max(fewest, round(math.sqrt(tasks))), max(1, tasks // settings.min_size))
    return min(tasks, k)


def group_trainings(config: GroupModelConfig, tasks: int, groups: int) -> list[tuple[float, int]]:
    """(tasks per model, models): the groups, all tasks jointly, tasks alone, random groups; every seed."""
    kinds = [
        (tasks, 1),
        (tasks / groups, groups * (1 + config.random_groupings)),
        (1.0, min(tasks, config.single_tasks)),
    ]
    return [(size, number * config.seeds) for size, number in kinds if number]


def trials_of(trainings: Sequence[tuple[float, int]], together: int) -> list[tuple[int, float]]:
    """(models, tasks of the largest) per trial."""
    every = sorted((tasks for tasks, models in trainings for _ in range(models)), reverse=True)
    lengths = stack_lengths(every, together)
    return [(length, every[start]) for length, start in zip(lengths, accumulate(lengths, initial=0), strict=False)]


def shared_layers(model: ModelConfig, input_shape: Sequence[int]) -> tuple[SharedLayer, ...]:
    """Of a model for examples of this shape.

    Raises
    ------
    UserError
        The model cannot read them.
    """
    check_inputs(model, input_shape)
    assert not isinstance(model, PretrainedConfig), "counted by a network of its own"
    if isinstance(model, SAGEConfig):
        return _sage_layers(model, input_shape)
    first: tuple[SharedLayer, ...] = ()
    width = math.prod(input_shape)
    if isinstance(model, SIGNConfig):
        hops, features = input_shape
        first, width = (SharedLayer(features, model.hop_width, reads_data=True),) * hops, hops * model.hop_width
    dense = [SharedLayer(m, n) for m, n in pairwise([width, *model.hidden])]
    if not first:
        dense[0] = dense[0]._replace(reads_data=True)
    return (*first, *dense)


def _sage_layers(model: SAGEConfig, input_shape: Sequence[int]) -> tuple[SharedLayer, ...]:
    """Each takes a node and what stands for its neighbours, at every node that later steps read."""
    *nodes, features = input_shape
    return tuple(
        SharedLayer(2 * m, n, math.prod(nodes[: len(nodes) - step - 1]), reads_data=step == 0)
        for step, (m, n) in enumerate(pairwise([features, *model.hidden]))
    )
