import numpy as np
import pytest

from affinity_service.config import Config
from affinity_service.errors import UserError
from affinity_service.graphs.generate import generate_graph, generate_memberships


def generated(**settings):
    content = {"source": "generated_graph", "nodes": 500, "edges": 3000, "communities": 12, "themes": 4}
    return Config.parse({"name": "g", "data": {**content, "community_sizes": [10, 80], **settings}}).data


def test_communities_are_numbered_from_the_largest_and_have_their_sizes():
    sizes = [len(nodes) for nodes in generate_memberships(generated()).values()]
    assert sizes == sorted(sizes, reverse=True)
    assert 10 <= sizes[-1] < sizes[0] <= 80


def test_memberships_alone_are_those_of_the_graph():
    source = generated()
    alone, graph = generate_memberships(source), generate_graph(source)
    assert list(alone) == list(graph.members)
    assert all(np.array_equal(alone[name], graph.members[name]) for name in alone)


@pytest.mark.parametrize(
    "settings",
    [
        {"nodes": 3, "edges": 1, "communities": 1, "community_sizes": [2, 2]},
        {"nodes": 40, "edges": 390, "communities": 2, "community_sizes": [2, 40]},
        {"nodes": 40, "edges": 390, "communities": 3, "community_sizes": [40, 40], "background": 0.9},
        {"nodes": 300, "edges": 22_000, "membership_exponent": 2.01},
        {"themes": 5000},
        {"loyalty": 0.0, "background": 0.0},
        {"loyalty": 1.0, "background": 0.99},
    ],
)
def test_extremes_still_have_all_their_edges(settings):
    source = generated(**settings)
    graph = generate_graph(source)
    assert len(np.unique(graph.edges, axis=0)) == source.edges
    assert (graph.edges[:, 0] < graph.edges[:, 1]).all()
    low, high = source.community_sizes
    assert all(low <= len(nodes) <= high for nodes in graph.members.values())


def test_edges_lie_within_communities():
    graph = generate_graph(generated(background=0.1))
    together = np.zeros((500, 500), bool)
    for nodes in graph.members.values():
        together[np.ix_(nodes, nodes)] = True
    inside = together[graph.edges[:, 0], graph.edges[:, 1]].mean()
    assert inside > 5 * together.mean()


def test_the_default_number_of_the_largest_gives_way():
    assert generated().largest is None
    assert generated(communities=600).largest == 500
    assert generated(communities=600, tasks=["community_3"]).largest is None
    again = Config.from_yaml(Config.parse({"name": "g", "data": generated(tasks=["community_3"])}).to_yaml())
    assert again.data == generated(tasks=["community_3"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"largest": 13}, "largest 13 is more than the 12 communities"),
        ({"community_sizes": [10, 501]}, "community_sizes (10, 501) must satisfy 2 <= smallest <= largest <= nodes"),
        ({"community_sizes": [1, 5]}, "community_sizes (1, 5)"),
        ({"edges": 10**6}, "edges 1000000 would join more than half of all pairs of 500 nodes"),
        ({"features": {"kind": "given"}}, "features.kind is given, but generated nodes have none"),
        ({"tasks": ["a"], "largest": 3}, "give the names of `tasks` or the number of the `largest`, not both"),
        ({"directed": True}, "directed edges have no symmetric normalisation: use normalisation mean"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(UserError) as error:
        generated(**settings)
    assert message in str(error.value)


def test_the_background_is_the_share_that_was_asked_for():
    graph = generate_graph(
        generated(nodes=4000, edges=20_000, communities=20, community_sizes=[200, 400], background=0.3)
    )
    member = np.zeros((graph.nodes, len(graph.members)), bool)
    for column, nodes in enumerate(graph.members.values()):
        member[nodes, column] = True
    within = (member[graph.edges[:, 0]] & member[graph.edges[:, 1]]).any(axis=1).mean()
    # A few of the background's pairs share a community by chance.
    assert 0.7 <= within < 0.78
