"""Run the notebooks in JupyterLab as their readers do, in a headless browser, and look at them.

    pip install playwright && playwright install chromium
    python scripts/run_in_browser.py --screenshots build/screenshots

A Chromium or Chrome on the PATH is used if there is one. A copy of each notebook, which names the
profile `quick`, is opened with its stored outputs, then *Run All* makes new ones. All figures must
be there and nothing may be wider than its place. In 03_resnet, the stop button must stop the
training, and the next *Run All* must continue it. Prints one line per notebook; the exit status is
1 if something is wrong. About a quarter of an hour on two cores.
"""

import argparse
import contextlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from playwright.sync_api import Error as BrowserError
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("0*.ipynb"))
STOPPED = "03_resnet"  # the notebook whose training is stopped and resumed
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WINDOW = {"width": 1280, "height": 1000}  # pixels
MINUTE = 60_000  # milliseconds, as Playwright counts
GONE = {"state": "detached", "timeout": 20 * MINUTE}
TRACKER = "config/lab/user-settings/@jupyterlab/notebook-extension/tracker.jupyterlab-settings"

NOTEBOOK = ".jp-WindowedPanel-outer"
FIGURES = ".jp-OutputArea img"
ERRORS = "[data-mime-type='application/vnd.jupyter.stderr']"
KERNEL_READY = "#jp-main-statusbar :text('| Idle')"
RUNNING = ".jp-InputPrompt:text('[*]')"
NOT_RUN = ".jp-CodeCell .jp-InputPrompt:text('[ ]')"
UNSAVED = ".lm-TabBar-tab.jp-mod-dirty"
TRAINING_BAR = r".jp-OutputArea :text-matches('epoch 2: +\\d+%')"
IS_SHOWN = "image => image.complete && image.naturalWidth > 0 && image.clientWidth > 0"
TOO_WIDE = """notebook => {
    const places = ".jp-OutputArea-output, .jp-RenderedMarkdown, .cm-scroller, img";
    const right = notebook.getBoundingClientRect().right;
    return [...notebook.querySelectorAll(places)]
        .filter(place => place.checkVisibility())
        .filter(place => place.scrollWidth > place.clientWidth + 1
            || place.getBoundingClientRect().right > right)
        .map(place => (place.innerText || place.tagName).slice(0, 60));
}"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", default=NAMES, help="such as 03_resnet")
    parser.add_argument("--screenshots", type=Path, help="a folder for a picture of every page")
    arguments, wrong = parser.parse_args(), False
    file = next(filter(None, map(shutil.which, BROWSERS)), None)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=file)
        project = Path(folder)
        for name in ("notebooks", "results"):
            shutil.copytree(ROOT / name, project / name)
        shutil.copy(ROOT / "pyproject.toml", project)
        with jupyter_lab(project) as address:
            for name in arguments.notebooks:
                cells = prepare(project / "notebooks" / f"{name}.ipynb")
                page = browser.new_page(viewport=WINDOW)
                page.set_default_timeout(2 * MINUTE)
                try:
                    page.goto(address.format(name))
                    problems = check(page, name, cells, arguments.screenshots)
                except BrowserError as error:
                    problems = [" ".join(error.message.split())]
                page.close()
                print(f"{name}: {'; '.join(problems) or 'as it should be'}", flush=True)
                wrong = wrong or bool(problems)
    sys.exit(int(wrong))


def prepare(file):
    """Let the notebook `file` name the profile `quick`; return its code cells."""
    notebook = nbformat.read(file, as_version=4)
    notebook.metadata.language_info.version = platform.python_version()  # else JupyterLab does it
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in cells:
        cell.source = re.sub(r'^profile = "\w+"', 'profile = "quick"', cell.source, flags=re.M)
    nbformat.write(notebook, file)
    return cells


@contextlib.contextmanager
def jupyter_lab(project):
    """Start `jupyter lab notebooks` in `project`; gives the address of a notebook to be named."""
    (project / TRACKER).parent.mkdir(parents=True)
    (project / TRACKER).write_text('{"windowingMode": "none"}')  # draw every cell
    # The user's own files stay untouched.
    folders = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "KERAS_HOME": "keras"}
    environment = os.environ | {name: str(project / path) for name, path in folders.items()}
    jupyter = Path(sys.executable).with_name("jupyter")
    command = [jupyter, "lab", "notebooks", "--no-browser", "--allow-root"]
    server = subprocess.Popen(command, cwd=project, env=environment, stderr=subprocess.DEVNULL)
    notes = project / "data" / "runtime" / f"jpserver-{server.pid}.json"
    try:
        while not notes.exists():
            assert server.poll() is None, "JupyterLab did not start"
            time.sleep(0.2)
        time.sleep(1)  # until the file is whole
        at = json.loads(notes.read_text())
        yield f"{at['url']}lab/tree/{{}}.ipynb?reset&token={at['token']}"
    finally:
        server.terminate()
        server.wait()


def check(page, name, cells, screenshots):
    """Return what is wrong with the notebook `name`, in words."""
    page.wait_for_selector(KERNEL_READY)
    problems = [f"as stored, {problem}" for problem in look(page, cells)]
    problems += ["is changed by being opened"] * page.locator(UNSAVED).count()
    take_picture(page, screenshots, f"{name}_stored")
    if name == STOPPED:
        run_all(page)
        page.wait_for_selector(TRAINING_BAR, timeout=5 * MINUTE)
        page.locator("[data-command='notebook:interrupt-kernel']").click()
        page.wait_for_selector(RUNNING, **GONE)
        said = page.locator(ERRORS).all_inner_texts()
        if len(said) != 1 or not re.fullmatch("Stopped: .*", said[0].strip()):
            problems.append(f"stopped with {said}, not with one sentence")
    run_all(page)
    page.wait_for_selector(RUNNING, **GONE)
    if page.locator(ERRORS).count() or page.locator(NOT_RUN).count():
        problems.append(f"ends with {page.locator(ERRORS).all_inner_texts() or 'cells to run'}")
    if name == STOPPED and "(trained before" not in page.locator(NOTEBOOK).inner_text():
        problems.append("the stopped training did not go on where it was")
    take_picture(page, screenshots, f"{name}_quick")
    always = [cell for cell in cells if not re.search(r"^if |if settings\.", cell.source)]
    return problems + look(page, always)


def run_all(page):
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.locator("[data-command='runmenu:run-all']").click()
    page.wait_for_selector(RUNNING)


def look(page, cells):
    """Return what is wrong with the page that shows `cells`, in words."""
    kinds = [kind for cell in cells for output in cell.outputs for kind in output.get("data", {})]
    expected = sum(kind.startswith("image/") for kind in kinds)
    shown = sum(figure.evaluate(IS_SHOWN) for figure in page.locator(FIGURES).all())
    problems = [] if shown == expected else [f"shows {shown} figures, not {expected}"]
    return problems + [f"too wide: {text!r}" for text in page.locator(NOTEBOOK).evaluate(TOO_WIDE)]


def take_picture(page, folder, name):
    """Take one picture of the whole notebook, in a window as high as it is."""
    if folder:
        height = page.locator(NOTEBOOK).evaluate("notebook => notebook.scrollHeight")
        page.set_viewport_size(WINDOW | {"height": height + 150})
        page.screenshot(path=folder / f"{name}.png")
        page.set_viewport_size(WINDOW)


if __name__ == "__main__":
    main()
