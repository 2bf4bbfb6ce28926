from pathlib import Path

import pytest

from affinity_service.config import Config
from affinity_service.config_models import CausalLMConfig
from affinity_service.config_text_suites import CldrSource, TextSource
from affinity_service.errors import UserError
from affinity_service.text.source import selected_rows

MODEL = {"kind": "causal_lm", "path": "/models/small"}


def parsed(data, model=MODEL):
    return Config.parse({"name": "x", "data": data, "model": model})


def test_the_tokenizer_is_the_models_unless_one_is_named():
    assert parsed({"source": "text", "path": "p"}).data.tokenizer == "/models/small"
    assert parsed({"source": "cldr", "tokenizer": "/other"}).data.tokenizer == "/other"
    assert Config(name="x", data=CldrSource(), model=CausalLMConfig(path="m")).data.tokenizer == "m"


def test_a_resolved_config_reads_as_the_same():
    config = parsed({"source": "text", "path": "p", "prompt": "{task}: {input} ->", "most": {"train": 5}})
    assert Config.from_yaml(config.to_yaml()) == config


def test_where_texts_and_tokenizer_lie_decides_nothing():
    one = parsed({"source": "text", "path": "p"}).data
    two = TextSource(path="q", tokenizer="t")
    assert one.fingerprint_part() == two.fingerprint_part()
    assert one.fingerprint_part() != TextSource(path="p", max_length=100).fingerprint_part()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"source": "text"}, "give a `path` or a `function`, one of them"),
        ({"source": "text", "path": "p", "function": "a:b"}, "give a `path` or a `function`, not both"),
        ({"source": "text", "path": "p", "arguments": {"a": 1}}, "arguments are those of a `function`"),
        ({"source": "text", "path": "p", "prompt": "{question}"}, r"unknown field \{question\}"),
        ({"source": "text", "path": "p", "prompt": "{}"}, r"unknown field \{\}"),
        ({"source": "text", "path": "p", "prompt": "{input.__class__}"}, "unknown field"),
        ({"source": "text", "path": "p", "prompt": "Answer:"}, r"has no \{input\}"),
        ({"source": "text", "path": "p", "prompt": "{input"}, "is no format"),
        ({"source": "text", "path": "p", "prompt": "{input}", "system": "Be brief."}, "system is said in a chat"),
        ({"source": "cldr", "languages": ["fr", "fr"]}, "languages has fr 2 times"),
        ({"source": "cldr", "languages": ["en"]}, "languages has en"),
        ({"source": "yeast"}, "model.kind causal_lm needs data.source text, cldr or python"),
    ],
)
def test_mistakes_are_named(data, message):
    with pytest.raises(UserError, match=message):
        parsed(data)


def test_texts_need_a_language_model():
    with pytest.raises(UserError, match=r"data.source cldr needs model.kind causal_lm, found mlp"):
        parsed({"source": "cldr"}, {"hidden": [4]})


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"fits": {"evaluate": "network"}}, r"fits.evaluate network .* kind causal_lm are too large for: use auto"),
        ({"group_models": {"trainer": "batched"}}, r"group_models.trainer batched stacks models, .* use auto"),
        ({"validation": {"oracle_seeds": 2}}, r"validation.oracle_seeds 2 trains linearised models, .* use 0"),
        (
            {"schedule": {"tau": 0.1}, "base": {"precision": "bf16"}},
            "schedule leaves the heads .* found zero_stage 0, precision bf16",
        ),
    ],
)
def test_what_only_small_models_can_do_is_refused_before_anything_runs(section, message):
    content = {"name": "x", "data": {"source": "text", "path": "p"}, "model": MODEL}
    with pytest.raises(UserError, match=message):
        Config.parse({**content, **section})


@pytest.mark.parametrize("section", [{"affinity": {"estimator": "lookahead"}}, {"measure": {"always": True}}])
def test_affinities_can_be_measured_while_a_language_model_trains(section):
    content = {"name": "x", "data": {"source": "text", "path": "p"}, "model": MODEL}
    assert Config.parse({**content, **section}).measuring is not None


@pytest.mark.parametrize(("name", "tasks"), [("smollm2_cldr", 12), ("smollm2_cldr_100", 100)])
def test_ready_configs_have_as_many_tasks_as_they_say(name, tasks):
    config = Config.load(Path(__file__).parents[3] / f"ray_jobs/configs/{name}.yaml")
    selection = selected_rows(config.data)
    assert len(selection.tasks) == tasks
    assert not selection.left_out
    assert config.data.tokenizer == config.model.path
