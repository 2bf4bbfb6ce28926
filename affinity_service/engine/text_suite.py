"""The suite stage of texts: they were tokenised for the plan, which is kept, with the texts beside it.

Tokenising is quick, so nothing of it is done in pieces.
"""

from __future__ import annotations

from affinity_service.config_text_suites import LanguageSource
from affinity_service.engine.context import StageContext, StageOutcome
from affinity_service.errors import UserError
from affinity_service.tasks.prepared import write_suite
from affinity_service.text.source import selected_rows, warn_of
from affinity_service.text.stored import write_texts


def prepare_text_suite(context: StageContext) -> StageOutcome:
    source, suite = context.config.data, context.suite
    assert isinstance(source, LanguageSource), "other suites are not made of texts"
    warn_of(suite, source, context.warn)
    context.progress(0, 1, "keeping texts and tokens")
    selection = selected_rows(source)
    if [task.name for task in suite.tasks] != selection.tasks or len(suite) != len(selection.rows):
        raise UserError("the texts changed while they were read; run it again")
    write_texts(context.folder, selection)
    # Last, as its last file says that the suite is whole.
    write_suite(context.folder, suite)
    return StageOutcome(0.0, 1, suite.content_hash)
