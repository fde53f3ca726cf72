"""All figures that this project claims, beside those of its peers in the same run."""

from tests.bench import kills, replay, restarts, saving, startup

if __name__ == "__main__":
    for bench in (startup, saving, kills, restarts, replay):
        print(f"\n# {bench.__doc__}\n", flush=True)
        bench.main()
