"""The report of a study of a language model."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save

from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.config_models import CausalLMConfig, EncoderConfig
from affinity_service.report.language import loading_code, model_name
from affinity_service.tables import read_table, write_table
from tests.unit.report.conftest import NAMES, write_study
from tests.unit.report.test_report import page_of, section, text_of

Written = Callable[..., StudyFolder]
SMALL = "package:small_model/Small-1M.gguf"


def write_language_study(root: Path, model: dict | None = None, cut: int = 7, answers: bool = True) -> StudyFolder:
    """The default study as if a language model had made it: its config, weights, counts, texts and answers."""
    folder = write_study(root, single_tasks=2)
    content = Config.from_yaml(folder.read_bytes("config.yaml").decode()).model_dump(mode="json")
    content["data"] = {"source": "text", "path": "rows.jsonl", "prompt": "Q: {input}\nA: ", "max_length": 64}
    content["model"] = {"kind": "causal_lm", "path": SMALL, **(model or {})}
    folder.write_bytes("config.yaml", Config.parse(content).to_yaml().encode())
    tasks = [
        {"name": name, "kind": "sequence", "classes": 1, "mean": 0.0, "scale": 1.0, "train": 20 + i, "validation": 10,
         "test": 9}
        for i, name in enumerate(NAMES)
    ]  # fmt: skip
    facts = {"tokens": 4321, "learned_tokens": 987, "duplicates": 3, "truncated": cut, "truncated_answers": 0}
    facts |= {"truncated.beta": cut} if cut else {}
    suite = folder.read_json("suite.json")
    splits = {"train": 135, "validation": 60, "test": 54}
    summary = {**suite, "input_shape": [2, 64], "tasks": tasks, "facts": facts, "left_out": [], "splits": splits}
    folder.write_json("suite.json", {**summary, "examples": 249})
    layer = "network.base_model.model.model.layers.{}.self_attn.{}.lora_{}.default.weight"
    weights = {
        layer.format(number, name, part): np.zeros((4, 8), np.float32)
        for number in range(3)
        for name in ("q_proj", "v_proj")
        for part in "AB"
    }
    folder.write_bytes("base_model/model.safetensors", save(weights))
    rows = [(name, f"what is {name}?", f"it is {name} <b>", split) for split in ("test", "train") for name in NAMES]
    texts = pa.table(dict(zip(("task", "input", "target", "split"), zip(*rows, strict=True), strict=True)))
    write_table(folder, "suite/texts.parquet", texts)
    if answers:
        results = read_table(folder, "group_models/results.parquet")
        share = {"groups": 0.75, "joint": 0.5, "single": 0.25, "random": None}
        shares = [share[setting] for setting in results["setting"].to_pylist()]
        write_table(
            folder,
            "group_models/results.parquet",
            results.append_column("exact_match", pa.array(shares, pa.float64())),
        )
    return folder


@pytest.fixture
def page(tmp_path: Path) -> str:
    return page_of(write_language_study(tmp_path))


def shown(page: str, key: str) -> str:
    return text_of("<body" + section(page, key))


def test_the_model_and_what_of_it_trains_are_named(page: str) -> None:
    text = shown(page, "base_model")
    assert "the language model Small-1M.gguf from the Python package small_model" in text
    assert "LoRA adapters of rank 8 train beside 6 linear layers ( q_proj , v_proj ), 384 weights in all" in text
    assert "one base model ( Small-1M.gguf with LoRA adapters)" in text_of(page)


def test_losses_are_of_a_token_of_the_answer(page: str) -> None:
    assert "nats per answer token" in shown(page, "groups")
    assert "the mean over the tokens of an answer" in shown(page, "making")
    assert "squared error" not in text_of(page)


def test_exact_answers_stand_beside_the_groups_and_for_every_task(page: str) -> None:
    groups = shown(page, "groups")
    assert "answered exactly" in groups
    assert groups.count("75 % 50 %") == 2
    outcomes = shown(page, "outcomes")
    assert "Task group its group all jointly alone alpha" in outcomes
    assert outcomes.count("75 % 50 % 25 %") == 2
    assert outcomes.count("75 % 50 % –") == 4


def test_examples_and_what_was_cut_of_them_are_counted_by_task(page: str) -> None:
    data = shown(page, "data")
    assert (
        "7 examples of more than 64 tokens ( data.max_length ) lost the beginning of the prompt: column “cut”" in data
    )
    assert "3 more rows held what another did" in data
    assert "Task train validation test cut An example" in data
    assert "beta 21 10 9 7 what is beta? → it is beta <b>" in data
    assert "4,321 tokens, of which 987 are those of answers" in data


def test_without_cuts_there_is_no_such_column(tmp_path: Path) -> None:
    data = shown(page_of(write_language_study(tmp_path, cut=0, answers=False)), "data")
    assert "None was longer than the 64 tokens" in data
    assert "Task train validation test An example" in data


def test_without_answers_nothing_is_said_of_them(tmp_path: Path) -> None:
    text = text_of(page_of(write_language_study(tmp_path, answers=False)))
    assert "exactly" not in text
    assert "without a fault" not in text


def test_other_studies_have_no_section_on_models(tmp_path: Path) -> None:
    page = page_of(write_study(tmp_path))
    assert 'id="models"' not in page
    assert "mlp, hidden layers of 64, 64 units" in text_of(page)


def test_the_section_on_models_has_their_folders_and_the_prompt(page: str) -> None:
    text = shown(page, "models")
    assert "group_models/group-00/ alpha , beta , gamma" in text
    assert 'prompts of the form "Q: {input}\\nA: "' in text
    code = html.unescape(section(page, "models").split("<pre", 1)[1].split(">", 1)[1].split("</pre>")[0])
    compile(code, "report", "exec")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"adapter": None}, "All its weights train, 384 of them."),
        ({"adapter": None, "trains": ["a.*", "b.*"]}, "Of its weights those named a.* , b.* train, 384 weights in all"),
    ],
)
def test_weights_of_the_model_itself(tmp_path: Path, model: dict, words: str) -> None:
    assert words in shown(page_of(write_language_study(tmp_path, model)), "base_model")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/home/someone/projects/secret/small-1b", "small-1b"),
        ("./models/small/", "small"),
        ("organisation/small-1b", "organisation/small-1b"),
        ("small", "small"),
        ("package:small_model/files/Small.gguf", "Small.gguf"),
    ],
)
def test_models_are_called_by_their_name_not_by_where_they_lie(path: str, name: str) -> None:
    assert model_name(path) == name


def test_lines_that_load_a_model() -> None:
    folder = "STUDY/group_models/group-00"
    plain = loading_code(CausalLMConfig(path="models/small"), folder).splitlines()
    assert plain[-2:] == [
        "base = AutoModelForCausalLM.from_pretrained('models/small')",
        "model = PeftModel.from_pretrained(base, 'STUDY/group_models/group-00')",
    ]
    packed = loading_code(CausalLMConfig(path=SMALL), folder)
    place = "find_spec('small_model').submodule_search_locations[0]"
    assert f"from_pretrained({place}, gguf_file='Small-1M.gguf')" in packed
    assert "from_pretrained('m', gguf_file='a.gguf')" in loading_code(CausalLMConfig(path="m/a.gguf"), folder)
    whole = loading_code(EncoderConfig(path="m", adapter=None), folder)
    assert "AutoModel.from_pretrained('m')" in whole
    assert "load_state_dict(load_file('STUDY/group_models/group-00/model.safetensors'), strict=False)" in whole


def test_the_loading_lines_work_as_they_stand(tiny_llama: str, tmp_path: Path) -> None:
    from affinity_service.models import build_model
    from affinity_service.models.adapter_files import save_adapter
    from affinity_service.models.state import trained_parameters
    from affinity_service.tasks.suite import Task

    for adapter in ({"rank": 2}, None):
        config = CausalLMConfig.model_validate({"path": tiny_llama, "adapter": adapter})
        model = build_model(config, (2, 8), (Task("a", "sequence"),), 0)
        folder = tmp_path / str(adapter is None)
        save_adapter(trained_parameters(model), config, folder)
        found: dict = {}
        exec(loading_code(config, str(folder)), found)
        assert sum(weight.numel() for weight in found["model"].parameters()) > 0


def test_an_encoder_reads_texts_and_has_labels(tmp_path: Path) -> None:
    folder = write_study(tmp_path)
    content = Config.from_yaml(folder.read_bytes("config.yaml").decode()).model_dump(mode="json")
    content["data"] = {"source": "python", "function": "some:texts"}
    content["model"] = {"kind": "encoder", "path": "models/bert"}
    folder.write_bytes("config.yaml", Config.parse(content).to_yaml().encode())
    folder.write_json("suite.json", {**folder.read_json("suite.json"), "input_shape": [2, 30]})
    weights = {"network.a.lora_A.default.weight": np.zeros((2, 3)), "network.a.lora_B.default.weight": np.zeros((3, 2))}
    heads = {"heads.weight": np.zeros((6, 3)), "heads.bias": np.zeros(6)}
    folder.write_bytes("base_model/model.safetensors", save({**weights, **heads}))
    page = page_of(folder)
    assert "the text encoder models/bert" in shown(page, "base_model")
    assert "beside 1 linear layer ( a ), 12 weights in all. The heads of the tasks have 24 more." in shown(
        page, "base_model"
    )
    assert "Each is a text of at most 30 tokens. An example need not" in shown(page, "data")
    assert "train labels positive" in shown(page, "data")
    assert "heads.safetensors" in shown(page, "models")
    assert "AutoModel.from_pretrained('models/bert')" in html.unescape(section(page, "models"))
