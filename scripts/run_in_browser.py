"""Run the notebooks in JupyterLab as their readers do, in a headless browser, and look at them.

    pip install playwright && playwright install chromium
    python scripts/run_in_browser.py --screenshots build/screenshots

A Chromium or Chrome on the PATH is used if there is one. Each notebook is opened as it is stored,
then *Run All* runs a copy with its quick parameters, in a folder of its own. All figures must be
there and nothing may be wider than its place. In 03_resnet, progress must show, the stop button
must stop the training, and the next *Run All* must continue it. Prints one line per notebook; the
exit status is 1 if something is wrong. About a quarter of an hour on two cores.
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
import papermill

try:
    from playwright.sync_api import Error as BrowserError
    from playwright.sync_api import sync_playwright
except ImportError:
    sys.exit("This script drives a browser with Playwright: run `pip install playwright` first.")

ROOT = Path(__file__).resolve().parent.parent
NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("0*.ipynb"))
STOPPED = "03_resnet"  # the notebook whose training is watched, stopped and resumed
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTH, HEIGHT = 1280, 1000  # of the window, in pixels
MINUTE = 60_000  # milliseconds, as Playwright counts
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},  # draw every cell, not those in view
    "apputils-extension/notification": {"fetchNews": "false"},
}

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
    arguments = parser.parse_args()
    browser_file = next(filter(None, map(shutil.which, BROWSERS)), None)
    wrong = False
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_file)
        for name in arguments.notebooks:
            prepare(Path(folder), name)
            with jupyter_lab(Path(folder)) as address:
                problems = check(browser, address, name, arguments.screenshots)
            print(f"{name}: {'; '.join(problems) or 'as it should be'}", flush=True)
            wrong = wrong or bool(problems)
    sys.exit(int(wrong))


def prepare(project, name):
    """Write the stored notebook, and a quick copy without outputs, into the folder `project`."""
    source, copy = (root / "notebooks" / f"{name}.ipynb" for root in (ROOT, project))
    (copy.parent / "stored").mkdir(parents=True, exist_ok=True)
    notebook = nbformat.read(source, as_version=4)
    notebook.metadata.language_info.version = platform.python_version()  # else JupyterLab does it
    nbformat.write(notebook, copy.parent / "stored" / copy.name)
    shutil.copy(ROOT / "pyproject.toml", project)
    shutil.copytree(ROOT / "results", project / "results", dirs_exist_ok=True)
    quick = {"profile": "quick"}
    notebook = papermill.execute_notebook(source, None, quick, prepare_only=True)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, copy)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@contextlib.contextmanager
def jupyter_lab(project):
    """Start `jupyter lab notebooks` in `project`; gives the address of a notebook to be named."""
    for name, content in SETTINGS.items():
        file = project / "config/lab/user-settings/@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
    # The user's own files stay untouched.
    folders = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "KERAS_HOME": "keras"}
    environment = os.environ | {name: str(project / path) for name, path in folders.items()}
    jupyter = Path(sys.executable).with_name("jupyter")
    command = [jupyter, "lab", "notebooks", "--no-browser", "--allow-root"]
    with open(project / "jupyter.log", "w") as log:
        server = subprocess.Popen(command, cwd=project, env=environment, stdout=log, stderr=log)
    try:
        notes = project / "data" / "runtime" / f"jpserver-{server.pid}.json"
        while not notes.exists():
            if server.poll() is not None:
                sys.exit(f"JupyterLab did not start: {(project / 'jupyter.log').read_text()}")
            time.sleep(0.2)
        time.sleep(1)  # until the file is whole
        at = json.loads(notes.read_text())
        yield f"{at['url']}lab/tree/{{}}.ipynb?reset&token={at['token']}"
    finally:
        server.terminate()
        server.wait()


def check(browser, address, name, screenshots):
    """Return what is wrong with the notebook `name`, in words."""
    stored = code_cells(nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4))
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
    page.set_default_timeout(2 * MINUTE)
    try:
        open_notebook(page, address.format(f"stored/{name}"))
        problems = [f"as stored, {problem}" for problem in look(page, stored)]
        problems += ["is changed by being opened"] * page.locator(UNSAVED).count()
        take_picture(page, screenshots, f"{name}_stored")

        open_notebook(page, address.format(name))
        if name == STOPPED:
            problems += stop_training(page, screenshots)
        run_all(page)
        wait_for_end(page)
        if page.locator(ERRORS).count() or page.locator(NOT_RUN).count():
            problems.append(f"ends with {page.locator(ERRORS).all_inner_texts() or 'cells to run'}")
        if name == STOPPED and "(trained before" not in page.locator(NOTEBOOK).inner_text():
            problems.append("the stopped training did not go on where it was")
        problems += look(page, [cell for cell in stored if not cell.source.startswith("if ")])
        take_picture(page, screenshots, f"{name}_quick")
        return problems
    except BrowserError as error:
        return [" ".join(error.message.split())]
    finally:
        page.close()


def open_notebook(page, address):
    page.goto(address)
    page.wait_for_selector(KERNEL_READY)


def run_all(page):
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.locator("[data-command='runmenu:run-all']").click()
    page.wait_for_selector(RUNNING)


def wait_for_end(page):
    page.wait_for_selector(RUNNING, state="detached", timeout=20 * MINUTE)


def stop_training(page, screenshots):
    """Run until an epoch's bar shows, and press the stop button."""
    run_all(page)
    page.wait_for_selector(TRAINING_BAR, timeout=5 * MINUTE).scroll_into_view_if_needed()
    take_picture(page, screenshots, "training")
    page.locator("[data-command='notebook:interrupt-kernel']").click()
    wait_for_end(page)
    said = page.locator(ERRORS).all_inner_texts()
    if len(said) == 1 and re.fullmatch("Stopped: .*", said[0].strip()):
        return []
    return [f"stopped with {len(''.join(said).splitlines())} lines, not with one sentence"]


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
        page.set_viewport_size({"width": WIDTH, "height": height + 150})
        page.screenshot(path=folder / f"{name}.png")
        page.set_viewport_size({"width": WIDTH, "height": HEIGHT})


if __name__ == "__main__":
    main()
