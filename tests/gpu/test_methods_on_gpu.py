"""Every method on every family and head on a GPU, in fp32 and in bf16: the cells of the matrix; skipped without one."""

import pytest
import torch

from bench.models.inference import Engine
from tests.methods import matrix

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("name", "family", "kind"), matrix.cells())
def test_cell(name: str, family: str, kind: str, precision: str) -> None:
    cell = matrix.outcome(matrix.methods()[name], family, kind, Engine(torch.device("cuda"), precision, {}))
    if cell.status == matrix.FAILS:
        raise AssertionError(cell.reason) from cell.error
    assert (cell.status == matrix.REFUSED) == (matrix.expected_refusal(name, family, kind) is not None), cell.reason
