"""Settings for nbval, which checks the notebooks."""


def pytest_collectstart(collector):
    # C++ notices reach stderr in some environments and not in others.
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr",)


def pytest_collection_modifyitems(items):
    # nbval waits 5 s for each message after a cell's reply; a loaded machine needs more.
    for item in items:
        if hasattr(item, "output_timeout"):
            item.output_timeout = 60
