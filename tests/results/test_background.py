import threading
import time

import pytest

from posterior.results.background import BackgroundWorker


def test_work_is_done_in_order_and_close_waits_for_it():
    worker, done = BackgroundWorker(), []
    for number in range(20):
        worker.submit(lambda number=number: (time.sleep(0.001), done.append(number)))
    worker.close()
    assert done == list(range(20))
    worker.submit(lambda: done.append(20))  # and again
    worker.close()
    assert done[-1] == 20


def test_a_full_queue_makes_the_giver_wait():
    worker, gate, given = BackgroundWorker(most_waiting=2), threading.Event(), []

    def give():
        for number in range(6):
            worker.submit(gate.wait)
            given.append(number)

    giver = threading.Thread(target=give, daemon=True)
    giver.start()
    giver.join(timeout=0.5)
    assert giver.is_alive()
    assert len(given) == 3  # one at work, two waiting
    gate.set()
    giver.join(timeout=10)
    worker.close()
    assert len(given) == 6


def test_after_an_error_nothing_more_is_done_and_everybody_hears_of_it():
    worker, done = BackgroundWorker(), []

    def fail():
        raise OSError("disk")

    worker.submit(fail)
    with pytest.raises(OSError, match="disk"):
        worker.close()
    with pytest.raises(OSError, match="disk"):
        worker.submit(lambda: done.append(1))
    with pytest.raises(OSError, match="disk"):
        worker.close()
    assert done == []
