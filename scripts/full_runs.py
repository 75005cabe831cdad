"""Run what needs a GPU: the published and the modern recipes, in mixed bfloat16.

    python scripts/full_runs.py                    # all of them, one after the other
    python scripts/full_runs.py --minutes 9        # a piece of it; exit status 3: call it again
    python scripts/full_runs.py --tiny             # the same on a few synthetic images, on any CPU

It works under every backend: KERAS_BACKEND=jax python scripts/full_runs.py. The epoch in which a
piece ends is lost. A finished run leaves its record in results/ and its executed notebook in
build/full_runs/, ready to replace the one in notebooks/; a --tiny run leaves both in
build/tiny_runs/.
"""

import argparse
import subprocess
import sys
import time

import nbformat
import yaml
from publish import ROOT, all_parameters, publish_record, store

RUNS = {  # a run's name: its notebook, and the profile that sets its parameters
    "resnet_published": ("03_resnet", None),
    "resnet_modern": ("03_resnet", "modern"),
    "xception_published": ("04_xception", None),
    "xception_modern": ("04_xception", "modern"),
    "xception_large": ("04_xception", "large"),
}
TINY = {
    "dataset": "synthetic",
    "train_limit": 200,
    "batch_size": 40,
    "epochs": 4,
    "width": 2,
    "weights": "none",
    "frozen_epochs": 2,
    "finetune_epochs": 2,
    "image_size": 71,
    "precision": "auto",
}
UNFINISHED = 3


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[[], *RUNS], help="which runs, else all")
    parser.add_argument("--minutes", type=float, help="stop after so many, to be called again")
    parser.add_argument("--tiny", action="store_true", help="a few synthetic images, for a test")
    arguments = parser.parse_args()
    deadline = time.monotonic() + 60 * arguments.minutes if arguments.minutes else None
    for name in arguments.names or RUNS:
        if not finish(name, arguments.tiny, deadline):
            print(f"{name} is not finished: call this again, and it goes on after its last epoch.")
            sys.exit(UNFINISHED)
        print(f"{name} is finished.", flush=True)


def finish(name, tiny, deadline):
    """Execute the notebook of the run `name`; true if it ended, false if the deadline came first.

    Killed at the deadline, it leaves its last whole epoch on the disk.
    """
    notebook, profile = RUNS[name]
    folder = ROOT / "build" / ("tiny_runs" if tiny else "full_runs")
    run_dir = folder / "runs" / name if tiny else ROOT / "runs" / name
    stored, executed = folder / f"{name}.ipynb", folder / f"{name}_executed.ipynb"
    if stored.exists():
        return True
    folder.mkdir(parents=True, exist_ok=True)
    source, settings = ROOT / "notebooks" / f"{notebook}.ipynb", folder / f"{name}.yaml"
    parameters = all_parameters(source, profile)
    parameters |= {"run_name": name, "results_dir": str(run_dir.parent)}
    parameters["precision"] = "mixed_bfloat16"  # tensor cores multiply several times faster in it
    parameters |= {key: value for key, value in TINY.items() if tiny and key in parameters}
    settings.write_text(yaml.safe_dump(parameters))
    command = ["papermill", source, executed, "-f", settings, "--log-output", "--no-progress-bar"]
    options = {"cwd": source.parent, "check": True}
    options["timeout"] = max(0, deadline - time.monotonic()) if deadline else None
    try:
        subprocess.run([sys.executable, "-m", *command], **options)
    except subprocess.TimeoutExpired:
        return False
    if not tiny:
        publish_record(run_dir)
    store(nbformat.read(executed, as_version=4), stored)
    return True


if __name__ == "__main__":
    main()
