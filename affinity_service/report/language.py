"""What a study of a pretrained model shows beside others: which model it is, what of it trains, how often it answers
right, and how its group models are loaded without this package."""

from __future__ import annotations

import json
import math
from pathlib import PurePosixPath
from typing import Any

from affinity_service.config_models import CausalLMConfig, EncoderConfig, PretrainedConfig
from affinity_service.config_text_suites import LanguageSource
from affinity_service.evaluation.outcomes import ANSWERED, GROUPS, JOINT, LONGEST_ANSWER, SINGLE
from affinity_service.report.contents import Contents

Values = dict[str, Any]
IN_PACKAGE, HEADS, LORA = "package:", "heads.", ".lora_A"
# A folder given by more parts than a name on the hub has is called by its last.
PARTS_OF_A_NAME = 2


def model_name(path: str) -> str:
    """What a reader calls the model: a name on the hub, or the last part of where it lies."""
    inside = path.removeprefix(IN_PACKAGE)
    parts = [part for part in inside.replace("\\", "/").split("/") if part not in ("", ".", "..", "~")]
    whole = inside == path and not path.startswith(("/", ".", "~")) and len(parts) <= PARTS_OF_A_NAME
    return path if whole or not parts else parts[-1]


def pretrained(contents: Contents) -> Values | None:
    """The model and the weights that train; None where it was built from nothing."""
    config = contents.config.model
    if not isinstance(config, PretrainedConfig):
        return None
    shapes = contents.weights or {}
    layers = [name.partition(LORA)[0] for name in shapes if LORA in name]
    return {
        "name": model_name(config.path),
        "package": config.path.removeprefix(IN_PACKAGE).partition("/")[0] if config.path.startswith(IN_PACKAGE) else "",
        "what": "text encoder" if isinstance(config, EncoderConfig) else "language model",
        "rank": None if config.adapter is None else config.adapter.rank,
        "patterns": config.trains,
        "layers": len(layers),
        "names": list(dict.fromkeys(layer.rpartition(".")[2] for layer in layers)),
        "numbers": sum(math.prod(shape) for name, shape in shapes.items() if not name.startswith(HEADS)),
        "heads": sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(HEADS)),
    }


def group_answers(contents: Contents, names: list[str]) -> dict[str, float]:
    """Per setting the mean share of a group's test examples that are answered exactly; empty where none were asked."""
    table = _exact(contents)
    own = table[table["task"].isin(names)] if table is not None else None
    if own is None or not len(own):
        return {}
    means = own.groupby("setting")["exact_match"].mean()
    return {setting: float(means[setting]) for setting in (GROUPS, JOINT) if setting in means.index}


def exact_answers(contents: Contents, order: list[str]) -> Values | None:
    """The share of every task's test examples that is answered exactly, by setting."""
    table = _exact(contents)
    if table is None or not len(table):
        return None
    shares = table.groupby(["task", "setting"])["exact_match"].mean().unstack("setting")
    shares = shares.reindex([name for name in order if name in shares.index])
    settings = [setting for setting in (GROUPS, JOINT, SINGLE) if setting in shares.columns]
    shares = shares[settings]
    return {
        "settings": settings,
        "rows": list(zip(shares.index, shares.to_dict("records"), strict=True)),
        # One answer for all settings has no best.
        "best": {name: row.max() for name, row in shares.iterrows() if row.max() > row.min()},
        "examples": ANSWERED,
        "longest": LONGEST_ANSWER,
    }


def _exact(contents: Contents) -> Any:
    """Rows of the results whose test examples were answered."""
    if contents.results is None or "exact_match" not in contents.results:
        return None
    return contents.results.dropna(subset="exact_match")


def models(contents: Contents) -> Values | None:
    """Where the group models lie and how they are loaded; None of models that only this package reads."""
    config = contents.config.model
    if not isinstance(config, PretrainedConfig) or contents.results is None:
        return None
    data = contents.config.data
    return {
        "adapter": config.adapter is not None,
        "folders": [f"group_models/group-{index:02d}/" for index in range(len(contents.groups))],
        "groups": contents.groups,
        "code": loading_code(config, "STUDY/group_models/group-00"),
        "prompt": data.prompt if isinstance(data, LanguageSource) and isinstance(config, CausalLMConfig) else None,
        "quoted": json.dumps(getattr(data, "prompt", ""), ensure_ascii=False),
        "heads": isinstance(config, EncoderConfig),
    }


def loading_code(config: PretrainedConfig, folder: str) -> str:
    """Lines of Python that load a trained model with transformers, and peft where it is an adapter."""
    auto = "AutoModelForCausalLM" if isinstance(config, CausalLMConfig) else "AutoModel"
    lines = [f"from transformers import {auto}"]
    place, further = repr(config.path), ""
    if config.path.startswith(IN_PACKAGE):
        package, _, inside = config.path.removeprefix(IN_PACKAGE).partition("/")
        lines.append("from importlib.util import find_spec")
        place = f"find_spec({package!r}).submodule_search_locations[0]"
        if not inside.endswith(".gguf"):
            place += f" + {'/' + inside!r}"
        else:
            place += f" + {'/' + inside.rpartition('/')[0]!r}" if "/" in inside else ""
            further = f", gguf_file={inside.rpartition('/')[2]!r}"
    elif config.path.endswith(".gguf"):
        path = PurePosixPath(config.path)
        place, further = repr(str(path.parent)), f", gguf_file={path.name!r}"
    base = f"{auto}.from_pretrained({place}{further})"
    if config.adapter is not None:
        lines += [
            "from peft import PeftModel",
            f"base = {base}",
            f"model = PeftModel.from_pretrained(base, {folder!r})",
        ]
    else:
        own = f"{folder}/model.safetensors"
        lines += [
            "from safetensors.torch import load_file",
            f"model = {base}",
            f"model.load_state_dict(load_file({own!r}), strict=False)",
        ]
    return "\n".join(lines)


def examples(contents: Contents) -> Values | None:
    """What the suite of texts counted; None of other data."""
    suite = contents.suite
    if suite is None or not isinstance(contents.config.model, PretrainedConfig):
        return None
    found = suite.get("facts", {})
    data = contents.config.data
    return {
        "answers": all(task["kind"] == "sequence" for task in suite["tasks"]),
        "longest": suite["input_shape"][-1],
        "facts": found,
        "cut": {task["name"]: found.get(f"truncated.{task['name']}", 0) for task in suite["tasks"]},
        "max_length": found.get("limit", data.max_length) if isinstance(data, LanguageSource) else None,
        "by_model": isinstance(data, LanguageSource) and found.get("limit", data.max_length) < data.max_length,
        "samples": contents.samples,
    }
