import numpy as np
import pytest

from affinity_service.artifacts import StudyFolder
from affinity_service.errors import UserError
from affinity_service.gradients.features import Features
from affinity_service.gradients.store import LAYOUT, FeatureStore, pair_rows, rows_by_task, shard_name, write_shard
from affinity_service.tasks import TRAIN, VALIDATION
from tests.suites import mixed_suite


@pytest.fixture
def stored(tmp_path):
    suite, folder = mixed_suite(), StudyFolder.at(tmp_path)
    split, task, example = pair_rows(suite)
    content = np.random.default_rng(0).normal(size=(len(task), 3)).astype(np.float32)
    step = 50
    for index, start in enumerate(range(0, len(task), step)):
        part = slice(start, start + step)
        features = Features(content[part, 0].astype(np.float64), content[part, 1], content[part])
        write_shard(folder, index, split[part], task[part], example[part], features)
    folder.write_json(LAYOUT, {"rows": len(task), "dimension": 3, "shards": index + 1})
    return folder, suite, content


def test_rows_come_back_by_split_and_task(stored):
    folder, suite, content = stored
    store = FeatureStore(folder)
    split, task, example = pair_rows(suite)
    assert len(store) == len(task)
    for wanted, tasks in [(TRAIN, None), (VALIDATION, [2]), (TRAIN, [3, 1])]:
        rows = store.rows(wanted, tasks)
        chosen = (split == wanted) & np.isin(task, range(4) if tasks is None else tasks)
        np.testing.assert_array_equal(rows.features, content[chosen])
        np.testing.assert_array_equal(rows.task_of_row, task[chosen])
        np.testing.assert_array_equal(rows.example, example[chosen])
        np.testing.assert_array_equal(rows.margins, content[chosen, 0])


def test_products_lie_beside_features(tmp_path):
    suite, folder = mixed_suite(), StudyFolder.at(tmp_path)
    split, task, example = pair_rows(suite)
    products = np.random.default_rng(0).normal(size=(len(task), 4)).astype(np.float16)
    flat = np.zeros((len(task), 2), np.float32)
    content = Features(flat[:, 0].astype(np.float64), flat[:, 0], flat, products)
    write_shard(folder, 0, split, task, example, content)
    folder.write_json(LAYOUT, {"rows": len(task), "dimension": 2, "products": 4, "shards": 1})
    store = FeatureStore(folder)
    assert store.products == 4
    found = store.rows(VALIDATION, [2])
    assert found.products.dtype == np.float16
    np.testing.assert_array_equal(found.products, products[(split == VALIDATION) & (task == 2)])
    assert found.features.shape[1] == 2


def test_a_broken_shard_is_named(stored):
    folder, *_ = stored
    path = folder.local_path(shard_name(2))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=shard_name(2)):
        FeatureStore(folder)


def test_rows_come_task_by_task_across_shards(stored):
    folder, _, _ = stored
    store = FeatureStore(folder)
    for split in (TRAIN, VALIDATION):
        found = list(rows_by_task(folder, split))
        assert [set(rows.task_of_row.tolist()) for rows in found] == [{0}, {1}, {2}, {3}]
        for task, rows in enumerate(found):
            expected = store.rows(split, [task])
            for name, array in vars(expected).items():
                if array is not None:
                    np.testing.assert_array_equal(getattr(rows, name), array)
