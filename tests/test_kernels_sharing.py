"""How threads share work: every item is done once, whoever asks when."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from minseg.kernels.core.scheduling import next_item, share, whole_groups


@given(st.data(), st.integers(1, 5), st.integers(0, 80), st.integers(0, 80))
def test_runs_hold_every_item_once(data, threads, together, single):
    items, work = together + single, np.zeros(1, np.int64)
    places, runs, done = dict.fromkeys(range(threads), (0, 0)), [], []
    while places:
        thread = data.draw(st.sampled_from(sorted(places)))
        item, end = next_item(*places[thread], work.ctypes.data, items, single, threads)
        if item < end:
            done.append(item)
            if end != places[thread][1]:
                runs.append(range(item, end))
            places[thread] = item, end
        else:
            del places[thread]
    assert sorted(done) == sorted(i for run in runs for i in run) == list(range(items))
    assert all(len(run) == 1 for run in runs if run.start >= together)
    assert all(len(run) <= max(1, together / (2 * threads)) for run in runs)


@given(st.integers(1, 30), st.integers(1, 9), st.integers(1, 5))
def test_groups_are_dealt_out_and_the_rest_is_shared(groups, parts, threads):
    whole = whole_groups(groups, threads)
    assert 1 <= groups - whole <= max(1, threads - 1)
    items = whole + (groups - whole) * parts
    shares = [share(item, whole, parts) for item in range(items)]
    done = [(group, part) for group, begin, end in shares for part in range(begin, end)]
    assert done == [(group, part) for group in range(groups) for part in range(parts)]
