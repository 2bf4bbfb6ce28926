"""Files of DeepSpeed's own settings under those that the config decides."""

from __future__ import annotations

import json

import pytest

from affinity_service.config import TrainConfig
from affinity_service.engine.deepspeed_settings import READY_MADE, merged, read_settings
from affinity_service.errors import UserError

TRAIN = TrainConfig(batch_size=12)


def config(**changes):
    return TrainConfig(**{**TRAIN.model_dump(), **changes})


def test_every_ready_made_file_is_of_the_stage_in_its_name():
    names = sorted(path.stem for path in READY_MADE.glob("*.json"))
    assert names == ["zero0", "zero1", "zero2", "zero2_offload", "zero3", "zero3_offload"]
    for name in names:
        settings = read_settings(config(deepspeed=name, zero_stage=int(name[4])))
        assert ("offload_optimizer" in settings["zero_optimization"]) == name.endswith("offload")


def test_ours_lie_over_the_files_and_what_is_filled_in_elsewhere_is_left_out(tmp_path):
    file = tmp_path / "own.json"
    content = {
        "train_batch_size": "auto",
        "gradient_clipping": 1.0,
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": False, "loss_scale": 0},
        "zero_optimization": {"stage": 2, "reduce_bucket_size": "auto", "overlap_comm": False},
        "communication_data_type": "fp32",
    }
    file.write_text(json.dumps(content))
    found = read_settings(config(deepspeed=str(file), zero_stage=2))
    assert found == {"zero_optimization": {"stage": 2, "overlap_comm": False}, "communication_data_type": "fp32"}
    own = {"train_batch_size": 12, "zero_optimization": {"stage": 1}}
    assert merged(found, own) == {
        **own,
        "zero_optimization": {"stage": 1, "overlap_comm": False},
        "communication_data_type": "fp32",
    }
    assert read_settings(TRAIN) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"zero_optimization": {"stage": 2}}', r"`zero_optimization.stage` is 2, but base.zero_stage is 0"),
        ('{"train_batch_size": 7}', r"`train_batch_size` is 7, but base.batch_size is 12"),
        ('{"gradient_accumulation_steps": 2}', r"`gradient_accumulation_steps` is 2, but it follows from"),
        ('{"optimizer": {"type": "Lamb", "params": {"lr": "auto"}}}', r"`optimizer` is .*Lamb.*optimizer is adamw"),
        ('{"fp16": {"enabled": true}}', r"`fp16.enabled` is true, but base.precision is fp32"),
        ('{"bf16": {"enabled": true}}', r"`bf16.enabled` is true, but base.precision is fp32"),
        ("{", "cannot be read as JSON"),
        ("[]", "expected settings by name, found list"),
    ],
)
def test_a_file_that_contradicts_the_config_is_refused(content, message, tmp_path):
    (tmp_path / "own.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_settings(config(deepspeed=str(tmp_path / "own.json")))


def test_a_name_of_nothing_says_what_is_ready_made():
    with pytest.raises(UserError, match=r"zero4: no such file; ready-made are zero0, zero1, zero2, zero2_offload"):
        read_settings(config(deepspeed="zero4"))
