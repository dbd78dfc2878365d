"""Counts the results of several `meson test` runs and names what failed or was skipped. Shows the end of what failed tests
printed: one that fails once in a hundred runs leaves no other trace. Ends in one line "N passed, N failed, N skipped". Exit
code 1 if anything failed or nothing ran."""
import json
import os
import sys

PASSED = {"OK", "EXPECTEDFAIL"}
SKIPPED = {"SKIP"}
LINES = 60  # of a failed test


def printed(test):
    return [l for l in (test.get("stdout", "") + test.get("stderr", "")).splitlines() if l.strip()]


def reason(test):
    """The last line a skipped or failed test printed."""
    return (printed(test) or ["no output"])[-1].strip()[:160]


def main(paths):
    passed, failed, skipped = [], [], []
    for path in paths:
        run = os.path.basename(path).removesuffix(".json")
        with open(path, encoding="utf-8", errors="replace") as f:
            for line in f:
                test = json.loads(line)
                kind = passed if test["result"] in PASSED else skipped if test["result"] in SKIPPED else failed
                kind.append((run, test["name"], reason(test)))
                if kind is failed:
                    print(f"--- {run}: {test['name']}", *(l[:300] for l in printed(test)[-LINES:]), sep="\n")
    for title, tests in (("skipped", skipped), ("FAILED", failed)):
        for run, name, why in tests:
            print(f"{title}: {run}: {name}: {why}")
    print(f"{len(passed)} passed, {len(failed)} failed, {len(skipped)} skipped")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
