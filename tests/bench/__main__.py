"""All figures that this project claims, beside those of its peers in the same run; or those that are named."""

import sys

from tests.bench import backup, kills, recovery, restarts, saving, startup

BENCHES = {
    "startup": startup,
    "saving": saving,
    "kills": kills,
    "restarts": restarts,
    "backup": backup,
    "recovery": recovery,
}

if __name__ == "__main__":
    for name in sys.argv[1:] or BENCHES:
        bench = BENCHES[name]
        print(f"\n# {bench.__doc__}\n", flush=True)
        bench.main()
