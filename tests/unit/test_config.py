import pytest

from affinity_service.config import Config, GradientConfig, TrainConfig
from affinity_service.errors import UserError

GOOD = {"name": "a", "data": {"source": "yeast"}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grdients": {}}, "`grdients` is not a known key; did you mean `gradients`?"),
        ({"base": {"epoch": 3}}, "`base.epoch` is not a known key; did you mean `epochs`?"),
        ({"data": {"source": "yeast", "splits": {}}}, "`data.yeast.splits` is not a known key; did you mean `split`?"),
        ({"base": {"learning_rate": -1}}, "`base.learning_rate`: Input should be greater than 0 (found -1)"),
        ({"base": {"learning_rate": float("nan")}}, "`base.learning_rate`: Input should be a finite number"),
        ({"base": {"batch_size": 10, "workers": 3}}, "batch_size 10 is not a multiple of workers × accumulation = 3"),
        ({"data": {"source": "yaest"}}, "found using 'source' does not match any of the expected tags"),
        ({"data": {"source": "yeast", "split": {"validation": 0.6, "test": 0.5}}}, "leave no training example"),
        ({"fits": {"sizes": [5, 3]}}, "3 <= smallest <= largest"),
        ({"name": "../up"}, "`name`"),
        ({"groups": {"k": 0}}, "`groups.k"),
        ({"data": None}, "`data`"),
    ],
)
def test_mistakes_are_named_with_the_nearest_right_key(change, message):
    with pytest.raises(UserError) as error:
        Config.parse({**GOOD, **change})
    assert message in str(error.value)


def test_yaml_round_trip():
    config = Config.parse({**GOOD, "groups": {"k": 3}, "fits": {"l2": "1e-3"}})
    assert Config.from_yaml(config.to_yaml()) == config


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "not valid YAML"), ("- 1", "found list"), ("", "found NoneType")]
)
def test_files_that_are_no_config(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        Config.load(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.yaml: cannot be read: No such file"):
        Config.load(tmp_path / "nowhere.yaml")


def test_name_defaults_to_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("data: {source: yeast}")
    assert Config.load(path).name == "mine"


def test_placement_stays_out_of_fingerprints():
    a, b = GradientConfig(workers=1, batch_rows=3), GradientConfig(workers=8)
    assert a.fingerprint_part() == b.fingerprint_part()
    assert GradientConfig(seed=1).fingerprint_part() != a.fingerprint_part()
    assert TrainConfig(workers=2).fingerprint_part() == TrainConfig().fingerprint_part()


def test_a_key_given_twice_is_named():
    with pytest.raises(UserError, match=r"found `epochs` a second time\n.*line 4"):
        Config.from_yaml("name: x\nbase:\n  epochs: 3\n  epochs: 4\ndata: {source: yeast}")
