"""The loop of an engine: what it counts, what its bar shows, how Ctrl-C ends it."""

import math
import signal
import threading

import pytest

from guidebook.errors import SettingError
from guidebook.inference.fits.running import check_whole, counted


def test_steps_are_numbered_from_where_they_begin():
    with counted("engine", 5, shown=False, done=2) as steps:
        assert list(steps) == [2, 3, 4]
        assert steps.done == 5
        assert not steps.stopped


def test_the_bar_shows_numbers_and_leaves_out_what_is_none(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with counted("gibbs", 2, shown=True, unit="sweep") as steps:
        for _ in steps:
            steps.show(elbo=math.nan, objective=1.25, active="")
            steps._bar.refresh()
    shown = capsys.readouterr().err
    assert "gibbs" in shown
    assert "objective=1.25" in shown
    assert "elbo" not in shown
    assert "active" not in shown


def test_ctrl_c_ends_the_loop_after_its_step_and_the_second_at_once():
    before = signal.getsignal(signal.SIGINT)
    seen = []
    with counted("engine", 10, shown=False) as steps:
        for step in steps:
            if step == 3:
                signal.raise_signal(signal.SIGINT)
            seen.append(step)
        assert steps.stopped
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert seen == [0, 1, 2, 3]
    assert signal.getsignal(signal.SIGINT) is before


def test_another_thread_leaves_the_handler_alone():
    before, found = signal.getsignal(signal.SIGINT), []

    def loop():
        with counted("engine", 2, shown=False) as steps:
            found.extend(steps)
            found.append(signal.getsignal(signal.SIGINT) is before)

    thread = threading.Thread(target=loop)
    thread.start()
    thread.join()
    assert found == [0, 1, True]


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "3", None, 2**63])
def test_whole_numbers(value):
    check_whole(steps=(1, 1), seed=(2**63 - 1, 0))
    with pytest.raises(SettingError, match=r"steps=.*out of range"):
        check_whole(steps=(value, 1))
