"""Run the notebooks in JupyterLab as their readers do, in a headless browser, and look at them.

    pip install playwright && playwright install chromium
    python scripts/run_in_browser.py --screenshots build/screenshots

A Chromium or Chrome on the PATH serves as well as Playwright's own. Each notebook is opened as it
is stored; then *Run All* runs a copy with its quick parameters, in a folder of its own. All figures
must be there, and nothing may be wider than its place. In 03_resnet, progress must show, the stop
button must stop the training, and the next *Run All* must go on from there. Prints one line per
notebook; the exit status is 1 where something is wrong. At most a quarter of an hour on two cores.
"""

import argparse
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import nbformat
import papermill
import yaml

try:
    from playwright.sync_api import Error as BrowserError
    from playwright.sync_api import sync_playwright
except ImportError:
    sys.exit("This script drives a browser with Playwright: run `pip install playwright` first.")

ROOT = Path(__file__).resolve().parent.parent
NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("0*.ipynb"))
STOPPED = "03_resnet"  # the notebook whose training is watched, stopped and resumed
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER_OPTIONS = ("--disable-quic", "--disable-background-networking", "--disable-sync")
WINDOW = {"width": 1280, "height": 1000}  # pixels
MINUTE = 60_000  # milliseconds, as Playwright counts
SETTINGS = {
    # Every cell is drawn, not only those in view.
    "notebook-extension/tracker": '{"windowingMode": "none"}',
    "apputils-extension/notification": '{"fetchNews": "false"}',
}

SCROLLED = ".jp-WindowedPanel-outer"
FIGURES = ".jp-OutputArea img"
ERRORS = "[data-mime-type='application/vnd.jupyter.stderr']"
KERNEL_READY = "#jp-main-statusbar :text('| Idle')"
RUNNING = ".jp-InputPrompt:text('[*]')"
NOT_RUN = ".jp-CodeCell .jp-InputPrompt:text('[ ]')"
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
    parser.add_argument("--screenshots", type=Path, help="a folder for pictures of every page")
    arguments = parser.parse_args()

    wrong = False
    with tempfile.TemporaryDirectory() as project, a_browser() as browser:
        for name in arguments.notebooks:
            problems = check(browser, Path(project), name, arguments.screenshots)
            print(f"{name}: {'; '.join(problems) or 'as it should be'}", flush=True)
            wrong = wrong or bool(problems)
    sys.exit(int(wrong))


def check(browser, project, name, screenshots):
    """What is wrong with the notebook `name`, in words."""
    prepare(project, name)
    page = browser.new_page(viewport=WINDOW)
    try:
        with jupyter_lab(project) as address:
            return [
                *look_at_stored(page, address.format(f"stored/{name}"), name, screenshots),
                *run_quick_copy(page, address.format(name), name, screenshots),
            ]
    except BrowserError as error:
        return [" ".join(error.message.split())]
    finally:
        page.close()


# The project, the browser and the server


def prepare(project, name):
    """Write the stored notebook and its quick copy, without outputs, into a project of its own."""
    source, copy = (root / "notebooks" / f"{name}.ipynb" for root in (ROOT, project))
    (copy.parent / "stored").mkdir(parents=True, exist_ok=True)
    shutil.copy(source, copy.parent / "stored")
    shutil.copy(ROOT / "pyproject.toml", project)
    shutil.copytree(ROOT / "results", project / "results", dirs_exist_ok=True)
    parameters = yaml.safe_load((source.parent / "quick" / f"{name}.yaml").read_text())
    notebook = papermill.execute_notebook(source, None, parameters, prepare_only=True)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, copy)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@contextmanager
def a_browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=found, args=BROWSER_OPTIONS)


@contextmanager
def jupyter_lab(project):
    """Start the README's `jupyter lab notebooks` in `project`; gives the address of a notebook."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex()
    options = f"--no-browser --allow-root --port={port} --IdentityProvider.token={token}"
    with open(project / "jupyter.log", "w+") as log:
        server = subprocess.Popen(
            [Path(sys.executable).with_name("jupyter"), "lab", "notebooks", *options.split()],
            cwd=project,
            env=os.environ | own_folders(project),
            stdout=log,
            stderr=log,
        )
        try:
            wait_for(f"http://localhost:{port}/api", server, log)
            yield f"http://localhost:{port}/lab/tree/{{}}.ipynb?reset&token={token}"
        finally:
            server.terminate()
            server.wait()


def own_folders(project):
    """Environment variables that keep Jupyter and Keras away from the user's own files."""
    for name, content in SETTINGS.items():
        file = project / "config/lab/user-settings/@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    folders = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "KERAS_HOME": "keras"}
    return {variable: str(project / folder) for variable, folder in folders.items()}


def wait_for(address, server, log):
    while server.poll() is None:
        try:
            return urllib.request.urlopen(address).close()
        except OSError:
            time.sleep(0.2)
    log.seek(0)
    sys.exit(f"JupyterLab did not start: {log.read()}")


# What a reader does and sees


def look_at_stored(page, address, name, screenshots):
    open_notebook(page, address)
    cells = code_cells(nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4))
    take_pictures(page, screenshots, f"{name}_stored")
    return [f"as stored, {problem}" for problem in look(page, cells)]


def run_quick_copy(page, address, name, screenshots):
    open_notebook(page, address)
    problems = stop_training(page, screenshots) if name == STOPPED else []
    run_all(page)
    wait_for_end(page)
    if page.locator(ERRORS).count() or page.locator(NOT_RUN).count():
        problems.append(f"ended with {page.locator(ERRORS).all_inner_texts() or 'cells not run'}")
    if name == STOPPED and "(trained before" not in page.locator(SCROLLED).inner_text():
        problems.append("the stopped training did not go on where it was")
    cells = code_cells(nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4))
    cells = [cell for cell in cells if not cell.source.startswith("if ")]
    take_pictures(page, screenshots, f"{name}_quick")
    return problems + look(page, cells)


def stop_training(page, screenshots):
    """Run until an epoch's bar shows, and press the stop button."""
    run_all(page)
    page.wait_for_selector(TRAINING_BAR, timeout=5 * MINUTE).scroll_into_view_if_needed()
    take_picture(page, screenshots, "training")
    page.locator("[data-command='notebook:interrupt-kernel']").click()
    wait_for_end(page)
    take_picture(page, screenshots, "stopped")
    said = page.locator(ERRORS).all_inner_texts()
    if len(said) == 1 and re.fullmatch("Stopped: .*", said[0].strip()):
        return []
    return [f"stopped with {len(''.join(said).splitlines())} lines, not with one sentence"]


def open_notebook(page, address):
    page.goto(address)
    page.wait_for_selector(KERNEL_READY, timeout=2 * MINUTE)


def run_all(page):
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.locator("[data-command='runmenu:run-all']").click()
    page.wait_for_selector(RUNNING)


def wait_for_end(page):
    page.wait_for_selector(RUNNING, state="detached", timeout=10 * MINUTE)


def look(page, cells):
    """What is wrong with the page that shows `cells`, in words."""
    kinds = [kind for cell in cells for output in cell.outputs for kind in output.get("data", {})]
    expected = sum(kind.startswith("image/") for kind in kinds)
    figures = page.locator(FIGURES).all()
    shown = sum(figure.evaluate(IS_SHOWN) for figure in figures)
    problems = [] if shown == expected else [f"shows {shown} figures, not {expected}"]
    return problems + [
        f"too wide: {start!r}" for start in page.locator(SCROLLED).evaluate(TOO_WIDE)
    ]


def take_pictures(page, folder, name):
    """Pictures of the whole notebook, from top to bottom."""
    notebook = page.locator(SCROLLED)
    visible, height = notebook.evaluate("place => [place.clientHeight, place.scrollHeight]")
    for number, top in enumerate(range(0, height, visible)):
        notebook.evaluate(f"place => place.scrollTo(0, {top})")
        take_picture(page, folder, f"{name}_{number:02d}")


def take_picture(page, folder, name):
    if folder:
        page.screenshot(path=folder / f"{name}.png")


if __name__ == "__main__":
    main()
