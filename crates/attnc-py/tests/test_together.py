"""Many at once: threads, processes and forks that compile and run."""

import multiprocessing
import os
import threading
import time
from pathlib import Path

import attnc
import numpy as np
import pytest
from conftest import ROOT, WINDOW, dense, qkv, window_mask


def work(seed):
    """Compiles and runs; the greatest error."""
    worst = 0.0
    q, k, v = qkv(1, 2, 1, 80, 16, 16)
    for i in range(8):
        window = 1 + (seed * 8 + i) % 13
        kernel = attnc.compile(ROOT / "patterns" / "window.attn", width=window)
        out, _ = kernel(q, k, v)
        worst = max(worst, float(np.abs(out - dense(q, k, v, window_mask(80, window))[0]).max()))
    return worst


def test_threads_compile_and_run():
    results = [None] * 8

    def run(i):
        results[i] = work(i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert all(r is not None and r < 2e-5 for r in results), results


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_processes_compile_and_run(method):
    # The pool of this process exists before it forks.
    assert work(0) < 2e-5
    with multiprocessing.get_context(method).Pool(8) as pool:
        results = pool.map_async(work, range(8)).get(100)
    assert max(results) < 2e-5


def kept():
    return {path: path.stat().st_mtime_ns for path in (Path(os.environ["ATTNC_CACHE"]) / "kernels").glob("*.kernel")}


def test_processes_share_what_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNC_CACHE", str(tmp_path))
    # All of them make the same kernels at once.
    with multiprocessing.get_context("spawn").Pool(8) as pool:
        assert max(pool.map_async(work, [3] * 8).get(100)) < 2e-5
    written = kept()
    assert len(written) == 8
    # What is there is used, and not written again.
    assert work(3) < 2e-5
    assert kept() == written
    # What is torn is made anew.
    for path in written:
        path.write_bytes(path.read_bytes()[:-1])
    assert work(3) < 2e-5
    monkeypatch.setenv("ATTNC_CACHE", "off")
    assert work(4) < 2e-5
    monkeypatch.setenv("ATTNC_CACHE", str(tmp_path))
    assert len(kept()) == 8


def test_one_kernel_in_many_threads():
    kernel = attnc.compile_text(WINDOW)
    q, k, v = qkv(1, 4, 2, 257, 32, 32)
    expected = kernel(q, k, v)[0]
    wrong = []

    def run():
        for _ in range(20):
            if not (kernel(q, k, v)[0] == expected).all():
                wrong.append(threading.get_ident())

    threads = [threading.Thread(target=run) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert not wrong and not any(t.is_alive() for t in threads)


def test_the_interpreter_is_released():
    kernel = attnc.compile_text("pattern all_keys = causal\n")
    q, k, v = qkv(1, 8, 8, 3000, 64, 64)
    ticks, done = [], threading.Event()

    def tick():
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    begin = time.perf_counter()
    kernel(q, k, v, threads=attnc.Threads(1))
    end = time.perf_counter()
    done.set()
    thread.join()
    during = sum(begin < t < end for t in ticks)
    assert end - begin > 0.02, "the launch is long enough to see others run"
    assert during > 3


def test_a_pool_of_the_caller_ends_at_a_fork():
    kernel = attnc.compile_text(WINDOW)
    q, k, v = qkv(1, 1, 1, 9, 8, 8)
    threads = attnc.Threads(2)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            kernel(q, k, v, threads=threads)
            os.write(write, b"ran")
        except attnc.Error as error:
            os.write(write, error.code.encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 100) == b"E0735"
    os.close(read)
    os.close(write)
