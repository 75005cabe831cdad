import pytest

from cifar100_helpers.errors import RunError, Stopped, stoppable


@stoppable("run this again.")
def interrupted_work():
    raise KeyboardInterrupt


def test_interrupted_work_says_in_one_sentence_how_to_go_on():
    with pytest.raises(KeyboardInterrupt) as caught:
        interrupted_work()
    assert caught.value._render_traceback_() == ["Stopped: run this again."]


def test_errors_of_long_work_stay_what_they_are():
    with pytest.raises(RunError, match="no room"), stoppable("run this again."):
        raise RunError("no room")
    assert not issubclass(Stopped, Exception)  # or the work might catch it and go on
