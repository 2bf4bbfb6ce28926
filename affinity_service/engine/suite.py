"""The suite stage: data that has to be prepared, in the way of its kind."""

from __future__ import annotations

from affinity_service.config_graphs import GraphSource
from affinity_service.engine.context import StageContext, StageOutcome
from affinity_service.engine.graph_suite import prepare_graph_suite
from affinity_service.engine.text_suite import prepare_text_suite


def prepare_suite(context: StageContext) -> StageOutcome:
    """Make ``suite/``; an interrupted stage continues where it stood."""
    prepare = prepare_graph_suite if isinstance(context.config.data, GraphSource) else prepare_text_suite
    return prepare(context)
