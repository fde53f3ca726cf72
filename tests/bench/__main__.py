"""All figures that this project claims, beside those of its peers in the same run; or those of the parts named."""

import argparse

from tests.bench import backup, handovers, kills, recovery, replay, restarts, rotations, saving, startup

PARTS = {
    "startup": startup,
    "saving": saving,
    "kills": kills,
    "restarts": restarts,
    "handovers": handovers,
    "rotations": rotations,
    "backup": backup,
    "recovery": recovery,
    "replay": replay,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all of them unless named")
    named = parser.parse_args().parts
    if unknown := set(named) - set(PARTS):
        parser.error(f"found {', '.join(sorted(unknown))}, expected of {', '.join(PARTS)}")
    for name in named or PARTS:
        print(f"\n# {PARTS[name].__doc__}\n", flush=True)
        PARTS[name].main()
