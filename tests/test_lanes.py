"""Lanes: what is shared out comes back in order, whatever happens in them."""
from __future__ import annotations

import threading

import pytest
import torch

from streamchar_rt.lanes import Lanes


@pytest.fixture(params=[1, 2, 5])
def lanes(request):
    lanes = Lanes(request.param)
    yield lanes
    lanes.close()


def test_results_come_in_order(lanes, rng):
    for count in (0, 1, 2, int(rng.integers(3, 60))):
        items = [int(i) for i in rng.integers(0, 1000, count)]
        assert lanes.map(lambda i: i * 3, iter(items)) == [i * 3 for i in items]


def test_lanes_run_side_by_side_with_torch_on_one_thread():
    lanes, all_there = Lanes(3), threading.Barrier(3, timeout=60)
    before = torch.get_num_threads()

    def meet(_):
        all_there.wait()  # nobody passes unless three are inside at once
        if threading.current_thread() is not threading.main_thread():
            assert torch.get_num_threads() == 1
        return threading.get_ident(), torch.is_inference_mode_enabled()

    for _ in range(3):
        found = lanes.map(meet, range(3))
        assert len({ident for ident, _ in found}) == 3 and all(inference for _, inference in found)
    torch.set_num_threads(before)
    lanes.close()
    assert not any(thread.name.startswith("streamchar lane") for thread in threading.enumerate())


def test_a_call_from_beside_does_its_items_itself(lanes):
    begun, go_on = threading.Event(), threading.Event()

    def hold(i):
        begun.set()
        assert go_on.wait(60)
        return i

    holder = threading.Thread(target=lambda: lanes.map(hold, range(2)))
    holder.start()
    assert lanes.count == 1 or begun.wait(60)
    me = threading.get_ident()
    assert lanes.map(lambda _: threading.get_ident(), range(5)) == [me] * 5
    go_on.set()
    holder.join(60)
    results, threads = [], [threading.Thread(target=lambda: results.append(lanes.map(str, range(50)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [[str(i) for i in range(50)]] * 8


def test_calls_from_inside_come_back_in_order(lanes, rng):
    counts = [int(n) for n in rng.integers(0, 9, 12)]
    inner = lambda i: lanes.map(lambda j: lanes.map(lambda k: (i, j, k), range(2)), range(counts[i]))
    for _ in range(20):
        assert lanes.map(inner, range(12)) == [[[(i, j, k) for k in range(2)] for j in range(n)] for i, n in enumerate(counts)]


def test_an_idle_lane_helps_a_call_from_inside():
    """The long item of two cannot end unless the lane of the short one comes to help; on three lanes, one that had no
    item at all."""
    for count, people in ((2, 2), (3, 3)):
        lanes, meeting = Lanes(count), threading.Barrier(people, timeout=60)

        def meet(_):
            meeting.wait()
            assert torch.is_inference_mode_enabled()
            return threading.get_ident()

        outer = lambda i: lanes.map(meet, range(people)) if i else threading.get_ident()
        for _ in range(10):
            assert len(set(lanes.map(outer, range(2))[1])) == people
        lanes.close()


def test_an_error_from_inside_reaches_the_caller(lanes):
    def fail(j):
        if j == 2:
            raise KeyError(j)
        return j

    with pytest.raises(KeyError, match="2"):
        lanes.map(lambda i: lanes.map(fail, range(4)) if i == 1 else i, range(3))
    assert lanes.map(lambda i: lanes.map(str, range(3)), range(2)) == [["0", "1", "2"]] * 2


def test_an_error_ends_the_call_and_harms_no_other(lanes, rng):
    bad, done = int(rng.integers(0, 20)), []

    def work(i):
        if i == bad:
            raise KeyError(i)
        done.append(i)
        return i

    with pytest.raises(KeyError, match=str(bad)):
        lanes.map(work, range(20))
    assert len(done) <= 19 and set(range(bad)) <= set(done)  # what began before it came to its end
    assert lanes.map(lambda i: i, range(7)) == list(range(7))


def test_closed_lanes_go_on_alone():
    lanes = Lanes(4)
    lanes.map(str, range(8))
    lanes.close()
    lanes.close()
    assert len(set(lanes.map(lambda _: threading.get_ident(), range(8)))) == 1
    with pytest.raises(ValueError, match="0"):
        Lanes(0)
