import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat

from cifar100_helpers.results import load_run

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "build" / "tiny_runs"
COMMAND = [sys.executable, "scripts/full_runs.py", "--tiny", "resnet_modern"]


def text_of(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs)


def test_killed_run_goes_on_when_called_again_and_leaves_record_and_notebook():
    shutil.rmtree(FOLDER, ignore_errors=True)
    run_dir, stored = FOLDER / "runs" / "resnet_modern", FOLDER / "resnet_modern.ipynb"

    out_of_time = subprocess.run([*COMMAND, "--minutes", "0.02"], cwd=ROOT, capture_output=True)
    assert out_of_time.returncode == 3 and b"call this again" in out_of_time.stdout
    assert not stored.exists() and not run_dir.exists()

    piece = subprocess.Popen(COMMAND, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL)
    while not (run_dir / "checkpoint.json").exists():
        assert piece.poll() is None
        time.sleep(0.05)
    os.killpg(piece.pid, signal.SIGKILL)
    piece.wait()
    assert not stored.exists()

    subprocess.run(COMMAND, cwd=ROOT, check=True, capture_output=True)
    record = load_run(run_dir).record
    assert record["dataset"] == "synthetic" and len(record["history"]["epoch"]) == 4
    assert record["parameters"]["recipe"] == "modern"  # of its profile
    assert "(trained before; " in text_of(nbformat.read(stored, as_version=4))

    again = subprocess.run(COMMAND, cwd=ROOT, check=True, capture_output=True)
    assert again.stdout.splitlines()[-1] == b"resnet_modern is finished."
