"""The `data` section of graphs: where nodes, edges and memberships come from, and what is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from affinity_service.config_base import Execution, StageConfig
from affinity_service.config_sources import SourceConfig, SplitConfig


class NodeFeatureConfig(StageConfig):
    """What a node is known by, before its neighbours are."""

    kind: Literal["auto", "given", "structural"] = Field(
        "auto", description="given: the graph's own; structural: made from its edges; auto: given where there are any"
    )
    dimension: int = Field(128, ge=1, description="of the structural embedding")
    iterations: int = Field(12, ge=1, description="of the structural embedding, each of two hops")
    seed: int = Field(0, ge=0)


class NeighbourConfig(StageConfig):
    """Which neighbours of an example's node are looked at: sampled once, as many at every step as its fanout says."""

    fanouts: list[Annotated[int, Field(ge=1)]] = Field(
        [10, 5], min_length=1, description="neighbours of the node itself, then of each node found so far, and so on"
    )
    sampler: Literal["tiles", "pyg"] = Field(
        "tiles", description="tiles: our own; pyg: PyTorch Geometric's NeighborLoader, where it is installed"
    )
    seed: int = Field(0, ge=0)


class GraphSource(SourceConfig):
    """What every graph shares: tasks are communities or labels of nodes, examples are labelled nodes, and the input of
    an example is its node's features and those of its neighbourhoods, one to `hops` steps away, or of a sample of its
    neighbours."""

    prepared: ClassVar[bool] = True

    tasks: list[str] | None = Field(None, min_length=1, description="names of communities; all when absent")
    largest: int | None = Field(None, ge=1, description="so many of the largest communities instead")
    subgraph: Literal["whole", "induced"] = Field(
        "whole", description="induced: only the nodes of the chosen communities, and the edges between them"
    )
    directed: bool = Field(False, description="whether features go along edges only; else both ways")
    hops: int = Field(3, ge=0)
    neighbours: NeighbourConfig | None = Field(None, description="a sample of neighbours, for model sage, not hops")
    normalisation: Literal["symmetric", "mean"] = Field(
        "symmetric", description="of a hop: by the root of both degrees, or the mean over neighbours; a node counts too"
    )
    features: NodeFeatureConfig = NodeFeatureConfig()
    most_positives: int | None = Field(
        None,
        ge=1,
        description="members of a community that are examples, at most; known non-members then have a cap, `negatives`",
    )
    negatives: float = Field(
        1.0,
        gt=0,
        description="sampled non-members per positive, in each part of a given split; known ones are all examples, "
        "unless `most_positives` is given, which leaves so many of them at most",
    )
    negatives_from: Literal["members", "nodes"] = Field(
        "members", description="members of the other chosen communities, or all nodes of the graph"
    )
    sample_seed: int = Field(0, ge=0, description="of the examples drawn under `most_positives` and `negatives`")
    split: SplitConfig = SplitConfig()
    minimum_positives: int = Field(20, ge=0)
    minimum_negatives: int = Field(20, ge=0)
    precision: Literal["fp32", "bf16"] = Field("fp32", description="of node features while they are propagated")
    block_rows: int = Field(1 << 17, ge=1, description="nodes per block, the unit of work and of memory")
    workers: int = Execution(2, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _neighbours_stand_for_hops(cls, value: Any) -> Any:
        sampled = isinstance(value, Mapping) and value.get("neighbours") is not None
        return {"hops": 0, **value} if sampled else value

    @model_validator(mode="after")
    def _hops_or_neighbours(self) -> GraphSource:
        if self.neighbours is not None and self.hops:
            raise ValueError(f"hops {self.hops} and neighbours are two kinds of inputs: leave one of them out")
        return self

    def example_shape(self, features: int) -> tuple[int, ...]:
        """Of one example's inputs, for nodes of so many features."""
        if self.neighbours is None:
            return self.hops + 1, features
        return *(1 + fanout for fanout in self.neighbours.fanouts), features

    @model_validator(mode="after")
    def _directed_has_no_symmetric_hop(self) -> GraphSource:
        if self.directed and self.normalisation == "symmetric":
            raise ValueError("directed edges have no symmetric normalisation: use normalisation mean")
        if self.tasks is not None and self.largest is not None:
            raise ValueError("give the names of `tasks` or the number of the `largest`, not both")
        return self


class GraphTablesSource(GraphSource):
    """A folder of `nodes`, `edges` and `labels` Parquet tables, as `affinity import` writes it."""

    source: Literal["graph"] = "graph"
    # What the files hold is a need of the stage by itself: where they lie decides nothing.
    path: str = Execution(..., min_length=1)


class SnapSource(GraphSource):
    """An edge list, a pair of node ids per line, and communities, a line of node ids each (or JSON lists of labels by
    node), as the SNAP collection has them; .gz too."""

    source: Literal["snap"] = "snap"
    edges: str = Execution(..., min_length=1)
    communities: str = Execution(..., min_length=1)


class GeneratedGraphSource(GraphSource):
    """A random graph of overlapping communities (affiliation model, Yang and Leskovec 2012): the largest workload
    anywhere, from a seed."""

    source: Literal["generated_graph"] = "generated_graph"
    nodes: int = Field(1_000_000, ge=2)
    edges: int = Field(21_000_000, ge=1, description="distinct undirected edges")
    communities: int = Field(2000, ge=1)
    community_sizes: tuple[int, int] = Field((200, 20_000), description="smallest and largest, by a power law")
    size_exponent: float = Field(2.0, gt=1, description="of the power law of sizes")
    membership_exponent: float = Field(2.5, gt=2, description="of the power law of memberships per node")
    themes: int = Field(50, ge=1, description="groups of nodes that communities mostly draw from: what relates tasks")
    loyalty: float = Field(0.8, ge=0, le=1, description="share of a community's members from its own theme")
    background: float = Field(0.2, ge=0, lt=1, description="share of edges between any two nodes")
    seed: int = Field(0, ge=0)
    largest: int | None = Field(500, ge=1)
    most_positives: int | None = Field(400, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _largest_of_those_there_are(cls, value: Any) -> Any:
        """The default number of the largest does not stand in the way of names, or of fewer communities."""
        if isinstance(value, Mapping) and "largest" not in value:
            communities = value.get("communities")
            few = isinstance(communities, int) and communities < cls.model_fields["largest"].default
            if value.get("tasks") is not None or few:
                return {**value, "largest": None}
        return value

    @model_validator(mode="after")
    def _sizes_fit(self) -> GeneratedGraphSource:
        low, high = self.community_sizes
        if self.features.kind == "given":
            raise ValueError("features.kind is given, but generated nodes have none: use structural")
        if self.largest is not None and self.largest > self.communities:
            raise ValueError(f"largest {self.largest} is more than the {self.communities} communities")
        if not 2 <= low <= high <= self.nodes:
            raise ValueError(
                f"community_sizes {low, high} must satisfy 2 <= smallest <= largest <= nodes ({self.nodes})"
            )
        if self.edges > self.nodes * (self.nodes - 1) // 4:
            raise ValueError(
                f"edges {self.edges} would join more than half of all pairs of {self.nodes} nodes: use fewer"
            )
        return self
