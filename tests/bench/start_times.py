"""Time from the start of the process to the ready line and to the first token, packed and from the weights cache.

Usage: start_times.py LODGE MODEL DIR [ROUNDS]      DIR: an empty or earlier weights cache, on the disk to measure
Rounds alternate between packing and the cache, with the files in memory and after their pages were dropped (which
moves a file to disk speed, if the system does as it is told). Ratios are medians over rounds: packing / cache."""
import glob
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import urllib.request


def start(lodge, model, *flags):
    """The process, its URL, and seconds until it was ready."""
    begin = time.monotonic()
    process = subprocess.Popen([lodge, "serve", model, "--port", "0", "--served-model-name", "m", *flags], text=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    for line in process.stderr:
        if line.startswith("ready "):
            return process, line.split()[1], time.monotonic() - begin
    sys.exit("no ready line")


def stop(process):
    process.send_signal(signal.SIGTERM)
    process.wait()


def fill(lodge, model, cache):
    process, _, _ = start(lodge, model, "--weights-cache", cache)
    while not glob.glob(cache + "/*.packed"):
        time.sleep(0.1)
    stop(process)


def drop(path):
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def one_start(lodge, model, flags):
    begin = time.monotonic()
    process, url, ready = start(lodge, model, *flags)
    body = json.dumps({"model": "m", "prompt": "Hello", "max_tokens": 1, "temperature": 0}).encode()
    request = urllib.request.Request(url + "/v1/completions", body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=600).read()
    first = time.monotonic() - begin
    stop(process)
    return ready, first


def main(lodge, model, cache, rounds=7):
    os.makedirs(cache, exist_ok=True)
    fill(lodge, model, cache)
    times = {}
    for _ in range(int(rounds)):
        for where in ("memory", "disk"):
            for how, flags in (("packed", []), ("cache", ["--weights-cache", cache])):
                for path in [model, *glob.glob(cache + "/*.packed")] if where == "disk" else []:
                    drop(path)
                times.setdefault((where, how), []).append(one_start(lodge, model, flags))
    for (where, how), runs in times.items():
        for i, what in enumerate(("ready", "first token")):
            t = sorted(r[i] for r in runs)
            print(f"{where}, {how}: {what} {statistics.median(t):.3f} s ({t[0]:.3f} to {t[-1]:.3f})")
    for where in ("memory", "disk"):
        ratios = [[p[i] / c[i] for p, c in zip(times[where, "packed"], times[where, "cache"])] for i in range(2)]
        print(f"{where}: packing / cache: ready {statistics.median(ratios[0]):.2f}, first token {statistics.median(ratios[1]):.2f}")


main(*sys.argv[1:])
