from cifar100_helpers import progress


def count_to_three():
    with progress.progress_bar(3, "counting") as bar:
        for _ in range(3):
            bar.update()


def test_nothing_is_written_where_nobody_watches(capsys, monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    assert not progress.someone_watches()
    count_to_three()
    assert capsys.readouterr() == ("", "")


def test_a_bar_comes_and_goes_in_jupyterlab(capsys, monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "03_resnet.ipynb")
    assert progress.someone_watches()
    count_to_three()
    written = capsys.readouterr()
    assert "counting" in written.out and written.err == ""
    assert written.out.rsplit("\r", 2)[1].strip() == ""  # wiped out at the end
