import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from cifar100_helpers import runtime
from cifar100_helpers.resnet import build_resnet
from cifar100_helpers.runtime import configure, progress_bar

ROOT = Path(__file__).parent.parent
pytestmark = [pytest.mark.usefixtures("fresh_keras"), pytest.mark.every_backend]


@pytest.mark.parametrize(
    ("flags", "gpus", "policy"),
    [
        ("avx2 avx512_bf16", [], "mixed_bfloat16"),
        ("avx2 avx512f", [], "float32"),
        ("avx2 avx512_bf16", [("Tesla T4", (7, 5))], "float32"),
        ("avx2", [("NVIDIA H200", (9, 0))], "mixed_bfloat16"),
    ],
)
def test_auto_precision_is_what_the_hardware_computes_in(monkeypatch, flags, gpus, policy):
    monkeypatch.setattr(runtime, "_gpus", lambda: gpus)
    monkeypatch.setattr(runtime, "_cpu_info", {"flags": flags}.get)
    assert configure(precision="auto") == policy == keras.layers.Dense(1).dtype_policy.name


def test_settings_in_the_users_keras_json_do_not_matter():
    keras.config.set_floatx("float64")
    keras.config.set_image_data_format("channels_first")
    configure()
    layer = keras.layers.Conv2D(1, 1)
    assert (layer.data_format, layer.compute_dtype) == ("channels_last", "float32")
    assert keras.backend.standardize_dtype(keras.ops.zeros(1).dtype) == "float32"


def test_seed_decides_the_weights():
    def drawn(seed):
        configure(seed=seed)
        return build_resnet((1,), width=2).get_weights()[0]

    np.testing.assert_array_equal(drawn(1), drawn(1))
    assert not np.array_equal(drawn(1), drawn(2))


def test_failing_import_still_explains_itself(tmp_path):
    """Also by what a backend writes past Python."""
    (tmp_path / "jax.py").write_text(
        "import os; os.write(2, b'no GPU' + b' driver'); raise ImportError"
    )
    environment = os.environ | {"KERAS_BACKEND": "jax", "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-c", "import cifar100_helpers.runtime"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode != 0 and "no GPU driver" in run.stderr


@pytest.mark.parametrize("notebook", [None, "03_resnet.ipynb"])
def test_a_bar_comes_and_goes_where_somebody_watches(capsys, monkeypatch, notebook):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    if notebook:
        monkeypatch.setenv("JPY_SESSION_NAME", notebook)
    with progress_bar(1, "counting") as bar:
        bar.update()
    written = capsys.readouterr()
    assert written.err == "" and ("counting" in written.out) == bool(notebook)
    assert not notebook or written.out.rsplit("\r", 2)[1].strip() == ""  # wiped out at the end
