import pytest
import torch

from affinity_service.artifacts import StudyFolder
from affinity_service.graphs.blocks import layer_name, layer_reader, read_block, write_block


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(5, 3), (4, 2, 3), (1, 1), (0, 3), (0, 2, 3)])
def test_a_block_comes_back_as_it_was(tmp_path, dtype, shape):
    folder = StudyFolder.at(tmp_path)
    features = torch.randn(shape).to(dtype)
    write_block(folder, "a/b.arrow", features)
    found = read_block(folder, "a/b.arrow")
    assert found.dtype == dtype
    assert found.shape == features.shape
    assert torch.equal(found, features)


def test_a_part_of_a_larger_array(tmp_path):
    folder, features = StudyFolder.at(tmp_path), torch.randn(6, 4)
    write_block(folder, layer_name("hop-0", 1), features[2:5, ::2])
    assert torch.equal(layer_reader(folder, "hop-0")(1), features[2:5, ::2])
