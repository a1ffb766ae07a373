"""Time of a park and of a query: blocking, pure and compiled (pyperf).

The figures are wall time, including the server's: the median and the median deviation
from it. Other programs on the machine disturb them. On a busy machine, the ratios of
measure.py are more reliable.
"""

import pathlib
import subprocess
import sys
import tempfile

import pyperf
from driver import BLOCKING, HERE, Variant, environment, parser, server


def benchmarks(variant, dsn, tree):
    """Run the benchmarks of *variant*; return pyperf's results, by name."""
    env = environment(variant, tree)
    with tempfile.TemporaryDirectory() as scratch:
        out = pathlib.Path(scratch) / "out.json"
        command = [sys.executable, str(HERE / "speed_client.py"), variant.hub, "--dsn", dsn, "--quiet"]
        command += ["--inherit-environ", ",".join(env), "-o", str(out)]
        subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
        return {bench.get_name(): bench for bench in pyperf.BenchmarkSuite.load(str(out))}


def main():
    args = parser(__doc__.splitlines()[0]).parse_args()
    with server() as dsn:
        blocking = benchmarks(BLOCKING, dsn, args.tree)
        print(f"{'pure / compiled':>15}  {'compiled':>15} {'pure':>15} {'blocking':>15}  microseconds")
        for hub in args.hubs:
            pure, compiled = (benchmarks(Variant(loop, hub), dsn, args.tree) for loop in ("pure", "compiled"))
            for name in pure:
                ratio = pure[name].median() / compiled[name].median()
                times = [compiled[name], pure[name], blocking.get(name.replace(hub, "none"))]
                print(f"{ratio:15.2f}  {' '.join(map(microseconds, times))}  {name}", flush=True)


def microseconds(bench):
    return f"{bench.median() * 1e6:8.1f} +- {bench.median_abs_dev() * 1e6:3.1f}" if bench else 15 * " "


if __name__ == "__main__":
    main()
