"""Which stages a config has, and what makes one run again."""

from __future__ import annotations

import pytest

from affinity_service.config import Config
from affinity_service.errors import UserError
from affinity_service.stages import check_stage_name, stages_of

IDENTITIES = {
    name: name
    for stage in ("suite", "base_model", "gradients", "fits", "affinity", "groups", "group_models")
    for name in (stage, f"{stage}.fingerprint")
}


def config(**sections) -> Config:
    return Config.parse({"name": "x", "data": {"source": "yeast"}, **sections})


def fingerprints(own: Config) -> dict[str, str]:
    return {stage.name: stage.fingerprint(own, IDENTITIES) for stage in stages_of(own)}


def changed(**sections) -> set[str]:
    before, after = fingerprints(config()), fingerprints(config(**sections))
    return {name for name in before.keys() & after.keys() if before[name] != after[name]}


def test_measured_affinities_need_no_gradients_and_fits():
    names = [stage.name for stage in stages_of(config(affinity={"estimator": "cosine"})) if not stage.optional]
    assert names == ["base_model", "affinity", "groups", "group_models", "report"]
    assert [stage.name for stage in stages_of(config())][:4] == ["base_model", "gradients", "fits", "affinity"]
    with pytest.raises(UserError, match="no stage `fits`; the stages are base_model, affinity"):
        check_stage_name("fits", stages_of(config(affinity={"estimator": "cosine"})))
    with pytest.raises(UserError, match="unknown stage `fit`"):
        check_stage_name("fit")


def test_only_what_changes_the_measurements_trains_again():
    assert changed(measure={"every": 3}) == set(), "nothing is measured"
    # What was recorded beside them changes no gradient and no fit, which need the base model's weights only.
    assert changed(measure={"always": True}) == {"base_model", "validation"}
    always = [fingerprints(config(measure={"always": True, "window": [low, 1]})) for low in (0, 0.5)]
    assert {name for name in always[0] if always[0][name] != always[1][name]} == {"validation"}
    measured = fingerprints(config(affinity={"estimator": "lookahead"}))
    other_window = fingerprints(config(affinity={"estimator": "lookahead"}, measure={"window": [0.5, 1]}))
    assert measured["base_model"] == other_window["base_model"]
    assert measured["affinity"] != other_window["affinity"]
    # Both are read off the same gradients.
    first, cosine = (fingerprints(config(affinity={"estimator": name})) for name in ("first_order", "cosine"))
    assert first["base_model"] == cosine["base_model"] != measured["base_model"]
    assert first["affinity"] != cosine["affinity"]
    own_step = fingerprints(config(affinity={"estimator": "first_order"}, measure={"step": "optimizer"}))
    assert own_step["base_model"] == first["base_model"], "first order makes no step"


def test_a_schedule_is_part_of_the_base_model_alone():
    assert changed(schedule={}) == {"base_model"}
    assert changed(schedule={"tau": 0.5}) == {"base_model"}


def test_combinations_that_cannot_be_are_refused():
    with pytest.raises(UserError, match=r"groups\.method direct needs predicted losses"):
        config(affinity={"estimator": "lookahead"}, groups={"method": "direct"})
    for base in ({"zero_stage": 1}, {"precision": "bf16"}):
        with pytest.raises(UserError, match=r"schedule leaves the heads of inactive tasks as they are"):
            config(schedule={}, base=base)
    with pytest.raises(UserError, match=r"schedule\.aggregator PCGrad replaces the gradient of a whole batch"):
        config(schedule={"aggregator": "PCGrad"}, base={"accumulation": 2})
    for section, message in (
        ({"schedule": {"tau": 2}}, "schedule.tau"),
        ({"schedule": {"refresh": 2, "probes": 3}}, "probes 3 is more than the 2 steps"),
        ({"measure": {"window": [0.5, 0.5]}}, "window"),
        ({"measure": {"every": 0}}, "measure.every"),
        ({"measure": {"sketch": -3}}, "measure.sketch"),
        ({"affinity": {"estimator": "lookbehind"}}, "affinity.estimator"),
    ):
        with pytest.raises(UserError, match=message):
            config(**section)
